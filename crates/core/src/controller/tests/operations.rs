//! Operations on machines: what each does, and why one cannot be done.

use super::builder::{Builder, briefs, vm_pod, world};
use crate::controller::operations::MACHINE_WITHIN;
use crate::controller::world::{OperationKind, OperationPhase, PodState, Power, RunPolicy, VmPhase};

use OperationKind::{Restart, Start, Stop};

/// The machine `vm-a` of namespace blue, which runs on node-2 with a stick of node-1.
fn machine(policy: RunPolicy) -> Builder {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    let mut it = it.vm("blue", "vm-a", "node-2", &["stick"]).settled();
    it.vm_mut("blue", "vm-a").policy = policy;
    it.settled()
}

/// The same, stopped.
fn stopped(policy: RunPolicy) -> Builder {
    let mut it = machine(RunPolicy::AlwaysOff);
    it.sweep();
    it.settle();
    it.vm_mut("blue", "vm-a").policy = policy;
    it.vm_mut("blue", "vm-a").status.power = Some(Power::Off);
    it.settled()
}

/// The scheduler and the kubelet: the machine's pod runs.
fn boot(it: &mut Builder) {
    let pod = it.world.vm_pods.get_mut(&("blue".into(), vm_pod("vm-a"))).unwrap();
    (pod.node, pod.state) = (Some("node-2".into()), PodState::Running);
    it.settle();
}

fn ask(it: &mut Builder, kind: OperationKind) -> String {
    it.operation("op", kind, "vm-a");
    it.settle();
    it.told("op")
}

fn phase(it: &mut Builder) -> (VmPhase, Option<Power>) {
    let status = &it.vm_mut("blue", "vm-a").status;
    (status.phase.unwrap(), status.power)
}

#[test]
fn a_stop_is_remembered_before_anything_is_stopped_and_outlives_its_operation() {
    let mut it = machine(RunPolicy::AlwaysOnUnlessStoppedManually);
    it.operation("op", Stop, "vm-a");
    assert_eq!(briefs(&it.act()), ["publish operation op"]);
    assert_eq!(briefs(&it.act()), ["publish vm blue/vm-a"]);
    it.settle();
    assert_eq!(it.told("op"), "InProgress Completed=False/StopInProgress: virtual machine vm-a is being stopped");
    it.sweep();
    it.settle();
    assert_eq!(it.told("op"), "Completed Completed=True/OperationCompleted: virtual machine vm-a is stopped");
    assert_eq!(phase(&mut it), (VmPhase::Stopped, Some(Power::Off)));
    it.world.operations.clear();
    it.settle();
    assert_eq!(phase(&mut it), (VmPhase::Stopped, Some(Power::Off)));
    assert!(it.world.attachments.is_empty() && it.world.claims.is_empty());
    insta::assert_snapshot!(
        it.machine_conditions("blue", "vm-a").lines().next().unwrap(),
        @"Running=False/Stopped: it is stopped: a VirtualMachineOperation of type Start starts it"
    );
}

#[test]
fn a_start_is_done_when_the_machine_runs_and_says_what_it_waits_for() {
    for policy in [RunPolicy::AlwaysOnUnlessStoppedManually, RunPolicy::Manual] {
        let mut it = stopped(policy);
        assert_eq!(
            ask(&mut it, Start),
            "InProgress Completed=False/StartInProgress: waiting for virtual machine vm-a to run: its pod is being made \
             and scheduled"
        );
        boot(&mut it);
        assert_eq!(
            it.told("op"),
            "Completed Completed=True/OperationCompleted: virtual machine vm-a runs on node node-2"
        );
        assert_eq!(phase(&mut it), (VmPhase::Running, Some(Power::On)));
        it.plug_in();
        it.settle();
        assert_eq!(it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");
    }
}

#[test]
fn a_restart_is_done_when_another_pod_runs_the_machine() {
    let mut it = machine(RunPolicy::AlwaysOn);
    let old = it.pod_of("blue", "vm-a").uid.clone();
    assert_eq!(
        ask(&mut it, Restart),
        "InProgress Completed=False/RestartInProgress: waiting for virtual machine vm-a to run: its pod is going away; it \
         is started again when that is gone"
    );
    it.sweep();
    it.settle();
    assert_ne!(it.pod_of("blue", "vm-a").uid, old);
    boot(&mut it);
    assert_eq!(
        it.told("op"),
        "Completed Completed=True/OperationCompleted: virtual machine vm-a runs again on node node-2"
    );
    assert_eq!(it.plan().actions, [], "and is not restarted again");
    assert!(!it.pod_of("blue", "vm-a").deleting);
}

#[test]
fn what_cannot_be_done_fails_and_says_why() {
    let on = RunPolicy::AlwaysOnUnlessStoppedManually;
    let cases: [(Builder, OperationKind, &str); 10] = [
        (machine(on), Start, "NotApplicableForVirtualMachinePhase: virtual machine vm-a runs already"),
        (stopped(on), Stop, "NotApplicableForVirtualMachinePhase: virtual machine vm-a is stopped already"),
        (
            stopped(on),
            Restart,
            "NotApplicableForVirtualMachinePhase: virtual machine vm-a does not run: start it instead",
        ),
        (
            machine(RunPolicy::AlwaysOn),
            Stop,
            "NotApplicableForVirtualMachineRunPolicy: spec.runPolicy of virtual machine vm-a is AlwaysOn: operations start \
             and stop only machines whose policy is Manual or AlwaysOnUnlessStoppedManually",
        ),
        (
            stopped(RunPolicy::AlwaysOff),
            Start,
            "NotApplicableForVirtualMachineRunPolicy: spec.runPolicy of virtual machine vm-a is AlwaysOff: operations start \
             and stop only machines whose policy is Manual or AlwaysOnUnlessStoppedManually",
        ),
        (
            stopped(RunPolicy::AlwaysOff),
            Restart,
            "NotApplicableForVirtualMachineRunPolicy: spec.runPolicy of virtual machine vm-a is AlwaysOff: such a machine \
             does not run",
        ),
        (
            {
                let mut it = machine(on);
                it.vm_mut("blue", "vm-a").deleting = true;
                it.settle();
                it
            },
            Stop,
            "VirtualMachineNotFound: virtual machine vm-a is being deleted",
        ),
        (
            {
                let mut it = machine(on);
                it.operation("first", Stop, "vm-a");
                it.settle();
                it
            },
            Restart,
            "OtherOperationInProgress: operation first (Stop) on the same virtual machine is in progress: ask again when it \
             is done, or delete it",
        ),
        (
            {
                let mut it = stopped(on);
                it.vm_mut("blue", "vm-a").status.power = Some(Power::On);
                it.settle();
                it
            },
            Start,
            "NotApplicableForVirtualMachinePhase: virtual machine vm-a is being started already",
        ),
        (
            {
                let mut it = machine(on);
                it.vm_mut("blue", "vm-a").status.power = Some(Power::Off);
                it.settle();
                it
            },
            Stop,
            "NotApplicableForVirtualMachinePhase: virtual machine vm-a is being stopped already",
        ),
    ];
    for (mut it, kind, expected) in cases {
        let before = it.world.vm_pods.clone();
        assert_eq!(ask(&mut it, kind), format!("Failed Completed=False/{expected}"));
        assert_eq!(it.world.vm_pods, before, "nothing was done: {expected}");
    }
}

#[test]
fn a_machine_may_come_a_little_later_than_its_operation() {
    let mut it = world().node("node-2");
    it.operation("op", Stop, "vm-a");
    assert_eq!((it.plan().actions, it.plan().wake_at), (vec![], Some(it.world.now + MACHINE_WITHIN)));
    let mut late = it.vm("blue", "vm-a", "node-2", &[]);
    late.settle();
    assert!(late.told("op").starts_with("InProgress"));

    let mut it = world();
    it.operation("op", Stop, "vm-a");
    it.world.now += MACHINE_WITHIN;
    it.settle();
    assert_eq!(
        it.told("op"),
        "Failed Completed=False/VirtualMachineNotFound: there is no virtual machine vm-a in namespace blue"
    );
}

#[test]
fn of_operations_made_together_the_first_is_done_and_the_others_fail() {
    let mut it = machine(RunPolicy::Manual);
    it.operation("b", Restart, "vm-a");
    it.operation("a", Stop, "vm-a");
    it.settle();
    assert!(it.told("a").starts_with("InProgress"));
    assert!(it.told("b").starts_with("Failed Completed=False/OtherOperationInProgress: operation a (Stop)"));
    // One that cannot be done is in nobody's way.
    let mut it = machine(RunPolicy::Manual);
    it.operation("b", Restart, "vm-a");
    it.operation("a", Start, "vm-a");
    it.settle();
    assert!(it.told("a").starts_with("Failed") && it.told("b").starts_with("InProgress"));
}

#[test]
fn what_changes_under_way_ends_an_operation() {
    let mut it = machine(RunPolicy::Manual);
    ask(&mut it, Stop);
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOn;
    it.settle();
    assert!(it.told("op").starts_with("Failed Completed=False/NotApplicableForVirtualMachineRunPolicy"));
    assert_eq!(phase(&mut it).1, None, "and what it had asked for is forgotten");

    let mut it = machine(RunPolicy::Manual);
    ask(&mut it, Stop);
    it.world.vms.clear();
    it.settle();
    assert!(it.told("op").starts_with("Failed Completed=False/VirtualMachineNotFound"));
}

#[test]
fn an_operation_that_has_come_to_its_end_changes_no_more() {
    for end in [OperationPhase::Completed, OperationPhase::Failed] {
        let mut it = machine(RunPolicy::Manual);
        it.operation("op", Stop, "vm-a");
        it.world.operations.values_mut().for_each(|o| o.status.phase = Some(end));
        assert_eq!(it.settle(), []);
        assert_eq!(phase(&mut it), (VmPhase::Running, Some(Power::On)));
    }
}

#[test]
fn a_deleted_operation_has_asked_for_what_it_has_asked_for() {
    let mut it = machine(RunPolicy::Manual);
    ask(&mut it, Stop);
    it.world.operations.clear();
    it.sweep();
    it.settle();
    assert_eq!(phase(&mut it), (VmPhase::Stopped, Some(Power::Off)));
}
