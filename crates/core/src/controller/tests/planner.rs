//! Plans for what has changed. That they say what a plan for the whole world says is checked wherever a test plans
//! ([`Builder::plan`](super::builder::Builder::plan)), and by the explorer of `patchbay-sim`; here is what belongs together.

use super::builder::{Builder, briefs, world};
use crate::controller::Planner;
use crate::controller::topic::{Object, Topic};
use crate::controller::world::Node;

fn planner(it: &Builder) -> Planner {
    let mut planner = Planner::default();
    planner.follow(&it.world);
    planner
}

/// The objects that are planned for together with a device, without those that are there for each.
fn with(it: &Builder, device: &str) -> Vec<String> {
    let kept = |object: &Object| match object {
        Object::Published((node, name)) => Some(format!("{name} in {node}")),
        Object::Vm((_, name)) => Some(name.to_string()),
        Object::Attachment((_, name)) => Some(name.to_string()),
        _ => None,
    };
    planner(it).part(&Topic::Device(device.into())).iter().filter_map(kept).collect()
}

#[test]
fn what_shares_a_node_or_a_namespace_has_nothing_to_do_with_each_other_by_that() {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").device("key", "node-1");
    let it = it.assigned("stick", "blue").assigned("key", "blue");
    let it = it.vm("blue", "vm-a", "node-2", &["stick"]).vm("blue", "vm-b", "node-2", &[]).settled();
    let attachment = it.world.attachments.keys().next().unwrap().1.to_string();
    assert_eq!(with(&it, "stick"), ["stick in node-1", "vm-a", attachment.as_str()]);
    assert_eq!(with(&it, "key"), ["key in node-1"]);
}

#[test]
fn devices_of_one_serial_number_belong_together_and_so_do_those_of_one_name() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").device("stick", "node-2");
    it.plug("twin", "node-2");
    assert_eq!(with(&it, "stick"), ["stick in node-1", "stick in node-2"]);
    let pool = it.world.pools.get_mut(&"node-2".into()).unwrap();
    let serial = pool.devices[0].attributes.serial.clone();
    pool.devices[1].attributes.serial = serial;
    assert_eq!(with(&it, "twin"), ["stick in node-1", "stick in node-2", "twin in node-2"]);
}

#[test]
fn what_is_not_done_is_said_again() {
    let mut it = world().node("node-1").device("stick", "node-1").device("key", "node-1");
    let mut planner = planner(&it);
    let first = planner.plan(it.world.now);
    assert_eq!(briefs(&first.actions).len(), 2);
    assert_eq!(planner.plan(it.world.now), first);
    it.perform(first.actions[0].clone());
    planner.follow(&it.world);
    assert_eq!(planner.plan(it.world.now).actions, first.actions[1..]);
    assert!(!planner.doubt(it.world.now));
    assert_eq!(planner.plan(it.world.now).actions, first.actions[1..]);
}

#[test]
fn what_is_kept_and_was_overtaken_unseen_is_planned_anew() {
    let it = world().node("node-1").device("stick", "node-1");
    let mut planner = planner(&it);
    let before = planner.plan(it.world.now);
    let dead = Node { ready: false, since: it.world.now, cordoned: false };
    planner.world_mut().nodes.insert("node-1".into(), dead);
    assert_eq!(planner.plan(it.world.now).actions, before.actions);
    planner.doubt(it.world.now);
    let after = planner.plan(it.world.now);
    assert_eq!(after.actions.len(), before.actions.len());
    assert_ne!(after.actions, before.actions, "the object is made, and says that its node is not ready");
}

#[test]
fn what_was_missed_is_found_and_planned_for() {
    let it = world().node("node-1").device("stick", "node-1").assigned("stick", "blue");
    let mut planner = planner(&it);
    assert_eq!(planner.plan(it.world.now).actions, []);
    let dead = Node { ready: false, since: it.world.now, cordoned: false };
    planner.world_mut().nodes.insert("node-1".into(), dead);
    assert_eq!(planner.plan(it.world.now).actions, []);
    assert!(planner.doubt(it.world.now));
    assert_eq!(planner.plan(it.world.now).actions.len(), 2);
    assert!(!planner.doubt(it.world.now));
}

#[test]
fn a_node_counts_where_only_an_attachment_is_left_on_it() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", "node-2", &["stick"]).settled();
    it.world.vms.clear();
    it.world.vm_pods.clear();
    it.settle();
    it.world.nodes.get_mut(&"node-2".into()).unwrap().ready = false;
    it.settle();
    assert!(it.usb_device("blue", "stick").contains("Not yet released"), "{}", it.usb_device("blue", "stick"));
}

#[test]
fn a_device_that_is_away_is_still_what_it_was_published_as() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").device("stick", "node-2");
    it.settle();
    let other = it.world.node_devices.keys().find(|name| name.as_str() != "stick").unwrap().to_string();
    it.assign(&other, Some("blue"));
    it.settle();
    it.pod_claim("blue", "reader", &other);
    it.world.pod_claims.values_mut().for_each(|claim| claim.made_for = None);
    it.allocate("blue", "reader", ("node-2", "stick"), "node-1", Some("usb2-0"));
    it.settle();
    it.world.pools.get_mut(&"node-2".into()).unwrap().devices.clear();
    it.settle();
    assert!(it.usb_device("blue", &other).contains("pod blue/reader gets it"), "{}", it.usb_device("blue", &other));
}

#[test]
fn parts_that_become_one_have_one_plan_and_so_have_those_that_fall_apart() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").device("key", "node-1");
    it = it.assigned("stick", "blue").assigned("key", "blue").vm("blue", "vm-a", "node-2", &[]).settled();
    let mut planner = planner(&it);
    for list in [&["stick", "key"][..], &[], &["key"], &["stick"]] {
        it.list("blue", "vm-a", list);
        planner.follow(&it.world);
        let (parts, whole) = (planner.plan(it.world.now), it.plan());
        assert_eq!(parts.actions.len(), whole.actions.len(), "{list:?}: {:?}", briefs(&parts.actions));
        assert!(whole.actions.iter().all(|action| parts.actions.contains(action)), "{list:?}");
    }
}
