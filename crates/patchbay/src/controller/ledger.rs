//! What has been done, so that it is not done twice.
//!
//! The caches lag behind our own writes: right after a write the same world still asks for it. So each object that was
//! written is held until the caches show the effect, or for [`PATIENCE`]. What failed is tried again after a growing pause
//! and stops nothing else.
//!
//! ```text
//!             admit: Go                done                effect seen, or too long
//!   (free) ----------------> running ---------> held ------------------------------> (free)
//!                               | fails
//!                               +-----> failed --(pause over, or another action)---> (free)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use patchbay_core::controller::Action;
use patchbay_core::names::Uid;

use super::snapshot::Look;
use super::target::Target;

/// An effect that is not seen after so long is no longer waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The same, when it is not known what to look for.
const SHORT: Duration = Duration::from_secs(1);

/// The pause after the first failure, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How the caches will show that a write has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The kind has this version, or a newer one.
    Version(u64),
    /// The object is there.
    Present,
    /// The object is gone or going; if a uid is given, that very object.
    Gone(Option<Uid>),
    /// In no way we could name.
    Unknown,
}

impl Effect {
    fn seen(&self, look: &Look) -> bool {
        match self {
            Self::Version(version) => look.newest >= *version,
            Self::Present => look.object.is_some(),
            Self::Gone(uid) => {
                let there = |(found, deleting): &(Uid, bool)| !deleting && uid.as_ref().is_none_or(|u| u == found);
                !look.object.as_ref().is_some_and(there)
            }
            Self::Unknown => false,
        }
    }
}

/// Whether an action may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes.
    Go,
    /// No: an action that is running is in the way. Ask again when it is done.
    Busy,
    /// No. Ask again at this time, or when the caches have changed.
    Wait(Instant),
}

#[derive(Debug)]
struct Failed {
    action: Discriminant<Action>,
    times: u32,
    again: Instant,
}

/// The memory of what was done.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    running: BTreeMap<Target, Vec<Target>>,
    held: BTreeMap<Target, (Effect, Instant)>,
    failed: BTreeMap<Target, Failed>,
}

impl Ledger {
    /// Whether `action` may be done now, by what the caches show of its object.
    pub(super) fn admit(&mut self, action: &Action, look: &Look, now: Instant) -> Verdict {
        let (target, needs) = (Target::of(action), Target::needs(action));
        let written = |t: &Target| self.running.contains_key(t);
        let needed = self.running.values().flatten().any(|t| *t == target);
        if written(&target) || needed || needs.iter().any(written) {
            return Verdict::Busy;
        }
        if let Some((effect, until)) = self.held.get(&target) {
            if !effect.seen(look) && now < *until {
                return Verdict::Wait(*until);
            }
            self.held.remove(&target);
        }
        let own = self.failed.get(&target).filter(|f| f.action == discriminant(action));
        let others = needs.iter().filter_map(|t| self.failed.get(t));
        match own.into_iter().chain(others).map(|f| f.again).max() {
            Some(again) if now < again => Verdict::Wait(again),
            _ => Verdict::Go,
        }
    }

    /// An action that was admitted is being done.
    pub(super) fn start(&mut self, action: &Action) {
        self.running.insert(Target::of(action), Target::needs(action));
    }

    /// It was done.
    pub(super) fn done(&mut self, action: &Action, effect: Effect, now: Instant) {
        let target = Target::of(action);
        self.running.remove(&target);
        self.failed.remove(&target);
        let patience = if effect == Effect::Unknown { SHORT } else { PATIENCE };
        self.held.insert(target, (effect, now + patience));
    }

    /// It failed. `jitter` is any number: it spreads the next tries of many.
    pub(super) fn fail(&mut self, action: &Action, jitter: u64, now: Instant) -> Duration {
        let target = Target::of(action);
        self.running.remove(&target);
        let before = self.failed.get(&target).filter(|f| f.action == discriminant(action));
        let times = before.map_or(0, |f| f.times);
        let (first, longest) = PAUSE;
        let full = first.saturating_mul(1 << times.min(5)).min(longest);
        // Between half the pause and all of it.
        let pause = full / 2 + (full / 2).mul_f64(f64::from(u8::try_from(jitter % 256).unwrap_or(0)) / 255.0);
        let failed = Failed { action: discriminant(action), times: times.saturating_add(1), again: now + pause };
        self.failed.insert(target, failed);
        pause
    }

    /// Forgets the failures of what is no longer planned, and what was held for too long.
    pub(super) fn retain(&mut self, planned: &BTreeSet<Target>, now: Instant) {
        self.failed.retain(|target, _| planned.contains(target));
        self.held.retain(|_, (_, until)| now < *until);
    }

    /// How many actions are being done.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::controller::NewAttachment;
    use patchbay_core::controller::world::{DeviceStatus, Want};
    use patchbay_core::names::PodRef;
    use patchbay_core::speed::Hub;

    use super::*;

    fn publish() -> Action {
        Action::PublishNodeDevice { name: "webcam".into(), status: DeviceStatus::default() }
    }

    fn forget() -> Action {
        Action::ForgetNodeDevice { name: "webcam".into(), uid: "u1".into() }
    }

    fn claim() -> Action {
        Action::CreateClaim {
            namespace: "ns".into(),
            name: "usb-webcam".into(),
            device: "webcam".into(),
            dra_name: "webcam".into(),
            node: "node-1".into(),
            owner: "u".into(),
        }
    }

    fn attachment(name: &str) -> Action {
        Action::CreateAttachment(NewAttachment {
            name: name.into(),
            device: "webcam".into(),
            claim: "usb-webcam".into(),
            vm_pod: PodRef { namespace: "ns".into(), name: "vm-a".into(), uid: "p".into() },
            vm: "a".into(),
            node: "node-2".into(),
            hub: Some(Hub::Usb2),
            want: Want::Plugged,
        })
    }

    fn look(newest: u64, object: Option<(&str, bool)>) -> Look {
        Look { newest, object: object.map(|(uid, deleting)| (uid.into(), deleting)) }
    }

    fn after(ledger: &mut Ledger, action: &Action, effect: Effect, now: Instant) {
        assert_eq!(ledger.admit(action, &look(1, None), now), Verdict::Go);
        ledger.start(action);
        ledger.done(action, effect, now);
    }

    #[test]
    fn a_write_is_not_repeated_before_the_caches_show_it() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        after(&mut ledger, &publish(), Effect::Version(10), now);
        assert_eq!(ledger.admit(&publish(), &look(9, None), now), Verdict::Wait(now + PATIENCE));
        assert_eq!(
            ledger.admit(&forget(), &look(9, None), now),
            Verdict::Wait(now + PATIENCE),
            "any write of the object"
        );
        assert_eq!(ledger.admit(&publish(), &look(10, None), now), Verdict::Go);
    }

    #[test]
    fn an_event_that_arrives_before_the_answer_counts() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        after(&mut ledger, &publish(), Effect::Version(10), now);
        assert_eq!(ledger.admit(&publish(), &look(12, None), now), Verdict::Go);
    }

    #[test]
    fn an_effect_that_never_shows_is_not_waited_for_for_ever() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        after(&mut ledger, &publish(), Effect::Version(10), now);
        assert_eq!(ledger.admit(&publish(), &look(9, None), now + PATIENCE), Verdict::Go);
        after(&mut ledger, &publish(), Effect::Unknown, now);
        assert_eq!(ledger.admit(&publish(), &look(9, None), now), Verdict::Wait(now + SHORT));
    }

    #[test]
    fn a_deletion_shows_in_the_object_itself() {
        let now = Instant::now();
        let held = |object| {
            let mut ledger = Ledger::default();
            after(&mut ledger, &forget(), Effect::Gone(Some("u1".into())), now);
            ledger.admit(&publish(), &look(99, object), now) != Verdict::Go
        };
        assert!(held(Some(("u1", false))));
        for shown in [None, Some(("u1", true)), Some(("u2", false))] {
            assert!(!held(shown), "{shown:?}");
        }
    }

    #[test]
    fn what_exists_already_is_waited_for_until_it_is_seen() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        after(&mut ledger, &claim(), Effect::Present, now);
        assert_eq!(ledger.admit(&claim(), &look(99, None), now), Verdict::Wait(now + PATIENCE));
        assert_eq!(ledger.admit(&claim(), &look(1, Some(("u", false))), now), Verdict::Go);
    }

    #[test]
    fn an_attachment_waits_for_its_claim_but_not_for_the_cache_to_show_it() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.start(&claim());
        assert_eq!(ledger.admit(&attachment("a"), &look(1, None), now), Verdict::Busy);
        ledger.done(&claim(), Effect::Version(10), now);
        assert_eq!(ledger.admit(&attachment("a"), &look(1, None), now), Verdict::Go);
    }

    #[test]
    fn a_claim_is_not_written_while_an_attachment_that_needs_it_is_made() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.start(&attachment("a"));
        let delete = Action::DeleteClaim { namespace: "ns".into(), name: "usb-webcam".into(), uid: "u".into() };
        assert_eq!(ledger.admit(&delete, &look(1, None), now), Verdict::Busy);
        assert_eq!(ledger.admit(&attachment("b"), &look(1, None), now), Verdict::Go, "both only need it");
    }

    #[test]
    fn what_fails_is_tried_again_after_a_growing_pause_that_has_an_end() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let pauses: Vec<_> = (0..8).map(|_| ledger.fail(&publish(), 255, now).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(ledger.fail(&publish(), 0, now).as_secs(), 15, "at least half of it");
        assert_eq!(ledger.admit(&publish(), &look(1, None), now), Verdict::Wait(now + Duration::from_secs(15)));
        assert_eq!(ledger.admit(&publish(), &look(1, None), now + Duration::from_secs(15)), Verdict::Go);
        ledger.done(&publish(), Effect::Version(0), now);
        assert_eq!(ledger.fail(&publish(), 255, now).as_secs(), 1, "a success ends the series");
    }

    #[test]
    fn a_failure_stops_what_needs_it_and_nothing_else() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let pause = ledger.fail(&claim(), 255, now);
        assert_eq!(ledger.admit(&attachment("a"), &look(1, None), now), Verdict::Wait(now + pause));
        assert_eq!(ledger.admit(&publish(), &look(1, None), now), Verdict::Go);
    }

    #[test]
    fn another_action_on_the_object_does_not_wait_for_the_failed_one() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.fail(&publish(), 255, now);
        assert_eq!(ledger.admit(&forget(), &look(1, None), now), Verdict::Go);
    }

    #[test]
    fn the_failures_of_what_is_no_longer_planned_are_forgotten() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.fail(&publish(), 255, now);
        ledger.retain(&BTreeSet::new(), now);
        assert_eq!(ledger.admit(&publish(), &look(1, None), now), Verdict::Go);
    }
}
