//! How long attaching and detaching take, as the controller sees it.
//!
//! | what | begins | ends |
//! |---|---|---|
//! | attach, `schedule` | the attachment is there | it has a node |
//! | attach, `plug` | it has a node | the agent says that the device is in the guest, for the first time |
//! | attach, `all` | the attachment is there | the same |
//! | detach, `unplug` | it is being deleted while the device is in the guest | the agent says that it is out |
//! | detach, `all` | the same | the attachment is gone |
//!
//! A step that begins and ends between two looks took nothing. Measured is only what was seen from its beginning to its end: what was there at the first look has no beginning, a device
//! that comes back into a guest attaches no second time, and what is held for a machine that moves is not counted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::conditions::PluggedState;
use crate::controller::world::{Attachment, Want, World};
use crate::names::Uid;

/// What took a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lap {
    /// Attach: until it has a node.
    Schedule,
    /// Attach: from there until it is in the guest.
    Plug,
    /// Attach: all of it.
    Attach,
    /// Detach: until it is out of the guest.
    Unplug,
    /// Detach: all of it.
    Detach,
}

/// When what was seen, on a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    made: Option<Duration>,
    placed: Option<Duration>,
    plugged: bool,
    /// It was at the last look, and not being deleted.
    in_guest: bool,
    deleted: Option<Duration>,
    unplugged: bool,
}

/// The stopwatch.
#[derive(Clone, Debug, Default)]
pub struct Stopwatch {
    /// None before the first look.
    running: Option<BTreeMap<Uid, Times>>,
}

impl Stopwatch {
    /// Looks at the world at a time; what has ended by then, and how long it took.
    pub fn look(&mut self, world: &World, now: Duration) -> Vec<(Lap, Duration)> {
        let first = self.running.is_none();
        let mut before = self.running.take().unwrap_or_default();
        let mut laps = Vec::new();
        let mut running = BTreeMap::new();
        for attachment in world.attachments.values() {
            let times = before.remove(&attachment.uid);
            let fresh = !first && attachment.want == Want::Plugged;
            let times = times.unwrap_or(Times { made: fresh.then_some(now), ..Times::default() });
            running.insert(attachment.uid.clone(), times.look(attachment, now, &mut laps));
        }
        // What is left is gone.
        laps.extend(before.values().filter_map(|times| Some((Lap::Detach, now.saturating_sub(times.deleted?)))));
        self.running = Some(running);
        laps
    }

    /// Forgets all: who has not looked for a while knows no beginnings.
    pub fn stop(&mut self) {
        self.running = None;
    }
}

impl Times {
    fn look(mut self, attachment: &Attachment, now: Duration, laps: &mut Vec<(Lap, Duration)>) -> Self {
        let since = |begin: Duration| now.saturating_sub(begin);
        if let (Some(made), None, true) = (self.made, self.placed, attachment.is_placed()) {
            self.placed = Some(now);
            laps.push((Lap::Schedule, since(made)));
        }
        let in_guest = matches!(attachment.plugged, Some(PluggedState::Plugged(_)));
        if in_guest && !self.plugged && !attachment.deleting {
            laps.extend(self.placed.map(|placed| (Lap::Plug, since(placed))));
            laps.extend(self.made.map(|made| (Lap::Attach, since(made))));
            self.made = None;
        }
        // A quick agent has it out of the guest before the deletion is seen.
        if attachment.deleting && self.in_guest {
            self.deleted = Some(now);
        }
        self.in_guest = in_guest && !attachment.deleting;
        self.plugged |= self.in_guest;
        if let (Some(deleted), false, Some(PluggedState::Unplugged)) =
            (self.deleted, self.unplugged, &attachment.plugged)
        {
            self.unplugged = true;
            laps.push((Lap::Unplug, since(deleted)));
        }
        self
    }
}
