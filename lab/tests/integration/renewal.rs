//! Certificates and authorities as they grow old. Time does not wait for tests: what is old is made old.

use std::path::PathBuf;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use patchbay_api::authorities::{self, Texts};
use patchbay_api::certificate_request;
use patchbay_core::conditions::Seconds;
use patchbay_core::names::NodeName;
use patchbay_core::trust::authority::VALID;
use patchbay_core::trust::request::USAGES;
use patchbay_core::trust::{LIFETIME, Validity};
use patchbay_lab::api::request;
use patchbay_link::{Authority, Identity, PrivateKey};
use patchbay_usb::fixture::Fixture;
use rcgen::KeyPair;

use crate::agent;
use crate::identity::{answer, ask, asked, bundle, requests};
use crate::node::Node;
use crate::program::Running;
use crate::stage::{SOON, Stage, create, eventually, get};

const HOUR: Seconds = 3_600;
const DAY: Seconds = 24 * HOUR;

fn now() -> Seconds {
    Timestamp::now().as_second()
}

/// An authority that was made some days ago.
fn made(days: Seconds) -> Authority {
    Authority::make(Validity::from_now(now() - days * DAY, VALID)).unwrap()
}

/// Puts authorities, and no others, where the controller has them.
fn put(stage: &Stage, all: &[&Authority]) {
    let texts = all.iter().enumerate().map(|(place, authority)| Texts {
        name: place.to_string(),
        certificate: authority.certificate().to_owned(),
        key: authority.key(),
    });
    let texts: Vec<Texts> = texts.collect();
    let secret: Secret = serde_json::from_value(authorities::patch("patchbay", &texts, None)).unwrap();
    let secrets = stage.within::<Secret>("patchbay");
    if get(&secrets, authorities::NAME).is_ok() {
        request("put it", secrets.replace(authorities::NAME, &PostParams::default(), &secret)).unwrap();
    } else {
        create(&secrets, &secret);
    }
}

/// Tells agents whom to believe, as the controller does it.
fn tell(stage: &Stage, bundle: &str) {
    let map: ConfigMap = serde_json::from_value(authorities::bundle_patch("patchbay", bundle)).unwrap();
    create(&stage.within("patchbay"), &map);
}

/// What a former agent of node-1 has left: a certificate, valid from and to so many seconds from now.
fn left(stage: &Stage, authority: &Authority, from: Seconds, to: Seconds) -> PathBuf {
    let (node, key) = (NodeName::new("node-1"), PrivateKey::make().unwrap());
    let validity = Validity { not_before: now() + from, not_after: now() + to };
    let certificate = authority.sign(key.request(&node).unwrap().as_bytes(), &node, validity).unwrap();
    let folder = stage.folder().join("state");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), authority.certificate()).unwrap();
    let file = folder.join("identity.pem");
    std::fs::write(&file, format!("{}{certificate}", key.pem())).unwrap();
    file
}

/// Waits until the file has another certificate than this one.
fn changes(file: &PathBuf, old: &str) -> String {
    eventually("another certificate of the agent", || {
        let now = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        if now == old { Err("it is the old one".to_owned()) } else { Ok(now) }
    })
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_certificate_that_is_due_is_used_while_nobody_signs_and_changed_under_the_running_agent() {
    let stage = Stage::open();
    let _node = Node::silent(&stage, "node-1");
    let authority = made(10);
    put(&stage, &[&authority]);
    let file = left(&stage, &authority, -20 * HOUR, 4 * HOUR);
    let old = std::fs::read_to_string(&file).unwrap();
    let fixture = Fixture::new();
    // No controller is there.
    let mut agent = agent::start(&stage, &fixture);
    agent.says("this node has a certificate", SOON);
    agent.says("a certificate is asked for", SOON);
    assert!(!agent.has_said("without a certificate"), "{:?}", agent.complaints());

    let controller = Running::leader(&stage, "controller-1");
    let new = changes(&file, &old);
    assert!(Identity::new(authority.certificate(), &new, &new).is_ok(), "the authority is the one that was there");
    assert_eq!(bundle(&stage).unwrap(), authority.certificate());
    // The same process.
    agent.stop();
    assert!(!agent.has_said("without a certificate"), "{:?}", agent.complaints());
    assert_eq!(requests(&stage).len(), 1);
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_whose_certificate_has_expired_says_so_and_for_what_it_waits() {
    let stage = Stage::open();
    let _node = Node::silent(&stage, "node-1");
    let authority = made(10);
    let file = left(&stage, &authority, -25 * HOUR, -HOUR);
    let old = std::fs::read_to_string(&file).unwrap();
    let fixture = Fixture::new();
    let mut agent = agent::start(&stage, &fixture);
    agent.says("certificate expired", SOON);
    agent.says("the controller has not signed the request of this node yet", SOON);
    assert!(!agent.has_said("this node has a certificate"), "{:?}", agent.complaints());
    put(&stage, &[&authority]);
    let _controller = Running::leader(&stage, "controller-1");
    changes(&file, &old);
    agent.says("this node has a certificate", SOON);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_authority_is_followed_by_another_and_agents_of_both_are_believed() {
    let stage = Stage::open();
    let _node = Node::silent(&stage, "node-1");
    // It has 55 days left.
    let (old, new) = (made(310), made(2));
    put(&stage, &[&old]);
    let controller = Running::leader(&stage, "controller-1");
    let fixture = Fixture::new();
    let mut agent = agent::start(&stage, &fixture);
    agent.says("this node has a certificate", SOON);
    let told = eventually("a successor in the bundle", || {
        let bundle = bundle(&stage)?;
        if bundle.matches("BEGIN CERTIFICATE").count() == 2 { Ok(bundle) } else { Err(bundle) }
    });
    assert!(told.starts_with(old.certificate()), "{told}");
    let file = stage.folder().join("state/identity.pem");
    let first = std::fs::read_to_string(&file).unwrap();
    assert!(Identity::new(old.certificate(), &first, &first).is_ok(), "the successor does not sign yet");

    // Two days later: what has been announced for so long signs, and what the first one has signed is believed.
    put(&stage, &[&old, &new]);
    let both = format!("{}{}", old.certificate(), new.certificate());
    eventually("the bundle of two days later", || {
        bundle(&stage).and_then(|bundle| if bundle == both { Ok(()) } else { Err(bundle) })
    });
    let key = KeyPair::generate().unwrap();
    ask(&stage.agent_of("node-1"), "later", &asked("node-1"), &key, &USAGES);
    let signed = answer(&stage, "later").unwrap();
    assert!(
        Identity::new(new.certificate(), &signed, &key.serialize_pem()).is_ok(),
        "it is not the new one that signs"
    );
    eventually("the agent to know the bundle", || {
        let known = std::fs::read_to_string(stage.folder().join("state/ca.crt")).map_err(|error| error.to_string())?;
        if known == both { Ok(()) } else { Err(known) }
    });
    agent.stop();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first, "there was nothing wrong with it");
    assert!(Identity::new(&both, &first, &first).is_ok());
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_with_a_wrong_clock_keeps_what_it_has_says_so_and_does_not_ask_again_and_again() {
    let stage = Stage::open();
    let _node = Node::silent(&stage, "node-1");
    let authority = made(10);
    tell(&stage, authority.certificate());
    let file = left(&stage, &authority, -20 * HOUR, 4 * HOUR);
    let old = std::fs::read_to_string(&file).unwrap();
    let fixture = Fixture::new();
    let mut agent = agent::start(&stage, &fixture);
    let open = eventually("a request", || requests(&stage).pop().ok_or_else(|| "none".to_owned()));

    // The test signs, by a clock that is an hour ahead of the agent's.
    let (objects, params): (Api<CertificateSigningRequest>, _) = (stage.all(), PostParams::default());
    let name = open.name_any();
    let ahead = Validity::from_now(now() + HOUR, LIFETIME);
    let certificate = authority.sign(&open.spec.request.0, &NodeName::new("node-1"), ahead).unwrap();
    let approved = certificate_request::with_condition(&open, "Approved", "by the test", Timestamp::now());
    let approved = request("approve it", objects.replace_subresource("approval", &name, &params, &approved)).unwrap();
    let signed = certificate_request::with_certificate(&approved, &certificate);
    request("sign it", objects.replace_subresource("status", &name, &params, &signed)).unwrap();

    agent.says("one of the clocks of node and controller is wrong", SOON);
    // The second try, and the third.
    for pause in ["again=2s", "again=4s"] {
        agent.says(pause, SOON);
    }
    assert_eq!(requests(&stage).len(), 1, "the same request is looked at");
    agent.stop();
    assert!(!agent.has_said("without a certificate"), "{:?}", agent.complaints());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), old);
}
