//! The parts that certificates and requests for them have in common, read from DER (X.690). Anybody may have written them.

use patchbay_core::conditions::Seconds;
use patchbay_core::device::{clean, is_invisible};
use patchbay_core::trust::Validity;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use x509_cert::SubjectPublicKeyInfo;
use x509_cert::der::oid::db::rfc4519::{COMMON_NAME, ORGANIZATION_NAME};
use x509_cert::der::oid::db::rfc5912::{ID_EC_PUBLIC_KEY, SECP_256_R_1};
use x509_cert::der::referenced::OwnedToRef as _;
use x509_cert::der::{self, Decode, Encode, ErrorKind, FixedTag, Tag, Tagged as _};
use x509_cert::name::Name;
use x509_cert::time::Time;

/// The length of a point of the curve P-256, uncompressed: a byte, and two numbers of 256 bits.
const POINT: usize = 65;

/// The longest explanation, in bytes.
const MAX_WHY: usize = 200;

/// What is read of a certificate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// When it is valid.
    pub(crate) validity: Validity,
    /// The parts of its subject, as `CN=...`.
    pub(crate) subject: Vec<String>,
    /// Its public key, if it is on the curve P-256.
    pub(crate) point: Option<Vec<u8>>,
}

/// Reads a certificate (RFC 5280).
///
/// # Errors
/// It is none; in words.
pub(crate) fn certificate(der: &[u8]) -> Result<Certificate, String> {
    let certificate = x509_cert::Certificate::from_der(der).map_err(|error| error.to_string())?;
    let signed = certificate.tbs_certificate();
    Ok(Certificate {
        validity: Validity {
            not_before: seconds(signed.validity().not_before),
            not_after: seconds(signed.validity().not_after),
        },
        subject: name(signed.subject()),
        point: point(signed.subject_public_key_info()),
    })
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// There is none; in words.
pub(crate) fn certificate_of_pem(pem: &str) -> Result<Certificate, String> {
    certificate(&CertificateDer::from_pem_slice(pem.as_bytes()).map_err(why)?)
}

/// Why a text is no PEM, on one short line: the error itself repeats as much of the text as there is.
pub(crate) fn why(error: pem::Error) -> String {
    clean(&error.to_string(), MAX_WHY).unwrap_or_default()
}

/// Reads what can be written in one way only, and is written in that way: all of it is known then.
///
/// # Errors
/// It is not a `T`, or something follows, or a length, an order or a default is not as DER has it.
pub(crate) fn whole<'a, T: Decode<'a, Error = der::Error> + Encode + FixedTag>(der: &'a [u8]) -> der::Result<T> {
    let read = T::from_der(der)?;
    if read.to_der()? == der { Ok(read) } else { Err(ErrorKind::Noncanonical { tag: T::TAG }.into()) }
}

/// A name, as the parts `CN=...`; of kinds that we do not write, their number, and of what is no usual text, its type.
pub(crate) fn name(name: &Name) -> Vec<String> {
    name.iter()
        .map(|part| {
            let kind = match part.oid {
                COMMON_NAME => "CN".to_owned(),
                ORGANIZATION_NAME => "O".to_owned(),
                kind => kind.to_string(),
            };
            let value = text(part.value.value());
            match part.value.tag() {
                Tag::Utf8String | Tag::PrintableString => format!("{kind}={value}"),
                tag => format!("{kind}={tag} {value}"),
            }
        })
        .collect()
}

/// Bytes for people to read.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() || is_invisible(c) { '?' } else { c }).collect()
}

/// The point of a public key, if it is on the curve P-256.
pub(crate) fn point(key: &SubjectPublicKeyInfo) -> Option<Vec<u8>> {
    key.algorithm.owned_to_ref().assert_oids(ID_EC_PUBLIC_KEY, SECP_256_R_1).ok()?;
    let point = key.subject_public_key.as_bytes()?;
    (point.len() == POINT && point.first() == Some(&4)).then(|| point.to_vec())
}

fn seconds(time: Time) -> Seconds {
    Seconds::try_from(time.to_unix_duration().as_secs()).unwrap_or(Seconds::MAX)
}
