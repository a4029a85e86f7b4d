//! A request for a certificate, as anybody may make one: DER, or PEM when it begins like that. What it asks for is read and
//! judged, as the controller does it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_core::names::NodeName;
use patchbay_core::trust::dns_name;
use patchbay_core::trust::request::{Request, State, Step, USAGES, step};
use patchbay_fuzz::{pem, shown};
use patchbay_link::pkcs10;

const AGENTS: &str = "system:serviceaccount:patchbay:agent";

fuzz_target!(|bytes: &[u8]| {
    let asked = if bytes.starts_with(b"-----") {
        pkcs10::read(bytes)
    } else {
        pkcs10::read(pem("CERTIFICATE REQUEST", bytes).as_bytes())
    };
    match &asked {
        Ok(asked) => {
            let texts = asked.subject.iter().chain(&asked.dns).chain(&asked.other_names).chain(&asked.usages);
            texts.for_each(|text| shown(text, 32 << 10));
        }
        Err(error) => shown(error, 256),
    }
    let node = NodeName::new("node-1");
    let request = Request {
        user: AGENTS.to_owned(),
        node: Some(node.clone()),
        pod: true,
        usages: USAGES.map(str::to_owned).into(),
        expiration: None,
        state: State::Approved,
        asked: asked.clone(),
    };
    match step(&request, AGENTS) {
        Step::Sign(signed) => {
            let asked = asked.expect("what cannot be read is not signed");
            assert!(signed == node && asked.p256 && !asked.more, "{asked:?}");
            assert_eq!((asked.dns, asked.other_names.len()), (vec![dns_name(&node)], 0));
        }
        Step::Fail(why) => shown(&why, 64 << 10),
        other => panic!("{other:?}"),
    }
});
