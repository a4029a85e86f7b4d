//! What is told of devices and machines, word by word.

use super::builder::{Builder, world};
use crate::conditions::{GuestPort, PluggedState};
use crate::controller::UNDER_WAY_AFTER;
use crate::controller::events::{Notice, Subject, notices};
use crate::controller::world::{Placement, PodTrouble, RunPolicy};
use crate::names::{DeviceName, NodeName};
use crate::speed::Hub;

/// Everything happens that the world leads to; what is told meanwhile, one a line.
fn story(it: &mut Builder) -> String {
    let mut told = Vec::new();
    loop {
        let actions = it.plan().actions;
        if actions.is_empty() {
            return told.join("\n");
        }
        told.extend(actions.iter().flat_map(|action| notices(action, &it.world)).map(|notice| line(&notice)));
        it.act();
    }
}

fn line(notice: &Notice) -> String {
    let about = match &notice.about {
        Subject::NodeDevice(name) => format!("nusb {name}"),
        Subject::Device(namespace, name) => format!("usb {namespace}/{name}"),
        Subject::Vm(namespace, name) => format!("vm {namespace}/{name}"),
        Subject::Node(name) => format!("node {name}"),
    };
    let kind = if notice.is_warning() { "Warning" } else { "Normal" };
    format!("{about} {kind} {} {}: {}", notice.deed.as_str(), notice.reason(), notice.note)
}

/// What is told of one object.
fn of<'s>(story: &'s str, about: &str) -> Vec<&'s str> {
    story.lines().filter_map(|line| line.strip_prefix(about)).map(str::trim_start).collect()
}

/// A stick and a key of node-1, both given to blue.
fn devices() -> Builder {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").device("key", "node-1");
    it.assigned("stick", "blue").assigned("key", "blue")
}

/// With the machine `vm-a` on node-2, in which these are.
fn machine(listed: &[&str]) -> Builder {
    devices().vm("blue", "vm-a", "node-2", listed).settled()
}

#[test]
fn the_life_of_a_device_is_told_step_by_step() {
    let mut it = world().node("node-1").device("stick", "node-1");
    insta::assert_snapshot!(story(&mut it), @"nusb stick Normal Discover Ready: Device is ready to use");
    it.assign("stick", Some("blue"));
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Discover Ready: Device is ready to use
    nusb stick Normal Assign InProgress: the USBDevice in namespace blue is being created
    nusb stick Normal Assign Assigned: Namespace is assigned for the device
    ");
    it.unplug("stick");
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Warning Discover NotFound: Device is absent on the host: it was last plugged into node node-1
    nusb stick Warning Discover NotFound: Device is absent on the host: it was last plugged into node node-1
    node node-1 Warning Discover USBDeviceNotFound: USB device stick: Device is absent on the host: it was last plugged into node node-1
    ");
    it.plug("stick", "node-1");
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Discover Ready: Device is ready to use
    nusb stick Normal Discover Ready: Device is ready to use
    node node-1 Normal Discover USBDeviceReady: USB device stick: Device is ready to use
    ");
    it.assign("stick", None);
    insta::assert_snapshot!(story(&mut it), @r"
    nusb stick Normal Assign InProgress: waiting until the USBDevice in namespace blue is gone
    nusb stick Normal Assign Available: No namespace is assigned for the device: set spec.assignedNamespace
    ");
}

#[test]
fn that_there_is_another_of_its_serial_number_is_told_once_of_each() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").settled();
    it.plug("stick", "node-2");
    let told = story(&mut it);
    assert_eq!(of(&told, "nusb stick ").len(), 1, "{told}");
    assert!(
        of(&told, "nusb stick ")[0].starts_with("Warning Discover Ready: Device is ready to use; warning:"),
        "{told}"
    );
    assert_eq!((told.lines().count(), told.matches("Warning").count()), (2, 2), "{told}");
    assert_eq!(story(&mut it), "");
    it.world.pools.get_mut(&NodeName::new("node-2")).unwrap().devices.clear();
    let told = story(&mut it);
    assert_eq!(of(&told, "nusb stick "), Vec::<&str>::new(), "{told}");
}

#[test]
fn nothing_is_told_when_nothing_has_changed() {
    let mut it = machine(&["stick"]);
    assert_eq!(story(&mut it), "");
    it.world.now += 100_000;
    assert_eq!(story(&mut it), "");
}

#[test]
fn an_attachment_and_its_end_are_told_of_both_objects_and_of_the_machine() {
    let mut it = machine(&[]);
    it.list("blue", "vm-a", &["stick"]);
    insta::assert_snapshot!(story(&mut it), @"");
    it.plug_in();
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Attach AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 1
    nusb stick Normal Attach AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 1
    vm blue/vm-a Normal Attach AttachedToVirtualMachine: USB device stick is attached on node node-2, guest bus 0 port 1
    ");
    it.list("blue", "vm-a", &[]);
    insta::assert_snapshot!(story(&mut it), @"");
    it.attachment().plugged = Some(PluggedState::Unplugged);
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Detach Available: Device is available for attachment
    nusb stick Normal Detach Available: Device is available for attachment
    vm blue/vm-a Normal Detach Available: USB device stick is detached
    ");
    it.sweep();
    insta::assert_snapshot!(story(&mut it), @"");
}

#[test]
fn a_cable_that_is_pulled_out_of_a_machine_and_put_back_is_told_to_all() {
    let mut it = machine(&["stick"]);
    it.world.now += UNDER_WAY_AFTER;
    it.unplug("stick");
    it.attachment().plugged = Some(PluggedState::Waiting("waiting for the device".to_owned()));
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Warning Discover NotFound: Device is absent on the host: it was last plugged into node node-1
    usb blue/stick Normal Detach Available: Device is absent; it returns to virtual machine blue/vm-a on node node-2 when it is plugged in again
    nusb stick Warning Discover NotFound: Device is absent on the host: it was last plugged into node node-1
    nusb stick Normal Detach Available: Device is absent; it returns to virtual machine blue/vm-a on node node-2 when it is plugged in again
    node node-1 Warning Discover USBDeviceNotFound: USB device stick: Device is absent on the host: it was last plugged into node node-1
    vm blue/vm-a Warning Attach NotFound: 0 of 1 USB devices are attached; stick: Device is absent on the host: it was last plugged into node node-1
    ");
    it.plug("stick", "node-1");
    it.attachment().plugged = Some(PluggedState::Plugged(GuestPort { bus: 0, port: "2".to_owned() }));
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Discover Ready: Device is ready to use
    usb blue/stick Normal Attach AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 2
    nusb stick Normal Discover Ready: Device is ready to use
    nusb stick Normal Attach AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 2
    node node-1 Normal Discover USBDeviceReady: USB device stick: Device is ready to use
    vm blue/vm-a Normal Attach AttachedToVirtualMachine: USB device stick is attached on node node-2, guest bus 0 port 2
    vm blue/vm-a Normal Attach AllAttached: the USB device is attached
    ");
}

#[test]
fn a_device_that_finds_no_port_and_one_that_another_has_are_warned_of_and_so_is_the_end_of_it() {
    let mut it = machine(&[]);
    it.list("blue", "vm-a", &["stick"]);
    story(&mut it);
    it.attachment().placement = Placement::NoPlace;
    it.world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Warning Attach NoFreeUSBIPPort: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    nusb stick Warning Attach NoFreeUSBIPPort: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    vm blue/vm-a Warning Attach NoFreeUSBIPPort: 0 of 1 USB devices are attached; stick: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    node node-2 Warning Attach NoFreeUSBIPPort: virtual machine blue/vm-a: 0 of 1 USB devices are attached; stick: all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the virtual machine
    ");
    it.attachment().placement = Placement::Awaited;
    it.plug_in();
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "vm blue/vm-a").join("\n"), @r"
    Normal Attach AttachedToVirtualMachine: USB device stick is attached on node node-2, guest bus 0 port 1
    Normal Attach AllAttached: the USB device is attached
    ");

    it = it.vm("blue", "vm-b", "node-1", &["stick"]);
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "vm blue/vm-b").join("\n"), @r"
    Normal Run Running: it runs on node node-1
    Warning Attach InUse: 0 of 1 USB devices are attached; stick: in use by virtual machine vm-a: it is attached here when released there
    ");
    assert_eq!(of(&told, "usb blue/stick"), Vec::<&str>::new());
}

#[test]
fn a_step_that_takes_long_is_told_once() {
    let mut it = machine(&[]);
    it.list("blue", "vm-a", &["stick"]);
    assert_eq!(story(&mut it), "");
    it.world.now += UNDER_WAY_AFTER;
    insta::assert_snapshot!(story(&mut it), @r"
    usb blue/stick Normal Attach Available: Requested by virtual machine blue/vm-a on node node-2: waiting for the kubelet and the agent of node node-2
    nusb stick Normal Attach Available: Requested by virtual machine blue/vm-a on node node-2: waiting for the kubelet and the agent of node node-2
    vm blue/vm-a Normal Attach Attaching: 0 of 1 USB devices are attached; stick: waiting for the kubelet and the agent of node node-2
    ");
    it.world.now += UNDER_WAY_AFTER;
    assert_eq!(story(&mut it), "");
}

#[test]
fn who_waits_for_a_device_is_no_news_of_the_device() {
    let mut it = machine(&["stick"]);
    it.pod_claim("blue", "reader", "stick");
    assert_eq!(story(&mut it), "");
    assert!(it.usb_device("blue", "stick").contains("; pod blue/reader waits for it"));
    it.world.pod_claims.clear();
    assert_eq!(story(&mut it), "");
}

#[test]
fn of_several_devices_each_that_comes_or_goes_is_named() {
    let mut it = machine(&["stick", "key"]);
    it.world.now += UNDER_WAY_AFTER;
    let pull = |it: &mut Builder, device: &str| {
        it.unplug(device);
        it.world.attachments.values_mut().find(|a| a.device.as_str() == device).unwrap().plugged = None;
    };
    pull(&mut it, "stick");
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "vm blue/vm-a").join("\n"), @r"
    Warning Attach NotFound: 1 of 2 USB devices are attached; stick: Device is absent on the host: it was last plugged into node node-1
    ");
    pull(&mut it, "key");
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "vm blue/vm-a").join("\n"), @r"
    Normal Detach Available: USB device key is detached: Device is absent on the host: it was last plugged into node node-1
    ");
    it.plug("key", "node-1");
    it.plug("stick", "node-1");
    it.plug_in();
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "vm blue/vm-a").join("\n"), @r"
    Normal Attach AttachedToVirtualMachine: USB device stick is attached on node node-2, guest bus 0 port 1
    Normal Attach AttachedToVirtualMachine: USB device key is attached on node node-2, guest bus 0 port 1
    Normal Attach AllAttached: all 2 USB devices are attached
    ");
}

#[test]
fn a_machine_tells_how_it_starts_fails_and_stops_and_its_devices_that_they_are_out() {
    let mut it = devices().vm("blue", "vm-a", "node-2", &["stick"]);
    insta::assert_snapshot!(of(&story(&mut it), "vm blue/vm-a").join("\n"), @r"
    Normal Run Running: it runs on node node-2
    ");
    it.plug_in();
    insta::assert_snapshot!(of(&story(&mut it), "vm blue/vm-a").join("\n"), @r"
    Normal Attach AttachedToVirtualMachine: USB device stick is attached on node node-2, guest bus 0 port 1
    ");
    let pod = it.world.vm_pods.values_mut().next().unwrap();
    pod.trouble = Some(PodTrouble::Ended { code: 1, words: "out of memory".to_owned() });
    insta::assert_snapshot!(story(&mut it), @r"
    vm blue/vm-a Warning Run ContainerFailed: it has failed with code 1 and is started again: out of memory
    ");
    it.world.vm_pods.values_mut().next().unwrap().trouble = None;
    story(&mut it);
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    it.attachment().plugged = Some(PluggedState::Unplugged);
    story(&mut it);
    it.sweep();
    insta::assert_snapshot!(it.machine_conditions("blue", "vm-a"), @r"
    Running=False/Stopping: its pod is going away
    USBDevicesAttached=False/NotRunning: 0 of 1 USB devices are attached; stick: waiting for the virtual machine to run
    ");
    insta::assert_snapshot!(story(&mut it), @"vm blue/vm-a Normal Run Stopped: it is stopped, as spec.runPolicy says");
}

#[test]
fn a_device_that_changes_namespaces_tells_for_what_it_waits() {
    let mut it = machine(&["stick"]);
    it.assign("stick", Some("green"));
    let mut told = story(&mut it);
    it.sweep();
    told = told + "\n" + &story(&mut it);
    insta::assert_snapshot!(of(&told, "nusb stick").join("\n"), @r"
    Normal Assign InProgress: waiting until virtual machine vm-a in namespace blue has released the device
    Normal Assign InProgress: waiting until its claim in namespace blue has released the device
    Normal Detach Available: Device is available for attachment
    Normal Assign InProgress: waiting until the USBDevice in namespace blue is gone
    Normal Assign InProgress: the USBDevice in namespace green is being created
    Normal Assign Assigned: Namespace is assigned for the device
    ");
}

#[test]
fn a_node_that_dies_and_one_that_falls_silent_are_told_of() {
    let mut it = devices();
    it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap().ready = false;
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "usb blue/stick").join("\n"), @r"
    Warning Discover NotReady: node node-1 is not ready: check the node, its kubelet and its network
    ");
    it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap().ready = true;
    it.silence("node-1");
    let told = story(&mut it);
    insta::assert_snapshot!(of(&told, "usb blue/stick").join("\n"), @r"
    Warning Discover NotReady: node node-1 does not publish its devices: check that the Patchbay agent runs there
    ");
    assert_eq!(of(&told, "node "), Vec::<&str>::new(), "nothing more than Kubernetes tells of it");
}

#[test]
fn nothing_is_told_in_a_namespace_that_is_going() {
    let mut it = machine(&["stick"]);
    it.world.namespaces.insert("blue".into(), true);
    it.unplug("stick");
    let told = story(&mut it);
    assert!(told.contains("nusb stick Warning Discover NotFound"), "{told}");
    assert!(!told.contains("usb blue/stick") && !told.contains("vm blue/vm-a"), "{told}");
    assert_eq!(it.world.node_devices[&DeviceName::new("stick")].assigned, Some("blue".into()));
}
