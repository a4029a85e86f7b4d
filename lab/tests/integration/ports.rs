//! The ports of a node run out.

use kube::ResourceExt;
use patchbay_api::{NodeUSBDevice, attachment};
use patchbay_core::speed::Speed;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, eventually, get};

const PORTS: u16 = 8;

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn the_ninth_device_waits_for_a_port_and_nobody_else_notices() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(PORTS);
    stage.namespace("blue");
    let names: Vec<String> = (1..=PORTS).map(|n| format!("camera-{n}")).collect();
    for (name, n) in names.iter().zip(1..) {
        home.plug(device(name, n, Speed::High));
        stage.node_device_is(name, "Ready", "Ready");
        stage.assign(name, Some("blue"));
    }
    let first_eight: Vec<&str> = names.iter().map(String::as_str).collect();
    stage.machine("blue", "linux-vm", "node-2", &first_eight);
    first_eight.iter().for_each(|name| stage.is_attached("blue", "linux-vm", name));
    let before: Vec<_> = first_eight.iter().map(|name| get(&stage.all::<NodeUSBDevice>(), name).unwrap()).collect();

    // Of the ninth everybody is told which node is short of which ports.
    home.plug(device("ninth", PORTS + 1, Speed::Low));
    stage.node_device_is("ninth", "Ready", "Ready");
    stage.assign("ninth", Some("blue"));
    let all: Vec<&str> = first_eight.iter().copied().chain(["ninth"]).collect();
    stage.list("blue", "linux-vm", &all);
    for message in [
        stage.device_is("blue", "ninth", "Attached", "NoFreeUSBIPPort").message,
        stage.node_device_is("ninth", "Attached", "NoFreeUSBIPPort").message,
        stage.entry("blue", "linux-vm", "ninth", |e| e.message.contains("ports")).message,
    ] {
        assert!(message.contains("all 8 USB 2.0") && message.contains("node-2"), "{message}");
    }

    // Another kind of device, and one of the machine's own node, do not need these ports.
    home.plug(device("disk", 20, Speed::Super));
    importer.plug(device("mouse", 1, Speed::Low));
    for name in ["disk", "mouse"] {
        stage.node_device_is(name, "Ready", "Ready");
        stage.assign(name, Some("blue"));
    }
    let more: Vec<&str> = all.iter().copied().chain(["disk", "mouse"]).collect();
    stage.list("blue", "linux-vm", &more);
    stage.is_attached("blue", "linux-vm", "disk");
    stage.is_attached("blue", "linux-vm", "mouse");
    let pods = stage.attachments("blue").unwrap();
    let local = pods.iter().find(|pod| pod.name_any().starts_with("usb-mouse-")).expect("the mouse has one");
    assert_eq!(attachment::claims(local).unwrap().port, None);
    let entries = stage.entries("blue", "linux-vm").unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.attached).count(), 10, "{entries:?}");

    // The eight are as they were: nobody has even written to them.
    for (name, before) in first_eight.iter().zip(&before) {
        let now = get(&stage.all::<NodeUSBDevice>(), name).unwrap();
        assert_eq!(now.resource_version(), before.resource_version(), "{name}");
    }

    // One leaves, and the ninth is in without anybody touching it.
    let rest: Vec<&str> = more.iter().copied().filter(|name| *name != "camera-3").collect();
    stage.list("blue", "linux-vm", &rest);
    stage.is_attached("blue", "linux-vm", "ninth");
    stage.device_is("blue", "camera-3", "Attached", "Available");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_node_without_ports_says_which_module_is_missing() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    let message = stage.device_is("blue", "webcam", "Attached", "NoFreeUSBIPPort").message;
    assert!(message.contains("node-2") && message.contains("modprobe vhci-hcd"), "{message}");
    importer.ports(PORTS);
    stage.is_attached("blue", "linux-vm", "webcam");
    // Without ports nothing new is attached; what is attached stays.
    importer.ports(0);
    eventually("the ports to be gone", || {
        let slices = stage.slices("node-2-ports")?;
        let left = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} ports")) }
    });
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.list("blue", "linux-vm", &[]);
    stage.nothing_is_attached("blue");
    stage.check(&controller);
}
