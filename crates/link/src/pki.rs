//! Certificates for tests.

use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::{Identity, NODE_SUFFIX};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What to put into a certificate.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) names: Vec<String>,
    pub(crate) expired: bool,
    pub(crate) client_only: bool,
}

impl Subject {
    pub(crate) fn node(node: &str) -> Self {
        Self { names: vec![format!("{node}{NODE_SUFFIX}")], expired: false, client_only: false }
    }
}

/// An authority of its own.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // As authorities of one installation after another would be: told apart by name.
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        params.distinguished_name.push(DnType::CommonName, format!("authority {serial}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key, PEM.
    pub(crate) fn issue(&self, subject: &Subject) -> (String, String) {
        let mut params = CertificateParams::new(subject.names.clone()).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !subject.client_only {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.expired {
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// A folder as [`Identity::load`] wants it.
    pub(crate) fn folder(&self, subject: &Subject) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = self.issue(subject);
        for (file, content) in [("ca.crt", self.pem()), ("tls.crt", certificate), ("tls.key", key)] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        folder
    }

    pub(crate) fn identity(&self, node: &str) -> Identity {
        Identity::load(self.folder(&Subject::node(node)).path()).unwrap()
    }
}
