//! What a machine says of itself.

use super::builder::{Builder, START, vm_pod, world};
use crate::conditions::{ConditionType, PluggedState, Reason, find};
use crate::controller::UNDER_WAY_AFTER;
use crate::controller::world::{Placement, PodState, PodTrouble, RunPolicy, VmPhase, VmPod};
use crate::speed::Hub;

/// The machine `vm-a` of namespace blue on node-2, a stick and a key of node-1 in its namespace.
fn machine(devices: &[&str]) -> Builder {
    let it = world().node("node-1").node("node-2").device("stick", "node-1").device("key", "node-1");
    it.assigned("stick", "blue").assigned("key", "blue").vm("blue", "vm-a", "node-2", devices)
}

fn pod(it: &mut Builder) -> &mut VmPod {
    it.world.vm_pods.get_mut(&("blue".into(), vm_pod("vm-a"))).unwrap()
}

fn phase(it: &mut Builder) -> VmPhase {
    it.vm_mut("blue", "vm-a").status.phase.unwrap()
}

#[test]
fn a_machine_says_why_it_does_not_run() {
    let words = |text: &str| text.to_owned();
    let cases: [(Option<&str>, PodState, Option<PodTrouble>, &str); 9] = [
        (None, PodState::Pending, None, "Starting: its pod is being made and scheduled"),
        (
            None,
            PodState::Pending,
            Some(PodTrouble::Unschedulable(words("0/2 nodes are available: 2 Insufficient memory."))),
            "Unschedulable: no node can take it: 0/2 nodes are available: 2 Insufficient memory.",
        ),
        (Some("node-2"), PodState::Pending, None, "Starting: node node-2 is starting it"),
        (
            Some("node-2"),
            PodState::Pending,
            Some(PodTrouble::NoImage(words("example/guest:9: not found"))),
            "ImagePullFailed: its image cannot be had: example/guest:9: not found",
        ),
        (
            Some("node-2"),
            PodState::Pending,
            Some(PodTrouble::NotStarted(words("exec: /patchbay: no such file"))),
            "ContainerFailed: its container cannot be started: exec: /patchbay: no such file",
        ),
        (Some("node-2"), PodState::Running, None, "Running: it runs on node node-2"),
        (
            Some("node-2"),
            PodState::Running,
            Some(PodTrouble::Ended { code: 1, words: words("QEMU was ended by signal 11") }),
            "ContainerFailed: it has failed with code 1 and is started again: QEMU was ended by signal 11",
        ),
        (
            Some("node-2"),
            PodState::Running,
            Some(PodTrouble::Ended { code: 0, words: String::new() }),
            "SwitchedOff: the guest has switched itself off and is started again: set spec.runPolicy to AlwaysOff to keep it \
             off",
        ),
        (
            Some("node-2"),
            PodState::Ended,
            None,
            "Stopping: its pod is going away; it is started again when that is gone",
        ),
    ];
    for (node, state, trouble, expected) in cases {
        let mut it = machine(&[]);
        it.settle();
        let pod = pod(&mut it);
        (pod.node, pod.state, pod.trouble) = (node.map(Into::into), state, trouble);
        it.settle();
        let said = it.machine_conditions("blue", "vm-a");
        let truth = if expected.starts_with("Running") { "True" } else { "False" };
        assert_eq!(said.lines().next(), Some(format!("Running={truth}/{expected}").as_str()));
        assert_eq!(phase(&mut it) == VmPhase::Running, truth == "True", "{expected}");
    }
}

#[test]
fn a_machine_that_shall_not_run_says_so() {
    let mut it = machine(&[]);
    it.settle();
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    it.settle();
    insta::assert_snapshot!(it.machine_conditions("blue", "vm-a"), @r"
    Running=False/Stopping: its pod is going away
    USBDevicesAttached=True/AllAttached: no USB devices are listed
    ");
    it.sweep();
    it.settle();
    insta::assert_snapshot!(it.machine_conditions("blue", "vm-a"), @r"
    Running=False/Stopped: it is stopped, as spec.runPolicy says
    USBDevicesAttached=True/AllAttached: no USB devices are listed
    ");
}

#[test]
fn a_machine_that_fails_keeps_its_devices_and_says_since_when_it_does_not_run() {
    let mut it = machine(&["stick"]).settled();
    it.world.now = START + 60;
    pod(&mut it).trouble = Some(PodTrouble::Ended { code: 1, words: "out of memory".to_owned() });
    it.settle();
    assert_eq!((it.world.attachments.len(), phase(&mut it)), (1, VmPhase::Starting));
    let since = |it: &mut Builder, kind| find(&it.vm_mut("blue", "vm-a").status.conditions, kind).unwrap().since;
    assert_eq!(since(&mut it, ConditionType::Running), START + 60);
    assert_eq!(since(&mut it, ConditionType::USBDevicesAttached), START);
}

#[test]
fn of_several_devices_the_first_that_is_missing_is_named() {
    let mut it = machine(&["stick", "key", "nothing"]).settled();
    insta::assert_snapshot!(it.machine_conditions("blue", "vm-a"), @r"
    Running=True/Running: it runs on node node-2
    USBDevicesAttached=False/NoUSBDevice: 2 of 3 USB devices are attached; nothing: there is no USBDevice nothing in namespace blue: an administrator assigns one by setting spec.assignedNamespace of the NodeUSBDevice to blue
    ");
    it.list("blue", "vm-a", &["stick", "key"]);
    it.settle();
    insta::assert_snapshot!(
        it.machine_conditions("blue", "vm-a").lines().nth(1).unwrap(),
        @"USBDevicesAttached=True/AllAttached: all 2 USB devices are attached"
    );
}

#[test]
fn every_hindrance_has_a_reason() {
    let reason = |it: &mut Builder| {
        it.settle();
        find(&it.vm_mut("blue", "vm-a").status.conditions, ConditionType::USBDevicesAttached).unwrap().reason
    };
    let mut it = machine(&["stick"]);
    it.settle();
    it.attachment().placement = Placement::NoPlace;
    it.world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    assert_eq!(reason(&mut it), Reason::NoFreeUSBIPPort);
    it.attachment().placement = Placement::Awaited;
    it.world.now += UNDER_WAY_AFTER;
    assert_eq!(reason(&mut it), Reason::Attaching);
    it.attachment().plugged = Some(PluggedState::Failed("node-1: connection refused".to_owned()));
    assert_eq!(reason(&mut it), Reason::Attaching);
    it.unplug("stick");
    assert_eq!(reason(&mut it), Reason::NotFound);

    let mut it = machine(&[]).vm("blue", "other", "node-1", &["stick"]).settled();
    it.list("blue", "vm-a", &["stick"]);
    assert_eq!(reason(&mut it), Reason::InUse);
    it.list("blue", "vm-a", &["key"]);
    it.world.nodes.get_mut(&"node-1".into()).unwrap().ready = false;
    assert_eq!(reason(&mut it), Reason::NotReady);
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    assert_eq!(reason(&mut it), Reason::NotRunning);
}
