//! Certificates for tests.

use std::sync::atomic::{AtomicU32, Ordering};

use patchbay_core::trust::NODE_SUFFIX;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::Identity;

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

    /// What [`Identity::new`] wants.
    pub(crate) fn texts(&self, subject: &Subject) -> (String, String, String) {
        let (certificate, key) = self.issue(subject);
        (self.pem(), certificate, key)
    }

    pub(crate) fn identity(&self, node: &str) -> Identity {
        let (authorities, certificate, key) = self.texts(&Subject::node(node));
        Identity::new(&authorities, &certificate, &key).unwrap()
    }
}
