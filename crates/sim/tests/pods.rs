//! Every world of small clusters in which ordinary pods use devices, beside machines and each other.

#![expect(clippy::panic, reason = "a story is told by failing with it")]

use patchbay_core::names::{DeviceName, Namespace, NodeName, PodName, VmName};
use patchbay_sim::Scenario;
use patchbay_sim::fault::FaultKind;
use patchbay_sim::user::Edit;

mod holds;

use holds::holds;

fn make(pod: &str, device: &str, node: Option<&str>) -> Edit {
    Edit::MakePod(Namespace::new("blue"), PodName::new(pod), DeviceName::new(device), node.map(NodeName::new))
}

fn delete(pod: &str) -> Edit {
    Edit::DeletePod(Namespace::new("blue"), PodName::new(pod))
}

fn end(pod: &str) -> Edit {
    Edit::EndPod(Namespace::new("blue"), PodName::new(pod))
}

fn assign(namespace: &str) -> Edit {
    Edit::Assign(DeviceName::new("stick"), Some(Namespace::new(namespace)))
}

fn listed(vm: &str, yes: bool) -> Edit {
    let (namespace, vm, device) = (Namespace::new("blue"), VmName::new(vm), DeviceName::new("stick"));
    if yes { Edit::List(namespace, vm, device) } else { Edit::Unlist(namespace, vm, device) }
}

/// A stick in node-1, given to `blue`.
fn stick() -> Scenario {
    Scenario::new().device("stick", "node-1").assigned("stick", "blue").pods()
}

/// A pod on `node` that has the stick.
fn held(node: &str) -> Scenario {
    stick().settled().made(&make("reader", "stick", Some(node))).settled()
}

#[test]
fn a_pod_gets_its_device_and_gives_it_back_whatever_the_accident() {
    holds(
        "a pod on any node",
        100,
        &stick().settled().edits(3, [make("reader", "stick", None), end("reader"), delete("reader")]),
    );
    for node in ["node-1", "node-2"] {
        let edits = || [end("reader"), delete("reader"), assign("green")];
        holds(&format!("a pod on {node}, cold"), 30, &stick().made(&make("reader", "stick", Some(node))));
        for kind in FaultKind::ALL {
            let scenario = held(node).edits(1, edits()).faults(1, [kind]);
            holds(&format!("a pod on {node}, an edit and {kind:?}"), 20, &scenario);
        }
    }
}

#[test]
fn a_pod_and_a_machine_wait_for_each_other() {
    for (pod, vm) in [("node-1", "node-1"), ("node-1", "node-2"), ("node-2", "node-1"), ("node-2", "node-2")] {
        let with_vm = |scenario: Scenario, devices: &[&str]| scenario.vm("blue", "vm-a", vm, devices);
        let edits = [
            listed("vm-a", false),
            listed("vm-a", true),
            make("reader", "stick", Some(pod)),
            delete("reader"),
            end("reader"),
        ];
        let first = with_vm(stick(), &["stick"]).settled();
        let later = with_vm(stick(), &[]).settled().made(&make("reader", "stick", Some(pod))).settled();
        for (who, start) in [("machine", &first), ("pod", &later)] {
            let name = format!("pod on {pod}, vm on {vm}, the {who} first");
            let start = |edits_left| start.clone().edits(edits_left, edits.clone());
            holds(&format!("{name}: two edits, slow kubernetes"), 200, &start(2).coarse());
            holds(&format!("{name}: two edits, step by step"), 200, &start(2).prompt());
            holds(&format!("{name}: three edits"), 300, &start(3).prompt().coarse());
            for kind in FaultKind::ALL {
                let scenario = start(2).prompt().coarse().faults(1, [kind]);
                holds(&format!("{name}: two edits and {kind:?}"), 90, &scenario);
                // With a second edit these make too many worlds.
                let large = [FaultKind::Cable, FaultKind::PowerOff, FaultKind::ForceDelete].contains(&kind);
                let scenario = start(if large { 1 } else { 2 }).coarse().faults(1, [kind]);
                holds(&format!("{name}: edits and {kind:?}, slow kubernetes"), 90, &scenario);
            }
        }
    }
}

#[test]
fn a_pod_and_a_machine_want_the_same_port_for_different_devices() {
    let start = Scenario::new()
        .device("stick", "node-1")
        .device("key", "node-1")
        .assigned("stick", "blue")
        .assigned("key", "blue")
        .pods()
        .vm("blue", "vm-a", "node-2", &["stick"])
        .settled()
        .made(&make("reader", "key", Some("node-2")))
        .settled();
    let edits = || [listed("vm-a", false), listed("vm-a", true), delete("reader"), end("reader")];
    holds("one port: two edits", 300, &start.clone().prompt().coarse().edits(2, edits()));
    for kind in FaultKind::ALL {
        let scenario = start.clone().prompt().coarse().edits(1, edits()).faults(1, [kind]);
        holds(&format!("one port: an edit and {kind:?}"), 20, &scenario);
    }
    for kind in [FaultKind::PortClaimLost, FaultKind::Stranger] {
        let scenario = start.clone().coarse().edits(1, edits()).faults(1, [kind]);
        holds(&format!("one port: an edit and {kind:?}, slow kubernetes"), 100, &scenario);
    }
}

#[test]
fn two_pods_follow_each_other() {
    for (a, b) in [("node-1", "node-1"), ("node-1", "node-2"), ("node-2", "node-2")] {
        let start = held(a).made(&make("writer", "stick", Some(b))).settled();
        let edits = || [delete("reader"), end("reader"), delete("writer"), assign("green")];
        holds(&format!("pods on {a} and {b}: two edits"), 50, &start.clone().coarse().edits(2, edits()));
        for kind in FaultKind::ALL {
            let scenario = start.clone().coarse().edits(1, edits()).faults(1, [kind]);
            holds(&format!("pods on {a} and {b}: an edit and {kind:?}"), 20, &scenario);
        }
    }
}
