//! Single paths: what an ordinary attachment costs, and that the explorer tells what it finds.

use std::collections::BTreeMap;

use patchbay_core::names::{DeviceName, Namespace, NodeName, VmName};
use patchbay_sim::explorer::explore;
use patchbay_sim::steps::Kind;
use patchbay_sim::user::{Edit, apply};
use patchbay_sim::{Cluster, Scenario};

fn scenario() -> Scenario {
    Scenario::new().device("stick", "node-1").assigned("stick", "blue").vm("blue", "vm-a", "node-2", &[])
}

/// How often each object's status is written on the way to rest: `NodeUSBDevice`, `USBDevice`, `VirtualMachine`, pod.
fn writes(scenario: &Scenario, world: &mut Cluster) -> [usize; 4] {
    let mut writes = [0; 4];
    for _ in 0..200 {
        let Some(step) = world.steps(scenario, false).into_vec().into_iter().find(|s| s.kind == Kind::Quiet) else {
            return writes;
        };
        let (before, after) = (&world.api.seen, &step.next.api.seen);
        let written = [
            changed(&before.node_devices, &after.node_devices, |a, b| a.status == b.status),
            changed(&before.devices, &after.devices, |a, b| a.status == b.status),
            changed(&before.vms, &after.vms, |a, b| a.status == b.status),
            changed(&before.attachments, &after.attachments, |a, b| a.plugged == b.plugged),
        ];
        writes.iter_mut().zip(written).for_each(|(sum, more)| *sum += more);
        *world = step.next;
    }
    // So many that every expectation fails.
    [usize::MAX; 4]
}

/// How many objects are there before and after, and are not the same.
fn changed<K: Ord, V>(before: &BTreeMap<K, V>, after: &BTreeMap<K, V>, same: impl Fn(&V, &V) -> bool) -> usize {
    before.iter().filter(|(key, old)| after.get(key).is_some_and(|new| !same(old, new))).count()
}

#[test]
fn an_attachment_and_a_detachment_cost_one_write_for_each_status() {
    let scenario = scenario().settled();
    let mut world = scenario.start.clone();
    let (blue, vm, stick) = (Namespace::new("blue"), VmName::new("vm-a"), DeviceName::new("stick"));
    assert!(apply(&mut world, &Edit::List(blue.clone(), vm.clone(), stick.clone())));
    assert_eq!(writes(&scenario, &mut world), [1, 1, 1, 1]);
    assert_eq!(world.guests().len(), 1);
    assert!(apply(&mut world, &Edit::Unlist(blue, vm, stick)));
    let [node_device, device, vm, _] = writes(&scenario, &mut world);
    assert_eq!([node_device, device, vm], [1, 1, 1]);
    assert_eq!(world.guests().len(), 0);
}

#[test]
fn a_world_is_the_same_whatever_led_to_it() {
    let scenario = scenario().settled();
    let mut world = scenario.start.clone();
    let (blue, vm, stick) = (Namespace::new("blue"), VmName::new("vm-a"), DeviceName::new("stick"));
    for edit in [Edit::List(blue.clone(), vm.clone(), stick.clone()), Edit::Unlist(blue.clone(), vm.clone(), stick)] {
        assert!(apply(&mut world, &edit));
        writes(&scenario, &mut world);
    }
    // All that is left is that the machine was edited twice, and the template, which is kept.
    let seen = &mut world.api_mut().seen;
    let vm = seen.vms.get_mut(&(blue, vm)).unwrap();
    vm.generation -= 2;
    vm.status.observed_generation -= 2;
    seen.port_templates.clear();
    let mut start = scenario.start.clone();
    for world in [&mut world, &mut start] {
        for object in world.api_mut().seen.devices.values_mut() {
            object.status.conditions.iter_mut().for_each(|c| c.message.clear());
        }
        for object in world.api_mut().seen.node_devices.values_mut() {
            object.status.conditions.iter_mut().for_each(|c| c.message.clear());
        }
    }
    assert_eq!(world, start);
    assert_eq!(world.fingerprint(), start.fingerprint());
}

#[test]
fn a_port_that_nobody_frees_is_found_and_the_way_to_it_told() {
    let mut scenario = Scenario::new().device("stick", "node-1").assigned("stick", "blue");
    scenario = scenario.vm("blue", "vm-a", "node-1", &["stick"]);
    // Somebody else's session, of which our journal knows nothing.
    scenario.start.change(&NodeName::new("node-2"), |node| {
        for port in node.ports.values_mut() {
            port.hung = true;
        }
    });
    let violation = explore(&scenario, 10_000).unwrap_err();
    assert!(violation.law.contains("port usb2-0 of node-2 is occupied for nobody"), "{violation}");
    let text = violation.to_string();
    assert!(text.contains("node-1's agent publishes its devices and ports"), "{text}");
    assert!(text.contains("creates attachment usb-stick"), "{text}");
}

#[test]
fn an_exploration_that_grows_too_large_says_so() {
    let violation = explore(&scenario(), 20).unwrap_err();
    assert_eq!(violation.law, "there are more than 20 worlds");
}

/// Runs to rest as if nobody were at work on `dead`.
fn rest_without(scenario: &Scenario, world: &mut Cluster, dead: &str) {
    for _ in 0..200 {
        let steps = world.steps(scenario, true).into_vec();
        let alive = |s: &patchbay_sim::steps::Step| s.kind == Kind::Quiet && !s.label.starts_with(&format!("{dead}'s"));
        let Some(step) = steps.into_iter().find(alive) else { return };
        *world = step.next;
    }
}

#[test]
fn an_importer_that_does_not_answer_loses_the_device_when_somebody_else_has_the_right() {
    // The next one is on the home node itself, or on a third node that has to call for it.
    for next in ["node-1", "node-3"] {
        let scenario = Scenario::new()
            .node("node-3")
            .device("stick", "node-1")
            .assigned("stick", "blue")
            .vm("blue", "vm-a", "node-2", &["stick"])
            .vm("blue", "vm-b", next, &[])
            .settled();
        let mut world = scenario.start.clone();
        let (blue, stick) = (Namespace::new("blue"), DeviceName::new("stick"));
        apply(&mut world, &Edit::Unlist(blue.clone(), VmName::new("vm-a"), stick.clone()));
        apply(&mut world, &Edit::List(blue, VmName::new("vm-b"), stick));
        rest_without(&scenario, &mut world, "node-2");
        let holder = |world: &Cluster| world.guests().iter().map(|g| g.node.to_string()).collect::<Vec<_>>();
        assert_ne!(holder(&world), [next], "the old attachment is still there");
        // An administrator who knows that the node is dead deletes the pod by force.
        let pod = world.api.seen.attachments.values().next().map(|a| a.uid.clone()).unwrap();
        world.api_mut().remove_attachment(&pod);
        rest_without(&scenario, &mut world, "node-2");
        assert_eq!(holder(&world), [next]);
    }
}
