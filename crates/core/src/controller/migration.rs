//! Which pod a machine runs in while it moves, and what becomes of the others.
//!
//! ```text
//!   S: pod of the machine --migrate-to: T--> (undecided) --move: target--> has left, goes when T runs the machine
//!                                                  |
//!                                                  +------ move: source--> pod of the machine, as before
//!   T: target (migrate-from: S) --S says move: target--> arrived: pod of the machine
//!                  |
//!                  +--S does not, and no operation is for it any more--> goes
//! ```
//!
//! What is here needs no operation: whatever becomes of that, each move is decided, and nothing is left of it. What brings a
//! move forward is in [`super::moves`].

use sha2::{Digest, Sha256};

use crate::controller::action::{Action, Plan};
use crate::controller::engine::pod_name;
use crate::controller::moves;
use crate::controller::view::View;
use crate::controller::world::{PodState, VmPod};
use crate::migration::{Decision, Destination, Report};
use crate::names::{Namespace, PodName, Uid, VmName};

/// The pod that is made for an operation which moves a machine. Follows from both, so a repeated create makes no second one.
pub fn target_name(vm: &VmName, operation: &Uid) -> PodName {
    let digest = Sha256::digest(operation.as_str());
    let hash: String = digest.iter().take(3).map(|b| format!("{b:02x}")).collect();
    let suffix = hash.get(..5).unwrap_or(&hash);
    PodName::new(format!("{}-{suffix}", pod_name(vm)))
}

/// All pods of a machine, with their names.
pub(super) fn pods<'w>(
    world: &View<'w>,
    namespace: &Namespace,
    vm: &VmName,
) -> impl Iterator<Item = (&'w PodName, &'w VmPod)> {
    world.pods_of(namespace, vm).iter().copied()
}

/// The pod of a machine with this uid.
pub(super) fn by_uid<'w>(
    world: &View<'w>,
    namespace: &Namespace,
    vm: &VmName,
    uid: &Uid,
) -> Option<(&'w PodName, &'w VmPod)> {
    pods(world, namespace, vm).find(|(_, pod)| pod.uid == *uid)
}

/// Whether a pod was made for a machine that is not in it.
pub(super) fn is_target(world: &View<'_>, namespace: &Namespace, pod: &VmPod) -> bool {
    pod.moving.from.is_some() && !has_arrived(world, namespace, pod)
}

/// Whether the machine has been moved into a pod that was made for it.
fn has_arrived(world: &View<'_>, namespace: &Namespace, pod: &VmPod) -> bool {
    let chosen = || {
        let source = pod.moving.from.as_ref().and_then(|uid| by_uid(world, namespace, &pod.vm, uid));
        source.is_some_and(|(_, source)| has_left(source) && is_to(source, &pod.uid))
    };
    pod.moving.arrived || pod.moving.report == Some(Report::Running) || chosen()
}

/// Whether the machine has been moved out of a pod.
pub(super) fn has_left(pod: &VmPod) -> bool {
    pod.moving.decision == Some(Decision::Target)
}

/// Whether the machine in a pod is, or was, to move to the pod of this uid.
pub(super) fn is_to(source: &VmPod, target: &Uid) -> bool {
    source.moving.to.as_ref().is_some_and(|to| to.uid == *target)
}

/// Whether a pod can still take a machine, or run one.
pub(super) fn is_alive(pod: &VmPod) -> bool {
    !pod.deleting && pod.state != PodState::Ended
}

/// Decides what nobody else does, and takes away what is left.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, name), pod) in &world.vm_pods {
        if let Some(to) = &pod.moving.to {
            source(world, namespace, name, pod, to, plan);
        }
        if pod.moving.from.is_some() {
            target(world, namespace, name, pod, plan);
        }
    }
}

fn source(world: &View<'_>, namespace: &Namespace, name: &PodName, pod: &VmPod, to: &Destination, plan: &mut Plan) {
    let target = by_uid(world, namespace, &pod.vm, &to.uid).map(|(_, target)| target);
    let wanted = target.is_some_and(|t| is_alive(t) && moves::operation(world, namespace, &pod.vm, &to.name).is_some());
    match pod.moving.decision {
        None if !wanted => plan.actions.push(Action::Decide {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.uid.clone(),
            target: to.uid.clone(),
            decision: Decision::Source,
        }),
        // The agent of the target reads the decision here: it stays until that has let the machine run.
        Some(Decision::Target) if !pod.deleting => {
            let runs = |t: &VmPod| t.moving.arrived && t.moving.report == Some(Report::Running);
            if target.is_none_or(|t| !is_alive(t) || runs(t)) {
                let (namespace, name, uid) = (namespace.clone(), name.clone(), pod.uid.clone());
                plan.actions.push(Action::DeleteVmPod { namespace, name, uid });
            }
        }
        _ => {}
    }
}

fn target(world: &View<'_>, namespace: &Namespace, name: &PodName, pod: &VmPod, plan: &mut Plan) {
    let (namespace, name, uid) = (namespace.clone(), name.clone(), pod.uid.clone());
    if has_arrived(world, &namespace, pod) {
        if !pod.moving.arrived {
            plan.actions.push(Action::MarkArrived { namespace, name, uid });
        }
        return;
    }
    let source = pod.moving.from.as_ref().and_then(|from| by_uid(world, &namespace, &pod.vm, from));
    let asked = source.filter(|(_, s)| is_to(s, &uid)).map(|(_, s)| s.moving.decision);
    let wanted = source.is_some() && moves::operation(world, &namespace, &pod.vm, &name).is_some();
    // Where it may run is to be decided before it goes.
    let stays = asked == Some(None) || (wanted && asked != Some(Some(Decision::Source)));
    if !pod.deleting && !stays {
        plan.actions.push(Action::DeleteVmPod { namespace, name, uid });
    }
}
