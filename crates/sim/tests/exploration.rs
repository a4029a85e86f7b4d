//! Every world that small clusters can reach.
//!
//! Three measures keep the number of worlds in bounds, never all at once on a small cluster: `coarse` (a party's plan is one
//! step), `prompt` (Kubernetes and the kernels act before anybody else), and the numbers of edits and accidents on a path.
//! `cargo test -p patchbay-sim -- --nocapture` prints how many worlds each exploration has visited.

#![expect(clippy::panic, reason = "a story is told by failing with it")]

use patchbay_core::names::{DeviceName, Namespace, VmName};
use patchbay_sim::Scenario;
use patchbay_sim::fault::FaultKind;
use patchbay_sim::user::Edit;

mod holds;

use holds::holds;

fn assign(device: &str, namespace: Option<&str>) -> Edit {
    Edit::Assign(DeviceName::new(device), namespace.map(Namespace::new))
}

fn list(namespace: &str, vm: &str, device: &str) -> Edit {
    Edit::List(Namespace::new(namespace), VmName::new(vm), DeviceName::new(device))
}

fn unlist(namespace: &str, vm: &str, device: &str) -> Edit {
    Edit::Unlist(Namespace::new(namespace), VmName::new(vm), DeviceName::new(device))
}

/// Everything that can be done to vm-a, and to the stick.
fn edits_of_one() -> Vec<Edit> {
    let (blue, vm) = (Namespace::new("blue"), VmName::new("vm-a"));
    vec![
        assign("stick", None),
        assign("stick", Some("blue")),
        assign("stick", Some("green")),
        list("blue", "vm-a", "stick"),
        unlist("blue", "vm-a", "stick"),
        Edit::Restart(blue.clone(), vm.clone()),
        Edit::Run(blue.clone(), vm.clone(), false),
        Edit::Run(blue.clone(), vm.clone(), true),
        Edit::Delete(blue, vm),
    ]
}

/// The same with a key and a vm-b.
fn edits_of_two(namespace_of_b: &str) -> Vec<Edit> {
    let mut edits = edits_of_one();
    edits.extend([assign("key", None), assign("key", Some("blue")), assign("key", Some("green"))]);
    edits.extend([list("blue", "vm-a", "key"), unlist("blue", "vm-a", "key")]);
    for device in ["stick", "key"] {
        edits.extend([list(namespace_of_b, "vm-b", device), unlist(namespace_of_b, "vm-b", device)]);
    }
    edits
}

/// A stick in node-1, for a machine on node-2.
fn one() -> Scenario {
    Scenario::new().device("stick", "node-1").assigned("stick", "blue").vm("blue", "vm-a", "node-2", &["stick"])
}

/// A stick and a key in node-1, and a machine for each. Both nodes have one port for each half.
fn two(node_of_a: &str, node_of_b: &str, namespace_of_b: &str) -> Scenario {
    Scenario::new()
        .device("stick", "node-1")
        .device("key", "node-1")
        .assigned("stick", "blue")
        .assigned("key", "blue")
        .vm("blue", "vm-a", node_of_a, &["stick"])
        .vm(namespace_of_b, "vm-b", node_of_b, &["key"])
        .settled()
}

#[test]
fn a_device_comes_to_its_machine_whatever_the_order_and_the_accident() {
    holds("cold start", 200, &one());
    holds("cold start, any accident", 30_000, &one().faults(1, FaultKind::ALL));
}

#[test]
fn an_attached_device_survives_any_edit_and_any_accident_in_every_order() {
    holds("any edit", 6_000, &one().settled().edits(1, edits_of_one()));
    holds("any accident", 6_000, &one().settled().faults(1, FaultKind::ALL));
}

#[test]
fn an_edit_and_an_accident_meet_with_a_slow_kubernetes() {
    for kind in FaultKind::ALL {
        let scenario = one().settled().coarse().edits(1, edits_of_one()).faults(1, [kind]);
        holds(&format!("slow kubernetes, an edit and {kind:?}"), 1_200, &scenario);
    }
}

#[test]
fn an_edit_and_an_accident_meet_step_by_step() {
    for kind in FaultKind::ALL {
        let scenario = one().settled().prompt().edits(1, edits_of_one()).faults(1, [kind]);
        holds(&format!("step by step, an edit and {kind:?}"), 700, &scenario);
    }
}

#[test]
fn edits_overtake_each_other() {
    holds("two edits, step by step", 15_000, &one().settled().prompt().edits(2, edits_of_one()));
    holds("two edits, slow kubernetes", 30_000, &one().settled().coarse().edits(2, edits_of_one()));
    holds("three edits", 40_000, &one().settled().prompt().coarse().edits(3, edits_of_one()));
}

#[test]
fn accidents_come_in_pairs() {
    let rare = FaultKind::ALL.into_iter().filter(|k| !matches!(k, FaultKind::Cable | FaultKind::ForceDelete));
    holds("two accidents, slow kubernetes", 20_000, &one().settled().coarse().faults(2, rare.clone()));
    holds("two accidents, step by step", 10_000, &one().settled().prompt().faults(2, rare));
    holds("two accidents at a cold start", 1, &one().prompt().coarse().faults(2, FaultKind::ALL));
}

/// Where vm-a and vm-b run, the namespace of vm-b, and how many worlds two edits make.
const PLACES: [(&str, &str, &str, usize); 5] = [
    ("node-2", "node-1", "blue", 10_000),
    ("node-2", "node-2", "blue", 60_000),
    ("node-1", "node-1", "blue", 2_000),
    ("node-2", "node-1", "green", 9_000),
    ("node-1", "node-1", "green", 1_500),
];

#[test]
fn two_machines_and_two_devices_share_what_there_is() {
    for (a, b, namespace, worlds) in PLACES {
        let start = || two(a, b, namespace);
        let edits = || edits_of_two(namespace);
        let name = format!("vm-a on {a}, vm-b of {namespace} on {b}");
        holds(&format!("{name}: an edit, step by step"), 100, &start().prompt().edits(1, edits()));
        holds(&format!("{name}: an edit, slow kubernetes"), 300, &start().coarse().edits(1, edits()));
        holds(&format!("{name}: two edits"), worlds, &start().prompt().coarse().edits(2, edits()));
    }
}

#[test]
fn two_machines_and_two_devices_survive_accidents() {
    for (a, b, namespace, _) in PLACES {
        // Two remote devices and a cable that moves make too many worlds together with an edit.
        let crowded = a == b && a == "node-2";
        for kind in FaultKind::ALL {
            let edits = if crowded && kind == FaultKind::Cable { Vec::new() } else { edits_of_two(namespace) };
            let scenario = two(a, b, namespace).prompt().coarse().edits(1, edits).faults(1, [kind]);
            holds(&format!("vm-a on {a}, vm-b of {namespace} on {b}: an edit and {kind:?}"), 50, &scenario);
        }
    }
}
