//! What brings the move of a machine to another node forward: the operations Migrate and Evict.
//!
//! | step | reason | goes on when |
//! |---|---|---|
//! | wait for the machine to run, and for what an earlier move has left | `MigrationPending` | both are so |
//! | make the target pod | `TargetScheduling` | it has a node |
//! | hold ports there for the devices that are in the guest | `TargetPreparing` | it runs, and all are held |
//! | ask the agents to move it | `MigrationRunning`, `SourceSuspended` | the target's agent has loaded everything |
//! | decide for the target | `TargetResumed` | it runs there, and the former pod is gone |
//!
//! What goes wrong before the decision is written into the operation first; [`super::migration`] then decides for the source
//! and takes the target away, and when that is done the operation has failed. Nothing is decided twice.

use crate::conditions::{Reason, Seconds};
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{self, Reservation};
use crate::controller::devices::{dead, is_dead};
use crate::controller::engine;
use crate::controller::migration::{self, by_uid, has_left, is_alive, is_target, is_to, target_name};
use crate::controller::operations::{self, Case, Verdict};
use crate::controller::view::View;
use crate::controller::world::{Operation, OperationPhase, PodState, PodTrouble, Vm, VmPhase, VmPod};
use crate::migration::{Decision, Destination, Report};
use crate::names::{Namespace, NodeName, OperationName, PodName, PodRef, VmName};

/// A target pod that no node takes is given up after so long.
pub(super) const SCHEDULED_WITHIN: Seconds = 30;

/// A target pod that does not run, and whose devices are not ready, is given up after so long.
pub(super) const READY_WITHIN: Seconds = 300;

/// A move is given up when the machine has been paused for so long.
pub(super) const SWITCHED_WITHIN: Seconds = 30;

/// A move is given up after so long.
pub(super) const MOVED_WITHIN: Seconds = 3_600;

/// A move that may still succeed, whose target pod runs.
pub(super) struct Active<'w> {
    /// The machine.
    pub vm: &'w VmName,
    /// The pod it runs in.
    pub source: PodRef,
    /// The pod it is to move to.
    pub target: PodRef,
    /// The node of that.
    pub node: &'w NodeName,
}

/// The operation that a target pod was made for, while it still wants it.
pub(super) fn operation<'w>(
    world: &'w View<'w>,
    namespace: &Namespace,
    vm: &VmName,
    target: &PodName,
) -> Option<(&'w OperationName, &'w Operation)> {
    let mut all = world.operations_on(namespace, vm).iter().filter(|(_, o)| is_under_way(o));
    all.find(|(_, o)| target_name(vm, &o.uid) == *target).copied()
}

fn is_under_way(operation: &Operation) -> bool {
    let begun = operation.kind.moves() && operation.status.phase == Some(OperationPhase::InProgress);
    begun && !operation.deleting && failure(operation).is_none()
}

/// Why an operation is being undone.
fn failure(operation: &Operation) -> Option<(Reason, &str)> {
    let condition = operation.status.conditions.first()?;
    let failed = matches!(
        condition.reason,
        Reason::Failed
            | Reason::Aborted
            | Reason::TargetUnschedulable
            | Reason::NoFreeUSBIPPort
            | Reason::VirtualMachineNotFound
            | Reason::NotApplicableForVirtualMachineRunPolicy
    );
    failed.then_some((condition.reason, condition.message.as_str()))
}

/// All moves for which devices are to be held on the target.
pub(super) fn active<'w>(world: &View<'w>) -> Vec<Active<'w>> {
    let under_way = world.world().operations.iter().filter(|(_, operation)| is_under_way(operation));
    let found = under_way.filter_map(|((namespace, _), operation)| {
        let (vm, uid) = (&operation.vm, operation.status.pod.as_ref()?);
        let (source_name, source) = by_uid(world, namespace, vm, uid)?;
        let name = target_name(vm, &operation.uid);
        let (name, target) = migration::pods(world, namespace, vm).find(|(found, _)| **found == name)?;
        let ready = is_alive(target) && target.state == PodState::Running && is_target(world, namespace, target);
        let pod = |name: &PodName, pod: &VmPod| PodRef {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.uid.clone(),
        };
        let (source, target_pod) = (pod(source_name, source), pod(name, target));
        ready.then_some(Active { vm, source, target: target_pod, node: target.node.as_ref()? })
    });
    found.collect()
}

/// Whether a machine is being moved.
pub(super) fn is_moving(world: &View<'_>, namespace: &Namespace, vm: &VmName) -> bool {
    let current = operations::current(world, namespace, vm);
    current.is_some_and(|(_, operation)| {
        operation.kind.moves() && operation.status.phase == Some(OperationPhase::InProgress)
    })
}

/// What is said of a device of a machine that is between two nodes; None when the machine is in one of them.
pub(super) fn gap(world: &View<'_>, namespace: &Namespace, vm: &VmName) -> Option<String> {
    let moving =
        |o: &Operation| o.kind.moves() && o.status.phase == Some(OperationPhase::InProgress) && failure(o).is_none();
    let (_, operation) = world.operations_on(namespace, vm).iter().find(|(_, o)| moving(o))?;
    let target = target_name(vm, &operation.uid);
    let asked = operation.status.pod.as_ref().and_then(|uid| by_uid(world, namespace, vm, uid));
    let (_, target) = migration::pods(world, namespace, vm).find(|(name, _)| **name == target)?;
    let under_way = asked.is_none_or(|(_, source)| is_to(source, &target.uid));
    let node = target.node.as_ref().filter(|_| under_way)?;
    Some(format!("out of virtual machine {namespace}/{vm} while that moves to node {node}, where it comes back"))
}

/// Whether devices may not be added to the machine in a pod, because where it will run is not decided.
pub(super) fn is_undecided(world: &View<'_>, namespace: &Namespace, vm: &VmName, pod: &PodRef) -> bool {
    let found = by_uid(world, namespace, vm, &pod.uid);
    found.is_some_and(|(_, pod)| pod.moving.to.is_some() && pod.moving.decision.is_none())
}

impl Case<'_> {
    /// Whether the move may begin now.
    pub(super) fn begin_move(&self, vm: &Vm, plan: &mut Plan) -> Verdict {
        let name = &self.operation.vm;
        let pending = |message: String| Verdict::new(OperationPhase::Pending, Reason::MigrationPending, message);
        match engine::phase(self.world, self.namespace, name, vm) {
            VmPhase::Stopped | VmPhase::Stopping => {
                let message = format!("virtual machine {name} does not run: there is nothing to move");
                return Verdict::failed(Reason::NotApplicableForVirtualMachinePhase, message);
            }
            VmPhase::Pending | VmPhase::Starting => {
                let pod = engine::pod(self.world, self.namespace, name).map(|(_, pod)| pod);
                let (_, why) =
                    engine::running_reason(self.world, engine::phase(self.world, self.namespace, name, vm), pod, vm);
                return pending(format!("waiting for virtual machine {name} to run: {why}"));
            }
            VmPhase::Running | VmPhase::Migrating => {}
        }
        if let Some(left) = self.left() {
            return pending(format!("waiting until nothing is left of an earlier move: {left}"));
        }
        if !self.operation.held {
            let (namespace, name, uid) = (self.namespace.clone(), self.name.clone(), self.operation.uid.clone());
            plan.actions.push(Action::HoldOperation { namespace, name, uid });
            return pending(format!("virtual machine {name} is about to move", name = self.operation.vm));
        }
        let message = format!("another node is looked for, to which virtual machine {name} can move");
        Verdict::new(OperationPhase::InProgress, Reason::TargetScheduling, message)
    }

    /// What an earlier move of the machine has left.
    fn left(&self) -> Option<String> {
        let pods = || migration::pods(self.world, self.namespace, &self.operation.vm);
        let target = |pod: &VmPod| is_target(self.world, self.namespace, pod) && !self.is_lost(pod);
        let other = pods().find(|(_, pod)| has_left(pod) || target(pod));
        if let Some((name, _)) = other {
            return Some(format!("pod {name} is still there"));
        }
        // Its agent says that it has failed when the guest is as it was before.
        let undone = |pod: &VmPod| matches!(pod.moving.report, Some(Report::Failed(_)));
        let busy = pods().find(|(_, pod)| pod.moving.to.is_some() && !undone(pod))?;
        let node = busy.1.node.as_ref().map(ToString::to_string).unwrap_or_default();
        Some(format!("the agent of node {node} has not yet undone it"))
    }

    /// Whether a pod goes when its node is back, if that ever is. The machine does not run in one that was given up.
    fn is_lost(&self, pod: &VmPod) -> bool {
        pod.deleting && pod.node.as_ref().is_some_and(|node| is_dead(self.world, node))
    }

    /// Whether it is done, what it waits for, or why it is given up.
    pub(super) fn go_on_moving(&self, plan: &mut Plan) -> Verdict {
        let (source, target) = (self.source(), self.target());
        let decided = source.is_some_and(|(_, s)| has_left(s))
            || target.is_some_and(|(_, t)| !is_target(self.world, self.namespace, t));
        if decided {
            return self.arrive(source.map(|(_, s)| s), target.map(|(_, t)| t));
        }
        if let Some((reason, message)) = failure(self.operation) {
            return self.undo(reason, message, source.map(|(_, s)| s), target.map(|(_, t)| t));
        }
        match self.step(source, target, plan) {
            Ok((reason, message)) => Verdict::new(OperationPhase::InProgress, reason, message),
            Err((reason, why)) => {
                let node =
                    source.and_then(|(_, s)| s.node.as_ref()).filter(|_| reason != Reason::VirtualMachineNotFound);
                let stays = node.map(|node| format!("; virtual machine {} stays on node {node}", self.operation.vm));
                let message = why + &stays.unwrap_or_default();
                Verdict::new(OperationPhase::InProgress, reason, message)
            }
        }
    }

    /// Whether the machine is said to be paused for the move.
    pub(super) fn is_paused(&self) -> bool {
        let wanted = target_name(&self.operation.vm, &self.operation.uid);
        let paused = |s: &VmPod| {
            let asked = s.moving.to.as_ref().is_some_and(|to| to.name == wanted);
            asked && s.moving.report == Some(Report::Paused)
        };
        self.operation.kind.moves() && self.source().is_some_and(|(_, s)| paused(s))
    }

    fn source(&self) -> Option<(&PodName, &VmPod)> {
        let uid = self.operation.status.pod.as_ref()?;
        by_uid(self.world, self.namespace, &self.operation.vm, uid)
    }

    fn target(&self) -> Option<(&PodName, &VmPod)> {
        let wanted = target_name(&self.operation.vm, &self.operation.uid);
        migration::pods(self.world, self.namespace, &self.operation.vm).find(|(name, _)| **name == wanted)
    }

    /// It is decided for the target.
    fn arrive(&self, source: Option<&VmPod>, target: Option<&VmPod>) -> Verdict {
        let name = &self.operation.vm;
        let Some(target) = target.filter(|t| is_alive(t)) else {
            let message = format!("virtual machine {name} was moved, and its new pod has ended: it is started anew");
            return Verdict::failed(Reason::Failed, message);
        };
        let node = target.node.as_ref().map(ToString::to_string).unwrap_or_default();
        let progress = |message| Verdict::new(OperationPhase::InProgress, Reason::TargetResumed, message);
        if target.moving.report != Some(Report::Running) {
            return progress(format!("waiting for the agent of node {node} to let virtual machine {name} run"));
        }
        if source.is_some() {
            return progress(format!("virtual machine {name} runs on node {node}; its former pod is going away"));
        }
        let message = format!("virtual machine {name} has moved to node {node}");
        Verdict::new(OperationPhase::Completed, Reason::OperationCompleted, message)
    }

    /// It is given up: failed when nothing is left of it, but for what a dead node keeps.
    fn undo(&self, reason: Reason, message: &str, source: Option<&VmPod>, target: Option<&VmPod>) -> Verdict {
        let wanted = target_name(&self.operation.vm, &self.operation.uid);
        let asked = |s: &VmPod| s.moving.to.as_ref().is_some_and(|to| to.name == wanted);
        let undecided = source.is_some_and(|s| asked(s) && s.moving.decision.is_none());
        let left = target.is_some_and(|target| !self.is_lost(target));
        let phase = if left || undecided { OperationPhase::InProgress } else { OperationPhase::Failed };
        Verdict::new(phase, reason, message)
    }

    /// The next step before the decision.
    fn step(
        &self,
        source: Option<(&PodName, &VmPod)>,
        target: Option<(&PodName, &VmPod)>,
        plan: &mut Plan,
    ) -> Result<(Reason, String), (Reason, String)> {
        let name = &self.operation.vm;
        let vm = self.world.vms.get(&(self.namespace.clone(), name.clone())).filter(|vm| !vm.deleting);
        let Some(vm) = vm else {
            return Err((Reason::VirtualMachineNotFound, format!("virtual machine {name} was deleted")));
        };
        if self.operation.deleting {
            return Err((Reason::Aborted, "the operation was deleted".to_owned()));
        }
        if !vm.run() {
            return Err((Reason::Aborted, "the virtual machine is being stopped".to_owned()));
        }
        let Some((source_name, source)) = source.filter(|(_, s)| is_alive(s)) else {
            return Err((Reason::Failed, format!("the pod of virtual machine {name} went away before it was moved")));
        };
        let wanted = target_name(name, &self.operation.uid);
        let asked = source.moving.to.as_ref().is_some_and(|to| to.name == wanted);
        let Some((target_name, target)) = target else {
            if asked {
                return Err((Reason::Failed, format!("the target pod {wanted} was deleted")));
            }
            self.overdue(READY_WITHIN, plan)
                .map_or(Ok(()), |_| Err((Reason::Failed, format!("the target pod {wanted} could not be made"))))?;
            plan.actions.push(Action::CreateTargetPod {
                namespace: self.namespace.clone(),
                vm: name.clone(),
                pod: wanted,
                source: source_name.clone(),
                source_uid: source.uid.clone(),
            });
            return Ok((Reason::TargetScheduling, "the target pod is being made".to_owned()));
        };
        if !is_alive(target) {
            return Err((Reason::Failed, format!("the target pod {target_name} was deleted or has ended")));
        }
        if let Some(node) = target.node.as_ref().filter(|node| is_dead(self.world, node)) {
            return Err((Reason::Failed, dead(node)));
        }
        if asked && is_to(source, &target.uid) {
            self.under_way((source_name, source), target, plan)
        } else if asked {
            Err((Reason::Failed, format!("the target pod {target_name} was deleted")))
        } else {
            self.prepare((source_name, source), (target_name, target), plan)
        }
    }

    /// Whether so long has passed since it began; asks to be woken then.
    fn overdue(&self, within: Seconds, plan: &mut Plan) -> Option<Seconds> {
        let until = self.operation.status.begun.unwrap_or(self.world.now) + within;
        if self.world.now < until {
            plan.wake(until);
        }
        (self.world.now >= until).then_some(within)
    }

    /// The target pod is there, and nobody has been asked to move anything.
    fn prepare(
        &self,
        (source_name, source): (&PodName, &VmPod),
        (target_name, target): (&PodName, &VmPod),
        plan: &mut Plan,
    ) -> Result<(Reason, String), (Reason, String)> {
        let late = self.overdue(READY_WITHIN, plan);
        let node = match (&target.node, &target.trouble) {
            (None, Some(PodTrouble::Unschedulable(words))) => {
                let message = format!("no other node can take it: {words}");
                let late = self.overdue(SCHEDULED_WITHIN, plan);
                return if late.is_some() {
                    Err((Reason::TargetUnschedulable, message))
                } else {
                    Ok((Reason::TargetScheduling, message))
                };
            }
            (None, _) if late.is_some() => {
                return Err((Reason::TargetUnschedulable, "the target pod was given no node".to_owned()));
            }
            (None, _) => return Ok((Reason::TargetScheduling, "waiting for a node for the target pod".to_owned())),
            (Some(node), _) => node,
        };
        let pod = |name: &PodName, pod: &VmPod| PodRef {
            namespace: self.namespace.clone(),
            name: name.clone(),
            uid: pod.uid.clone(),
        };
        let waits = if target.state != PodState::Running || target.trouble.is_some() {
            match &target.trouble {
                // It would not take it after another try either.
                Some(ended @ PodTrouble::Ended { .. }) => {
                    return Err((Reason::Failed, format!("the target pod: {}", engine::why_not(ended).1)));
                }
                Some(trouble) => engine::why_not(trouble).1,
                None => format!("node {node} is starting the target pod"),
            }
        } else {
            match attachments::reservation(
                self.world,
                &self.operation.vm,
                &pod(source_name, source),
                &pod(target_name, target),
            ) {
                Reservation::NoPort(message) => return Err((Reason::NoFreeUSBIPPort, message)),
                Reservation::Waits(message) => message,
                Reservation::Ready => {
                    plan.actions.push(Action::AskToMove {
                        namespace: self.namespace.clone(),
                        name: source_name.clone(),
                        uid: source.uid.clone(),
                        to: Destination { name: target_name.clone(), uid: target.uid.clone() },
                    });
                    return Ok((Reason::MigrationRunning, format!("node {node} is ready")));
                }
            }
        };
        match late {
            Some(within) => Err((Reason::Failed, format!("the target was not ready after {within} s: {waits}"))),
            None => Ok((Reason::TargetPreparing, waits)),
        }
    }

    /// The agents have been asked, and nothing is decided.
    fn under_way(
        &self,
        (source_name, source): (&PodName, &VmPod),
        target: &VmPod,
        plan: &mut Plan,
    ) -> Result<(Reason, String), (Reason, String)> {
        let node = |pod: &VmPod| pod.node.as_ref().map(ToString::to_string).unwrap_or_default();
        let (from, to) = (node(source), node(target));
        for (report, node) in [(&source.moving.report, &from), (&target.moving.report, &to)] {
            if let Some(Report::Failed(why)) = report {
                return Err((Reason::Failed, format!("node {node}: {why}")));
            }
        }
        if target.moving.report == Some(Report::Loaded) {
            plan.actions.push(Action::Decide {
                namespace: self.namespace.clone(),
                name: source_name.clone(),
                uid: source.uid.clone(),
                target: target.uid.clone(),
                decision: Decision::Target,
            });
            return Ok((Reason::SourceSuspended, format!("all of it has arrived on node {to}")));
        }
        if let Some(node) = source.node.as_ref().filter(|node| is_dead(self.world, node)) {
            return Err((Reason::Failed, dead(node)));
        }
        if let Some(within) = self.overdue(MOVED_WITHIN, plan) {
            return Err((Reason::Failed, format!("it has not arrived on node {to} after {within} s")));
        }
        match &source.moving.report {
            Some(Report::Paused) => {
                let until = self.operation.status.paused.unwrap_or(self.world.now) + SWITCHED_WITHIN;
                if self.world.now >= until {
                    let message = format!("it was paused for {SWITCHED_WITHIN} s and has not arrived on node {to}");
                    return Err((Reason::Failed, message));
                }
                plan.wake(until);
                Ok((Reason::SourceSuspended, format!("it is paused, and the rest of it is on its way to node {to}")))
            }
            Some(report) => Ok((Reason::MigrationRunning, format!("on its way to node {to}: {}", report.message()))),
            None => Ok((Reason::MigrationRunning, format!("waiting for the agents of nodes {from} and {to}"))),
        }
    }
}
