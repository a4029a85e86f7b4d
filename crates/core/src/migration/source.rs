//! What the agent of the node does from which a machine moves away.

use super::{Decision, Destination, Guest, Phase, Qemu, Report};

/// What is seen of a pod whose machine is to move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Where to.
    pub to: Destination,
    /// What has been decided.
    pub decision: Option<Decision>,
    /// What QEMU says; None while it does not answer.
    pub qemu: Option<Qemu>,
    /// The mark that the machine has left is there.
    pub marked: bool,
    /// What was said of this very move.
    pub reported: Option<Report>,
    /// What this agent remembers of this move.
    pub memory: Memory,
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
    let mut fail = |why: &str| steps.push(SourceStep::Report(Report::Failed(why.to_owned())));
    if failed(seen) {
        return;
    }
    if let Memory::Failed(why) = &seen.memory {
        return fail(why);
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
            fail("the agent of the node was restarted while the move began or failed");
        }
        (Phase::None | Phase::Ended | Phase::Completed, _) => {
            fail(
                qemu.error
                    .as_deref()
                    .unwrap_or("the virtual machine could not be sent: the connection broke, or the other side failed"),
            );
        }
        (Phase::Active, _) => {
            mark(seen, steps);
            if seen.reported != Some(Report::Moving(qemu.percent)) {
                steps.push(SourceStep::Report(Report::Moving(qemu.percent)));
            }
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
