//! How often the controller writes: an ordinary attachment costs one status write for each object, so does a detachment.

use super::builder::{Builder, world};
use crate::conditions::PluggedState;
use crate::controller::action::Action;

/// Status writes: of `NodeUSBDevice`s, `USBDevice`s, `VirtualMachine`s.
fn writes(actions: &[Action]) -> (usize, usize, usize) {
    let count = |is: fn(&Action) -> bool| actions.iter().filter(|a| is(a)).count();
    (
        count(|a| matches!(a, Action::PublishNodeDevice { .. })),
        count(|a| matches!(a, Action::PublishDevice { .. })),
        count(|a| matches!(a, Action::PublishVm { .. })),
    )
}

fn attach(node: &str) -> (Builder, Vec<Action>) {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", node, &[]).settled();
    it.list("blue", "vm-a", &["stick"]);
    let mut done = it.settle();
    assert!(it.plug_in());
    it.world.now += 1;
    done.extend(it.settle());
    (it, done)
}

#[test]
fn an_attachment_costs_one_status_write_for_each_object() {
    for node in ["node-1", "node-2"] {
        let (it, done) = attach(node);
        assert_eq!(writes(&done), (1, 1, 1), "{done:?}");
        assert!(it.usb_device("blue", "stick").contains("AttachedToVirtualMachine"));
    }
}

#[test]
fn a_detachment_costs_one_status_write_for_each_object() {
    let (mut it, _) = attach("node-2");
    it.list("blue", "vm-a", &[]);
    let mut done = it.settle();
    // The agent says so, then the kubelet takes its time, then the pod is gone.
    it.attachment().plugged = Some(PluggedState::Unplugged);
    it.world.now += 1;
    done.extend(it.settle());
    it.sweep();
    it.world.now += 4;
    done.extend(it.settle());
    assert!(it.claims().is_empty());
    assert_eq!(writes(&done), (1, 1, 1), "{done:?}");
}
