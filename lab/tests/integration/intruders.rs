//! Calls to a real agent by nodes whose certificates are good and whose rights are not: each is denied, or waits for ever, and
//! the honest call beside them gets as far as a node without modules lets it.

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use patchbay_api::NodeUSBDevice;
use patchbay_core::speed::Speed;
use patchbay_core::trust::request::USAGES;
use patchbay_lab::api::block_on;
use patchbay_lab::process::free_port;
use patchbay_link::{Claim, Identity, Import, call};
use patchbay_usb::fixture::Fixture;
use rcgen::KeyPair;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::agent;
use crate::identity::{answer, ask, asked, bundle};
use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{SOON, Stage, create, eventually, get, list};

const BLUE: &str = "blue";
const GREEN: &str = "green";

/// The home agent's first word about a call.
#[derive(Debug)]
enum Word {
    Wait(String),
    /// The end of the call.
    Denied(String),
}

/// What the agent of node-1 says to an agent that asks for a device.
fn calls(identity: &Identity, home: SocketAddr, import: Import) -> Word {
    let (tell, mut told) = mpsc::unbounded_channel();
    let on_wait = move |reason| drop(tell.send(reason));
    let first = async {
        tokio::select! {
            ended = call(home, "node-1", identity, import, on_wait) => Word::Denied(ended.unwrap_err().to_string()),
            Some(reason) = told.recv() => Word::Wait(reason),
        }
    };
    block_on(async { timeout(SOON, first).await }).expect("a word of the home agent")
}

/// The identity that the cluster gives to the agent of a node.
fn identity(stage: &Stage, node: &str) -> Identity {
    let (key, name) = (KeyPair::generate().unwrap(), format!("{node}-certificate"));
    ask(&stage.agent_of(node), &name, &asked(node), &key, &USAGES);
    let certificate = answer(stage, &name).unwrap();
    Identity::new(&bundle(stage).unwrap(), &certificate, &key.serialize_pem()).unwrap()
}

/// A device that node-1's agent has found, by its serial number.
fn named(stage: &Stage, serial: &str) -> String {
    eventually(&format!("a NodeUSBDevice of {serial}"), || {
        let objects = list::<NodeUSBDevice>(&stage.all(), &kube::api::ListParams::default())?;
        let has = |object: &&NodeUSBDevice| {
            let attributes = object.status.as_ref().and_then(|status| status.attributes.as_ref());
            attributes.and_then(|attributes| attributes.serial.as_deref()) == Some(serial)
        };
        objects.iter().find(has).and_then(|o| o.metadata.name.clone()).ok_or_else(|| "none".to_owned())
    })
}

fn import(namespace: &str, claim: &str, uid: &str, device: &str) -> Import {
    let claim = Claim { namespace: namespace.into(), name: claim.into(), uid: uid.into() };
    Import { claim, pool: "node-1".into(), device: device.into() }
}

/// A claim as a user writes it, for one device.
fn own_claim(stage: &Stage, namespace: &str, device: &str) {
    let expression = format!("device.attributes[\"usb.virtualization.deckhouse.io\"].id == \"{device}\"");
    let claim: ResourceClaim = serde_json::from_value(json!({
        "metadata": {"name": "own", "namespace": namespace},
        "spec": {"devices": {"requests": [{"name": "device", "exactly": {
            "deviceClassName": "usb-devices.virtualization.deckhouse.io",
            "selectors": [{"cel": {"expression": expression}}],
        }}]}},
    }))
    .unwrap();
    create(&stage.within(namespace), &claim);
}

fn uid(stage: &Stage, namespace: &str, claim: &str) -> Result<String, String> {
    get::<ResourceClaim>(&stage.within(namespace), claim)?.metadata.uid.ok_or_else(|| "none".to_owned())
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_node_gets_what_a_pod_of_its_own_may_have_and_nothing_else() {
    let stage = Stage::open();
    let mut controller = Running::leader(&stage, "controller-1");
    let _home = Node::silent(&stage, "node-1");
    let (importer, other) = (Node::join(&stage, "node-2"), Node::join(&stage, "node-3"));
    importer.ports(8);
    other.plug(device("webcam", 1, Speed::High));
    let fixture = Fixture::new();
    fixture.device("1-2").strings("Logitech", "Webcam C920", "LENT00001");
    fixture.device("1-3").strings("Logitech", "Webcam C920", "FOREIGN01");
    let port = free_port().unwrap();
    let mut agent = agent::start_with(&stage, &fixture, port, &[]);
    agent.says("this node has a certificate", SOON);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (lent, foreign) = (named(&stage, "LENT00001"), named(&stage, "FOREIGN01"));
    for namespace in [BLUE, GREEN] {
        stage.namespace(namespace);
    }
    for device in [lent.as_str(), &foreign, "webcam"] {
        stage.node_device_is(device, "Ready", "Ready");
        stage.assign(device, Some(BLUE));
    }
    stage.machine(BLUE, "linux-vm", "node-2", &[&lent, "webcam"]);
    stage.is_attached(BLUE, "linux-vm", &lent);
    stage.is_attached(BLUE, "linux-vm", "webcam");
    let claim = format!("usb-{lent}");
    let right = uid(&stage, BLUE, &claim).unwrap();
    let webcams = uid(&stage, BLUE, "usb-webcam").unwrap();
    // Somebody of another namespace writes a claim for a device of this one, and runs a pod with it: Kubernetes allocates it.
    own_claim(&stage, GREEN, &foreign);
    let thief: Pod = serde_json::from_value(json!({
        "metadata": {"name": "thief", "namespace": GREEN},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": "node-2"},
            "containers": [{"name": "it", "image": "none", "resources": {"claims": [{"name": "stolen"}]}}],
            "resourceClaims": [{"name": "stolen", "resourceClaimName": "own"}],
        },
    }))
    .unwrap();
    create(&stage.within(GREEN), &thief);
    eventually("the claim of the other namespace to be allocated and reserved", || {
        let status = get::<ResourceClaim>(&stage.within(GREEN), "own")?.status.unwrap_or_default();
        let done = status.allocation.is_some() && status.reserved_for.is_some();
        if done { Ok(()) } else { Err(format!("{status:?}")) }
    });
    // And one that nobody uses, so that nothing is allocated to it.
    own_claim(&stage, BLUE, &lent);

    let (two, three) = (identity(&stage, "node-2"), identity(&stage, "node-3"));
    let ask = |who: &Identity, what: Import| calls(who, address, what);
    let honest = || import(BLUE, &claim, &right, &lent);
    let elsewhere =
        Import { pool: "node-3".into(), device: "webcam".into(), ..import(BLUE, "usb-webcam", &webcams, "") };
    let denied = [
        ("another uid", ask(&two, import(BLUE, &claim, "0c1f", &lent)), "does not exist with uid 0c1f"),
        ("a claim of another namespace", ask(&two, import(GREEN, &claim, &right, &lent)), "does not exist with uid"),
        ("the uid of another claim", ask(&two, import(BLUE, &claim, &webcams, &lent)), "does not exist with uid"),
        (
            "a claim that is not allocated",
            ask(&two, import(BLUE, "own", &uid(&stage, BLUE, "own").unwrap(), &lent)),
            "is not allocated to device",
        ),
        ("another device", ask(&two, import(BLUE, &claim, &right, &foreign)), "is not allocated to device"),
        (
            "a claim of a device of another node",
            ask(&two, import(BLUE, "usb-webcam", &webcams, "webcam")),
            "is not allocated to device webcam of node node-1",
        ),
        ("a device of another node", ask(&two, elsewhere), "this is node node-1, not node-3"),
        ("the claim of a pod of another node", ask(&three, honest()), "is not reserved for a pod on node node-3"),
    ];
    for (what, word, words) in denied {
        let Word::Denied(why) = &word else { panic!("{what}: {word:?}") };
        assert!(why.contains(words), "{what}: {why}");
    }
    let stolen = ask(&two, import(GREEN, "own", &uid(&stage, GREEN, "own").unwrap(), &foreign));
    let Word::Wait(why) = &stolen else { panic!("{stolen:?}") };
    assert_eq!(*why, format!("device {foreign} is not assigned to namespace {GREEN}"));

    // The honest one fails for want of a kernel.
    let word = ask(&two, honest());
    let Word::Wait(why) = &word else { panic!("{word:?}") };
    assert!(why.contains("usbip-host"), "{why}");

    // Nobody takes the claim away any more, and what an administrator has just said counts all the same.
    stage.check(&controller);
    controller.stop();
    stage.assign(&lent, None);
    let word = ask(&two, honest());
    let Word::Wait(why) = &word else { panic!("{word:?}") };
    assert_eq!(*why, format!("device {lent} is not assigned to namespace {BLUE}"));
    agent.stop();
}
