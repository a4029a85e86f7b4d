//! What QEMU said last, so that it is not asked again for what only its one client changes.
//!
//! Questions are what a busy QEMU is slowest at: it answers each between two pieces of the guest's work, and sixteen devices that
//! are plugged at once are looked at dozens of times meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Plugged;
use super::view::View;

/// For so long an answer is believed. QEMU does not tell that it no longer reaches a device, and others may change it, too.
const BELIEVED: Duration = Duration::from_secs(10);

/// What a connection remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Option<Known>,
    /// Counts what was done: what was read while something was being done may be from before or after it.
    changes: u64,
}

#[derive(Debug)]
struct Known {
    view: View,
    read: Instant,
    sure: bool,
}

/// The devices that QEMU had when it was asked last, with what was done since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The devices.
    pub plugged: Vec<Plugged>,
    /// When QEMU was asked.
    pub read: Instant,
    /// Nothing speaks against it: it is not old, and nothing has failed since.
    pub sure: bool,
}

impl Memory {
    pub(super) fn remembered(&self) -> Option<Remembered> {
        let inner = self.lock();
        let known = inner.known.as_ref()?;
        Some(Remembered { plugged: known.view.plugged(), read: known.read, sure: known.is_sure() })
    }

    /// What is known for sure.
    pub(super) fn view(&self) -> Option<View> {
        self.lock().known.as_ref().filter(|known| known.is_sure()).map(|known| known.view.clone())
    }

    /// To be called before QEMU is asked.
    pub(super) fn asking(&self) -> u64 {
        self.lock().changes
    }

    /// Keeps what QEMU has said, if nothing was done since it was asked.
    pub(super) fn keep(&self, asking: u64, view: View) {
        let mut inner = self.lock();
        if inner.changes == asking {
            inner.known = Some(Known { view, read: Instant::now(), sure: true });
        }
    }

    /// Somebody else may have changed something.
    pub(super) fn doubt(&self) {
        let mut inner = self.lock();
        inner.changes += 1;
        if let Some(known) = &mut inner.known {
            known.sure = false;
        }
    }

    /// Begins to change something. Unless it [ends](Change::end), nobody knows how far it got.
    pub(super) fn change(&self) -> Change<'_> {
        Change { memory: self, ended: false }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_sure(&self) -> bool {
        self.sure && self.read.elapsed() < BELIEVED
    }
}

/// Something that is being changed.
pub(super) struct Change<'a> {
    memory: &'a Memory,
    ended: bool,
}

impl Change<'_> {
    /// A command was done: what it has changed.
    pub(super) fn did(&self, what: impl FnOnce(&mut View)) {
        let mut inner = self.memory.lock();
        inner.changes += 1;
        if let Some(known) = &mut inner.known {
            what(&mut known.view);
        }
    }

    /// All of it was done.
    pub(super) fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.memory.doubt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> View {
        View { devices: Vec::new(), sets: Vec::new(), topology: Vec::new(), next_set: 0 }
    }

    #[test]
    fn what_was_asked_before_something_was_done_is_not_kept() {
        let memory = Memory::default();
        let asking = memory.asking();
        memory.keep(asking, nothing());
        assert!(memory.view().is_some());
        let asking = memory.asking();
        let change = memory.change();
        change.did(|view| view.next_set = 7);
        change.end();
        memory.keep(asking, nothing());
        assert_eq!(memory.view().map(|view| view.next_set), Some(7));
    }

    #[test]
    fn a_change_that_did_not_end_leaves_doubt() {
        let memory = Memory::default();
        memory.keep(memory.asking(), nothing());
        drop(memory.change());
        assert!(memory.view().is_none());
        assert_eq!(memory.remembered().map(|last| last.sure), Some(false));
    }

    #[test]
    fn an_old_answer_is_not_believed() {
        let memory = Memory::default();
        memory.keep(memory.asking(), nothing());
        memory.lock().known.as_mut().unwrap().read -= BELIEVED;
        assert!(memory.view().is_none());
    }
}
