//! What the agent of the node does to which a machine moves.

use super::{Decision, Guest, Phase, Qemu, Report};

/// What is seen of a pod that was made for a move.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// What has been decided: an annotation of the pod that the machine comes from.
    pub decision: Option<Decision>,
    /// What QEMU says; None while it does not answer.
    pub qemu: Option<Qemu>,
    /// The mark that the machine has arrived is there.
    pub marked: bool,
    /// What was said.
    pub reported: Option<Report>,
    /// QEMU could not be told to load, or has ended since it was, and why. A QEMU that was told says so only when the first
    /// bytes come.
    pub failed: Option<String>,
}

/// One step. All are idempotent; when one fails, those after it are left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetStep {
    /// Write the mark that lets the engine start the machine anew after a crash.
    Mark,
    /// Let the loaded guest run.
    Run,
    /// End a QEMU that waits for what has come and gone: the engine starts the machine anew.
    Quit,
    /// Say it.
    Report(Report),
}

/// Decides what to do, in order.
pub fn target(seen: &Target) -> Vec<TargetStep> {
    match seen.decision {
        Some(Decision::Target) => arrive(seen),
        // The controller takes this pod away.
        Some(Decision::Source) => Vec::new(),
        None => load(seen).into_iter().map(TargetStep::Report).collect(),
    }
}

fn arrive(seen: &Target) -> Vec<TargetStep> {
    let mut steps = Vec::new();
    if !seen.marked {
        steps.push(TargetStep::Mark);
    }
    match seen.qemu.as_ref().map(|qemu| (qemu.guest, qemu.phase)) {
        Some((Guest::Paused, Phase::Completed)) => {
            steps.push(TargetStep::Run);
            running(seen, &mut steps);
        }
        // The QEMU that had it has died before it was let run.
        Some((Guest::Awaited, Phase::None)) => steps.push(TargetStep::Quit),
        Some((Guest::Runs | Guest::Other, _)) => running(seen, &mut steps),
        _ => {}
    }
    steps
}

fn running(seen: &Target, steps: &mut Vec<TargetStep>) {
    if seen.reported != Some(Report::Running) {
        steps.push(TargetStep::Report(Report::Running));
    }
}

fn load(seen: &Target) -> Option<Report> {
    if matches!(seen.reported, Some(Report::Failed(_))) {
        return None;
    }
    if let Some(why) = &seen.failed {
        return Some(Report::Failed(why.clone()));
    }
    match &seen.qemu {
        None => None,
        Some(Qemu { phase: Phase::Completed, guest: Guest::Paused, .. }) => {
            (seen.reported != Some(Report::Loaded)).then_some(Report::Loaded)
        }
        // A QEMU that knows of no migration is not the one that had it.
        Some(Qemu { phase: Phase::None, .. }) if seen.reported == Some(Report::Loaded) => {
            Some(Report::Failed("QEMU has ended after it had loaded the virtual machine".to_owned()))
        }
        Some(Qemu { phase: Phase::Ended, error, .. }) => {
            let why = error.clone().unwrap_or_else(|| "QEMU could not load the virtual machine".to_owned());
            Some(Report::Failed(why))
        }
        Some(_) => None,
    }
}
