//! Certificates and keys: what is read from the disk, from the authorities' objects, and from peers. PEM when it begins like
//! that, else the DER of a certificate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::{pem, shown};
use patchbay_link::{Authority, Identity, PrivateKey, certificate};

/// An authority, which signs nobody else, and a key.
const AUTHORITY: &str = include_str!("authority.pem");
const KEY: &str = include_str!("key.pem");

fuzz_target!(|bytes: &[u8]| {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if text.starts_with("-----") => text.to_owned(),
        _ => pem("CERTIFICATE", bytes),
    };
    match certificate::validity(&text) {
        // A certificate may end before it begins, and is never valid then.
        Ok(validity) => assert!(!(validity.not_after < validity.not_before && validity.holds(validity.not_before))),
        Err(error) => shown(&error, 256),
    }
    if let Ok(key) = PrivateKey::parse(&text) {
        assert_eq!(PrivateKey::parse(&key.pem()).expect("a key of ours").public(), key.public());
    }
    match Authority::parse(&text, KEY) {
        Ok(authority) => assert_eq!(Ok(authority.validity()), certificate::validity(authority.certificate())),
        Err(error) => shown(&error.to_string(), 64 << 10),
    }
    // As our own certificate, as our key, and as those whom to believe.
    for (authorities, own, key) in
        [(AUTHORITY, text.as_str(), KEY), (AUTHORITY, AUTHORITY, &text), (&text, AUTHORITY, KEY)]
    {
        match Identity::new(authorities, own, key) {
            Ok(identity) => shown(identity.node(), 253),
            Err(error) => drop(error.to_string()),
        }
    }
});
