//! The built-in VM engine: one pod for each virtual machine that shall run.
//!
//! The pod's name follows from the machine's, so a repeated create cannot start a second instance, and a new pod is made
//! only when the old one is gone: never two machines with one disk.

use crate::conditions::Reason;
use crate::controller::action::{Action, Plan};
use crate::controller::devices::is_dead;
use crate::controller::status::given_up;
use crate::controller::view::View;
use crate::controller::world::{PodState, PodTrouble, RunPolicy, Vm, VmPhase, VmPod, World};
use crate::controller::{migration, moves, operations};
use crate::names::{Namespace, PodName, PodRef, VmName};

/// What the names of all pods of virtual machines begin with.
const PREFIX: &str = "vm-";

/// The pod of a virtual machine.
pub fn pod_name(vm: &VmName) -> PodName {
    PodName::new(format!("{PREFIX}{vm}"))
}

/// Whether a pod's name is that of a machine's pod, or begins with it as that of a target does.
pub(super) fn is_named_for(pod: &PodName, vm: &VmName) -> bool {
    pod.as_str().strip_prefix(PREFIX).is_some_and(|rest| rest.starts_with(vm.as_str()))
}

/// Starts and stops machines.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, name), vm) in &world.vms {
        let wanted = vm.run() && !vm.deleting;
        let outgoing = operations::outgoing(world, namespace, name);
        match pod(world, namespace, name) {
            Some((pod, found))
                if !found.deleting
                    && (!wanted
                        || outgoing == Some(&found.uid)
                        || found.vm_uid != vm.uid
                        || found.state == PodState::Ended) =>
            {
                plan.actions.push(Action::DeleteVmPod {
                    namespace: namespace.clone(),
                    name: pod.clone(),
                    uid: found.uid.clone(),
                });
            }
            None if wanted && world.namespaces.get(namespace) == Some(&false) && is_gone(world, namespace, name) => {
                let (namespace, vm, pod) = (namespace.clone(), name.clone(), pod_name(name));
                plan.actions.push(Action::CreateVmPod { namespace, vm, pod });
            }
            _ => {}
        }
    }
}

/// The pod of a machine, in whatever state it is.
pub(super) fn pod<'w>(world: &View<'w>, namespace: &Namespace, vm: &VmName) -> Option<(&'w PodName, &'w VmPod)> {
    let is_its_own = |pod: &VmPod| !migration::has_left(pod) && !migration::is_target(world, namespace, pod);
    migration::pods(world, namespace, vm).find(|(_, pod)| is_its_own(pod))
}

/// Whether a machine has no pod of any kind, which might run it.
fn is_gone(world: &View<'_>, namespace: &Namespace, vm: &VmName) -> bool {
    migration::pods(world, namespace, vm).next().is_none()
}

/// The pod a machine is running in, ready to have devices plugged into it.
pub(super) fn running<'w>(
    world: &View<'w>,
    namespace: &Namespace,
    name: &VmName,
    vm: &Vm,
) -> Option<(PodRef, &'w VmPod)> {
    let (found, pod) = self::pod(world, namespace, name)?;
    let running = pod.state == PodState::Running && !pod.deleting && pod.node.is_some() && pod.vm_uid == vm.uid;
    running.then(|| (PodRef { namespace: namespace.clone(), name: found.clone(), uid: pod.uid.clone() }, pod))
}

/// Where a machine is in its life.
pub(super) fn phase(world: &View<'_>, namespace: &Namespace, name: &VmName, vm: &Vm) -> VmPhase {
    match pod(world, namespace, name).map(|(_, pod)| pod) {
        None if !is_gone(world, namespace, name) => VmPhase::Stopping,
        None if vm.run() => VmPhase::Pending,
        None => VmPhase::Stopped,
        Some(pod) if pod.deleting || pod.state == PodState::Ended => VmPhase::Stopping,
        Some(pod) if pod.state == PodState::Running && pod.trouble.is_none() => {
            if moves::is_moving(world, namespace, name) { VmPhase::Migrating } else { VmPhase::Running }
        }
        Some(pod) if pod.node.is_some() => VmPhase::Starting,
        Some(_) => VmPhase::Pending,
    }
}

/// The reason and the message of the condition `Running` of a machine in this phase, with this pod.
pub(super) fn running_reason(world: &World, phase: VmPhase, pod: Option<&VmPod>, vm: &Vm) -> (Reason, String) {
    let node = pod.and_then(|p| p.node.as_ref());
    match (phase, pod.and_then(|p| p.trouble.as_ref()), node) {
        (VmPhase::Stopped, ..) => (Reason::Stopped, stopped(vm.policy).to_owned()),
        (VmPhase::Stopping, _, Some(node)) if is_dead(world, node) => {
            (Reason::Stopping, format!("waiting for its pod to end: {}", given_up(node)))
        }
        (VmPhase::Stopping, ..) if vm.run() => {
            (Reason::Stopping, "its pod is going away; it is started again when that is gone".to_owned())
        }
        (VmPhase::Stopping, ..) => (Reason::Stopping, "its pod is going away".to_owned()),
        (VmPhase::Pending | VmPhase::Starting, Some(trouble), _) => why_not(trouble),
        (VmPhase::Migrating, _, Some(node)) => {
            (Reason::Running, format!("it runs on node {node}, and is being moved to another one"))
        }
        (VmPhase::Running, _, Some(node)) => (Reason::Running, format!("it runs on node {node}")),
        (VmPhase::Running | VmPhase::Migrating, _, None) => (Reason::Running, "it runs".to_owned()),
        (VmPhase::Pending | VmPhase::Starting, None, Some(node)) => {
            (Reason::Starting, format!("node {node} is starting it"))
        }
        (VmPhase::Pending | VmPhase::Starting, None, None) => {
            (Reason::Starting, "its pod is being made and scheduled".to_owned())
        }
    }
}

fn stopped(policy: RunPolicy) -> &'static str {
    if policy.is_by_hand() {
        "it is stopped: a VirtualMachineOperation of type Start starts it"
    } else {
        "it is stopped, as spec.runPolicy says"
    }
}

/// What keeps a machine from running, and what to do where somebody has to do something.
pub(super) fn why_not(trouble: &PodTrouble) -> (Reason, String) {
    match trouble {
        PodTrouble::Unschedulable(words) => (Reason::Unschedulable, format!("no node can take it: {words}")),
        PodTrouble::NoImage(words) => (Reason::ImagePullFailed, format!("its image cannot be had: {words}")),
        PodTrouble::NotStarted(words) => (Reason::ContainerFailed, format!("its container cannot be started: {words}")),
        PodTrouble::Ended { code: 0, .. } => (
            Reason::SwitchedOff,
            "the guest has switched itself off and is started again: set spec.runPolicy to AlwaysOff to keep it off"
                .to_owned(),
        ),
        PodTrouble::Ended { code, words } => {
            (Reason::ContainerFailed, format!("it has failed with code {code} and is started again: {words}"))
        }
    }
}
