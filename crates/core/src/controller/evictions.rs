//! Machines leave nodes that are drained: nobody may evict their pods, and instead each moves away.
//!
//! `kubectl drain` cordons a node and asks for the eviction of its pods until they are gone. The API server refuses that for the
//! pods of machines, because each machine has a budget that allows none; meanwhile an operation Evict moves it. One that
//! fails is made anew after a growing pause, for as long as the node is cordoned.

use sha2::{Digest, Sha256};

use crate::conditions::Seconds;
use crate::controller::action::{Action, Plan};
use crate::controller::engine;
use crate::controller::view::View;
use crate::controller::world::{Operation, OperationKind, OperationPhase, Vm};
use crate::names::{Namespace, OperationName, Uid, VmName};

/// The pause after a first operation that has failed, and the longest.
pub(super) const PAUSE: (Seconds, Seconds) = (60, 1_920);

/// The operation that moves a machine out of a pod on a cordoned node, counted from 0. Follows from all three, so a repeated
/// create makes no second one.
pub(super) fn operation_name(vm: &VmName, pod: &Uid, attempt: u32) -> OperationName {
    let digest = Sha256::digest(format!("{pod} {attempt}"));
    let suffix: String = digest.iter().take(3).map(|b| format!("{b:02x}")).collect();
    OperationName::new(format!("evict-{vm}-{suffix}"))
}

/// Makes budgets, and operations for the machines on cordoned nodes.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, name), vm) in world.vms.iter().filter(|(_, vm)| !vm.deleting) {
        let key = (namespace.clone(), name.clone());
        if !world.budgets.contains(&key) && world.namespaces.get(namespace) == Some(&false) {
            plan.actions.push(Action::CreateBudget { namespace: namespace.clone(), vm: name.clone() });
        }
        evict(world, namespace, name, vm, plan);
    }
}

fn evict(world: &View<'_>, namespace: &Namespace, name: &VmName, vm: &Vm, plan: &mut Plan) {
    let Some((pod, found)) = engine::running(world, namespace, name, vm) else { return };
    let cordoned = found.node.as_ref().and_then(|node| world.nodes.get(node)).is_some_and(|node| node.cordoned);
    let mut own = world.operations_on(namespace, name).iter();
    if !cordoned || !vm.run() || own.any(|(_, o)| !o.status.is_finished()) {
        return;
    }
    let made = |attempt: u32| -> Option<&Operation> {
        world.operations.get(&(namespace.clone(), operation_name(name, &pod.uid, attempt)))
    };
    let attempt = (0..).find(|attempt| made(*attempt).is_none()).unwrap_or(u32::MAX);
    if let Some(last) = attempt.checked_sub(1).and_then(made) {
        if last.status.phase == Some(OperationPhase::Completed) {
            return;
        }
        let (first, longest) = PAUSE;
        let pause = first.saturating_mul(1 << (attempt - 1).min(5)).min(longest);
        let until = last.status.begun.unwrap_or(last.created).saturating_add(pause);
        if world.now < until {
            plan.wake(until);
            return;
        }
    }
    plan.actions.push(Action::CreateOperation {
        namespace: namespace.clone(),
        name: operation_name(name, &pod.uid, attempt),
        kind: OperationKind::Evict,
        vm: name.clone(),
        owner: vm.uid.clone(),
    });
}
