//! Visits every world that a move can reach, with links cut, QEMUs killed and agents restarted between any two steps, and with
//! the decision taken at any moment at which it may be taken.

use std::collections::BTreeSet;

use super::*;

/// Faults that may happen in one life.
const FAULTS: u8 = 2;

/// One side's QEMU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Side {
    /// It is there.
    alive: bool,
    phase: Phase,
    guest: Guest,
    marked: bool,
    reported: Option<Report>,
}

impl Side {
    fn qemu(&self) -> Option<Qemu> {
        self.alive.then_some(Qemu { phase: self.phase, guest: self.guest, ..QEMU })
    }

    fn runs(&self) -> bool {
        self.alive && self.guest == Guest::Runs
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    s: Side,
    memory: Memory,
    /// The guest has devices at S; they were in it when the whole of it had left.
    devices: bool,
    sent_with_devices: bool,
    /// They were taken out, and the guest has let go of them, or it was paused before.
    off: bool,
    let_go: bool,
    paused_early: bool,
    /// The agent has waited for that.
    waited: bool,
    /// Little of its memory is left to send.
    near: bool,
    pace: Option<Pace>,
    t: Side,
    /// T's QEMU was given the connection.
    given: bool,
    /// T's agent knows that.
    begun: bool,
    failed: Option<String>,
    /// The connection holds.
    link: bool,
    /// The whole of the machine has left S.
    all_sent: bool,
    decision: Option<Decision>,
    faults: u8,
}

impl World {
    fn new() -> Self {
        let side = |guest| Side { alive: true, phase: Phase::None, guest, marked: false, reported: None };
        Self {
            s: side(Guest::Runs),
            memory: Memory::Nothing,
            devices: true,
            sent_with_devices: false,
            off: false,
            let_go: false,
            paused_early: false,
            waited: false,
            near: false,
            pace: None,
            t: side(Guest::Awaited),
            given: false,
            begun: false,
            failed: None,
            link: false,
            all_sent: false,
            decision: None,
            faults: 0,
        }
    }

    fn source_steps(&self) -> Vec<SourceStep> {
        let (decision, memory) = (self.decision, self.memory.clone());
        let (marked, reported) = (self.s.marked, self.s.reported.clone());
        let left = Some(if self.near { 0 } else { u64::MAX });
        let qemu = self.s.qemu().map(|qemu| Qemu { left, ..qemu });
        let (devices, pace) = (self.devices, self.pace);
        let (off, out) = (self.off, if self.waited { LET_GO } else { Duration::ZERO });
        source(&Source { decision, qemu, devices, off, out, pace, marked, reported, memory, to: leaving().to })
    }

    fn target_steps(&self) -> Vec<TargetStep> {
        target(&Target {
            decision: self.decision,
            qemu: self.t.qemu(),
            marked: self.t.marked,
            reported: self.t.reported.clone(),
            failed: self.failed.clone(),
        })
    }

    fn at_source(&mut self, step: &SourceStep) {
        match step {
            SourceStep::Call => self.memory = Memory::Calling,
            SourceStep::HangUp => self.memory = Memory::Failed("given up".to_owned()),
            SourceStep::Mark => self.s.marked = true,
            SourceStep::Unmark => self.s.marked = false,
            SourceStep::Go(pace) => self.pace = Some(*pace),
            SourceStep::TakeOut => {
                (self.devices, self.off) = (false, true);
                self.paused_early |= self.s.guest == Guest::Paused;
            }
            SourceStep::Proceed => self.s.phase = Phase::Device,
            SourceStep::Cancel => {
                self.link = false;
                (self.s.phase, self.s.guest) = (Phase::Ended, Guest::Runs);
            }
            SourceStep::Pause => self.s.guest = Guest::Paused,
            SourceStep::Resume => self.s.guest = Guest::Runs,
            SourceStep::Report(report) => {
                if self.memory == Memory::Nothing && self.s.reported.is_none() {
                    self.memory = Memory::Announced;
                }
                self.s.reported = Some(report.clone());
            }
        }
    }

    fn at_target(&mut self, step: &TargetStep) {
        match step {
            TargetStep::Mark => self.t.marked = true,
            TargetStep::Run => self.t.guest = Guest::Runs,
            TargetStep::Quit => self.target_dies(),
            TargetStep::Report(report) => self.t.reported = Some(report.clone()),
        }
    }

    /// The engine starts the machine again, unless it has left.
    fn source_dies(&mut self) {
        self.link = false;
        (self.s.alive, self.s.phase, self.s.guest) = (!self.s.marked, Phase::None, Guest::Runs);
        (self.near, self.devices, self.off, self.paused_early) = (false, false, false, false);
    }

    /// The engine waits anew, or starts the machine if it has arrived.
    fn target_dies(&mut self) {
        (self.link, self.given) = (false, false);
        if self.begun {
            self.failed = Some("QEMU has ended".to_owned());
        }
        self.t.phase = Phase::None;
        self.t.guest = if self.t.marked { Guest::Runs } else { Guest::Awaited };
    }

    /// What happens by itself, sooner or later.
    fn nature(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut then = |change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            next.push(world);
        };
        if self.memory == Memory::Calling {
            then(&|w| w.memory = Memory::Failed("denied".to_owned()));
            if self.s.alive && self.t.alive && !self.given && self.t.phase == Phase::None && self.decision.is_none() {
                then(&|w| {
                    (w.memory, w.given, w.begun, w.link) = (Memory::Begun, true, true, true);
                    (w.s.phase, w.pace) = (Phase::Active, Some(Pace::Crawl));
                });
            }
        }
        if self.s.alive {
            match self.s.phase {
                Phase::Active if !self.link => then(&|w| w.s.phase = Phase::Ended),
                // It may be faster than anybody looks.
                Phase::Active => {
                    then(&|w| w.near = true);
                    // The wait is longer than the guest needs.
                    then(&|w| (w.let_go, w.waited) = (w.let_go || w.off, w.waited || w.off));
                    then(&|w| {
                        w.paused_early |= w.off && !w.let_go;
                        (w.s.phase, w.s.guest) = (Phase::PreSwitchover, Guest::Paused);
                    });
                }
                Phase::Device if self.all_sent => then(&|w| w.s.phase = Phase::Completed),
                // QEMU resumes a guest that it could not send.
                Phase::Device if !self.link => then(&|w| (w.s.phase, w.s.guest) = (Phase::Ended, Guest::Runs)),
                Phase::Device => then(&|w| (w.all_sent, w.sent_with_devices) = (true, w.devices || w.paused_early)),
                _ => {}
            }
        } else if self.s.marked {
            if self.decision.is_none() {
                then(&|w| w.memory = Memory::Failed("it does not answer".to_owned()));
            }
        } else {
            then(&|w| w.s.alive = true);
        }
        if self.given && self.t.phase == Phase::None {
            if self.link {
                then(&|w| w.t.phase = Phase::Active);
            } else {
                then(&Self::target_dies);
            }
        }
        if self.t.phase == Phase::Active {
            if self.all_sent {
                then(&|w| (w.t.phase, w.t.guest) = (Phase::Completed, Guest::Paused));
            } else if !self.link {
                then(&Self::target_dies);
            }
        }
        next.retain(|world| world != self);
        next
    }

    /// All of the agents' plans, broken off after any step.
    fn agents(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut world = self.clone();
        for step in self.source_steps() {
            world.at_source(&step);
            next.push(world.clone());
        }
        let mut world = self.clone();
        for step in self.target_steps() {
            world.at_target(&step);
            next.push(world.clone());
        }
        next
    }

    fn faults(&self) -> Vec<Self> {
        let changes: [&dyn Fn(&mut Self); 5] = [
            &|w| w.link = false,
            &Self::source_dies,
            &Self::target_dies,
            &|w| (w.memory, w.pace) = (Memory::Nothing, None),
            &|w| (w.begun, w.failed) = (false, None),
        ];
        let fault = |change: &&dyn Fn(&mut Self)| {
            let mut world = Self { faults: self.faults + 1, ..self.clone() };
            change(&mut world);
            world
        };
        if self.faults < FAULTS { changes.iter().map(fault).collect() } else { Vec::new() }
    }

    /// The controller decides once: for T only when it has been loaded, for S at any moment.
    fn decisions(&self) -> Vec<Self> {
        let mut next = Vec::new();
        if self.decision.is_none() {
            next.push(Self { decision: Some(Decision::Source), ..self.clone() });
            if self.t.reported == Some(Report::Loaded) {
                next.push(Self { decision: Some(Decision::Target), ..self.clone() });
            }
        }
        next
    }

    /// What holds at every moment.
    fn check(&self) {
        assert!(!(self.s.runs() && self.t.runs()), "two machines: {self:#?}");
        assert!(!self.sent_with_devices, "a guest was sent with devices in use: {self:#?}");
        assert!(!self.t.runs() || self.decision == Some(Decision::Target), "undecided: {self:#?}");
    }

    /// What holds when nothing more happens by itself.
    fn check_rest(&self) {
        let failed = |side: &Side| matches!(side.reported, Some(Report::Failed(_)));
        match self.decision {
            // What the controller goes by; a pause that nobody ends ends by its deadline.
            None => assert!(
                failed(&self.s)
                    || failed(&self.t)
                    || self.t.reported == Some(Report::Loaded)
                    || self.s.reported == Some(Report::Paused),
                "{self:#?}"
            ),
            Some(Decision::Source) => {
                assert!(self.s.runs() && !self.s.marked && failed(&self.s), "not back: {self:#?}");
                assert!(!self.s.phase.is_under_way(), "{self:#?}");
            }
            Some(Decision::Target) => {
                assert!(self.t.runs() && self.t.marked && self.t.reported == Some(Report::Running), "{self:#?}");
                assert!(!self.s.runs() && self.s.marked, "{self:#?}");
            }
        }
    }
}

#[test]
fn in_every_world_the_machine_runs_once_and_ends_where_it_was_decided() {
    let mut seen = BTreeSet::from([World::new()]);
    let mut left = vec![World::new()];
    let (mut ends, mut arrived) = (0, 0);
    while let Some(world) = left.pop() {
        world.check();
        let by_itself = [world.agents(), world.nature()].concat();
        if by_itself.iter().all(|next| *next == world) {
            world.check_rest();
            ends += 1;
            arrived += usize::from(world.decision == Some(Decision::Target));
        }
        for next in by_itself.into_iter().chain(world.faults()).chain(world.decisions()) {
            if seen.insert(next.clone()) {
                left.push(next);
            }
        }
    }
    assert!(seen.len() > 1000 && ends > 50 && arrived > 5, "{} {ends} {arrived}", seen.len());
}
