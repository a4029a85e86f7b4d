//! Operations on machines. How one is moved is in [`super::moves`].
//!
//! ```text
//!   (new) --may be done--> InProgress --done--> Completed
//!     |  \--(Pending)--/       |
//!     +------- cannot ---------+--------------> Failed
//! ```
//!
//! Of the operations on one machine one at a time is in progress; what it asks for is remembered in the machine's status
//! before anything is done, so that it outlives the operation. An operation that has come to its end changes no more.

use crate::conditions::{Condition, ConditionType, Reason, Seconds};
use crate::controller::action::{Action, Plan};
use crate::controller::engine;
use crate::controller::view::View;
use crate::controller::world::{
    Operation, OperationKind, OperationPhase, OperationStatus, Power, RunPolicy, Vm, VmPhase,
};
use crate::names::{Namespace, OperationName, Uid, VmName};

/// A machine that is not there yet may be one that was made together with the operation.
pub(super) const MACHINE_WITHIN: Seconds = 5;

/// What becomes of an operation.
pub(super) struct Verdict {
    phase: OperationPhase,
    reason: Reason,
    message: String,
}

impl Verdict {
    pub(super) fn new(phase: OperationPhase, reason: Reason, message: impl Into<String>) -> Self {
        Self { phase, reason, message: message.into() }
    }

    pub(super) fn failed(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(OperationPhase::Failed, reason, message)
    }
}

/// An operation in its place.
pub(super) struct Case<'w> {
    pub(super) world: &'w View<'w>,
    pub(super) namespace: &'w Namespace,
    pub(super) name: &'w OperationName,
    pub(super) operation: &'w Operation,
}

/// Brings operations forward, and publishes how they are.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, name), operation) in &world.operations {
        let over = operation.status.is_finished() || (operation.deleting && !is_begun(operation));
        if over && operation.held {
            let (namespace, name, uid) = (namespace.clone(), name.clone(), operation.uid.clone());
            plan.actions.push(Action::ReleaseOperation { namespace, name, uid });
        }
        if over || (operation.deleting && !operation.held) {
            continue;
        }
        let case = Case { world, namespace, name, operation };
        let Some(verdict) = case.judge(plan) else { continue };
        let status = case.status(verdict);
        if status != operation.status {
            let (namespace, name) = (namespace.clone(), name.clone());
            plan.actions.push(Action::PublishOperation { namespace, name, status });
        }
    }
}

fn is_begun(operation: &Operation) -> bool {
    operation.status.phase == Some(OperationPhase::InProgress)
}

/// The operation on a machine that is in progress, or about to begin.
pub(super) fn current<'w>(
    world: &'w View<'w>,
    namespace: &Namespace,
    vm: &VmName,
) -> Option<(&'w OperationName, &'w Operation)> {
    let accepted = |o: &Operation| match o.status.phase {
        Some(OperationPhase::Pending) => !o.deleting,
        Some(OperationPhase::InProgress) => !o.deleting || o.held,
        _ => false,
    };
    world.operations_on(namespace, vm).iter().find(|(_, o)| accepted(o)).copied()
}

/// What operations have asked for last of a machine whose policy leaves it to them.
pub(super) fn power(world: &View<'_>, namespace: &Namespace, name: &VmName, vm: &Vm) -> Option<Power> {
    if !vm.policy.is_by_hand() {
        return None;
    }
    let asked = current(world, namespace, name).and_then(|(_, operation)| operation.kind.power());
    // From here on it is written down what a machine does that is left to itself.
    let adopted = || (vm.policy == RunPolicy::Manual).then(|| if vm.run() { Power::On } else { Power::Off });
    asked.or(vm.status.power).or_else(adopted)
}

/// The pod that has to go, because its machine is being restarted.
pub(super) fn outgoing<'w>(world: &'w View<'w>, namespace: &Namespace, vm: &VmName) -> Option<&'w Uid> {
    let (_, operation) = current(world, namespace, vm)?;
    operation.status.pod.as_ref().filter(|_| operation.kind == OperationKind::Restart)
}

impl OperationKind {
    const fn power(self) -> Option<Power> {
        match self {
            Self::Start => Some(Power::On),
            Self::Stop => Some(Power::Off),
            Self::Restart | Self::Migrate | Self::Evict => None,
        }
    }

    const fn progress(self) -> Reason {
        match self {
            Self::Start => Reason::StartInProgress,
            Self::Stop => Reason::StopInProgress,
            Self::Restart => Reason::RestartInProgress,
            Self::Migrate | Self::Evict => Reason::MigrationRunning,
        }
    }
}

impl<'w> Case<'w> {
    fn status(&self, verdict: Verdict) -> OperationStatus {
        let before = &self.operation.status;
        let (kind, now) = (ConditionType::Completed, self.world.now);
        let condition = Condition::next(kind, verdict.reason, verdict.message, &before.conditions, now);
        let begins = verdict.phase == OperationPhase::InProgress && !self.begun();
        let pod = || engine::pod(self.world, self.namespace, &self.operation.vm).map(|(_, pod)| pod.uid.clone());
        OperationStatus {
            phase: Some(verdict.phase),
            pod: if begins { pod() } else { before.pod.clone() },
            begun: if begins { Some(now) } else { before.begun },
            paused: before.paused.or_else(|| self.is_paused().then_some(now)),
            observed_generation: self.operation.generation,
            conditions: vec![condition],
        }
    }

    /// What becomes of it; None while that cannot be said.
    fn judge(&self, plan: &mut Plan) -> Option<Verdict> {
        if self.begun() && self.operation.kind.moves() {
            return Some(self.go_on_moving(plan));
        }
        let (namespace, name) = (self.namespace, &self.operation.vm);
        let Some(vm) = self.world.vms.get(&(namespace.clone(), name.clone())) else {
            return self.no_machine(plan);
        };
        if vm.deleting {
            let message = format!("virtual machine {name} is being deleted");
            return Some(Verdict::failed(Reason::VirtualMachineNotFound, message));
        }
        if let Some(refusal) = self.forbidden(vm) {
            return Some(Verdict::failed(Reason::NotApplicableForVirtualMachineRunPolicy, refusal));
        }
        if self.begun() { Some(self.go_on(vm)) } else { self.begin(vm, plan) }
    }

    pub(super) fn begun(&self) -> bool {
        is_begun(self.operation)
    }

    fn no_machine(&self, plan: &mut Plan) -> Option<Verdict> {
        let until = self.operation.created + MACHINE_WITHIN;
        if !self.begun() && self.world.now < until {
            plan.wake(until);
            return None;
        }
        let message = format!("there is no virtual machine {} in namespace {}", self.operation.vm, self.namespace);
        Some(Verdict::failed(Reason::VirtualMachineNotFound, message))
    }

    /// Why the machine's policy forbids it.
    fn forbidden(&self, vm: &Vm) -> Option<String> {
        let rest = match (self.operation.kind, vm.policy) {
            (OperationKind::Start | OperationKind::Stop, policy) if !policy.is_by_hand() => {
                "operations start and stop only machines whose policy is Manual or AlwaysOnUnlessStoppedManually"
            }
            (OperationKind::Restart | OperationKind::Migrate | OperationKind::Evict, RunPolicy::AlwaysOff) => {
                "such a machine does not run"
            }
            _ => return None,
        };
        Some(format!("spec.runPolicy of virtual machine {} is {}: {rest}", self.operation.vm, vm.policy.as_str()))
    }

    /// Whether it may begin now.
    fn begin(&self, vm: &Vm, plan: &mut Plan) -> Option<Verdict> {
        let other = current(self.world, self.namespace, &self.operation.vm).filter(|(name, _)| *name != self.name);
        if let Some((other, operation)) = other {
            let message = format!(
                "operation {other} ({}) on the same virtual machine is in progress: ask again when it is done, or delete it",
                operation.kind.as_str()
            );
            return Some(Verdict::failed(Reason::OtherOperationInProgress, message));
        }
        if self.is_behind() {
            return None;
        }
        if self.operation.kind.moves() {
            return Some(self.begin_move(vm, plan));
        }
        match self.pointless(vm) {
            Some(message) => Some(Verdict::failed(Reason::NotApplicableForVirtualMachinePhase, message)),
            None => Some(self.in_progress(vm)),
        }
    }

    /// Whether another operation on the machine was made earlier and is to be judged first.
    fn is_behind(&self) -> bool {
        let place = |name: &OperationName, o: &Operation| (o.created, name.clone());
        let own = place(self.name, self.operation);
        let others = self.world.operations_on(self.namespace, &self.operation.vm);
        others.iter().any(|(name, o)| !o.deleting && !o.status.is_finished() && place(name, o) < own)
    }

    /// Why there is nothing to do, or nothing to do it to.
    fn pointless(&self, vm: &Vm) -> Option<String> {
        let name = &self.operation.vm;
        let phase = engine::phase(self.world, self.namespace, name, vm);
        let what = match (self.operation.kind, vm.run(), phase) {
            (OperationKind::Start, true, VmPhase::Running) => "runs already",
            (OperationKind::Start, true, _) => "is being started already",
            (OperationKind::Stop, false, VmPhase::Stopped) => "is stopped already",
            (OperationKind::Stop, false, _) => "is being stopped already",
            (OperationKind::Restart, false, _) | (OperationKind::Restart, _, VmPhase::Stopped) => {
                "does not run: start it instead"
            }
            (OperationKind::Restart, true, VmPhase::Stopping) => "is being started anew already",
            _ => return None,
        };
        Some(format!("virtual machine {name} {what}"))
    }

    fn in_progress(&self, vm: &Vm) -> Verdict {
        let (namespace, name) = (self.namespace, &self.operation.vm);
        let phase = engine::phase(self.world, namespace, name, vm);
        let pod = engine::pod(self.world, namespace, name).map(|(_, pod)| pod);
        let message = match (self.operation.kind, phase) {
            (OperationKind::Stop, _) => format!("virtual machine {name} is being stopped"),
            (OperationKind::Restart, VmPhase::Running) => {
                format!("virtual machine {name} is being stopped, to be started again")
            }
            _ => {
                let (_, why) = engine::running_reason(self.world, phase, pod, vm);
                format!("waiting for virtual machine {name} to run: {why}")
            }
        };
        Verdict::new(OperationPhase::InProgress, self.operation.kind.progress(), message)
    }

    /// Whether it is done.
    fn go_on(&self, vm: &Vm) -> Verdict {
        let name = &self.operation.vm;
        let phase = engine::phase(self.world, self.namespace, name, vm);
        let pod = engine::pod(self.world, self.namespace, name).map(|(_, pod)| pod);
        let asked = self.operation.kind.power();
        // What was asked for has to be written down before it counts as done.
        let kept = asked.is_none() || vm.status.power == asked;
        let done = match self.operation.kind {
            OperationKind::Start => phase == VmPhase::Running,
            OperationKind::Stop => phase == VmPhase::Stopped,
            OperationKind::Restart | OperationKind::Migrate | OperationKind::Evict => {
                phase == VmPhase::Running && pod.map(|p| &p.uid) != self.operation.status.pod.as_ref()
            }
        };
        if !done || !kept {
            return self.in_progress(vm);
        }
        let place = pod.and_then(|p| p.node.as_ref()).map(|node| format!(" on node {node}")).unwrap_or_default();
        let message = match self.operation.kind {
            OperationKind::Start => format!("virtual machine {name} runs{place}"),
            OperationKind::Stop => format!("virtual machine {name} is stopped"),
            _ => format!("virtual machine {name} runs again{place}"),
        };
        Verdict::new(OperationPhase::Completed, Reason::OperationCompleted, message)
    }
}
