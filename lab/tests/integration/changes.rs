//! What changes underneath an attachment: its assignment, its namespace, the node its device is plugged into.

use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine};
use patchbay_core::speed::Speed;
use patchbay_lab::wait::wait_for;

use crate::node::{Node, device};
use crate::players::{self, Awake};
use crate::program::Running;
use crate::stage::{Stage, delete, eventually, get, is_gone};

/// A device of node-1 in the machine `linux-vm` of the namespace `blue` on node-2.
fn attached() -> (Stage, Running, Node, Node) {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    (stage, controller, home, importer)
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_device_that_is_given_to_another_namespace_leaves_the_first_before_it_is_in_the_second() {
    let (stage, controller, _home, _importer) = attached();
    stage.namespace("green");
    stage.machine("green", "other-vm", "node-2", &["webcam"]);
    stage.entry("green", "other-vm", "webcam", |e| e.message.contains("no USBDevice"));

    // The guest does not let go of it yet.
    stage.awake(Awake { agents: false, ..players::ALL });
    stage.assign("webcam", Some("green"));
    let message = stage.node_device_is("webcam", "Assigned", "InProgress").message;
    assert!(message.contains("linux-vm") && message.contains("blue"), "{message}");
    stage.node_device_is("webcam", "Attached", "AttachedToVirtualMachine");
    is_gone(&stage.within::<USBDevice>("green"), "webcam").unwrap();

    stage.awake(players::ALL);
    stage.is_attached("green", "other-vm", "webcam");
    stage.node_device_is("webcam", "Assigned", "Assigned");
    stage.nothing_is_attached("blue");
    is_gone(&stage.within::<USBDevice>("blue"), "webcam").unwrap();
    stage.entry("blue", "linux-vm", "webcam", |e| !e.attached && e.message.contains("no USBDevice"));
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_namespace_that_is_deleted_gives_its_device_back_and_gets_it_again_when_it_returns() {
    let (stage, controller, _home, _importer) = attached();
    // The node does not let go of its pods yet.
    stage.awake(Awake { kubelets: false, ..players::ALL });
    delete(&stage.all::<Namespace>(), "blue");
    let message = stage.node_device_is("webcam", "Assigned", "InProgress").message;
    assert!(message.contains("namespace blue is being deleted"), "{message}");
    stage.node_device_is("webcam", "Attached", "Available");

    stage.awake(players::ALL);
    eventually("the namespace to be gone", || is_gone(&stage.all::<Namespace>(), "blue"));
    eventually("the reason to follow", || {
        let message = stage.node_device_is("webcam", "Assigned", "InProgress").message;
        if message.contains("does not exist") { Ok(()) } else { Err(message) }
    });
    stage.node_device_is("webcam", "Ready", "Ready");

    stage.namespace("blue");
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_dead_home_node_loses_its_slices_after_a_minute_and_nothing_else() {
    let (stage, controller, home, _importer) = attached();
    // Of another node the kubelet alone dies: its agent goes on, and publishes anew what it has.
    let half_dead = Node::join(&stage, "node-3");
    half_dead.plug(device("mouse", 1, Speed::Low));
    stage.node_device_is("mouse", "Ready", "Ready");
    let slices = |node: &str| -> Result<Vec<Option<String>>, String> {
        let both = [stage.slices(node)?, stage.slices(&format!("{node}-ports"))?];
        Ok(both.iter().flatten().map(ResourceExt::uid).collect())
    };
    let node_device = || get(&stage.all::<NodeUSBDevice>(), "webcam").unwrap().uid();
    let attachment = || stage.attachments("blue").unwrap()[0].uid();
    let before = (node_device(), attachment(), slices("node-3").unwrap());
    assert_eq!(before.2.len(), 2);

    home.silence();
    let since = Timestamp::now().as_second();
    home.is_ready(false, since);
    half_dead.is_ready(false, since);
    let message = stage.device_is("blue", "webcam", "Ready", "NotReady").message;
    assert!(message.contains("node node-1 is not ready"), "{message}");
    assert_eq!(slices("node-1").unwrap().len(), 2, "it is not a minute yet");
    wait_for("the slices of the dead node to be gone", Duration::from_secs(75), || match slices("node-1")?.len() {
        0 => Ok(()),
        left => Err(format!("{left} slices")),
    })
    .unwrap();
    assert!(Timestamp::now().as_second() >= since + 60, "too early");
    stage.is_attached_though_not_ready("blue", "linux-vm", "webcam");

    eventually("the agent of the other node to have published anew", || {
        let now = slices("node-3")?;
        let anew = now.len() == 2 && now.iter().all(|uid| !before.2.contains(uid));
        if anew { Ok(()) } else { Err(format!("{now:?}")) }
    });
    let (deletions, anew) = (stage.deletions(), slices("node-3").unwrap());
    stage.passes(Duration::from_secs(5));
    assert_eq!((stage.deletions(), slices("node-3").unwrap()), (deletions, anew), "nobody takes it from it again");
    stage.node_device_is("mouse", "Ready", "NotReady");

    // The node is there and its agent is not: nobody knows of the device.
    home.is_ready(true, Timestamp::now().as_second());
    eventually("the device to say that its node publishes nothing", || {
        let message = stage.device_is("blue", "webcam", "Ready", "NotReady").message;
        if message.contains("node node-1 does not publish its devices") { Ok(()) } else { Err(message) }
    });
    home.speak();
    stage.device_is("blue", "webcam", "Ready", "Ready");
    stage.is_attached("blue", "linux-vm", "webcam");
    assert_eq!((before.0, before.1), (node_device(), attachment()), "all as before");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_device_that_moves_to_another_node_follows_with_all_it_has() {
    let (stage, controller, home, importer) = attached();
    let object: Api<NodeUSBDevice> = stage.all();
    let before = get(&object, "webcam").unwrap().uid();
    home.unplug("webcam");
    stage.device_is("blue", "webcam", "Ready", "NotFound");
    stage.node_device_is("webcam", "Attached", "Available");
    stage.entry("blue", "linux-vm", "webcam", |e| !e.attached && e.message.contains("absent"));

    // Into the machine's own node: now it needs no port.
    importer.plug(device("webcam", 3, Speed::High));
    stage.device_is("blue", "webcam", "Ready", "Ready");
    stage.is_attached("blue", "linux-vm", "webcam");
    let status = get(&object, "webcam").unwrap().status.unwrap();
    assert_eq!(status.node_name.as_deref(), Some("node-2"));
    assert_eq!(get(&object, "webcam").unwrap().uid(), before);
    eventually("one attachment, without a port", || {
        let pods = stage.attachments("blue")?;
        let ports: Vec<_> = pods.iter().map(|p| patchbay_api::attachment::claims(p).map(|c| c.port)).collect();
        if ports == [Ok(None)] { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    delete(&stage.within::<VirtualMachine>("blue"), "linux-vm");
    stage.nothing_is_attached("blue");
    stage.check(&controller);
}
