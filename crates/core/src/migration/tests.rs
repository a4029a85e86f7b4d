use std::time::Duration;

use super::source::{KEPT_BACK, LET_GO, OUT};
use super::*;

mod explorer;

const QEMU: Qemu = Qemu { phase: Phase::None, percent: None, left: None, error: None, guest: Guest::Runs };

fn qemu(phase: Phase, guest: Guest) -> Option<Qemu> {
    Some(Qemu { phase, guest, ..QEMU })
}

fn leaving() -> Source {
    Source {
        to: Destination { name: "vm-a-x".into(), uid: "t".into() },
        decision: None,
        qemu: Some(QEMU),
        devices: false,
        off: false,
        out: Duration::ZERO,
        pace: Some(Pace::Run),
        marked: false,
        reported: None,
        memory: Memory::Nothing,
    }
}

fn why(steps: &[SourceStep]) -> &str {
    let [SourceStep::Report(Report::Failed(why))] = steps else { panic!("{steps:?}") };
    why
}

#[test]
fn a_move_is_announced_before_anything_is_done() {
    let mut seen = leaving();
    assert_eq!(source(&seen), [SourceStep::Report(Report::Moving(None))]);
    seen.reported = Some(Report::Moving(None));
    for (memory, phase) in [
        (Memory::Announced, Phase::None),
        // A former move came to nothing.
        (Memory::Announced, Phase::Ended),
        // Restarted before the call.
        (Memory::Nothing, Phase::None),
    ] {
        let seen = Source { memory, qemu: qemu(phase, Guest::Runs), ..seen.clone() };
        assert_eq!(source(&seen), [SourceStep::Call], "{seen:?}");
    }
    seen.memory = Memory::Calling;
    assert_eq!(source(&seen), []);
}

#[test]
fn how_much_is_sent_is_said_when_it_has_changed() {
    let active = |percent, reported| {
        let qemu = Some(Qemu { phase: Phase::Active, percent, ..QEMU });
        source(&Source { qemu, marked: true, memory: Memory::Begun, reported: Some(reported), ..leaving() })
    };
    assert_eq!(active(Some(7), Report::Moving(None)), [SourceStep::Report(Report::Moving(Some(7)))]);
    assert_eq!(active(Some(7), Report::Moving(Some(7))), []);
    let reported = Some(Report::Moving(None));
    let begun = Source { qemu: qemu(Phase::Active, Guest::Runs), memory: Memory::Begun, reported, ..leaving() };
    assert_eq!(source(&begun), [SourceStep::Mark], "while there is time");
}

#[test]
fn devices_stay_in_until_little_is_left_and_are_out_before_that_is_sent() {
    use SourceStep::{Go, TakeOut};
    let reported = Some(Report::Moving(None));
    let active = |left, devices, pace| {
        let qemu = Some(Qemu { phase: Phase::Active, left, ..QEMU });
        let reported = reported.clone();
        source(&Source { qemu, devices, pace, marked: true, memory: Memory::Begun, reported, ..leaving() })
    };
    let (crawls, walks, runs) = (Some(Pace::Crawl), Some(Pace::Walk), Some(Pace::Run));
    for (left, devices, pace, expected) in [
        (None, true, crawls, vec![]),
        (Some(1 << 30), true, crawls, vec![Go(Pace::Walk)]),
        (Some(1 << 30), true, None, vec![Go(Pace::Walk)]),
        (Some(1 << 30), true, walks, vec![]),
        (Some(KEPT_BACK), true, walks, vec![Go(Pace::Crawl), TakeOut]),
        // A small machine, and one whose agent was restarted.
        (Some(0), true, crawls, vec![TakeOut]),
        (Some(0), true, None, vec![Go(Pace::Crawl), TakeOut]),
        (Some(KEPT_BACK), false, crawls, vec![Go(Pace::Run)]),
        (Some(1 << 40), false, None, vec![Go(Pace::Run)]),
        (None, false, runs, vec![]),
    ] {
        assert_eq!(active(left, devices, pace), expected, "{left:?} {devices} {pace:?}");
    }
    let late = Source { qemu: qemu(Phase::PreSwitchover, Guest::Paused), devices: true, reported, ..leaving() };
    assert!(why(&source(&late)).contains("before its guest had let go"), "never with devices in");
    let paused = Source { devices: false, off: true, ..late.clone() };
    for pace in [None, crawls, walks] {
        let early = Source { pace, ..paused.clone() };
        assert!(why(&source(&early)).contains("before its guest had let go"), "paused too early: {pace:?}");
    }
    assert!(source(&Source { pace: runs, ..paused }).contains(&SourceStep::Proceed));
    let active = Source { qemu: qemu(Phase::Active, Guest::Runs), devices: false, marked: true, ..late };
    assert_eq!(source(&Source { out: OUT, ..active.clone() }), []);
    let busy = Source { out: OUT + Duration::from_millis(1), ..active };
    assert!(why(&source(&busy)).contains("faster than it can be sent"), "they are not away for ever");
}

#[test]
fn a_guest_has_the_time_to_let_go_of_its_devices() {
    let nearly = LET_GO.saturating_sub(Duration::from_millis(100));
    let reported = Some(Report::Moving(None));
    let qemu = Some(Qemu { phase: Phase::Active, left: Some(0), ..QEMU });
    let seen = Source { qemu, off: true, pace: Some(Pace::Crawl), marked: true, reported, out: nearly, ..leaving() };
    assert_eq!((source(&seen), look_again(&seen)), (vec![], Duration::from_millis(100)));
    // Also when the agent was restarted meanwhile.
    let restarted = Source { out: Duration::ZERO, pace: None, ..seen.clone() };
    assert_eq!(source(&restarted), []);
    assert_eq!(source(&Source { out: LET_GO, ..seen }), [SourceStep::Go(Pace::Run)]);
}

#[test]
fn the_last_of_the_memory_is_never_far_ahead_of_the_looks() {
    let look = |left, devices| {
        let qemu = Some(Qemu { phase: Phase::Active, left, ..QEMU });
        look_again(&Source { qemu, devices, ..leaving() }).as_millis()
    };
    let looks = [None, Some(1 << 40), Some(1 << 30), Some(KEPT_BACK + 1), Some(0)].map(|left| look(left, true));
    assert_eq!(looks, [20, 500, 60, 2, 2]);
    assert_eq!(look(Some(0), false), 500, "nothing is to be taken out");
}

#[test]
fn in_the_pause_the_mark_comes_first_then_the_rest() {
    let reported = Some(Report::Moving(Some(99)));
    let paused = Source { qemu: qemu(Phase::PreSwitchover, Guest::Paused), reported, ..leaving() };
    let rest = [SourceStep::Proceed, SourceStep::Report(Report::Paused)];
    // Also after a restart.
    for memory in [Memory::Begun, Memory::Nothing] {
        let seen = Source { memory, ..paused.clone() };
        assert_eq!(source(&seen), [&[SourceStep::Mark], rest.as_slice()].concat());
        assert_eq!(source(&Source { marked: true, ..seen }), rest);
    }
}

#[test]
fn when_all_is_sent_nothing_is_done_before_the_decision() {
    for phase in [Phase::Device, Phase::Completed] {
        for memory in [Memory::Begun, Memory::Nothing] {
            let reported = Some(Report::Paused);
            let seen = Source { qemu: qemu(phase, Guest::Paused), memory, marked: true, reported, ..leaving() };
            assert_eq!(source(&seen), [], "{seen:?}");
        }
    }
}

#[test]
fn each_failure_is_said_once_and_nothing_else_is_done() {
    let begun = Source { reported: Some(Report::Moving(None)), memory: Memory::Begun, ..leaving() };
    let broken = Some(Qemu { phase: Phase::Ended, error: Some("Broken pipe".to_owned()), ..QEMU });
    for (what, seen, expected) in [
        (
            "the call failed",
            Source { memory: Memory::Failed("no such pod".to_owned()), ..begun.clone() },
            "no such pod",
        ),
        ("QEMU failed", Source { qemu: broken, ..begun.clone() }, "Broken pipe"),
        ("QEMU was started anew", Source { qemu: Some(QEMU), ..begun.clone() }, "the connection broke"),
        (
            "a restart leaves a doubt",
            Source { qemu: qemu(Phase::Ended, Guest::Runs), memory: Memory::Nothing, ..begun.clone() },
            "was restarted",
        ),
        (
            "a former move, and a restart",
            Source { qemu: qemu(Phase::Completed, Guest::Runs), memory: Memory::Nothing, ..begun.clone() },
            "was restarted",
        ),
    ] {
        let steps = source(&seen);
        assert!(why(&steps).contains(expected), "{what}: {steps:?}");
        let said = Source { reported: Some(Report::Failed(expected.to_owned())), ..seen };
        assert_eq!(source(&said), [], "{what}");
    }
    let paused = Source { qemu: qemu(Phase::PreSwitchover, Guest::Paused), ..begun };
    let stuck = Source { reported: Some(Report::Failed("a device".to_owned())), ..paused };
    assert_eq!(source(&stuck), [], "a paused machine waits for the decision");
}

#[test]
fn a_monitor_that_does_not_answer_is_waited_for() {
    let silent = Source { qemu: None, ..leaving() };
    assert_eq!(source(&silent), []);
}

#[test]
fn when_the_machine_stays_all_is_taken_back() {
    let said = Source { decision: Some(Decision::Source), reported: Some(Report::Failed("x".to_owned())), ..leaving() };
    for (phase, guest, marked, expected) in [
        (Phase::None, Guest::Runs, false, vec![]),
        (Phase::Active, Guest::Runs, false, vec![SourceStep::Cancel]),
        (Phase::PreSwitchover, Guest::Paused, true, vec![SourceStep::Unmark, SourceStep::Cancel]),
        (Phase::Device, Guest::Paused, true, vec![SourceStep::Unmark, SourceStep::Cancel]),
        (Phase::Ending, Guest::Paused, true, vec![SourceStep::Unmark]),
        (Phase::Completed, Guest::Paused, false, vec![SourceStep::Resume]),
        (Phase::Ended, Guest::Paused, false, vec![SourceStep::Resume]),
        (Phase::Ended, Guest::Other, false, vec![]),
        (Phase::Ended, Guest::Runs, false, vec![]),
    ] {
        let seen = Source { qemu: qemu(phase, guest), marked, ..said.clone() };
        assert_eq!(source(&seen), expected, "{seen:?}");
    }
    let dead = Source { qemu: None, marked: true, ..said.clone() };
    assert_eq!(source(&dead), [SourceStep::Unmark], "so that its engine starts it again");
    let called = Source { memory: Memory::Calling, reported: None, ..said };
    let off = SourceStep::Report(Report::Failed("the move was called off".to_owned()));
    assert_eq!(source(&called), [SourceStep::HangUp, off]);
}

#[test]
fn when_the_machine_has_left_it_is_marked_and_never_runs_here() {
    let gone = Source { decision: Some(Decision::Target), reported: Some(Report::Paused), ..leaving() };
    let paused = Source { qemu: qemu(Phase::Completed, Guest::Paused), ..gone.clone() };
    assert_eq!(source(&paused), [SourceStep::Mark]);
    assert_eq!(source(&Source { marked: true, ..paused }), []);
    let twice = Source { marked: true, qemu: qemu(Phase::Ended, Guest::Runs), ..gone.clone() };
    assert_eq!(source(&twice), [SourceStep::Pause]);
    assert_eq!(source(&Source { marked: true, qemu: None, ..gone }), []);
}

fn awaiting() -> Target {
    Target { decision: None, qemu: qemu(Phase::None, Guest::Awaited), marked: false, reported: None, failed: None }
}

#[test]
fn a_target_says_when_the_machine_is_loaded_and_when_it_cannot_be() {
    let says = |seen: Target| match target(&seen).as_slice() {
        [] => None,
        [TargetStep::Report(report)] => Some(report.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(says(awaiting()), None);
    assert_eq!(says(Target { qemu: None, ..awaiting() }), None);
    assert_eq!(says(Target { qemu: qemu(Phase::Active, Guest::Awaited), ..awaiting() }), None);
    let loaded = Target { qemu: qemu(Phase::Completed, Guest::Paused), ..awaiting() };
    assert_eq!(says(loaded.clone()), Some(Report::Loaded));
    assert_eq!(says(Target { reported: Some(Report::Loaded), ..loaded }), None);
    let failed = |seen: Target| matches!(says(seen), Some(Report::Failed(_)));
    assert!(
        failed(Target { reported: Some(Report::Loaded), ..awaiting() }),
        "another QEMU, after a restart of the agent"
    );
    assert!(failed(Target { qemu: qemu(Phase::Ended, Guest::Awaited), ..awaiting() }));
    assert!(failed(Target { failed: Some("no".to_owned()), ..awaiting() }));
    assert_eq!(says(Target { reported: Some(Report::Failed("no".to_owned())), ..awaiting() }), None);
}

#[test]
fn a_target_runs_the_machine_when_it_is_decided_and_not_before() {
    let loaded = Target { qemu: qemu(Phase::Completed, Guest::Paused), reported: Some(Report::Loaded), ..awaiting() };
    let decided = Target { decision: Some(Decision::Target), ..loaded.clone() };
    assert_eq!(target(&decided), [TargetStep::Mark, TargetStep::Run, TargetStep::Report(Report::Running)]);
    let resumed = Target { marked: true, qemu: qemu(Phase::Completed, Guest::Runs), ..decided.clone() };
    assert_eq!(target(&resumed), [TargetStep::Report(Report::Running)]);
    assert_eq!(target(&Target { reported: Some(Report::Running), ..resumed }), []);
    let lost = Target { qemu: qemu(Phase::None, Guest::Awaited), ..decided };
    assert_eq!(target(&lost), [TargetStep::Mark, TargetStep::Quit], "it starts anew, like any machine after a crash");
    assert_eq!(target(&Target { decision: Some(Decision::Source), ..loaded }), []);
}

fn pod(name: &str, uid: &str, node: &str) -> Pod {
    Pod {
        pod: PodRef { namespace: "ns".into(), name: name.into(), uid: uid.into() },
        vm: "a".into(),
        node: Some(node.into()),
        running: true,
        deleting: false,
        from: None,
        to: None,
        decision: None,
        reported: None,
    }
}

/// The judgement after a change of the two pods.
fn judge(change: impl FnOnce(&mut Option<Pod>, &mut Option<Pod>)) -> Verdict {
    let (mut s, mut t) = (pod("vm-a", "s", "node-1"), pod("vm-a-x", "t", "node-2"));
    let request = Request { peer: "node-1".into(), source: s.pod.clone(), target: t.pod.clone() };
    s.to = Some(Destination { name: "vm-a-x".into(), uid: "t".into() });
    t.from = Some("s".into());
    let (mut s, mut t) = (Some(s), Some(t));
    change(&mut s, &mut t);
    authorise(&"node-2".into(), &request, s.as_ref(), t.as_ref())
}

#[test]
fn a_move_that_both_pods_ask_for_is_granted() {
    assert_eq!(judge(|_, _| {}), Verdict::Grant);
}

#[test]
fn any_other_move_is_denied() {
    type Change = fn(&mut Pod, &mut Pod);
    let cases: [(&str, Change); 16] = [
        ("another target of that name", |_, t| t.pod.uid = "u".into()),
        ("another source of that name", |s, _| s.pod.uid = "u".into()),
        ("the target is elsewhere", |_, t| t.node = Some("node-3".into())),
        ("the target is nowhere", |_, t| t.node = None),
        ("the target does not run", |_, t| t.running = false),
        ("the target goes", |_, t| t.deleting = true),
        ("the caller has not the source", |s, _| s.node = Some("node-3".into())),
        ("the source goes", |s, _| s.deleting = true),
        ("two machines", |_, t| t.vm = "b".into()),
        ("not made for a move", |_, t| t.from = None),
        ("made for another", |_, t| t.from = Some("u".into())),
        ("not asked to move", |s, _| s.to = None),
        ("asked to move to another", |s, _| s.to.as_mut().unwrap().uid = "u".into()),
        ("asked to move to another name", |s, _| s.to.as_mut().unwrap().name = "vm-a-y".into()),
        ("it stays", |s, _| s.decision = Some(Decision::Source)),
        ("it has left", |s, _| s.decision = Some(Decision::Target)),
    ];
    for (what, change) in cases {
        let verdict = judge(|s, t| change(s.as_mut().unwrap(), t.as_mut().unwrap()));
        assert!(matches!(verdict, Verdict::Deny(_)), "{what}");
    }
    assert!(matches!(judge(|s, _| *s = None), Verdict::Deny(_)));
    assert!(matches!(judge(|_, t| *t = None), Verdict::Deny(_)));
}

#[test]
fn reports_and_decisions_are_read_back() {
    for report in [
        Report::Moving(None),
        Report::Moving(Some(43)),
        Report::Paused,
        Report::Loaded,
        Report::Running,
        Report::Failed("it broke".to_owned()),
    ] {
        assert_eq!(Report::parse(report.reason(), &report.message()), Some(report));
    }
    assert_eq!(Report::parse("Flying", ""), None);
    for decision in [Decision::Source, Decision::Target] {
        assert_eq!(Decision::parse(decision.as_str()), Some(decision));
    }
    assert_eq!(Decision::parse("perhaps"), None);
}

#[test]
fn what_was_said_of_another_move_is_not_said_of_this_one() {
    let mut s = pod("vm-a", "s", "node-1");
    s.to = Some(Destination { name: "vm-a-y".into(), uid: "u".into() });
    s.reported = Some(("vm-a-x".into(), Report::Failed("x".to_owned())));
    assert_eq!(s.report(), None);
    s.reported = Some(("vm-a-y".into(), Report::Paused));
    assert_eq!(s.report(), Some(&Report::Paused));
}
