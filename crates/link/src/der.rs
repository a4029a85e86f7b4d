//! The parts that certificates and requests for them have in common, read from DER (X.690). Anybody may have written them.

use patchbay_core::trust::Validity;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag};

/// `ecPublicKey` and the curve `prime256v1` (RFC 5480).
const P256: (&[u64], &[u64]) = (&[1, 2, 840, 10045, 2, 1], &[1, 2, 840, 10045, 3, 1, 7]);

/// The length of a point of that curve, uncompressed: a byte, and two numbers of 256 bits.
const POINT: usize = 65;

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
    let parsed = yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            let parsed = reader.next().read_sequence(|reader| {
                reader.read_optional(|version| version.read_tagged(Tag::context(0), |reader| reader.read_u8()))?;
                // Serial number, algorithm, issuer.
                for _ in 0..3 {
                    reader.next().read_der()?;
                }
                let validity = reader.next().read_sequence(|reader| {
                    Ok(Validity { not_before: time(reader.next())?, not_after: time(reader.next())? })
                })?;
                let subject = name(reader.next())?;
                let point = point(reader.next())?;
                rest(reader)?;
                Ok(Certificate { validity, subject, point })
            })?;
            rest(reader)?;
            Ok(parsed)
        })
    });
    parsed.map_err(|error| error.to_string())
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// There is none; in words.
pub(crate) fn certificate_of_pem(pem: &str) -> Result<Certificate, String> {
    certificate(&CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?)
}

/// What is not looked at.
pub(crate) fn rest(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<()> {
    while reader.read_optional(|reader| reader.read_der())?.is_some() {}
    Ok(())
}

/// A name, as the parts `CN=...`; of kinds that we do not write, their number.
pub(crate) fn name(reader: BERReader<'_, '_>) -> ASN1Result<Vec<String>> {
    let mut parts = Vec::new();
    reader.read_sequence_of(|reader| {
        reader.read_set_of(|reader| {
            parts.push(reader.read_sequence(|reader| {
                let kind = reader.next().read_oid()?;
                let value = reader.next().read_tagged_der()?;
                let kind = match kind.components().as_slice() {
                    [2, 5, 4, 3] => "CN".to_owned(),
                    [2, 5, 4, 10] => "O".to_owned(),
                    _ => kind.to_string(),
                };
                Ok(format!("{kind}={}", text(value.value())))
            })?);
            Ok(())
        })
    })?;
    Ok(parts)
}

/// Bytes for people to read.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A public key (`SubjectPublicKeyInfo`): its point, if it is on the curve P-256.
pub(crate) fn point(reader: BERReader<'_, '_>) -> ASN1Result<Option<Vec<u8>>> {
    reader.read_sequence(|reader| {
        let p256 = reader.next().read_sequence(|reader| {
            let algorithm = reader.next().read_oid()?;
            let parameters = reader.read_optional(|reader| reader.read_der())?;
            let curve = parameters.and_then(|der| yasna::parse_der(&der, |reader| reader.read_oid()).ok());
            Ok(is(&algorithm, P256.0) && curve.is_some_and(|curve| is(&curve, P256.1)))
        })?;
        let (bytes, bits) = reader.next().read_bitvec_bytes()?;
        let whole = bytes.len() == POINT && bits == POINT * 8 && bytes.first() == Some(&4);
        Ok((p256 && whole).then_some(bytes))
    })
}

/// Whether it is this object identifier.
pub(crate) fn is(oid: &ObjectIdentifier, components: &[u64]) -> bool {
    oid.components().as_slice() == components
}

fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    match reader.lookahead_tag()? {
        yasna::tags::TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        yasna::tags::TAG_GENERALIZEDTIME => Ok(reader.read_generalized_time()?.datetime().unix_timestamp()),
        _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}
