//! Who this node is, and whom it believes.
//!
//! A node's certificate has exactly one DNS name of the form `<node>.node.usb.virtualization.deckhouse.io`. Both ends of a call
//! use the same certificate, so it must be good for servers and for clients. Where it comes from is the agent's matter: the
//! cluster's controller signs it ([`crate::Authority`]).

use std::sync::Arc;

use patchbay_core::trust::{NODE_SUFFIX, Validity};
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

use crate::der;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A text is not what it should be.
    #[error("no usable {wanted}: {why}")]
    Content {
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The certificate does not say which node it is for.
    #[error("the certificate is not for one DNS name of the form <node>{NODE_SUFFIX}: {0}")]
    Name(String),
    /// Other nodes would not believe the certificate.
    #[error("other nodes do not accept it as the certificate of a {role}: {why}")]
    Untrusted {
        /// `server` or `client`.
        role: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate do not belong together, or cannot be used for TLS.
    #[error("certificate and key cannot be used together: {0}")]
    Pair(String),
}

/// The certificate of this node, its key, and the authorities it believes.
#[derive(Debug)]
pub struct Identity {
    pub(crate) node: String,
    pub(crate) validity: Validity,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Identity {
    /// Takes the certificates of all authorities to believe, this node's certificate and its private key, all PEM, and checks
    /// that other nodes will accept them now.
    ///
    /// # Errors
    /// [`IdentityError`] says which of them is to blame.
    pub fn new(authorities: &str, certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let content = |wanted| move |why: String| IdentityError::Content { wanted, why };
        let roots = Arc::new(roots(authorities)?);
        let chain = certificates(certificate, "certificate")?;
        let secret =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| content("private key")(der::why(error)))?;
        let leaf = chain.first().ok_or_else(|| content("certificate")("there is none".to_owned()))?;
        let node = node_of(leaf).map_err(IdentityError::Name)?;
        let validity = der::certificate(leaf).map_err(content("certificate"))?.validity;

        let untrusted = |role, why: String| IdentityError::Untrusted { role, why };
        let pair = |error: rustls::Error| IdentityError::Pair(error.to_string());
        let provider = provider();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| untrusted("client", error.to_string()))?;
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| untrusted("server", error.to_string()))?;
        let (intermediates, name) = (chain.get(1..).unwrap_or_default(), server_name(&node));
        let name = name.ok_or_else(|| IdentityError::Name(format!("{node:?} is not a node's name")))?;
        clients
            .verify_client_cert(leaf, intermediates, UnixTime::now())
            .map_err(|error| untrusted("client", error.to_string()))?;
        servers
            .verify_server_cert(leaf, intermediates, &name, &[], UnixTime::now())
            .map_err(|error| untrusted("server", error.to_string()))?;

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), secret.clone_key())
            .map_err(pair)?;
        // A ticket would be a record after the hand-over.
        server.send_tls13_tickets = 0;
        server.enable_secret_extraction = true;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(pair)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, secret)
            .map_err(pair)?;
        client.resumption = Resumption::disabled();
        client.enable_secret_extraction = true;
        Ok(Self { node, validity, server: Arc::new(server), client: Arc::new(client) })
    }

    /// The name of this node, from its certificate.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// When its certificate is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

/// Ring, and the one cipher suite that has no practical limit of records per key.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// The name to verify a node's certificate for; `None` when no certificate can carry it.
pub(crate) fn server_name(node: &str) -> Option<ServerName<'static>> {
    match ServerName::try_from(format!("{node}{NODE_SUFFIX}")) {
        Ok(name @ ServerName::DnsName(_)) if !node.is_empty() => Some(name),
        _ => None,
    }
}

/// The node a certificate is for. Says nothing about who signed it.
///
/// # Errors
/// Why there is not exactly one.
pub(crate) fn node_of(certificate: &CertificateDer<'_>) -> Result<String, String> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|error| format!("the certificate cannot be read ({error})"))?;
    let mut nodes = parsed.valid_dns_names().filter_map(|name| name.strip_suffix(NODE_SUFFIX));
    match (nodes.next(), nodes.next()) {
        (Some(node), None) if !node.contains('*') => Ok(node.to_ascii_lowercase()),
        (Some(_), None) => Err("the certificate is for any node (*)".into()),
        (Some(_), Some(_)) => Err("the certificate is for more than one node".into()),
        (None, _) => Err("the certificate names no node".into()),
    }
}

fn certificates(pem: &str, wanted: &'static str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| IdentityError::Content { wanted, why: der::why(error) })
}

fn roots(pem: &str) -> Result<RootCertStore, IdentityError> {
    const WANTED: &str = "authority";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, WANTED)? {
        roots.add(certificate).map_err(|error| IdentityError::Content { wanted: WANTED, why: error.to_string() })?;
    }
    if roots.is_empty() {
        return Err(IdentityError::Content { wanted: WANTED, why: "there is none".to_owned() });
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Subject};

    /// Authorities, certificate and key.
    type Texts = (String, String, String);

    fn error((authorities, certificate, key): &Texts) -> String {
        Identity::new(authorities, certificate, key).unwrap_err().to_string()
    }

    #[test]
    fn the_node_is_named_by_its_certificate() {
        let authority = Authority::new();
        assert_eq!(authority.identity("node-1").node(), "node-1");
        assert_eq!(authority.identity("ip-10-0-0-1.eu.example.com").node(), "ip-10-0-0-1.eu.example.com");
    }

    #[test]
    fn each_text_that_is_missing_or_spoilt_is_named() {
        let authority = Authority::new();
        let good = authority.texts(&Subject::node("node-1"));
        for content in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let with = |change: fn(&mut Texts) -> &mut String| {
                let mut texts = good.clone();
                content.clone_into(change(&mut texts));
                error(&texts)
            };
            let (ca, certificate, key) = (with(|t| &mut t.0), with(|t| &mut t.1), with(|t| &mut t.2));
            assert!(ca.contains("authority"), "{ca}");
            assert!(certificate.contains("certificate"), "{certificate}");
            assert!(key.contains("private key"), "{key}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_told() {
        let authority = Authority::new();
        let (mut texts, other) = (authority.texts(&Subject::node("node-1")), authority.texts(&Subject::node("node-1")));
        texts.2 = other.2;
        assert!(error(&texts).contains("cannot be used together"), "{}", error(&texts));
    }

    #[test]
    fn certificates_that_other_nodes_would_refuse_are_refused_at_once() {
        let authority = Authority::new();
        let texts = authority.texts(&Subject { expired: true, ..Subject::node("node-1") });
        assert!(error(&texts).contains("expired"), "{}", error(&texts));
        let texts = authority.texts(&Subject { client_only: true, ..Subject::node("node-1") });
        assert!(error(&texts).contains("certificate of a server"), "{}", error(&texts));
        let mut texts = authority.texts(&Subject::node("node-1"));
        texts.0 = Authority::new().pem();
        assert!(error(&texts).contains("certificate of a client"), "{}", error(&texts));
    }

    #[test]
    fn certificates_for_no_node_for_two_nodes_or_for_all_nodes_are_refused() {
        let authority = Authority::new();
        let names = |names: &[&str]| Subject {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Subject::node("x")
        };
        let of = |node: &str| format!("{node}{NODE_SUFFIX}");
        for (subject, why) in [
            (names(&["node-1"]), "names no node"),
            (names(&[]), "names no node"),
            (names(&[&of("a"), &of("b")]), "more than one node"),
            (names(&[&of("*")]), "any node"),
        ] {
            let texts = authority.texts(&subject);
            assert!(error(&texts).contains(why), "{}", error(&texts));
        }
    }
}
