//! When certificates are valid.

use std::time::Duration;

use patchbay_core::conditions::Seconds;
use patchbay_core::trust::Validity;

use crate::der;

/// When the first certificate of a PEM text is valid.
///
/// # Errors
/// There is none, or it cannot be read; in words.
pub fn validity(pem: &str) -> Result<Validity, String> {
    der::certificate_of_pem(pem).map(|certificate| certificate.validity)
}

/// Puts a validity into what a certificate is made from. What is before the epoch becomes the epoch.
pub(crate) fn set_validity(params: &mut rcgen::CertificateParams, validity: Validity) {
    let time = |seconds: Seconds| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    params.not_before = time(validity.not_before);
    params.not_after = time(validity.not_after);
}
