//! Moves of machines, step by step, and what becomes of each when something fails.

use super::builder::{Builder, briefs, vm_pod, world};
use crate::conditions::{GuestPort, PluggedState};
use crate::controller::moves::{MOVED_WITHIN, READY_WITHIN, SCHEDULED_WITHIN, SWITCHED_WITHIN};
use crate::controller::target_name;
use crate::controller::world::{OperationKind, Placement, PodState, PodTrouble, RunPolicy, VmPhase, VmPod};
use crate::migration::{Decision, Report};
use crate::names::{Namespace, PodName};
use crate::speed::Hub;

/// The machine `vm-a` of namespace blue, which runs on node-2 with a stick of node-1; node-3 is free.
fn machine() -> Builder {
    let it = world().node("node-1").node("node-2").node("node-3").device("stick", "node-1");
    it.assigned("stick", "blue").vm("blue", "vm-a", "node-2", &["stick"]).settled()
}

fn key(name: PodName) -> (Namespace, PodName) {
    ("blue".into(), name)
}

fn target_key(it: &Builder) -> (Namespace, PodName) {
    key(target_name(&"vm-a".into(), &it.world.operations[&("blue".into(), "op".into())].uid))
}

fn source(it: &mut Builder) -> &mut VmPod {
    it.world.vm_pods.get_mut(&key(vm_pod("vm-a"))).unwrap()
}

fn target(it: &mut Builder) -> &mut VmPod {
    let key = target_key(it);
    it.world.vm_pods.get_mut(&key).unwrap()
}

/// The operation is asked for, and its target pod exists.
fn asked() -> Builder {
    let mut it = machine();
    it.operation("op", OperationKind::Migrate, "vm-a");
    it.settle();
    it
}

/// The target pod runs on a node.
fn scheduled(mut it: Builder, node: &str) -> Builder {
    let pod = target(&mut it);
    (pod.node, pod.state) = (Some(node.into()), PodState::Running);
    it.settle();
    it
}

/// All that is held there is prepared, and the agents are asked to move the machine.
fn prepared(mut it: Builder) -> Builder {
    for attachment in it.world.attachments.values_mut() {
        attachment.state = PodState::Running;
    }
    it.settle();
    it
}

fn moving() -> Builder {
    prepared(scheduled(asked(), "node-3"))
}

/// The machine is paused at the source: its devices are out.
fn paused() -> Builder {
    let mut it = moving();
    source(&mut it).moving.report = Some(Report::Paused);
    for attachment in it.world.attachments.values_mut().filter(|a| a.node.as_str() == "node-2") {
        attachment.plugged = Some(PluggedState::Waiting("the virtual machine is being moved".to_owned()));
    }
    it.settle();
    it
}

/// The target has everything, and the controller has decided.
fn decided() -> Builder {
    let mut it = paused();
    target(&mut it).moving.report = Some(Report::Loaded);
    it.settle();
    it
}

fn decision(it: &mut Builder) -> Option<Decision> {
    source(it).moving.decision
}

fn attached(it: &Builder) -> String {
    it.usb_device("blue", "stick").lines().nth(1).unwrap().to_owned()
}

/// The kubelets end what is deleted, until nothing happens any more.
fn sweep(it: &mut Builder) {
    for _ in 0..3 {
        it.sweep();
        it.settle();
    }
}

/// After a failure the machine is where it was, with its device, and nothing else is left.
fn is_as_before(it: &mut Builder, expected: &str) {
    if let Some(to) = source(it).moving.to.clone() {
        assert_eq!(decision(it), Some(Decision::Source), "{expected}: undecided");
        assert_eq!(source(it).moving.to, Some(to));
        source(it).moving.report = Some(Report::Failed("called off".to_owned()));
    }
    for attachment in it.world.attachments.values_mut().filter(|a| a.node.as_str() == "node-2") {
        attachment.plugged = Some(PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }));
    }
    it.settle();
    sweep(it);
    if it.world.operations.contains_key(&("blue".into(), "op".into())) {
        assert_eq!(it.told("op"), format!("Failed Completed=False/{expected}"));
    }
    assert_eq!(it.world.vm_pods.len(), 1, "{expected}: a pod is left");
    assert_eq!(it.world.attachments.len(), 1, "{expected}: an attachment is left");
    let status = it.vm_mut("blue", "vm-a").status.clone();
    assert_eq!((status.phase, status.node), (Some(VmPhase::Running), Some("node-2".into())), "{expected}");
    assert_eq!(it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");
    assert!(it.world.operations.values().all(|o| !o.held));
}

#[test]
fn a_machine_moves_with_its_device_step_by_step() {
    let mut it = machine();
    it.operation("op", OperationKind::Migrate, "vm-a");
    assert_eq!(
        briefs(&it.act()),
        ["publish operation op", "hold operation op"].map(str::to_owned).into_iter().rev().collect::<Vec<_>>()
    );
    assert_eq!(briefs(&it.act()), ["publish operation op"]);
    let name = target_key(&it).1;
    assert_eq!(briefs(&it.act()).iter().filter(|a| a.starts_with("create target pod")).count(), 1);
    it.settle();
    assert_eq!(it.vm_mut("blue", "vm-a").status.phase, Some(VmPhase::Migrating));
    assert_eq!(it.told("op"), "InProgress Completed=False/TargetScheduling: waiting for a node for the target pod");

    let pod = target(&mut it);
    (pod.node, pod.state) = (Some("node-3".into()), PodState::Running);
    assert_eq!(briefs(&it.act())[0], "create reservation of stick to vm-a on node-3 with a usb2 port");
    it.settle();
    assert!(it.told("op").starts_with("InProgress Completed=False/TargetPreparing: USB device stick"));
    assert!(attached(&it).starts_with("Attached=True/AttachedToVirtualMachine"), "nothing has happened to it");

    it = prepared(it);
    assert_eq!(source(&mut it).moving.to.as_ref().map(|to| &to.name), Some(&name));
    assert_eq!(
        it.told("op"),
        "InProgress Completed=False/MigrationRunning: waiting for the agents of nodes node-2 and node-3"
    );
    source(&mut it).moving.report = Some(Report::Moving(Some(43)));
    it.settle();
    assert_eq!(it.told("op"), "InProgress Completed=False/MigrationRunning: on its way to node node-3: 43 % sent");

    source(&mut it).moving.report = Some(Report::Paused);
    it.attachments_on("node-2")[0].plugged =
        Some(PluggedState::Waiting("the virtual machine is being moved".to_owned()));
    it.settle();
    insta::assert_snapshot!(
        attached(&it),
        @"Attached=False/DetachedForMigration: Device is out of virtual machine blue/vm-a while that moves to node node-3, where it comes back"
    );
    insta::assert_snapshot!(
        it.machine("blue", "vm-a"),
        @"stick attached=false ready=true: out of virtual machine blue/vm-a while that moves to node node-3, where it comes back"
    );

    target(&mut it).moving.report = Some(Report::Loaded);
    assert!(briefs(&it.act()).contains(&"decide vm-vm-a: target".to_owned()));
    let done = briefs(&it.act());
    assert!(done.contains(&"delete attachment".to_owned()) && done.contains(&"plug attachment".to_owned()), "{done:?}");
    assert!(done.contains(&format!("mark {name} arrived")), "{done:?}");
    it.settle();
    assert!(!source(&mut it).deleting, "the agent of the target has not read the decision yet");
    assert_eq!(it.vm_mut("blue", "vm-a").status.node, Some("node-3".into()));
    assert!(attached(&it).starts_with("Attached=False/DetachedForMigration"));

    target(&mut it).moving.report = Some(Report::Running);
    assert!(briefs(&it.settle()).contains(&"delete pod vm-vm-a".to_owned()));
    it.plug_in();
    sweep(&mut it);
    assert_eq!(
        it.told("op"),
        "Completed Completed=True/OperationCompleted: virtual machine vm-a has moved to node node-3"
    );
    assert_eq!(it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");
    assert_eq!((it.world.vm_pods.len(), it.world.attachments.len(), it.world.claims.len()), (1, 1, 1));
    assert!(it.world.operations.values().all(|o| !o.held));
    assert_eq!(it.vm_mut("blue", "vm-a").status.phase, Some(VmPhase::Running));
}

#[test]
fn what_fails_before_the_decision_leaves_everything_as_it_was() {
    let stays = "; virtual machine vm-a stays on node node-2";
    type Change = fn(&mut Builder);
    let cases: [(Builder, Change, String); 14] = [
        (
            asked(),
            |it| {
                let words = "0/3 nodes are available: 2 Insufficient memory.".to_owned();
                target(it).trouble = Some(PodTrouble::Unschedulable(words));
                it.settle();
                it.world.now += SCHEDULED_WITHIN;
            },
            format!(
                "TargetUnschedulable: no other node can take it: 0/3 nodes are available: 2 Insufficient memory.{stays}"
            ),
        ),
        (
            asked(),
            |it| it.world.now += READY_WITHIN,
            format!("TargetUnschedulable: the target pod was given no node{stays}"),
        ),
        (
            scheduled(asked(), "node-3"),
            |it| {
                it.world.ports_used.insert(("node-3".into(), Hub::Usb2), 1);
                it.attachments_on("node-3")[0].placement = Placement::NoPlace;
            },
            format!(
                "NoFreeUSBIPPort: USB device stick cannot follow: all 1 USB 2.0 USB/IP ports of node node-3 are in use: \
                 detach another USB 2.0 device there, or move the virtual machine{stays}"
            ),
        ),
        (
            scheduled(asked(), "node-3"),
            |it| target(it).deleting = true,
            format!("Failed: the target pod vm-vm-a-{{}} was deleted or has ended{stays}"),
        ),
        (
            asked(),
            |it| {
                target(it).node = Some("node-3".into());
                target(it).trouble = Some(PodTrouble::Ended { code: 1, words: "it has a disk".to_owned() });
            },
            format!("Failed: the target pod: it has failed with code 1 and is started again: it has a disk{stays}"),
        ),
        (
            scheduled(asked(), "node-3"),
            |it| it.world.now += READY_WITHIN,
            format!(
                "Failed: the target was not ready after 300 s: USB device stick: waiting for the kubelet and the agent of \
                 node node-3{stays}"
            ),
        ),
        (
            moving(),
            |it| it.world.nodes.get_mut(&"node-3".into()).unwrap().ready = false,
            format!("Failed: node node-3 is not ready: check the node, its kubelet and its network{stays}"),
        ),
        (
            moving(),
            |it| {
                let key = target_key(it);
                it.world.vm_pods.remove(&key);
            },
            format!("Failed: the target pod vm-vm-a-{{}} was deleted{stays}"),
        ),
        (
            moving(),
            |it| source(it).moving.report = Some(Report::Failed("the connection broke".to_owned())),
            format!("Failed: node node-2: the connection broke{stays}"),
        ),
        (
            moving(),
            |it| target(it).moving.report = Some(Report::Failed("QEMU has ended".to_owned())),
            format!("Failed: node node-3: QEMU has ended{stays}"),
        ),
        (
            moving(),
            |it| it.world.now += MOVED_WITHIN,
            format!("Failed: it has not arrived on node node-3 after 3600 s{stays}"),
        ),
        (
            paused(),
            |it| it.world.now += SWITCHED_WITHIN,
            format!("Failed: it was paused for 30 s and has not arrived on node node-3{stays}"),
        ),
        (
            paused(),
            |it| {
                target(it).moving.report = Some(Report::Loaded);
                source(it).moving.report = Some(Report::Failed("QEMU has ended".to_owned()));
            },
            format!("Failed: node node-2: QEMU has ended{stays}"),
        ),
        (
            paused(),
            |it| target(it).state = PodState::Ended,
            format!("Failed: the target pod vm-vm-a-{{}} was deleted or has ended{stays}"),
        ),
    ];
    for (mut it, change, expected) in cases {
        let suffix = target_key(&it).1.as_str().trim_start_matches("vm-vm-a-").to_owned();
        change(&mut it);
        it.settle();
        it.world.nodes.values_mut().for_each(|n| n.ready = true);
        is_as_before(&mut it, &expected.replace("{}", &suffix));
    }
}

/// Its kubelet has removed what a former agent had published, and the agent has not spoken yet.
#[test]
fn a_node_that_has_not_told_its_ports_yet_is_waited_for() {
    let mut it = scheduled(asked(), "node-3");
    let told = it.world.pools.get(&"node-3".into()).unwrap().clone();
    it.attachments_on("node-3")[0].placement = Placement::NoPlace;
    let pool = it.world.pools.get_mut(&"node-3".into()).unwrap();
    (pool.silent, pool.ports) = (true, vec![]);
    it.settle();
    let of = |it: &Builder| it.world.operations[&("blue".into(), "op".into())].status.clone();
    let status = of(&it);
    assert!(format!("{status:?}").contains("InProgress"), "{status:?}");
    let why =
        "USB device stick cannot follow: node node-3 offers no USB/IP ports: check the pod of Patchbay's agent there";
    assert!(format!("{status:?}").contains(why), "{status:?}");
    it.world.pools.insert("node-3".into(), told);
    it.attachments_on("node-3")[0].placement = Placement::Awaited;
    let it = prepared(it);
    assert!(!format!("{:?}", of(&it)).contains("cannot follow"), "{:?}", of(&it));
}

#[test]
fn an_operation_that_is_deleted_before_the_decision_is_undone_and_goes() {
    let worlds: [fn() -> Builder; 4] = [asked, || scheduled(asked(), "node-3"), moving, paused];
    for begin in worlds {
        let mut it = begin();
        it.world.operations.values_mut().for_each(|o| o.deleting = true);
        it.settle();
        is_as_before(&mut it, "");
        assert!(it.world.operations.is_empty());
    }
}

#[test]
fn an_operation_that_is_deleted_after_the_decision_is_completed() {
    let mut it = decided();
    it.world.operations.values_mut().for_each(|o| o.deleting = true);
    it.settle();
    target(&mut it).moving.report = Some(Report::Running);
    it.settle();
    it.plug_in();
    sweep(&mut it);
    assert!(it.world.operations.is_empty());
    assert_eq!((it.world.vm_pods.len(), it.world.attachments.len()), (1, 1));
    assert_eq!(it.vm_mut("blue", "vm-a").status.node, Some("node-3".into()));
}

#[test]
fn a_move_whose_operation_is_gone_for_good_is_still_undone_or_completed() {
    let worlds: [fn() -> Builder; 4] = [asked, || scheduled(asked(), "node-3"), moving, paused];
    for begin in worlds {
        let mut it = begin();
        it.world.operations.clear();
        it.settle();
        is_as_before(&mut it, "");
    }
    let mut it = decided();
    let key = target_key(&it);
    it.world.operations.clear();
    it.world.vm_pods.get_mut(&key).unwrap().moving.report = Some(Report::Running);
    it.settle();
    it.plug_in();
    sweep(&mut it);
    assert_eq!(it.world.vm_pods.keys().collect::<Vec<_>>(), [&key]);
    assert_eq!(it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");
}

#[test]
fn a_controller_that_knows_nothing_goes_on_from_every_moment() {
    // Every state between two actions of one plan, and every plan repeated.
    let worlds: [fn() -> Builder; 5] = [asked, || scheduled(asked(), "node-3"), moving, paused, decided];
    for begin in worlds {
        let it = begin();
        assert_eq!(it.plan().actions, [], "a settled world gives an empty plan");
    }
}

#[test]
fn a_decision_for_the_target_stands_whatever_happens() {
    type Change = fn(&mut Builder);
    let changes: [Change; 4] = [
        |it| source(it).moving.report = Some(Report::Failed("late".to_owned())),
        |it| it.world.now += MOVED_WITHIN,
        |it| it.world.nodes.get_mut(&"node-3".into()).unwrap().ready = false,
        |it| it.world.nodes.get_mut(&"node-2".into()).unwrap().ready = false,
    ];
    for change in changes {
        let mut it = decided();
        change(&mut it);
        it.settle();
        assert_eq!(decision(&mut it), Some(Decision::Target));
        assert!(it.told("op").starts_with("InProgress Completed=False/TargetResumed"), "{}", it.told("op"));
        assert!(!target(&mut it).deleting);
    }
}

#[test]
fn a_machine_whose_new_pod_dies_is_started_anew_when_both_are_gone() {
    let mut it = decided();
    target(&mut it).deleting = true;
    it.settle();
    assert!(source(&mut it).deleting, "it must not run there again");
    assert!(it.told("op").starts_with("Failed Completed=False/Failed: virtual machine vm-a was moved"));
    let key = target_key(&it);
    it.world.vm_pods.remove(&key);
    assert!(!briefs(&it.settle()).iter().any(|a| a.starts_with("create pod")), "the former pod may still be there");
    sweep(&mut it);
    assert_eq!(it.world.vm_pods.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["vm-vm-a"]);
}

#[test]
fn a_move_to_a_node_that_dies_is_over_though_its_pod_cannot_go() {
    let mut it = moving();
    it.world.nodes.get_mut(&"node-3".into()).unwrap().ready = false;
    it.settle();
    assert_eq!(decision(&mut it), Some(Decision::Source));
    assert!(target(&mut it).deleting, "and its node does not let it go");
    assert!(it.told("op").starts_with("Failed Completed=False/Failed: node node-3 is not ready"), "{}", it.told("op"));
    // Nor does it keep the next one from beginning.
    source(&mut it).moving.report = Some(Report::Failed("called off".to_owned()));
    it.operation("again", OperationKind::Migrate, "vm-a");
    it.settle();
    assert!(it.told("again").starts_with("InProgress"), "{}", it.told("again"));
}

#[test]
fn a_machine_that_is_stopped_on_its_way_stops() {
    let mut it = moving();
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    it.settle();
    assert!(it.told("op").starts_with("InProgress Completed=False/Aborted: the virtual machine is being stopped"));
    sweep(&mut it);
    assert!(it.told("op").starts_with("Failed Completed=False/Aborted"));
    assert!(it.world.vm_pods.is_empty() && it.world.attachments.is_empty());
    assert_eq!(it.vm_mut("blue", "vm-a").status.phase, Some(VmPhase::Stopped));
}

#[test]
fn a_machine_whose_pod_dies_on_its_way_starts_anew_when_the_target_is_gone() {
    let mut it = moving();
    source(&mut it).deleting = true;
    it.settle();
    assert!(it.told("op").contains("went away before it was moved"), "{}", it.told("op"));
    sweep(&mut it);
    assert!(it.told("op").starts_with("Failed"));
    assert_eq!(it.world.vm_pods.len(), 1);
    assert!(source(&mut it).moving.to.is_none(), "another pod of the old name");
}

#[test]
fn a_device_that_is_listed_while_the_machine_moves_waits() {
    let mut it = moving();
    it.plug("key", "node-1");
    it.settle();
    it.assign("key", Some("blue"));
    it.list("blue", "vm-a", &["stick", "key"]);
    it.settle();
    assert_eq!(
        it.machine("blue", "vm-a").lines().nth(1).unwrap(),
        "key attached=false ready=true: waiting until the virtual machine has moved to another node"
    );
    // One that is taken off the list is not brought along.
    it.list("blue", "vm-a", &["key"]);
    it.settle();
    assert!(it.world.attachments.values().all(|a| a.deleting));
}

#[test]
fn a_device_of_the_targets_node_needs_no_port_there_and_one_of_the_sources_does() {
    let mut it = asked();
    it = scheduled(it, "node-1");
    assert_eq!(it.attachments_on("node-1")[0].hub, None);
    let it = world().node("node-1").node("node-2").device("stick", "node-2");
    let mut it = it.assigned("stick", "blue").vm("blue", "vm-a", "node-2", &["stick"]).settled();
    it.operation("op", OperationKind::Evict, "vm-a");
    it.settle();
    let mut it = scheduled(it, "node-1");
    assert_eq!(it.attachments_on("node-1")[0].hub, Some(Hub::Usb2));
}

#[test]
fn a_machine_that_does_not_run_yet_is_waited_for_and_one_that_is_stopped_is_not() {
    let mut it = machine();
    source(&mut it).state = PodState::Pending;
    it.operation("op", OperationKind::Migrate, "vm-a");
    it.settle();
    assert_eq!(
        it.told("op"),
        "Pending Completed=False/MigrationPending: waiting for virtual machine vm-a to run: node node-2 is starting it"
    );
    it.operation("other", OperationKind::Restart, "vm-a");
    it.settle();
    assert!(it.told("other").starts_with("Failed Completed=False/OtherOperationInProgress: operation op (Migrate)"));
    source(&mut it).state = PodState::Running;
    it.settle();
    assert!(it.told("op").starts_with("InProgress"));

    let mut it = machine();
    it.vm_mut("blue", "vm-a").policy = RunPolicy::AlwaysOff;
    sweep(&mut it);
    it.operation("op", OperationKind::Migrate, "vm-a");
    it.settle();
    assert!(it.told("op").starts_with("Failed Completed=False/NotApplicableForVirtualMachineRunPolicy"));
}

#[test]
fn the_next_move_waits_until_the_agent_has_undone_the_last_one() {
    let mut it = moving();
    it.world.operations.values_mut().for_each(|o| o.deleting = true);
    it.settle();
    sweep(&mut it);
    assert!(it.world.operations.is_empty());
    it.operation("op", OperationKind::Migrate, "vm-a");
    it.settle();
    assert_eq!(
        it.told("op"),
        "Pending Completed=False/MigrationPending: waiting until nothing is left of an earlier move: the agent of node node-2 \
         has not yet undone it"
    );
    source(&mut it).moving.report = Some(Report::Failed("called off".to_owned()));
    it.settle();
    it = prepared(scheduled(it, "node-3"));
    assert_eq!((decision(&mut it), source(&mut it).moving.to.is_some()), (None, true));
}

#[test]
fn a_machine_that_has_moved_can_move_back_and_restart() {
    let mut it = decided();
    target(&mut it).moving.report = Some(Report::Running);
    it.settle();
    it.plug_in();
    sweep(&mut it);
    let first = target_key(&it);
    it.world.operations.clear();

    it.operation("op", OperationKind::Migrate, "vm-a");
    it.settle();
    it = prepared(scheduled(it, "node-2"));
    let second = target_key(&it);
    assert_ne!(first, second);
    it.world.vm_pods.get_mut(&second).unwrap().moving.report = Some(Report::Loaded);
    it.settle();
    it.world.vm_pods.get_mut(&second).unwrap().moving.report = Some(Report::Running);
    it.settle();
    it.plug_in();
    sweep(&mut it);
    assert_eq!(
        it.told("op"),
        "Completed Completed=True/OperationCompleted: virtual machine vm-a has moved to node node-2"
    );
    assert_eq!(it.world.vm_pods.keys().collect::<Vec<_>>(), [&second]);
    assert_eq!(it.machine("blue", "vm-a"), "stick attached=true ready=true: attached");

    it.operation("restart", OperationKind::Restart, "vm-a");
    it.settle();
    sweep(&mut it);
    assert_eq!(it.world.vm_pods.keys().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["vm-vm-a"]);
}
