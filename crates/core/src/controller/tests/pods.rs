//! Ordinary pods as users of devices.

use super::builder::{Builder, briefs, world};

/// A stick of node-1, given to `blue`; node-2 is there too.
fn given() -> Builder {
    world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue")
}

/// The pod `reader` of `blue` has the stick on node-2, through a port.
fn held() -> Builder {
    let mut world = given();
    let uid = world.pod_claim("blue", "reader", "stick");
    world.allocate("blue", "reader", ("node-1", "stick"), "node-2", Some("usb2-0"));
    world.world.pools.get_mut(&"node-2".into()).unwrap().in_use.insert(uid);
    world.settle();
    world
}

#[test]
fn a_template_is_beside_each_usb_device_and_goes_with_the_assignment() {
    let mut world = world().node("node-1").device("stick", "node-1");
    world.settle();
    world.assign("stick", Some("blue"));
    let done = briefs(&world.settle());
    assert_eq!(done.last().map(String::as_str), Some("create device template blue/stick of node-1 usb2"), "{done:?}");
    world.assign("stick", None);
    let done = briefs(&world.settle());
    assert!(done.contains(&"delete device template blue/stick".to_owned()), "{done:?}");
    assert!(world.world.templates.is_empty());
}

#[test]
fn a_template_follows_its_device_to_another_node_and_stays_while_it_is_absent() {
    let mut world = given();
    world.unplug("stick");
    let done = briefs(&world.settle());
    assert!(!done.iter().any(|d| d.contains("template")), "{done:?}");
    world.plug("stick", "node-2");
    let done = briefs(&world.settle());
    let templates: Vec<_> = done.iter().filter(|d| d.contains("template")).collect();
    assert_eq!(templates, ["delete device template blue/stick", "create device template blue/stick of node-2 usb2"]);
}

#[test]
fn a_device_says_which_pod_has_it_and_where() {
    let mut world = held();
    let expected = "Attached=True/AttachedToPod: Attached to pod blue/reader on node node-2, port usb2-0";
    assert!(world.usb_device("blue", "stick").ends_with(expected), "{}", world.usb_device("blue", "stick"));
    assert!(world.node_device("stick").ends_with(expected));
    world.pod_claim("blue", "other", "stick");
    world.settle();
    assert!(world.node_device("stick").ends_with("port usb2-0; pod blue/other waits for it"));
}

#[test]
fn a_claim_says_what_becomes_of_its_device_once_there_is_something_to_say() {
    let mut world = given();
    let uid = world.pod_claim("blue", "reader", "stick");
    world.allocate("blue", "reader", ("node-1", "stick"), "node-1", None);
    let done = briefs(&world.settle());
    assert!(!done.iter().any(|d| d.contains("claim")), "it has only just begun: {done:?}");
    assert_eq!(world.plan().wake_at, Some(world.world.now + 2));
    world.world.pools.get_mut(&"node-1".into()).unwrap().in_use.insert(uid);
    let done = briefs(&world.settle());
    let said = "publish claim blue/reader-claim attached=true: Attached to pod blue/reader on node node-1";
    assert!(done.contains(&said.to_owned()), "{done:?}");
    world.unplug("stick");
    let done = briefs(&world.settle());
    assert!(done.iter().any(|d| d.contains("attached=false: Device is absent; pod blue/reader gets it")), "{done:?}");
}

#[test]
fn a_machine_waits_for_a_pod_and_says_for_which() {
    let mut world = held().vm("blue", "vm-a", "node-2", &["stick"]);
    let done = briefs(&world.settle());
    assert!(!done.iter().any(|d| d.contains("attachment")), "{done:?}");
    assert_eq!(
        world.machine("blue", "vm-a"),
        "stick attached=false ready=true: in use by pod blue/reader: it is attached here when released there"
    );
    world.world.pod_claims.clear();
    let done = briefs(&world.settle());
    assert!(done.iter().any(|d| d.starts_with("create attachment of stick")), "{done:?}");
}

#[test]
fn a_pod_waits_for_a_machine_and_the_device_says_so() {
    let mut world = given().vm("blue", "vm-a", "node-2", &["stick"]).settled();
    world.pod_claim("blue", "reader", "stick");
    world.settle();
    let said = world.usb_device("blue", "stick");
    assert!(said.contains("Attached=True/AttachedToVirtualMachine"), "{said}");
    assert!(said.ends_with("; pod blue/reader waits for it"), "{said}");
}

#[test]
fn a_pod_that_cannot_be_scheduled_is_named_after_a_moment() {
    let mut world = given();
    world.pod_claim("blue", "reader", "stick");
    world.settle();
    assert!(world.usb_device("blue", "stick").contains("Device is available"));
    world.world.now += 2;
    world.settle();
    let said = world.usb_device("blue", "stick");
    assert!(said.contains("Attached=False/Available: Requested by pod blue/reader, which is not scheduled"), "{said}");
    assert!(said.contains("node node-1") && said.contains("USB 2.0"), "{said}");
}

#[test]
fn a_device_that_a_pod_has_is_not_taken_from_its_namespace_under_it() {
    let mut world = held();
    world.assign("stick", Some("green"));
    let done = briefs(&world.settle());
    assert!(done.contains(&"delete device template blue/stick".to_owned()), "no more pods: {done:?}");
    assert!(!done.contains(&"delete usb blue/stick".to_owned()), "{done:?}");
    let said = world.node_device("stick");
    assert!(said.contains("Assigned=False/InProgress: waiting until pod blue/reader (delete it"), "{said}");
    world.world.pod_claims.clear();
    world.settle();
    assert!(world.node_device("stick").contains("Assigned=True/Assigned"));
}

#[test]
fn a_claim_of_the_node_that_a_device_has_left_does_not_hold_it() {
    let mut world = held();
    world.unplug("stick");
    world.settle();
    let said = world.node_device("stick");
    assert!(said.contains("Attached=False/Available: Device is absent; pod blue/reader gets it when"), "{said}");
    world.plug("stick", "node-2");
    world.settle();
    assert!(world.node_device("stick").contains("Attached=False/Available: Device is available"));
}
