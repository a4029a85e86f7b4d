//! The private key of a node, and the request for a certificate for it.

use patchbay_core::names::NodeName;
use patchbay_core::trust::dns_name;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType,
};

/// A private key (ECDSA, P-256). It is made on its node and never leaves it.
pub struct PrivateKey(KeyPair);

/// A key cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyError(String);

impl From<rcgen::Error> for KeyError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

impl PrivateKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn make() -> Result<Self, KeyError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// Reads a key, PKCS #8 in PEM.
    ///
    /// # Errors
    /// It is not one, or of another kind than those that are made here.
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let key = KeyPair::from_pem(pem)?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(KeyError("it is no ECDSA key on the curve P-256".to_owned()));
        }
        Ok(Self(key))
    }

    /// The key, PKCS #8 in PEM: a secret.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The public half, as a point of the curve.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.0.der_bytes()
    }

    /// A request (PKCS #10 in PEM) for a certificate of this key for a node, as the controller signs them.
    ///
    /// # Errors
    /// The node's name is too odd for a DNS name.
    pub fn request(&self, node: &NodeName) -> Result<String, KeyError> {
        Ok(agent_params(node)?.serialize_request(&self.0)?.pem()?)
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// What a certificate of a node says, as far as node and controller have to agree on it.
pub(crate) fn agent_params(node: &NodeName) -> Result<CertificateParams, rcgen::Error> {
    let name = dns_name(node);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name.as_str());
    params.subject_alt_names = vec![SanType::DnsName(name.as_str().try_into()?)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}
