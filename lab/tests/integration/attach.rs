//! From a published device into a virtual machine and out again, and what becomes of several who want one device.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, ResourceExt};
use patchbay_api::claim::{self, Target};
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine, attachment};
use patchbay_core::speed::Speed;
use patchbay_lab::wait::wait_for;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, delete, eventually, get, is_gone};

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_published_device_is_assigned_attached_through_a_port_and_given_back() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("webcam", 1, Speed::High));

    stage.node_device_is("webcam", "Ready", "Ready");
    stage.node_device_is("webcam", "Assigned", "Available");
    stage.node_device_is("webcam", "Attached", "Available");
    stage.namespace("blue");
    stage.assign("webcam", Some("blue"));
    stage.node_device_is("webcam", "Assigned", "Assigned");
    stage.device_is("blue", "webcam", "Ready", "Ready");
    let (cluster, local) =
        (get(&stage.all::<NodeUSBDevice>(), "webcam"), get(&stage.within::<USBDevice>("blue"), "webcam"));
    let (cluster, local) = (cluster.unwrap().status.unwrap(), local.unwrap().status.unwrap());
    assert_eq!((&cluster.attributes, &cluster.node_name), (&local.attributes, &local.node_name));

    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    let pods = stage.attachments("blue").unwrap();
    let [pod] = pods.as_slice() else { panic!("{} attachment pods", pods.len()) };
    assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("node-2"), "kube-scheduler has bound it");
    let claims = attachment::claims(pod).unwrap();
    let allocated = |name: &str| {
        let found: ResourceClaim = get(&stage.within("blue"), name).unwrap();
        claim::allocated(&found).into_iter().map(|a| a.target).collect::<Vec<_>>()
    };
    let device = Target::Device { node: "node-1".into(), device: "webcam".into() };
    assert_eq!(allocated(claims.device.as_str()), [device]);
    let port = allocated(claims.port.expect("the port's claim is made").as_str());
    assert!(matches!(&port[..], [Target::Port { node, .. }] if node.as_str() == "node-2"), "{port:?}");

    stage.list("blue", "linux-vm", &[]);
    stage.device_is("blue", "webcam", "Attached", "Available");
    stage.node_device_is("webcam", "Attached", "Available");
    stage.nothing_is_attached("blue");
    eventually("the machine's status to be empty", || {
        let entries = stage.entries("blue", "linux-vm")?;
        if entries.is_empty() { Ok(()) } else { Err(format!("{entries:?}")) }
    });

    delete(&stage.within::<VirtualMachine>("blue"), "linux-vm");
    // The garbage collector learns of new kinds of owners every 30 s.
    wait_for("the machine's pod to be gone", Duration::from_secs(60), || {
        is_gone(&stage.within::<Pod>("blue"), "vm-linux-vm")
    })
    .unwrap();
    home.unplug("webcam");
    let message = stage.node_device_is("webcam", "Ready", "NotFound").message;
    assert!(message.contains("node-1"), "{message}");
    stage.assign("webcam", None);
    eventually("the USBDevice to be gone", || is_gone(&stage.within::<USBDevice>("blue"), "webcam"));
    stage.node_device_is("webcam", "Assigned", "Available");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn of_two_machines_that_want_one_device_the_second_gets_it_from_the_first() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("token", 1, Speed::Full));
    stage.namespace("blue");
    stage.node_device_is("token", "Ready", "Ready");
    stage.assign("token", Some("blue"));
    stage.machine("blue", "first", "node-2", &["token"]);
    stage.is_attached("blue", "first", "token");
    stage.machine("blue", "second", "node-2", &["token"]);
    let waiting = stage.entry("blue", "second", "token", |e| !e.attached && e.message.contains("first"));
    assert!(waiting.ready, "the device itself is: {waiting:?}");

    stage.list("blue", "first", &[]);
    stage.is_attached("blue", "second", "token");
    // The machine goes, and the device with it to whoever waits.
    stage.list("blue", "first", &["token"]);
    stage.entry("blue", "first", "token", |e| !e.attached && e.message.contains("second"));
    delete(&stage.within::<VirtualMachine>("blue"), "second");
    stage.is_attached("blue", "first", "token");
    // The machine's pod goes; its next one gets the device.
    let before = stage.attachments("blue").unwrap()[0].uid();
    delete(&stage.within::<Pod>("blue"), "vm-first");
    eventually("an attachment to the machine's next pod", || {
        let pods = stage.attachments("blue")?;
        let next = pods.iter().any(|pod| pod.uid() != before);
        if next && pods.len() == 1 { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    });
    stage.is_attached("blue", "first", "token");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn what_somebody_deletes_by_hand_is_made_again() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("webcam", 1, Speed::Super));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");

    let claims: Api<ResourceClaim> = stage.within("blue");
    let devices: Api<USBDevice> = stage.within("blue");
    let again = |what: &str, before: Option<String>, now: &dyn Fn() -> Result<Option<String>, String>| {
        eventually(&format!("another {what}"), || match now()? {
            uid if uid != before => Ok(()),
            same => Err(format!("{same:?}")),
        });
        stage.is_attached("blue", "linux-vm", "webcam");
    };
    let attachment = || Ok(stage.attachments("blue")?.first().and_then(ResourceExt::uid));
    let pods = stage.attachments("blue").unwrap();
    delete(&stage.within::<Pod>("blue"), &pods[0].name_any());
    again("attachment pod", pods[0].uid(), &attachment);

    let claim = || Ok(get(&claims, "usb-webcam")?.uid());
    let before = claim().unwrap();
    delete(&claims, "usb-webcam");
    again("claim", before, &claim);

    let usb_device = || Ok(get(&devices, "webcam")?.uid());
    let before = usb_device().unwrap();
    delete(&devices, "webcam");
    again("USBDevice", before, &usb_device);

    // The assignment is in the object: with a new one it has to be given anew, and nothing stays attached meanwhile.
    let node_devices: Api<NodeUSBDevice> = stage.all();
    let before = get(&node_devices, "webcam").unwrap().uid();
    delete(&node_devices, "webcam");
    eventually("another NodeUSBDevice", || {
        let now = get(&node_devices, "webcam")?.uid();
        if now == before { Err("the same".to_owned()) } else { Ok(()) }
    });
    stage.node_device_is("webcam", "Assigned", "Available");
    stage.nothing_is_attached("blue");
    stage.assign("webcam", Some("blue"));
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.check(&controller);
}
