//! What was told lately: the same is told once and then counted, and of one object not everything that it does in a minute.
//!
//! A device with a loose contact comes and goes each second. What is said of it again within [`FOLD`] becomes the count of
//! the Event that says it already; and when an object has used up its [`BURST`], it gets one word in each [`EACH`] until it
//! has been calm for a while. What is not told then is counted all the same, and the next word tells the count.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use patchbay_core::controller::events::Notice;
use patchbay_core::names::Uid;

/// What was last said so long ago is told anew.
const FOLD: Duration = Duration::from_secs(360);

/// So many words at once are heard of one object.
const BURST: u32 = 30;

/// After that, one in this time.
const EACH: Duration = Duration::from_secs(10);

/// What becomes of a notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is told as an Event of its own.
    New,
    /// It was told by the Event of this name; with this time it is so many.
    Again(String, i32),
    /// Too much was told of the object.
    Hold,
}

/// The memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    objects: BTreeMap<Uid, Object>,
}

#[derive(Debug)]
struct Object {
    /// When all words that were told will have been paid for, [`EACH`] for one.
    paid: Instant,
    told: BTreeMap<Notice, Told>,
}

#[derive(Debug)]
struct Told {
    event: String,
    count: i32,
    last: Instant,
}

impl Memory {
    /// What is to become of `notice`, of the object with this uid.
    pub(super) fn next(&mut self, uid: &Uid, notice: &Notice, now: Instant) -> Step {
        self.forget_old(now);
        let object = self.objects.entry(uid.clone()).or_insert_with(|| Object { paid: now, told: BTreeMap::new() });
        let told = object.told.get_mut(notice).map(|told| {
            told.count = told.count.saturating_add(1);
            told.last = now;
            Step::Again(told.event.clone(), told.count)
        });
        let paid = object.paid.max(now) + EACH;
        if paid > now + EACH * BURST {
            return Step::Hold;
        }
        object.paid = paid;
        told.unwrap_or(Step::New)
    }

    /// `notice` was told by the Event of this name.
    pub(super) fn told(&mut self, uid: &Uid, notice: Notice, event: String, now: Instant) {
        if let Some(object) = self.objects.get_mut(uid) {
            object.told.insert(notice, Told { event, count: 1, last: now });
        }
    }

    fn forget_old(&mut self, now: Instant) {
        self.objects.retain(|_, object| {
            object.told.retain(|_, told| now.duration_since(told.last) < FOLD);
            !object.told.is_empty() || object.paid > now
        });
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::Reason;
    use patchbay_core::controller::events::{Deed, Subject};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn notice(note: &str) -> Notice {
        let about = Subject::NodeDevice("webcam".into());
        Notice { about, deed: Deed::Discover, reason: Reason::Ready, note: note.to_owned() }
    }

    /// Tells it if it may be told.
    fn tell(memory: &mut Memory, uid: &str, note: &str, now: Instant) -> Step {
        let (uid, notice) = (uid.into(), notice(note));
        let step = memory.next(&uid, &notice, now);
        if step == Step::New {
            memory.told(&uid, notice, format!("event of {note}"), now);
        }
        step
    }

    #[test]
    fn the_same_is_counted_whatever_was_told_in_between_until_it_is_long_ago() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let again = |count| Step::Again("event of in".to_owned(), count);
        assert_eq!(tell(&mut memory, "u1", "in", now), Step::New);
        assert_eq!(tell(&mut memory, "u1", "out", now), Step::New);
        assert_eq!(tell(&mut memory, "u1", "in", now + SECOND * 100), again(2));
        assert_eq!(tell(&mut memory, "u1", "in", now + SECOND * 400), again(3));
        assert_eq!(tell(&mut memory, "u1", "out", now + SECOND * 400), Step::New);
        assert_eq!(tell(&mut memory, "u1", "in", now + SECOND * 760), Step::New);
    }

    #[test]
    fn another_object_of_the_same_name_is_another() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert_eq!(tell(&mut memory, "u1", "in", now), Step::New);
        assert_eq!(tell(&mut memory, "u2", "in", now), Step::New);
    }

    #[test]
    fn what_could_not_be_told_is_told_the_next_time() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert_eq!(memory.next(&"u1".into(), &notice("in"), now), Step::New);
        assert_eq!(memory.next(&"u1".into(), &notice("in"), now), Step::New);
    }

    #[test]
    fn an_object_that_does_not_rest_is_told_of_now_and_then_with_the_whole_count() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        let steps: Vec<_> = (0..600).map(|s| tell(&mut memory, "u1", "in", begin + SECOND * s)).collect();
        let told = steps.iter().filter(|step| **step != Step::Hold).count();
        assert!((88..=92).contains(&told), "{told}: 30 and one each ten seconds");
        let last = steps.iter().rev().find(|step| **step != Step::Hold);
        assert!(matches!(last, Some(Step::Again(_, count)) if *count > 590), "{last:?}");
        assert_eq!(tell(&mut memory, "u2", "in", begin + SECOND * 600), Step::New, "others are not held up");
    }

    #[test]
    fn nothing_is_kept_of_what_is_long_ago() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for n in 0..100 {
            tell(&mut memory, &format!("u{n}"), "in", now);
        }
        tell(&mut memory, "u1", "in", now + SECOND * 400);
        assert_eq!(memory.objects.len(), 1);
    }
}
