//! Who this node is, and whom it believes.
//!
//! The only place that knows where certificates come from. For now a folder with three PEM files:
//!
//! | file | content |
//! |---|---|
//! | `ca.crt` | the certificates of the authorities that sign agents; nothing else is believed |
//! | `tls.crt` | this node's certificate, then intermediates if any |
//! | `tls.key` | its private key |
//!
//! A node's certificate has exactly one DNS name of the form `<node>.node.usb.virtualization.deckhouse.io`. Both ends of a call
//! use the same certificate, so it must be good for servers and for clients.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

/// What follows a node's name in the DNS name of its certificate.
pub const NODE_SUFFIX: &str = ".node.usb.virtualization.deckhouse.io";

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}; the folder has to hold ca.crt, tls.crt and tls.key")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} holds no usable {wanted}: {why}; it has to be in PEM format")]
    Content {
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The certificate does not say which node it is for.
    #[error("{path}: {why}; issue it for one DNS name of the form <node>.node.usb.virtualization.deckhouse.io")]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Other nodes would not believe the certificate.
    #[error(
        "{path} is not accepted as a {role} certificate under {ca}: {why}; issue a new one, and check the clock of this node"
    )]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// The file with the authorities.
        ca: PathBuf,
        /// `server` or `client`.
        role: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate do not belong together, or cannot be used for TLS.
    #[error("{certificate} and {key} cannot be used together: {why}")]
    Pair {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The certificate of this node, its key, and the authorities it believes.
#[derive(Debug)]
pub struct Identity {
    pub(crate) node: String,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Identity {
    /// Loads `ca.crt`, `tls.crt` and `tls.key` from a folder, and checks that other nodes will accept them now.
    ///
    /// # Errors
    /// [`IdentityError`] says which file is to blame and what to do.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let (ca, crt, key) = (folder.join("ca.crt"), folder.join("tls.crt"), folder.join("tls.key"));
        let roots = roots(&ca)?;
        let chain = certificates(&crt)?;
        let secret = PrivateKeyDer::from_pem_slice(&read(&key)?).map_err(|error| IdentityError::Content {
            path: key.clone(),
            wanted: "private key",
            why: error.to_string(),
        })?;
        let leaf = chain.first().ok_or_else(|| missing(&crt, "certificate"))?;
        let node = node_of(leaf).map_err(|why| IdentityError::Name { path: crt.clone(), why })?;

        let untrusted = |role, why: String| IdentityError::Untrusted { path: crt.clone(), ca: ca.clone(), role, why };
        let pair = |error: rustls::Error| IdentityError::Pair {
            certificate: crt.clone(),
            key: key.clone(),
            why: error.to_string(),
        };
        let provider = provider();
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| untrusted("client", error.to_string()))?;
        let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| untrusted("server", error.to_string()))?;
        let (intermediates, name) = (chain.get(1..).unwrap_or_default(), server_name(&node));
        let name = name
            .ok_or_else(|| IdentityError::Name { path: crt.clone(), why: format!("{node:?} is not a node's name") })?;
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
        Ok(Self { node, server: Arc::new(server), client: Arc::new(client) })
    }

    /// The name of this node, from its certificate.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
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

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

fn missing(path: &Path, wanted: &'static str) -> IdentityError {
    IdentityError::Content { path: path.to_owned(), wanted, why: "there is none".into() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|error| IdentityError::Content {
        path: path.to_owned(),
        wanted: "certificate",
        why: error.to_string(),
    })
}

fn roots(path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| IdentityError::Content {
            path: path.to_owned(),
            wanted: "authority",
            why: error.to_string(),
        })?;
    }
    if roots.is_empty() { Err(missing(path, "authority")) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Authority, Subject};

    fn error(folder: &tempfile::TempDir) -> String {
        Identity::load(folder.path()).unwrap_err().to_string()
    }

    #[test]
    fn the_node_is_named_by_its_certificate() {
        let authority = Authority::new();
        assert_eq!(authority.identity("node-1").node(), "node-1");
        assert_eq!(authority.identity("ip-10-0-0-1.eu.example.com").node(), "ip-10-0-0-1.eu.example.com");
    }

    #[test]
    fn each_file_that_is_missing_or_spoilt_is_named() {
        let authority = Authority::new();
        for file in ["ca.crt", "tls.crt", "tls.key"] {
            let folder = authority.folder(&Subject::node("node-1"));
            for content in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
                std::fs::write(folder.path().join(file), content).unwrap();
                assert!(error(&folder).contains(file), "{file}: {}", error(&folder));
            }
            std::fs::remove_file(folder.path().join(file)).unwrap();
            assert!(error(&folder).contains("cannot read") && error(&folder).contains(file));
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_told() {
        let authority = Authority::new();
        let (folder, other) = (authority.folder(&Subject::node("node-1")), authority.folder(&Subject::node("node-1")));
        std::fs::copy(other.path().join("tls.key"), folder.path().join("tls.key")).unwrap();
        assert!(error(&folder).contains("cannot be used together"), "{}", error(&folder));
    }

    #[test]
    fn certificates_that_other_nodes_would_refuse_are_refused_at_once() {
        let authority = Authority::new();
        let folder = authority.folder(&Subject { expired: true, ..Subject::node("node-1") });
        assert!(error(&folder).contains("expired"), "{}", error(&folder));
        let folder = authority.folder(&Subject { client_only: true, ..Subject::node("node-1") });
        assert!(error(&folder).contains("as a server certificate"), "{}", error(&folder));
        let folder = authority.folder(&Subject::node("node-1"));
        std::fs::write(folder.path().join("ca.crt"), Authority::new().pem()).unwrap();
        assert!(error(&folder).contains("not accepted as a client certificate"), "{}", error(&folder));
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
            let folder = authority.folder(&subject);
            assert!(error(&folder).contains(why), "{}", error(&folder));
        }
    }
}
