//! `NodeUSBDevice`s and `USBDevice`s.

use super::builder::{Builder, START, brief, briefs, text, world};
use crate::controller::action::Action;
use crate::controller::{DEAD_AFTER, FORGET_AFTER};
use crate::host_use::HostUse;
use crate::names::{DeviceName, NodeName};

#[test]
fn a_published_device_gets_a_complete_node_usb_device_in_one_write() {
    let mut it = world().node("node-1").device("stick", "node-1");
    assert_eq!(briefs(&it.settle()), ["create nusb stick"]);
    insta::assert_snapshot!(it.node_device("stick"), @r"
    Ready=True/Ready: Device is ready to use
    Assigned=False/Available: No namespace is assigned for the device: set spec.assignedNamespace
    Attached=False/Available: Device is available for attachment
    ");
    let status = &it.world.node_devices[&DeviceName::new("stick")].status;
    assert_eq!(status.node, Some("node-1".into()));
    assert_eq!(status.attributes.as_ref(), Some(&it.world.pools[&NodeName::new("node-1")].devices[0].attributes));
    assert_eq!((status.device_name.as_ref(), status.observed_generation), (None, 1));
}

#[test]
fn an_assignment_creates_the_usb_device() {
    let mut it = world().node("node-1").device("stick", "node-1").settled();
    it.assign("stick", Some("blue"));
    assert_eq!(briefs(&it.act()), ["create usb blue/stick", "publish nusb stick"]);
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=True/Ready: Device is ready to use
    Attached=False/Available: Device is available for attachment
    ");
    it.settle();
    insta::assert_snapshot!(it.node_device("stick"), @r"
    Ready=True/Ready: Device is ready to use
    Assigned=True/Assigned: Namespace is assigned for the device
    Attached=False/Available: Device is available for attachment
    ");
    assert_eq!(it.world.node_devices[&DeviceName::new("stick")].status.observed_generation, 2);
}

#[test]
fn a_namespace_that_is_not_there_is_waited_for_and_named() {
    let mut it = world().node("node-1").device("stick", "node-1").settled();
    it.assign("stick", Some("red"));
    it.settle();
    assert!(it.world.devices.is_empty());
    let says = |text: &str| text.lines().nth(1).unwrap().to_owned();
    insta::assert_snapshot!(
        says(&it.node_device("stick")),
        @"Assigned=False/InProgress: namespace red does not exist: create it, or assign another one"
    );
    it.world.namespaces.insert("red".into(), true);
    it.settle();
    insta::assert_snapshot!(
        says(&it.node_device("stick")),
        @"Assigned=False/InProgress: namespace red is being deleted: assign another one"
    );
    it.world.namespaces.insert("red".into(), false);
    it.settle();
    assert!(it.world.devices.contains_key(&("red".into(), "stick".into())));
}

#[test]
fn a_node_that_publishes_nothing_is_not_said_to_have_lost_its_devices() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", "node-2", &["stick"]).settled();
    it.silence("node-1");
    it.settle();
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=False/NotReady: node node-1 does not publish its devices: check that the Patchbay agent runs there
    Attached=True/AttachedToVirtualMachine: Attached to virtual machine blue/vm-a on node node-2, guest bus 0 port 1
    ");
    assert_eq!(it.world.attachments.len(), 1);
}

#[test]
fn an_unassigned_device_loses_its_usb_device() {
    let mut it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue").settled();
    it.assign("stick", None);
    let done = it.settle();
    assert!(matches!(&done[0], Action::DeleteDevice { .. }), "{done:?}");
    assert!(it.world.devices.is_empty());
    assert!(it.node_device("stick").contains("Assigned=False/Available"));
}

#[test]
fn a_device_that_is_reassigned_while_attached_goes_step_by_step() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", "node-2", &["stick"]).vm("green", "vm-b", "node-2", &["stick"]).settled();
    it.assign("stick", Some("green"));
    // While the machine has it, nothing but its attachment goes.
    let mut steps = vec![it.settle()];
    insta::assert_snapshot!(
        it.node_device("stick").lines().nth(1).unwrap(),
        @"Assigned=False/InProgress: waiting until virtual machine vm-a in namespace blue has released the device"
    );
    it.sweep();
    steps.push(it.act());
    steps.push(it.act());
    steps.push(it.act());
    steps.push(it.act());
    let changes = |actions: &Vec<Action>| {
        let changes = actions.iter().map(brief).filter(|text| !text.starts_with("publish"));
        changes.collect::<Vec<_>>().join(", ")
    };
    let story: Vec<String> = steps.iter().map(changes).collect();
    assert_eq!(
        story,
        [
            "delete attachment, delete device template blue/stick",
            "delete claim blue/usb-stick",
            "delete usb blue/stick",
            "create usb green/stick",
            "create claim green/usb-stick of node-1, create template green/usb2, \
             create attachment of stick to vm-b on node-2 with a usb2 port, \
             create device template green/stick of node-1 usb2",
        ]
    );
}

#[test]
fn of_two_nodes_with_one_serial_the_first_keeps_the_name_and_the_other_gets_its_own() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-2").assigned("stick", "blue").settled();
    it.plug("stick", "node-1");
    it.settle();
    let names: Vec<_> = it.world.node_devices.keys().map(|n| n.as_str().to_owned()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let (first, twin) =
        (&it.world.node_devices[&DeviceName::new(&*names[0])], &it.world.node_devices[&DeviceName::new(&*names[1])]);
    assert_eq!((names[0].as_str(), first.status.node.as_ref()), ("stick", Some(&NodeName::new("node-2"))));
    assert_eq!(
        (twin.status.node.as_ref(), twin.status.device_name.as_ref()),
        (Some(&"node-1".into()), Some(&"stick".into()))
    );
    assert_eq!(twin.assigned, None);
}

#[test]
fn of_two_with_one_serial_each_says_where_the_other_is() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-2").assigned("stick", "blue").settled();
    let ready = |it: &Builder, name: &str| it.node_device(name).lines().next().unwrap().to_owned();
    it.plug("stick", "node-1");
    it.settle();
    let twin = it.world.node_devices.keys().find(|n| n.as_str() != "stick").unwrap().to_string();
    let says = |other: &str, node: &str| {
        format!(
            "Ready=True/Ready: Device is ready to use; warning: another device has the same serial number: {other} (port \
             1-1 of {node}); only their ports tell them apart, and one may be taken for the other after both were unplugged"
        )
    };
    assert_eq!(ready(&it, "stick"), says(&twin, "node node-1"));
    assert_eq!(ready(&it, &twin), says("stick", "node node-2"));
    assert!(it.usb_device("blue", "stick").starts_with("Ready=True/Ready: Device is ready to use\n"));
    assert_eq!(it.plan().actions, []);

    // On one node the second one has a name of its own from the start.
    it.world.pools.get_mut(&NodeName::new("node-1")).unwrap().devices[0].name = "stick-by-port".into();
    it.settle();
    assert!(ready(&it, "stick").contains("stick-by-port (port 1-1"), "{}", ready(&it, "stick"));
    // What a dead node has published may be anywhere.
    let lives = |it: &mut Builder, ready| {
        let node = it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap();
        (node.ready, node.since) = (ready, START);
        it.settle();
    };
    lives(&mut it, false);
    assert_eq!(ready(&it, "stick"), "Ready=True/Ready: Device is ready to use");
    lives(&mut it, true);
    assert!(ready(&it, "stick").contains("warning"));
    it.world.pools.get_mut(&NodeName::new("node-1")).unwrap().devices.clear();
    it.settle();
    assert_eq!(ready(&it, "stick"), "Ready=True/Ready: Device is ready to use");
}

#[test]
fn many_of_one_serial_are_counted_and_serials_that_number_nothing_are_not() {
    let mut it = world().node("node-1");
    for n in 1..=6 {
        it.plug(&format!("stick-{n}"), "node-1");
    }
    let serials = |it: &mut Builder, serial: &str| {
        let devices = &mut it.world.pools.get_mut(&NodeName::new("node-1")).unwrap().devices;
        devices.iter_mut().for_each(|d| d.attributes.serial = Some(serial.to_owned()));
        it.settle();
    };
    serials(&mut it, "0000000");
    assert!(!it.node_device("stick-1").contains("warning"));
    serials(&mut it, "CLONED42");
    let said = it.node_device("stick-1");
    assert!(
        said.contains(": stick-2 (port") && said.contains("stick-4 (port 1-1 of node node-1) and 2 more;"),
        "{said}"
    );
    assert!(!said.contains("stick-5"), "{said}");
}

#[test]
fn a_device_that_moves_takes_its_name_and_its_assignment_along() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue").settled();
    it.unplug("stick");
    it.settle();
    assert!(
        it.usb_device("blue", "stick")
            .contains("Ready=False/NotFound: Device is absent on the host: it was last plugged into node node-1")
    );
    it.plug("stick", "node-2");
    it.settle();
    let object = &it.world.node_devices[&DeviceName::new("stick")];
    assert_eq!((object.status.node.as_ref(), it.world.node_devices.len()), (Some(&"node-2".into()), 1));
    assert!(text(&object.status).starts_with("Ready=True/Ready"));
}

#[test]
fn a_device_the_agent_refuses_says_why() {
    let mut it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue").settled();
    let devices = &mut it.world.pools.get_mut(&NodeName::new("node-1")).unwrap().devices;
    devices[0].not_ready = Some(HostUse::mounted("/mnt/stick"));
    it.settle();
    insta::assert_snapshot!(it.usb_device("blue", "stick"), @r"
    Ready=False/NotReady: node node-1 uses the device itself: a file system on it is mounted at /mnt/stick; unmount it there (umount)
    Attached=False/Available: Device is not in use
    ");
}

#[test]
fn the_devices_of_a_dead_node_are_not_ready_and_its_slices_go_after_a_minute() {
    let mut it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue").settled();
    it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap().ready = false;
    it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap().since = START;
    it.settle();
    let dead = "Ready=False/NotReady: node node-1 is not ready: check the node, its kubelet and its network";
    assert!(it.usb_device("blue", "stick").starts_with(dead));
    assert_eq!(it.plan().wake_at, Some(START + DEAD_AFTER));
    it.world.now = START + DEAD_AFTER - 1;
    assert_eq!(it.plan().actions, []);
    it.world.now = START + DEAD_AFTER;
    assert_eq!(briefs(&it.settle()), ["delete slice node-1-devices", "delete slice node-1-ports"]);
    assert!(it.node_device("stick").starts_with(dead));
    // If its agent lives nevertheless, and publishes anew, that is not taken from it again.
    it = it.node("node-1").device("stick", "node-1");
    let slices = &mut it.world.pools.get_mut(&NodeName::new("node-1")).unwrap().slices;
    slices.values_mut().for_each(|made| *made = START + DEAD_AFTER + 1);
    let node = it.world.nodes.get_mut(&NodeName::new("node-1")).unwrap();
    (node.ready, node.since) = (false, START);
    it.world.now = START + 10 * DEAD_AFTER;
    assert_eq!(briefs(&it.settle()), Vec::<String>::new());
    // It is back when its agent is.
    it = it.node("node-1").device("stick", "node-1");
    it.settle();
    assert!(it.usb_device("blue", "stick").starts_with("Ready=True/Ready"));
}

#[test]
fn a_device_that_was_gone_before_its_node_died_or_fell_silent_is_still_gone() {
    let mut it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue").settled();
    it.unplug("stick");
    it.settle();
    let gone = "Ready=False/NotFound: Device is absent on the host: it was last plugged into node node-1";
    let node = NodeName::new("node-1");
    it.world.pools.get_mut(&node).unwrap().silent = true;
    it.settle();
    let silent = format!("{gone}; node node-1 does not publish its devices: check that the Patchbay agent runs there");
    assert!(it.usb_device("blue", "stick").starts_with(&silent));
    it.world.nodes.get_mut(&node).unwrap().ready = false;
    it.settle();
    let dead = format!("{gone}; node node-1 is not ready: check the node, its kubelet and its network");
    assert!(it.usb_device("blue", "stick").starts_with(&dead));
    assert_eq!(it.settle(), []);
    it = it.node("node-1").device("stick", "node-1");
    it.settle();
    assert!(it.usb_device("blue", "stick").starts_with("Ready=True/Ready"), "it was plugged in meanwhile");
}

#[test]
fn an_unassigned_device_is_forgotten_after_ten_minutes_and_an_assigned_one_never() {
    let mut it =
        world().node("node-1").device("stick", "node-1").device("key", "node-1").assigned("key", "blue").settled();
    it.unplug("stick");
    it.unplug("key");
    it.settle();
    assert_eq!(it.plan().wake_at, Some(START + FORGET_AFTER));
    it.world.now = START + FORGET_AFTER - 1;
    assert_eq!(it.plan().actions, []);
    it.world.now = START + FORGET_AFTER;
    assert_eq!(briefs(&it.settle()), ["forget nusb stick"]);
    it.world.now = START + 100 * FORGET_AFTER;
    assert_eq!(it.plan().actions, []);
    assert_eq!(it.plan().wake_at, None);
}

#[test]
fn what_is_being_deleted_is_left_alone() {
    let mut it = world().node("node-1").device("stick", "node-1").settled();
    it.world.node_devices.get_mut(&DeviceName::new("stick")).unwrap().deleting = true;
    it.assign("stick", Some("blue"));
    assert_eq!(it.plan().actions, []);
}
