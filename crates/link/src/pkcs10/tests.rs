use patchbay_core::names::NodeName;
use patchbay_core::trust::request::USAGES;
use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, SigningKey as _,
};
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::BitString;

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

/// What is read of a request of an agent with one more attribute; `values` are DER.
fn with(oid: &'static [u64], values: &[u8]) -> Result<Asked, String> {
    let attribute = Attribute { oid, values: values.to_vec() };
    let (params, key) = (agent_params(&node()).unwrap(), KeyPair::generate().unwrap());
    read(params.serialize_request_with_attributes(&key, vec![attribute]).unwrap().pem().unwrap().as_bytes())
}

#[test]
fn attributes_that_are_unknown_or_there_twice_are_found() {
    const EXTENSIONS: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
    let more = |asked: Result<Asked, String>| asked.unwrap().more;
    assert!(more(with(&[1, 2, 3], &[0x31, 3, 2, 1, 1])));
    assert!(more(with(&[1, 2, 3], &[0x31, 6, 2, 1, 1, 2, 1, 2])));
    assert!(with(&[1, 2, 3], &[0x31, 6, 2, 1, 2, 2, 1, 1]).is_err(), "not in the order of DER");
    // A second list of extensions: empty, with an extended key usage, and with what is no list.
    assert!(more(with(EXTENSIONS, &[0x31, 2, 0x30, 0])));
    let usage = [0x30, 17, 0x30, 15, 6, 3, 0x55, 0x1d, 37, 4, 8, 0x30, 6, 6, 4, 0x55, 0x1d, 37, 0];
    let asked = with(EXTENSIONS, &[[0x31, 19].as_slice(), &usage].concat()).unwrap();
    assert!(asked.more && asked.usages.contains("2.5.29.37.0"), "{asked:?}");
    assert!(with(EXTENSIONS, &[0x31, 3, 2, 1, 1]).is_err());
}

#[test]
fn extensions_that_are_not_written_as_they_have_to_be_are_refused() {
    const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
    const EXTENDED: &[u64] = &[2, 5, 29, 37];
    const NAMES: &[u64] = &[2, 5, 29, 17];
    let of = |kind: &[u64], content: &[u8]| {
        let mut params = CertificateParams::default();
        params.custom_extensions = vec![CustomExtension::from_oid_content(kind, content.to_vec())];
        let key = KeyPair::generate().unwrap();
        read(params.serialize_request(&key).unwrap().pem().unwrap().as_bytes())
    };
    for (kind, content) in [
        (KEY_USAGE, [3, 2, 7, 0x80].as_slice()),
        (KEY_USAGE, &[3, 3, 7, 0x80, 0x80]),
        (EXTENDED, &[0x30, 5, 6, 3, 0x55, 0x1d, 1]),
        (NAMES, &[0x30, 3, 0x82, 1, b'a']),
        (NAMES, &[0x30, 3, 0x88, 1, 0x55]),
    ] {
        assert!(of(kind, content).is_ok(), "{content:x?}");
    }
    for (kind, content) in [
        (KEY_USAGE, [].as_slice()),
        (KEY_USAGE, &[3, 2, 7, 0x80, 0]),
        (KEY_USAGE, &[3, 0x81, 2, 7, 0x80]),
        (KEY_USAGE, &[3, 2, 0, 0x80]),
        (KEY_USAGE, &[3, 3, 7, 0x80, 0]),
        (KEY_USAGE, &[3, 2, 6, 0x81]),
        // A tenth usage, of which nobody has told us.
        (KEY_USAGE, &[3, 3, 6, 0x80, 0x40]),
        (EXTENDED, &[0x30, 5, 6, 3, 0x55, 0x1d, 1, 0]),
        (EXTENDED, &[0x30, 0x80, 6, 3, 0x55, 0x1d, 1, 0, 0]),
        (NAMES, &[0x30, 3, 0x82, 1, b'a', 0]),
        (NAMES, &[0x30, 3, 0x82, 1, 0xff]),
        (NAMES, &[0x30, 4, 0x82, 0x81, 1, b'a']),
        (NAMES, &[0x30, 5, 0xa2, 3, 4, 1, b'a']),
        (NAMES, &[0x30, 2, 0x83, 0]),
    ] {
        assert!(of(kind, content).is_err(), "{content:x?}");
    }
    // Numbers of more digits than they need are other numbers than those we know.
    let padded = [0x30, 11, 6, 9, 0x2b, 6, 1, 5, 5, 7, 3, 0x80, 2];
    assert_eq!(of(EXTENDED, &padded).map(|asked| asked.usages), Ok(["1.3.6.1.5.5.7.3.2".to_owned()].into()));
}

/// A sequence.
fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [[0x30, 0x82].as_slice(), &u16::try_from(content.len()).unwrap().to_be_bytes(), &content].concat()
}

/// What is signed of a request of an agent, DER, and what is read when something else is signed with its key.
fn signing() -> (Vec<u8>, impl Fn(&[u8]) -> Result<Asked, String>) {
    let key = KeyPair::generate().unwrap();
    let good = agent_params(&node()).unwrap().serialize_request(&key).unwrap();
    let good = CertReq::from_der(good.der()).unwrap();
    let algorithm = good.algorithm.to_der().unwrap();
    let signed = move |info: &[u8]| {
        let signature = BitString::from_bytes(&key.sign(info).unwrap()).unwrap().to_der().unwrap();
        read(pem(&sequence(&[info, &algorithm, &signature])).as_bytes())
    };
    (good.info.to_der().unwrap(), signed)
}

#[test]
fn what_is_signed_and_not_written_as_it_has_to_be_is_refused() {
    let (info, signed) = signing();
    let changed = |old: &[u8], new: &[u8]| {
        let place = info.windows(old.len()).position(|bytes| bytes == old).unwrap();
        signed(&[&info[..place], new, &info[place + old.len()..]].concat())
    };
    assert!(signed(&info).is_ok());
    let version = [2, 1, 0];
    assert_eq!(info[4..7], version, "behind a header of four bytes");
    assert!(changed(&version, &[2, 1, 1]).is_err());
    assert!(changed(&info[..4], &[0x30, 0x83, 0, info[2], info[3]]).is_err());
    assert!(changed(&info[..4], &[0x30, 0x80]).is_err());
    // A critical extension: another `true`, and a `false`, which is not written.
    assert!(changed(&[1, 1, 0xff], &[1, 1, 1]).is_err());
    assert!(changed(&[1, 1, 0xff], &[1, 1, 0]).is_err());
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

/// Found by fuzzing: the error went into the condition of the request with all of the text.
#[test]
fn an_error_does_not_repeat_all_that_it_is_about() {
    for text in [
        "-----BEGIN ".to_owned() + &"\u{7}x".repeat(2000),
        "-----BEGIN A-----\n-----END ".to_owned() + &"y".repeat(4000),
    ] {
        let error = read(text.as_bytes()).unwrap_err();
        assert!(error.len() <= 200 && !error.contains(char::is_control), "{error}");
    }
}

#[test]
fn lengths_beyond_all_memory_are_refused() {
    for length in [u64::MAX, u64::MAX - 11] {
        let der = [&[0x30, 10, 0x30, 0x88], length.to_be_bytes().as_slice()].concat();
        assert!(read(pem(&der).as_bytes()).is_err());
    }
}

proptest! {
    /// Every byte of a request is signed or is the signature.
    #[test]
    fn a_request_with_any_bytes_changed_is_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
    ) {
        let good = good();
        let mut der = good.clone();
        for (place, by) in changes {
            let place = place.index(der.len());
            der[place] ^= by;
        }
        // What is left may be a request of a key of another kind, whose signature is of no interest.
        prop_assert!(der == good || read(pem(&der).as_bytes()).is_ok_and(|asked| !asked.p256) || read(pem(&der).as_bytes()).is_err());
    }

    /// Nothing of a request is passed over: no bit has two meanings that are the same to us.
    #[test]
    fn a_request_with_a_bit_changed_and_signed_anew_asks_for_something_else(
        place in any::<prop::sample::Index>(), bit in 0..8,
    ) {
        let (mut info, signed) = signing();
        let good = signed(&info);
        let place = place.index(info.len());
        info[place] ^= 1_u8 << bit;
        prop_assert_ne!(signed(&info), good);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(pem(&bytes).as_bytes());
        let _ = read(&bytes);
    }
}
