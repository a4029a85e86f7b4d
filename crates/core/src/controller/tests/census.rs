//! The world in numbers.

use super::builder::world;
use crate::conditions::{ConditionType, PluggedState, Reason};
use crate::controller::census::{Census, Ports, Presence, Stage, count};
use crate::controller::world::{Placement, Want};
use crate::speed::Hub;

fn devices(census: &Census, kind: ConditionType) -> Vec<(Reason, usize)> {
    census.devices.iter().filter(|((k, _), _)| *k == kind).map(|((_, reason), n)| (*reason, *n)).collect()
}

#[test]
fn devices_machines_ports_and_nodes_are_counted() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").device("key", "node-1");
    it = it.assigned("stick", "blue").vm("blue", "vm-a", "node-2", &["stick"]).settled();
    it.world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    let census = count(&it.world);
    assert_eq!(devices(&census, ConditionType::Ready), [(Reason::Ready, 2)]);
    assert_eq!(devices(&census, ConditionType::Assigned), [(Reason::Assigned, 1), (Reason::Available, 1)]);
    assert_eq!(
        devices(&census, ConditionType::Attached),
        [(Reason::Available, 1), (Reason::AttachedToVirtualMachine, 1)]
    );
    assert_eq!(census.machines[&(ConditionType::USBDevicesAttached, Reason::AllAttached)], 1);
    assert_eq!(census.attachments, [(("node-2".into(), Stage::Plugged), 1)].into());
    assert_eq!(census.ports[&("node-2".into(), Hub::Usb2)], Ports { used: 1, free: 0 });
    assert_eq!(census.ports[&("node-2".into(), Hub::Usb3)], Ports { used: 0, free: 1 });
    assert_eq!(census.nodes, [(Presence::Publishing, 2)].into());
    assert_eq!(census.troubled, [].into());
}

#[test]
fn only_assigned_devices_are_missed_and_at_the_node_they_were_last_at() {
    let mut it = world().node("node-1").device("stick", "node-1").device("key", "node-1").assigned("stick", "blue");
    it.unplug("stick");
    it.unplug("key");
    it.settle();
    assert_eq!(count(&it.world).troubled, [(("node-1".into(), Reason::NotFound), 1)].into());
    it.silence("node-1");
    let nodes = count(&it.world).nodes;
    assert_eq!(nodes.values().sum::<usize>(), 1);
    assert_ne!(nodes, [(Presence::Publishing, 1)].into());
}

#[test]
fn an_attachment_is_in_one_stage() {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", "node-2", &["stick"]).settled();
    let it = it.attachment();
    it.plugged = None;
    for (placement, want, plugged, deleting, stage) in [
        (Placement::Awaited, Want::Plugged, None, false, Stage::Scheduling),
        (Placement::NoPlace, Want::Plugged, None, false, Stage::NoPlace),
        (Placement::Placed(0), Want::Plugged, None, false, Stage::Starting),
        (Placement::Placed(0), Want::Reserved, None, false, Stage::Reserved),
        (Placement::Placed(0), Want::Plugged, Some(PluggedState::Waiting(String::new())), false, Stage::Waiting),
        (Placement::Placed(0), Want::Plugged, Some(PluggedState::Failed(String::new())), false, Stage::Failed),
        (Placement::Placed(0), Want::Plugged, Some(PluggedState::ClaimLost), false, Stage::Failed),
        (Placement::Placed(0), Want::Plugged, Some(PluggedState::Unplugged), true, Stage::Leaving),
    ] {
        (it.placement, it.want, it.plugged, it.deleting) = (placement, want, plugged, deleting);
        assert_eq!(Stage::of(it), stage, "{it:?}");
    }
}
