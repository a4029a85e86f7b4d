//! What the agent of the node does from which a machine moves away.

use std::time::Duration;

use super::{Decision, Destination, Guest, Phase, Qemu, Report};

/// Bytes of memory that are kept back until the machine's USB devices are out: more than QEMU can be through with between two
/// looks, and while the guest lets go of them.
pub(super) const KEPT_BACK: u64 = 64 << 20;
/// Bytes of empty memory that a fast processor may be through with in a millisecond, whatever the pace.
const SKIPPED: u64 = 16 << 20;
/// How long a guest that runs may need to let go of a USB device that is gone. Nobody tells when it has, and a guest that is
/// paused before may crash where it goes on.
pub(super) const LET_GO: Duration = Duration::from_secs(1);
/// For how long USB devices may be out of a machine that is still being sent.
pub(super) const OUT: Duration = Duration::from_secs(60);
/// How often to look at QEMU at most, and at least.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(500));
/// How often to look at a QEMU that does not say how far it is.
const UNTOLD: Duration = Duration::from_millis(20);

/// What is seen of a pod whose machine is to move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Where to.
    pub to: Destination,
    /// What has been decided.
    pub decision: Option<Decision>,
    /// What QEMU says; None while it does not answer.
    pub qemu: Option<Qemu>,
    /// The guest has USB devices of ours.
    pub devices: bool,
    /// Some were taken out of this QEMU while it was sending, now or for a former move.
    pub off: bool,
    /// For how long this agent has known that they are out; zero before.
    pub out: Duration,
    /// How fast QEMU was told to send, if this agent has told it.
    pub pace: Option<Pace>,
    /// The mark that the machine has left is there.
    pub marked: bool,
    /// What was said of this very move.
    pub reported: Option<Report>,
    /// What this agent remembers of this move.
    pub memory: Memory,
}

/// How fast memory is sent: the words of `patchbay_qmp::migration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pace {
    /// Next to nothing.
    Crawl,
    /// What the network shall bear, and not to the end.
    Walk,
    /// As fast as it goes, and to the end.
    Run,
}

/// What an agent remembers of a move.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Memory {
    /// Nothing: it was restarted, or has not begun.
    #[default]
    Nothing,
    /// It was the first to report the move, and has done nothing else.
    Announced,
    /// It calls the other agent.
    Calling,
    /// It has had QEMU begin.
    Begun,
    /// A step has failed.
    Failed(String),
}

/// One step. All are idempotent; when one fails, those after it are left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceStep {
    /// Call the agent of the destination's node, and have QEMU send.
    Call,
    /// Give up the call.
    HangUp,
    /// Write the mark that keeps the engine from starting the machine again.
    Mark,
    /// Take the mark back.
    Unmark,
    /// Have QEMU send this fast.
    Go(Pace),
    /// Take the USB devices out of the guest, which runs.
    TakeOut,
    /// Have QEMU send the rest.
    Proceed,
    /// Have QEMU give up.
    Cancel,
    /// Pause a guest that must not run here.
    Pause,
    /// Let the paused guest run on.
    Resume,
    /// Say it.
    Report(Report),
}

/// Decides what to do, in order.
pub fn source(seen: &Source) -> Vec<SourceStep> {
    let mut steps = Vec::new();
    if seen.memory == Memory::Calling && (seen.decision.is_some() || failed(seen)) {
        steps.push(SourceStep::HangUp);
    }
    match seen.decision {
        Some(Decision::Target) => leave(seen, &mut steps),
        Some(Decision::Source) => stay(seen, &mut steps),
        None => go(seen, &mut steps),
    }
    steps
}

/// Whether it was said that the move has failed.
fn failed(seen: &Source) -> bool {
    matches!(seen.reported, Some(Report::Failed(_)))
}

/// The machine runs elsewhere.
fn leave(seen: &Source, steps: &mut Vec<SourceStep>) {
    mark(seen, steps);
    // It cannot, but if it does it is there twice.
    if seen.qemu.as_ref().is_some_and(|qemu| qemu.guest == Guest::Runs) {
        steps.push(SourceStep::Pause);
    }
}

/// The machine stays.
fn stay(seen: &Source, steps: &mut Vec<SourceStep>) {
    if seen.marked {
        steps.push(SourceStep::Unmark);
    }
    match &seen.qemu {
        Some(Qemu { phase: Phase::Active | Phase::PreSwitchover | Phase::Device, .. }) => {
            steps.push(SourceStep::Cancel)
        }
        Some(Qemu { guest: Guest::Paused, phase, .. }) if !phase.is_under_way() => steps.push(SourceStep::Resume),
        _ => {}
    }
    // The machine comes first.
    if !failed(seen) {
        steps.push(SourceStep::Report(Report::Failed("the move was called off".to_owned())));
    }
}

/// Nothing is decided.
fn go(seen: &Source, steps: &mut Vec<SourceStep>) {
    let fail = |steps: &mut Vec<SourceStep>, why: &str| {
        steps.push(SourceStep::Report(Report::Failed(why.to_owned())));
    };
    if failed(seen) {
        return;
    }
    if let Memory::Failed(why) = &seen.memory {
        return fail(steps, why);
    }
    let Some(qemu) = &seen.qemu else { return };
    let announced = seen.reported.is_some();
    match (qemu.phase, &seen.memory) {
        (_, Memory::Calling) => {}
        (Phase::None | Phase::Ended, _) | (Phase::Completed, _) if !announced => {
            steps.push(SourceStep::Report(Report::Moving(None)));
        }
        // QEMU remembers former moves: what it says then is not of this one.
        (Phase::None, Memory::Nothing) | (Phase::None | Phase::Ended | Phase::Completed, Memory::Announced) => {
            steps.push(SourceStep::Call);
        }
        (Phase::Completed, _) if qemu.guest != Guest::Runs => pause(seen, steps),
        (Phase::Completed | Phase::Ended, Memory::Nothing) => {
            fail(steps, "the agent of the node was restarted while the move began or failed");
        }
        (Phase::None | Phase::Ended | Phase::Completed, _) => {
            fail(
                steps,
                qemu.error
                    .as_deref()
                    .unwrap_or("the virtual machine could not be sent: the connection broke, or the other side failed"),
            );
        }
        (Phase::Active, _) if seen.out > OUT => {
            fail(steps, "the guest changes its memory faster than it can be sent; try again when it is less busy");
        }
        (Phase::Active, _) => {
            mark(seen, steps);
            send(seen, qemu.left, steps);
            if seen.reported != Some(Report::Moving(qemu.percent)) {
                steps.push(SourceStep::Report(Report::Moving(qemu.percent)));
            }
        }
        (Phase::PreSwitchover, _) if seen.devices || (seen.off && seen.pace != Some(Pace::Run)) => {
            fail(
                steps,
                "the machine was sent before its guest had let go of its USB devices: the node is too busy, or its agent was \
                 restarted; try again",
            );
        }
        (Phase::PreSwitchover, _) => {
            mark(seen, steps);
            steps.push(SourceStep::Proceed);
            pause(seen, steps);
        }
        (Phase::Device, _) => pause(seen, steps),
        (Phase::Ending, _) => {}
    }
}

/// While memory goes: the devices stay in until little of it is left, and are out before that goes.
fn send(seen: &Source, left: Option<u64>, steps: &mut Vec<SourceStep>) {
    let pace = match left {
        _ if !seen.devices && seen.off && seen.out < LET_GO => return,
        _ if !seen.devices => Pace::Run,
        None => return,
        Some(left) if left > KEPT_BACK => Pace::Walk,
        Some(_) => Pace::Crawl,
    };
    if seen.pace != Some(pace) {
        steps.push(SourceStep::Go(pace));
    }
    if pace == Pace::Crawl {
        steps.push(SourceStep::TakeOut);
    }
}

/// How soon to look again when nothing was to be done: at a machine with devices before QEMU could have sent what is kept back,
/// at a guest that lets go of them when its time is over.
#[must_use]
pub fn look_again(seen: &Source) -> Duration {
    let (soon, late) = LOOKS;
    match &seen.qemu {
        Some(Qemu { phase: Phase::Active, left, .. }) if seen.devices && seen.decision.is_none() => {
            let time = |left: u64| Duration::from_millis(left.saturating_sub(KEPT_BACK) / SKIPPED);
            left.map_or(UNTOLD, |left| time(left).clamp(soon, late))
        }
        Some(Qemu { phase: Phase::Active, .. }) if seen.off && seen.out < LET_GO => {
            LET_GO.saturating_sub(seen.out).clamp(soon, late)
        }
        _ => late,
    }
}

/// Before the pause, which a slow disk would make longer.
fn mark(seen: &Source, steps: &mut Vec<SourceStep>) {
    if !seen.marked {
        steps.push(SourceStep::Mark);
    }
}

fn pause(seen: &Source, steps: &mut Vec<SourceStep>) {
    if seen.reported != Some(Report::Paused) {
        steps.push(SourceStep::Report(Report::Paused));
    }
}
