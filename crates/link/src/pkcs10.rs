//! Reads requests for certificates (PKCS #10, RFC 2986). Whoever may make objects in the cluster has written them.
//!
//! All of a request is read, so that what is not understood is known to be there. Its signature proves that whoever asks has
//! the key; it is verified for keys of the one kind that is signed.

use std::collections::BTreeSet;

use patchbay_core::trust::request::Asked;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use yasna::{ASN1Result, BERReader, BERReaderSeq, Tag};

use crate::der::{is, name, point, text};

/// Longer ones are not looked at. Those of agents have some 500 bytes.
const MAX: usize = 8 << 10;

/// The attribute that holds what the certificate shall have (RFC 2985).
const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];

/// `ecdsa-with-SHA256` (RFC 5758).
const ECDSA_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];

/// The bits of a key usage (RFC 5280, 4.2.1.3), as `spec.usages` of Kubernetes calls them.
const KEY_USAGES: [&str; 9] = [
    "digital signature",
    "content commitment",
    "key encipherment",
    "data encipherment",
    "key agreement",
    "cert sign",
    "crl sign",
    "encipher only",
    "decipher only",
];

/// What a request asks for; its signature is verified.
///
/// # Errors
/// It is not one, or is not signed with its key; in words.
pub fn read(pem: &[u8]) -> Result<Asked, String> {
    parse(pem).map(|(asked, _)| asked)
}

/// The same with its public key, if that is on the curve P-256.
pub(crate) fn parse(pem: &[u8]) -> Result<(Asked, Option<Vec<u8>>), String> {
    if pem.len() > MAX {
        return Err(format!("it has more than {MAX} bytes"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(|error| error.to_string())?;
    let signed = yasna::parse_der(&der, signed).map_err(|error| error.to_string())?;
    let (asked, point) = yasna::parse_der(&signed.info, info).map_err(|error| error.to_string())?;
    if let Some(point) = &point {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point);
        if !signed.ecdsa_sha256 || key.verify(&signed.info, &signed.signature).is_err() {
            return Err("it is not signed with its key (ecdsa-with-SHA256)".to_owned());
        }
    }
    Ok((asked, point))
}

/// `CertificationRequest`: what is signed, and the signature.
struct Signed {
    info: Vec<u8>,
    ecdsa_sha256: bool,
    signature: Vec<u8>,
}

fn signed(reader: BERReader<'_, '_>) -> ASN1Result<Signed> {
    reader.read_sequence(|reader| {
        let info = reader.next().read_der()?;
        let ecdsa_sha256 = reader.next().read_sequence(|reader| {
            let algorithm = reader.next().read_oid()?;
            let parameters = reader.read_optional(|reader| reader.read_der())?;
            Ok(is(&algorithm, ECDSA_SHA256) && parameters.is_none())
        })?;
        let (signature, _) = reader.next().read_bitvec_bytes()?;
        Ok(Signed { info, ecdsa_sha256, signature })
    })
}

/// `CertificationRequestInfo`.
fn info(reader: BERReader<'_, '_>) -> ASN1Result<(Asked, Option<Vec<u8>>)> {
    reader.read_sequence(|reader| {
        let version = reader.next().read_u8()?;
        let subject = name(reader.next())?;
        let point = point(reader.next())?;
        let mut asked = Asked {
            subject,
            dns: Vec::new(),
            other_names: Vec::new(),
            p256: point.is_some(),
            usages: BTreeSet::new(),
            more: version != 0,
        };
        let mut seen = BTreeSet::new();
        reader.next().read_tagged_implicit(Tag::context(0), |reader| {
            reader.read_set_of(|reader| reader.read_sequence(|reader| attribute(reader, &mut asked, &mut seen)))
        })?;
        Ok((asked, point))
    })
}

/// An attribute. `seen` are the extensions so far: each may be there once.
fn attribute(reader: &mut BERReaderSeq<'_, '_>, asked: &mut Asked, seen: &mut BTreeSet<Vec<u64>>) -> ASN1Result<()> {
    let kind = reader.next().read_oid()?;
    let values = reader.next().read_der()?;
    if !is(&kind, EXTENSION_REQUEST) {
        asked.more = true;
        return Ok(());
    }
    yasna::parse_der(&values, |reader| {
        reader.read_set_of(|reader| {
            reader.read_sequence_of(|reader| {
                reader.read_sequence(|reader| {
                    let kind = reader.next().read_oid()?;
                    reader.read_default(false, |reader| reader.read_bool())?;
                    let value = reader.next().read_bytes()?;
                    asked.more |= !seen.insert(kind.components().clone());
                    extension(kind.components(), &value, asked)
                })
            })
        })
    })
}

fn extension(kind: &[u64], value: &[u8], asked: &mut Asked) -> ASN1Result<()> {
    match kind {
        // Subject alternative name.
        [2, 5, 29, 17] => yasna::parse_der(value, |reader| {
            reader.read_sequence_of(|reader| {
                let name = reader.read_tagged_der()?;
                match (name.tag().tag_number, name.value()) {
                    (2, dns) => asked.dns.push(text(dns)),
                    (7, &[a, b, c, d]) => asked.other_names.push(format!("{a}.{b}.{c}.{d}")),
                    (_, other) => asked.other_names.push(text(other)),
                }
                Ok(())
            })
        }),
        // Key usage.
        [2, 5, 29, 15] => {
            let (bytes, _) = yasna::parse_der(value, |reader| reader.read_bitvec_bytes())?;
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1));
            for (place, _) in bits.enumerate().filter(|(_, set)| *set) {
                asked.usages.insert(KEY_USAGES.get(place).map_or_else(|| place.to_string(), ToString::to_string));
            }
            Ok(())
        }
        // Extended key usage.
        [2, 5, 29, 37] => yasna::parse_der(value, |reader| {
            reader.read_sequence_of(|reader| {
                let usage = reader.read_oid()?;
                asked.usages.insert(match usage.components().as_slice() {
                    [1, 3, 6, 1, 5, 5, 7, 3, 1] => "server auth".to_owned(),
                    [1, 3, 6, 1, 5, 5, 7, 3, 2] => "client auth".to_owned(),
                    _ => usage.to_string(),
                });
                Ok(())
            })
        }),
        _ => {
            asked.more = true;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::names::NodeName;
    use patchbay_core::trust::request::USAGES;
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        KeyUsagePurpose, SanType,
    };

    use super::*;
    use crate::PrivateKey;
    use crate::key::agent_params;

    fn node() -> NodeName {
        NodeName::new("node-1")
    }

    /// What is read of a request that differs from an agent's.
    fn of(change: impl FnOnce(&mut CertificateParams)) -> Asked {
        let mut params = agent_params(&node()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        read(params.serialize_request(&key).unwrap().pem().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn an_agents_request_is_read_as_what_it_is() {
        let key = PrivateKey::make().unwrap();
        let name = "node-1.node.usb.virtualization.deckhouse.io".to_owned();
        let asked = Asked {
            subject: vec![format!("CN={name}")],
            dns: vec![name],
            other_names: vec![],
            p256: true,
            usages: USAGES.map(str::to_owned).into(),
            more: false,
        };
        let request = key.request(&node()).unwrap();
        assert_eq!(parse(request.as_bytes()), Ok((asked, Some(key.public().to_vec()))));
    }

    #[test]
    fn what_a_request_has_beside_that_is_found() {
        let odd = of(|params| {
            params.subject_alt_names.push(SanType::DnsName("other".try_into().unwrap()));
            params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
            params.subject_alt_names.push(SanType::URI("spiffe://x/y".try_into().unwrap()));
            params.distinguished_name.push(DnType::OrganizationName, "system:masters");
            params.key_usages.push(KeyUsagePurpose::KeyCertSign);
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning);
        });
        assert_eq!(odd.dns.last().unwrap(), "other");
        assert_eq!(odd.other_names, ["10.0.0.1", "spiffe://x/y"]);
        assert_eq!(odd.subject.last().unwrap(), "O=system:masters");
        assert!(odd.usages.contains("cert sign") && odd.usages.contains("1.3.6.1.5.5.7.3.3"), "{odd:?}");
        assert!(!odd.more, "all of this is told by its name");
        assert!(of(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)).more);
        let custom = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        assert!(of(|params| params.custom_extensions.push(custom)).more);
        // Two extensions of one kind, of which others might read the first or the last.
        let twice = CustomExtension::from_oid_content(&[2, 5, 29, 15], vec![3, 2, 7, 0x80]);
        assert!(of(|params| params.custom_extensions.push(twice)).more);
    }

    #[test]
    fn keys_of_other_kinds_are_told() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let request = agent_params(&node()).unwrap().serialize_request(&key).unwrap().pem().unwrap();
            assert!(!read(request.as_bytes()).unwrap().p256);
            assert!(PrivateKey::parse(&key.serialize_pem()).is_err());
        }
    }

    /// A request of an agent, DER.
    fn good() -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        agent_params(&node()).unwrap().serialize_request(&key).unwrap().der().to_vec()
    }

    fn pem(der: &[u8]) -> String {
        let text = base64(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    }

    /// Base64, which PEM is made of.
    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = |chunk: &[u8], place: usize| {
            let word = (0..3).fold(0_usize, |word, i| word << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
            if place <= chunk.len() { char::from(DIGITS[word >> (18 - 6 * place) & 63]) } else { '=' }
        };
        bytes.chunks(3).flat_map(|chunk| (0..4).map(move |place| digit(chunk, place))).collect()
    }

    #[test]
    fn what_is_no_request_or_not_signed_with_its_key_is_refused() {
        let der = good();
        assert!(read(pem(&der).as_bytes()).is_ok());
        for bad in [b"".as_slice(), b"garbage", &[0xff, 0xfe], &vec![b'x'; MAX + 1]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let more = [der.as_slice(), &[0]].concat();
        assert!(read(pem(&more).as_bytes()).is_err());
    }

    proptest! {
        /// Every byte of a request is signed or is the signature.
        #[test]
        fn a_request_with_any_byte_changed_is_refused(place in any::<prop::sample::Index>(), by in 1_u8..) {
            let mut der = good();
            let place = place.index(der.len());
            der[place] ^= by;
            // What is left may be a request of a key of another kind, whose signature is of no interest.
            prop_assert!(read(pem(&der).as_bytes()).is_ok_and(|asked| !asked.p256) || read(pem(&der).as_bytes()).is_err());
        }

        #[test]
        fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(pem(&bytes).as_bytes());
            let _ = read(&bytes);
        }
    }
}
