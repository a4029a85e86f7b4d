//! The chain from the cable to the guest: in each world, the link that does not hold, why, and what to do.

use super::builder::{Builder, world};
use crate::conditions::PluggedState;
use crate::controller::why::{Finding, Link, Remedy, device, machine, told, waiting};
use crate::controller::world::{Placement, PodState, RunPolicy};
use crate::host_use::HostUse;
use crate::names::{DeviceName, Namespace};

/// A stick in node-1 for namespace blue, in a machine of blue on node-2.
fn attached() -> Builder {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it.vm("blue", "vm-a", "node-2", &["stick"]).settled()
}

fn chain(it: &Builder) -> Vec<Finding> {
    device(&it.world, &"stick".into(), None)
}

/// The link the chain ends at; why it does not hold; what to do.
fn held_up(found: &[Finding]) -> (Link, &str, &Remedy) {
    let last = found.last().unwrap();
    assert!(found.iter().rev().skip(1).all(|f| f.state.is_ok()), "{found:?}");
    let trouble = last.state.as_ref().expect_err("something holds it up");
    (last.link, &trouble.why, &trouble.remedy)
}

fn check(it: &Builder, link: Link, why: &str, remedy: &Remedy) {
    assert_eq!(held_up(&chain(it)), (link, why, remedy));
}

#[test]
fn a_chain_that_holds_leads_into_the_guest() {
    let found = chain(&attached());
    assert_eq!(found.iter().map(|f| f.link).collect::<Vec<_>>(), Link::TO_A_GUEST);
    let lines: Vec<_> = found.iter().map(|f| f.state.clone().unwrap()).collect();
    assert_eq!(
        [&lines[..7], &lines[8..]].concat(),
        [
            "port 1-1 of node node-1",
            "by the agent of node node-1",
            "Device is ready to use",
            "to namespace blue",
            "USBDevice blue/stick",
            "by virtual machine blue/vm-a",
            "virtual machine blue/vm-a runs on node node-2",
            "on node node-2, with a USB 2.0 USB/IP port",
            "by the kubelet and the agent of node node-2",
            "guest bus 0 port 1",
        ]
    );
    assert!(lines[7].starts_with("pod blue/usb-stick-"), "{}", lines[7]);
}

#[test]
fn of_a_device_of_the_machines_own_node_no_port_is_told() {
    let it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue");
    let it = it.vm("blue", "vm-a", "node-1", &["stick"]).settled();
    let found = chain(&it);
    let scheduled = found.iter().find(|f| f.link == Link::Scheduled).unwrap();
    assert_eq!(scheduled.state.as_deref(), Ok("on node node-1, where the device is plugged in"));
}

#[test]
fn a_device_that_was_never_there() {
    let why = "no node has, or had, a USB device named stick";
    check(&world(), Link::Cable, why, &Remedy::PlugIn { anywhere: true });
}

#[test]
fn a_pulled_cable_comes_first() {
    let mut it = attached();
    it.unplug("stick");
    let why = "Device is absent on the host: it was last plugged into node node-1";
    check(&it, Link::Cable, why, &Remedy::PlugIn { anywhere: true });
    let known = it.world.node_devices.get_mut(&DeviceName::new("stick")).unwrap().status.attributes.as_mut().unwrap();
    known.serial = None;
    check(&it, Link::Cable, why, &Remedy::PlugIn { anywhere: false });
}

#[test]
fn a_silent_agent_and_a_dead_node_are_told_apart() {
    let mut it = attached();
    it.silence("node-1");
    let why = "node node-1 does not publish its devices: check that the Patchbay agent runs there";
    check(&it, Link::Slice, why, &Remedy::CheckAgent("node-1".into()));
    assert_eq!(chain(&it)[0].state.as_deref(), Ok("last seen in port 1-1 of node node-1"));
    let mut it = attached();
    it.world.nodes.get_mut(&"node-1".into()).unwrap().ready = false;
    let why = "node node-1 is not ready: check the node, its kubelet and its network";
    check(&it, Link::Ready, why, &Remedy::HealNode("node-1".into()));
}

#[test]
fn a_controller_that_does_nothing_is_found() {
    let mut it = world().node("node-1").device("stick", "node-1");
    check(&it, Link::Ready, "it has no NodeUSBDevice yet", &Remedy::CheckController);
    it.settle();
    it.assign("stick", Some("blue"));
    check(&it, Link::Given, "there is no USBDevice blue/stick yet", &Remedy::CheckController);
    it.settle();
    let mut it = it.vm("blue", "vm-a", "node-1", &["stick"]);
    let found = chain(&it);
    let (link, why, remedy) = held_up(&found);
    assert_eq!((link, remedy), (Link::Attachment, &Remedy::CheckController));
    assert!(why.starts_with("there is no pod blue/usb-stick-") && why.ends_with(" yet"), "{why}");
    it.settle();
    assert_eq!(held_up(&chain(&it)).0, Link::Prepared);
}

#[test]
fn a_device_that_its_node_uses_says_so() {
    let mut it = attached();
    let pool = it.world.pools.get_mut(&"node-1".into()).unwrap();
    pool.devices[0].not_ready = Some(HostUse::mounted("/mnt/stick"));
    let why =
        "node node-1 uses the device itself: a file system on it is mounted at /mnt/stick; unmount it there (umount)";
    check(&it, Link::Ready, why, &Remedy::AsSaid);
}

#[test]
fn assignments_that_lead_nowhere() {
    let mut it = world().node("node-1").device("stick", "node-1");
    it.settle();
    let assign =
        |namespace: Option<&str>| Remedy::Assign { device: "stick".into(), namespace: namespace.map(Namespace::new) };
    let why = "No namespace is assigned for the device: set spec.assignedNamespace";
    check(&it, Link::Assigned, why, &assign(None));
    it.assign("stick", Some("red"));
    let remedy = Remedy::MakeNamespace { namespace: "red".into(), device: "stick".into() };
    check(&it, Link::Assigned, "namespace red does not exist", &remedy);
    it.world.namespaces.insert("red".into(), true);
    check(&it, Link::Assigned, "namespace red is being deleted", &assign(None));
    it.assign("stick", Some("blue"));
    let found = device(&it.world, &"stick".into(), Some(&("green".into(), "vm-g".into())));
    let why = "it is assigned to namespace blue, and not to green";
    let remedy = Remedy::Reassign { device: "stick".into(), namespace: "green".into() };
    assert_eq!(held_up(&found), (Link::Assigned, why, &remedy));

    let stick = DeviceName::new("stick");
    let mut it = attached().vm("green", "vm-g", "node-1", &["stick"]).settled();
    assert_eq!(waiting(&it.world, &"green".into(), &stick), Some(("green".into(), "vm-g".into())));
    assert_eq!(waiting(&it.world, &"blue".into(), &stick), None, "it has it");
    it.list("green", "vm-g", &[]);
    assert_eq!(waiting(&it.world, &"green".into(), &stick), None, "nobody asks");
}

#[test]
fn a_device_that_changes_namespaces_waits_for_the_machine_that_has_it() {
    let mut it = attached();
    it.assign("stick", Some("green"));
    it.settle();
    let why = "waiting until virtual machine vm-a in namespace blue has released the device";
    check(&it, Link::Given, why, &Remedy::Wait);
}

#[test]
fn a_device_that_nobody_lists_and_a_machine_that_does_not() {
    let mut it = attached();
    it.list("blue", "vm-a", &[]);
    it.settle();
    it.sweep();
    let list =
        |vm: Option<&str>| Remedy::List { device: "stick".into(), namespace: "blue".into(), vm: vm.map(Into::into) };
    check(&it, Link::Listed, "no virtual machine of namespace blue lists it", &list(None));
    let found = device(&it.world, &"stick".into(), Some(&("blue".into(), "vm-a".into())));
    let why = "virtual machine blue/vm-a does not list it";
    assert_eq!(held_up(&found), (Link::Listed, why, &list(Some("vm-a"))));
}

#[test]
fn machines_that_do_not_run() {
    let mut it = attached();
    it.vm_mut("blue", "vm-a").status.power = Some(crate::controller::world::Power::Off);
    let why = "virtual machine blue/vm-a does not run: ";
    let found = chain(&it);
    let (link, message, remedy) = held_up(&found);
    assert_eq!((link, remedy), (Link::Running, &Remedy::Start { namespace: "blue".into(), vm: "vm-a".into() }));
    assert_eq!(message, format!("{why}it is stopped: a VirtualMachineOperation of type Start starts it"));
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    assert_eq!(held_up(&chain(&it)).2, &Remedy::AsSaid);
    it.world.vm_pods.clear();
    let vm = it.vm_mut("blue", "vm-a").clone();
    let state = machine(&it.world, &"blue".into(), &"vm-a".into(), &vm);
    assert_eq!(state.unwrap_err().why, format!("{why}it is stopped, as spec.runPolicy says"));
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOn;
    check(&it, Link::Running, &format!("{why}its pod is being made and scheduled"), &Remedy::CheckController);
    it.act();
    let remedy = Remedy::DescribePod { namespace: "blue".into(), pod: "vm-vm-a".into() };
    check(&it, Link::Running, &format!("{why}its pod is being made and scheduled"), &remedy);
}

#[test]
fn the_second_machine_is_told_who_has_it() {
    let it = attached().vm("blue", "vm-b", "node-1", &["stick"]).settled();
    let found = device(&it.world, &"stick".into(), Some(&("blue".into(), "vm-b".into())));
    let remedy = Remedy::Release { device: "stick".into(), namespace: "blue".into(), vm: "vm-a".into() };
    let why = "in use by virtual machine vm-a: it is attached here when released there";
    assert_eq!(held_up(&found), (Link::Attachment, why, &remedy));
    assert_eq!(chain(&it).last().unwrap().link, Link::Plugged, "of itself it is where it should be");
}

#[test]
fn a_pod_that_has_it_is_named() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    let uid = it.pod_claim("blue", "reader", "stick");
    it.allocate("blue", "reader", ("node-1", "stick"), "node-2", Some("usb2-0"));
    assert_eq!(held_up(&chain(&it)).0, Link::Pod);
    it.world.pools.get_mut(&"node-2".into()).unwrap().in_use.insert(uid);
    let found = chain(&it);
    let message = "Attached to pod blue/reader on node node-2, port usb2-0";
    assert_eq!(found.last(), Some(&Finding { link: Link::Pod, state: Ok(message.to_owned()) }));
    let it = it.vm("blue", "vm-a", "node-2", &["stick"]).settled();
    let found = device(&it.world, &"stick".into(), Some(&("blue".into(), "vm-a".into())));
    assert_eq!(held_up(&found).2, &Remedy::EndPod("pod blue/reader".to_owned()));
}

#[test]
fn the_last_links_break_one_after_the_other() {
    let mut it = attached();
    it.world.ports_used.insert(("node-2".into(), crate::speed::Hub::Usb2), 1);
    let own = it.attachment();
    (own.plugged, own.placement) = (None, Placement::NoPlace);
    let why = "all 1 USB 2.0 USB/IP ports of node node-2 are in use: detach another USB 2.0 device there, or move the \
               virtual machine";
    check(&it, Link::Scheduled, why, &Remedy::FreePort("node-2".into()));
    it.world.ports_used.clear();
    assert!(matches!(held_up(&chain(&it)), (Link::Scheduled, _, Remedy::DescribePod { .. })));
    it.attachment().placement = Placement::Awaited;
    let found = chain(&it);
    let (link, why, remedy) = held_up(&found);
    assert_eq!((link, why), (Link::Prepared, "waiting for the kubelet and the agent of node node-2"));
    assert!(matches!(remedy, Remedy::DescribePod { .. }));
    it.attachment().state = PodState::Running;
    let agent = Remedy::CheckAgent("node-2".into());
    check(&it, Link::Plugged, "waiting for the kubelet and the agent of node node-2", &agent);
    it.attachment().plugged = Some(PluggedState::Waiting("calling node-1".to_owned()));
    check(&it, Link::Plugged, "calling node-1", &Remedy::Wait);
    it.attachment().plugged = Some(PluggedState::Failed("node-1 refuses".to_owned()));
    check(&it, Link::Plugged, "node-1 refuses; trying again", &agent);
    it.attachment().plugged =
        Some(PluggedState::Failed("the agent of node node-1 cannot be called: no route to host".to_owned()));
    let found = chain(&it);
    assert_eq!(held_up(&found).2, &Remedy::CheckAgent("node-1".into()), "the other end is where to look");
    it.world.pools.get_mut(&"node-2".into()).unwrap().ports.clear();
    let why = "node node-2 has no USB/IP ports any more: load the kernel module vhci-hcd there (modprobe vhci-hcd)";
    check(&it, Link::Plugged, why, &Remedy::AsSaid);
}

#[test]
fn who_sees_one_namespace_is_told_what_the_controller_has_written() {
    let mut it = attached();
    let seen = |it: &Builder| {
        let mut world = it.world.clone();
        (world.nodes, world.pools, world.node_devices) = Default::default();
        told::device(&world, &"blue".into(), &"stick".into(), None)
    };
    assert_eq!(seen(&it).last().unwrap().state.as_deref(), Ok("guest bus 0 port 1"));
    it.unplug("stick");
    it.settle();
    let why = "Device is absent on the host: it was last plugged into node node-1";
    assert_eq!(held_up(&seen(&it)), (Link::Ready, why, &Remedy::AsSaid));
    it.plug("stick", "node-1");
    it.attachment().plugged = Some(PluggedState::Failed("node-1 refuses".to_owned()));
    it.world.now += 60;
    it.settle();
    assert_eq!(held_up(&seen(&it)), (Link::Plugged, "node-1 refuses; trying again", &Remedy::AsSaid));
    it.world.devices.clear();
    assert_eq!(held_up(&seen(&it)).0, Link::Given);
}
