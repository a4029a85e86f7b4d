//! Drained nodes: their machines move, and nobody evicts them.

use super::builder::{Builder, briefs, world};
use crate::controller::evictions::{PAUSE, operation_name};
use crate::controller::world::{OperationKind, OperationPhase, PodState, RunPolicy};

/// The machine `vm-a` of namespace blue runs on node-2, beside one in node-1.
fn machines() -> Builder {
    let it = world().node("node-1").node("node-2");
    it.vm("blue", "vm-a", "node-2", &[]).vm("blue", "vm-b", "node-1", &[]).settled()
}

fn cordon(it: &mut Builder, node: &str) {
    it.world.nodes.get_mut(&node.into()).unwrap().cordoned = true;
}

fn made(it: &Builder) -> Vec<String> {
    it.world.operations.iter().map(|((_, name), o)| format!("{name} {} {}", o.kind.as_str(), o.vm)).collect()
}

fn name(it: &Builder, attempt: u32) -> String {
    operation_name(&"vm-a".into(), &it.pod_of("blue", "vm-a").uid, attempt).to_string()
}

#[test]
fn every_machine_has_a_budget() {
    let mut it = machines();
    it.world.budgets.clear();
    assert_eq!(briefs(&it.settle()), ["create budget of vm-a", "create budget of vm-b"]);
}

#[test]
fn the_machines_of_a_cordoned_node_are_evicted_and_no_others() {
    let mut it = machines();
    cordon(&mut it, "node-2");
    it.settle();
    assert_eq!(made(&it), [format!("{} Evict vm-a", name(&it, 0))]);
}

#[test]
fn a_machine_on_which_an_operation_is_under_way_or_that_does_not_run_is_left_alone() {
    let mut it = machines();
    it.operation("op", OperationKind::Restart, "vm-a");
    it.settle();
    cordon(&mut it, "node-2");
    it.settle();
    assert_eq!(it.world.operations.len(), 1);
    let mut it = machines();
    cordon(&mut it, "node-2");
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    it.settle();
    assert_eq!(made(&it), Vec::<String>::new());
    let mut it = machines();
    cordon(&mut it, "node-2");
    it.world.vm_pods.values_mut().for_each(|p| p.state = PodState::Pending);
    it.settle();
    assert_eq!(made(&it), Vec::<String>::new());
}

#[test]
fn an_eviction_that_has_failed_is_tried_again_after_a_growing_pause() {
    let mut it = machines();
    cordon(&mut it, "node-2");
    it.settle();
    let mut pauses = Vec::new();
    for attempt in 0..8 {
        let begun = it.world.now;
        let last = it.world.operations.values_mut().max_by_key(|o| o.created).unwrap();
        (last.status.phase, last.status.begun, last.held) = (Some(OperationPhase::Failed), Some(begun), false);
        it.settle();
        while it.world.operations.len() == attempt + 1 {
            it.world.now = it.plan().wake_at.unwrap();
            it.settle();
        }
        pauses.push(it.world.now - begun);
        let vm_pods: Vec<_> = it.world.vm_pods.keys().filter(|(_, name)| name.as_str() != "vm-vm-a").cloned().collect();
        vm_pods
            .iter()
            .filter(|(_, name)| name.as_str() != "vm-vm-b")
            .for_each(|key| drop(it.world.vm_pods.remove(key)));
    }
    assert_eq!(pauses, [60, 120, 240, 480, 960, 1_920, PAUSE.1, PAUSE.1]);
}
