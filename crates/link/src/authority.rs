//! The authority that signs agents: a certificate that agents believe, and its key.

use patchbay_core::names::NodeName;
use patchbay_core::trust::{BACKDATE, Validity};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SignatureAlgorithm,
};

use crate::certificate::set_validity;
use crate::key::agent_params;
use crate::{der, pkcs10};

/// An authority cannot be made or read, or does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The text is no certificate of an authority.
    #[error("no certificate of an authority: {0}")]
    Certificate(String),
    /// The key is none, or that of another certificate.
    #[error("the key does not belong to the certificate: {0}")]
    Key(String),
    /// The request cannot be read.
    #[error("the request cannot be read: {0}")]
    Request(String),
    /// The signing itself failed.
    #[error("cannot sign")]
    Sign(#[from] rcgen::Error),
}

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    validity: Validity,
}

impl Authority {
    /// Makes one with a new key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn make(validity: Validity) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let certificate = params(validity).self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params(validity), key), certificate, validity })
    }

    /// Reads one that was made here from its certificate and key, both PEM.
    ///
    /// # Errors
    /// They are none, or do not belong together.
    pub fn parse(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        let read = der::certificate_of_pem(certificate).map_err(AuthorityError::Certificate)?;
        let validity = read.validity;
        if read.subject != [format!("CN={}", name(validity))] {
            return Err(AuthorityError::Certificate(format!("it is for {}", read.subject.join(", "))));
        }
        let key = KeyPair::from_pem(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        if read.point.as_deref() != Some(key.der_bytes()) {
            return Err(AuthorityError::Key("it is another one's".to_owned()));
        }
        Ok(Self { issuer: Issuer::new(params(validity), key), certificate: certificate.to_owned(), validity })
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its key, PEM: a secret.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// When it is valid.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// Makes the certificate of a node, PEM. Nothing of the request gets into it but the public key.
    ///
    /// # Errors
    /// The request cannot be read, or the node's name is too odd for a DNS name.
    pub fn sign(&self, request: &[u8], node: &NodeName, validity: Validity) -> Result<String, AuthorityError> {
        let (_, point) = pkcs10::parse(request).map_err(AuthorityError::Request)?;
        let key = Point(point.ok_or_else(|| AuthorityError::Request("its key is not on the curve P-256".to_owned()))?);
        let mut params = agent_params(node)?;
        set_validity(&mut params, validity);
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&key, &self.issuer)?.pem())
    }
}

/// The name of an authority: told apart by it, people see in a bundle which is which.
fn name(validity: Validity) -> String {
    format!("patchbay agents {}", validity.not_before.saturating_add(BACKDATE))
}

/// What the certificate of an authority says.
fn params(validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name(validity));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    set_validity(&mut params, validity);
    params
}

/// A public key on the curve P-256.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("validity", &self.validity).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::trust::LIFETIME;

    use super::*;
    use crate::{Identity, IdentityError, PrivateKey, certificate};

    fn now() -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_secs()).unwrap()
    }

    fn authority() -> Authority {
        Authority::make(Validity::from_now(now(), 365 * LIFETIME)).unwrap()
    }

    #[test]
    fn an_agent_is_who_its_authority_says_to_whoever_believes_that() {
        let (old, new) = (authority(), authority());
        let key = PrivateKey::make().unwrap();
        let (node, validity) = (NodeName::new("node-1"), Validity::from_now(now(), LIFETIME));
        let request = key.request(&node).unwrap();
        let signed = new.sign(request.as_bytes(), &node, validity).unwrap();
        assert_eq!(certificate::validity(&signed), Ok(validity));
        let both = format!("{}{}", old.certificate(), new.certificate());
        for bundle in [new.certificate(), &both] {
            let identity = Identity::new(bundle, &signed, &key.pem()).unwrap();
            assert_eq!((identity.node(), identity.validity()), ("node-1", validity));
        }
        let refused = Identity::new(old.certificate(), &signed, &key.pem());
        assert!(matches!(refused, Err(IdentityError::Untrusted { .. })), "{refused:?}");
    }

    #[test]
    fn an_authority_is_read_back_from_its_texts_and_signs_as_before() {
        let made = authority();
        let read = Authority::parse(made.certificate(), &made.key()).unwrap();
        assert_eq!((read.validity(), read.certificate()), (made.validity(), made.certificate()));
        let (key, node) = (PrivateKey::make().unwrap(), NodeName::new("node-1"));
        let request = key.request(&node).unwrap();
        let signed = read.sign(request.as_bytes(), &node, Validity::from_now(now(), LIFETIME)).unwrap();
        assert!(Identity::new(made.certificate(), &signed, &key.pem()).is_ok());
    }

    #[test]
    fn texts_that_are_no_authority_or_do_not_belong_together_are_refused() {
        let (one, other) = (authority(), authority());
        let (key, node) = (PrivateKey::make().unwrap(), NodeName::new("node-1"));
        let validity = Validity::from_now(now(), LIFETIME);
        let leaf = one.sign(key.request(&node).unwrap().as_bytes(), &node, validity).unwrap();
        let certificate = |error| matches!(error, Err(AuthorityError::Certificate(_)));
        assert!(certificate(Authority::parse("", &one.key())));
        assert!(certificate(Authority::parse("garbage", &one.key())));
        assert!(certificate(Authority::parse(&leaf, &key.pem())));
        assert!(matches!(Authority::parse(one.certificate(), &other.key()), Err(AuthorityError::Key(_))));
        assert!(matches!(Authority::parse(one.certificate(), ""), Err(AuthorityError::Key(_))));
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let p384 = agent_params(&node).unwrap().serialize_request(&p384).unwrap().pem().unwrap();
        assert!(matches!(one.sign(p384.as_bytes(), &node, validity), Err(AuthorityError::Request(_))));
        assert!(matches!(one.sign(b"garbage", &node, validity), Err(AuthorityError::Request(_))));
    }
}
