//! Reads requests for certificates (PKCS #10, RFC 2986). Whoever may make objects in the cluster has written them.
//!
//! All of a request is read, so that what is not understood is known to be there. Its signature proves that whoever asks has
//! the key; it is verified for keys of the one kind that is signed.

use std::collections::BTreeSet;

use patchbay_core::trust::request::Asked;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::attr::Attributes;
use x509_cert::der::oid::AssociatedOid as _;
use x509_cert::der::oid::db::rfc5912::{ECDSA_WITH_SHA_256, ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use x509_cert::der::{self, Encode as _};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName};
use x509_cert::request::{CertReq, ExtensionReq};

use crate::der::{name, point, text, whole, why};

/// Longer ones are not looked at. Those of agents have some 500 bytes.
const MAX: usize = 8 << 10;

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
    let der = CertificateSigningRequestDer::from_pem_slice(pem).map_err(why)?;
    let request: CertReq = whole(&der).map_err(|error| error.to_string())?;
    let point = point(&request.info.public_key);
    if let Some(point) = &point {
        signed(&request, point).ok_or("it is not signed with its key (ecdsa-with-SHA256)")?;
    }
    let mut asked = Asked {
        subject: name(&request.info.subject),
        dns: Vec::new(),
        other_names: Vec::new(),
        p256: point.is_some(),
        usages: BTreeSet::new(),
        more: false,
    };
    attributes(&request.info.attributes, &mut asked).map_err(|error| error.to_string())?;
    Ok((asked, point))
}

/// Whether the key with this point has signed. What is signed is the same when it is written again ([`whole`]).
fn signed(request: &CertReq, point: &[u8]) -> Option<()> {
    let algorithm = &request.algorithm;
    let right = algorithm.oid == ECDSA_WITH_SHA_256 && algorithm.parameters.is_none();
    let signature = request.signature.as_bytes().filter(|_| right)?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&request.info.to_der().ok()?, signature).ok()
}

/// Reads the attributes. The one that we know holds the extensions that the certificate shall have. It may be there once, and
/// each extension too: others might read the first or the last.
fn attributes(attributes: &Attributes, asked: &mut Asked) -> der::Result<()> {
    let mut seen = BTreeSet::new();
    for attribute in attributes.iter() {
        asked.more |= attribute.oid != ExtensionReq::OID;
        for value in attribute.values.iter().filter(|_| attribute.oid == ExtensionReq::OID) {
            asked.more |= !seen.insert(attribute.oid);
            for wanted in whole::<ExtensionReq>(&value.to_der()?)?.0 {
                asked.more |= !seen.insert(wanted.extn_id);
                extension(&wanted, asked)?;
            }
        }
    }
    Ok(())
}

fn extension(extension: &Extension, asked: &mut Asked) -> der::Result<()> {
    let value = extension.extn_value.as_bytes();
    match extension.extn_id {
        SubjectAltName::OID => {
            for name in whole::<SubjectAltName>(value)?.0 {
                match name {
                    GeneralName::DnsName(name) => asked.dns.push(text(name.as_bytes())),
                    GeneralName::Rfc822Name(name) | GeneralName::UniformResourceIdentifier(name) => {
                        asked.other_names.push(text(name.as_bytes()));
                    }
                    GeneralName::IpAddress(address) => asked.other_names.push(match address.as_bytes() {
                        &[a, b, c, d] => format!("{a}.{b}.{c}.{d}"),
                        other => text(other),
                    }),
                    other => asked.other_names.push(text(&other.to_der()?)),
                }
            }
        }
        KeyUsage::OID => asked.usages.extend(whole::<KeyUsage>(value)?.0.into_iter().map(key_usage)),
        ExtendedKeyUsage::OID => {
            asked.usages.extend(whole::<ExtendedKeyUsage>(value)?.0.into_iter().map(|usage| match usage {
                ID_KP_SERVER_AUTH => "server auth".to_owned(),
                ID_KP_CLIENT_AUTH => "client auth".to_owned(),
                other => other.to_string(),
            }));
        }
        _ => asked.more = true,
    }
    Ok(())
}

/// A key usage, as `spec.usages` of Kubernetes calls it.
fn key_usage(usage: KeyUsages) -> String {
    let name = match usage {
        KeyUsages::DigitalSignature => "digital signature",
        KeyUsages::NonRepudiation => "content commitment",
        KeyUsages::KeyEncipherment => "key encipherment",
        KeyUsages::DataEncipherment => "data encipherment",
        KeyUsages::KeyAgreement => "key agreement",
        KeyUsages::KeyCertSign => "cert sign",
        KeyUsages::CRLSign => "crl sign",
        KeyUsages::EncipherOnly => "encipher only",
        KeyUsages::DecipherOnly => "decipher only",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
