//! The catalogue: every reason that Patchbay gives, what it means, and what to do about it.
//!
//! Conditions and Events take their reasons from [`Reason`], which has no others; `Condition::next` checks in debug builds that
//! the catalogue knows the reason for that type of condition, so the planner's tests and the simulation prove that it has all.
//! `kubectl usb explain` prints an entry, and `docs/messages.md` is [`page`].
//!
//! | module | has the reasons of |
//! |---|---|
//! | `devices` | `NodeUSBDevice` and `USBDevice` |
//! | `machines` | `VirtualMachine` and `VirtualMachineOperation` |
//! | `nodes` | Events about nodes |
//! | `pods` | the conditions that agents write on pods |
//! | `advice` | nothing: it says what to do about a link that does not hold, in sentences and commands |
//! | `page` | nothing: it is the page of the documentation |
//!
//! What is said of the very object, beside the reason, is made where it is known (`controller::status`). Other words of ours are
//! where the thing is that they are about: the doctor's findings in `kubectl-usb`, refusals in the chart's policies, answers to
//! the kubelet in `patchbay-dra`.

pub mod advice;
mod devices;
mod machines;
mod nodes;
mod page;
mod pods;

pub use nodes::NodeEntry;
pub use page::page;
pub use pods::PodEntry;

use crate::conditions::{ConditionType, Reason};

/// A reason of one type of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The type of condition.
    pub kind: ConditionType,
    /// The reason.
    pub reason: Reason,
    /// What it means, as a sentence.
    pub means: &'static str,
    /// What to do, as sentences; nothing where nothing is to be done.
    pub cure: &'static str,
}

const fn entry(kind: ConditionType, reason: Reason, means: &'static str, cure: &'static str) -> Entry {
    Entry { kind, reason, means, cure }
}

/// All entries, by type of condition.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    devices::ENTRIES.iter().chain(machines::ENTRIES)
}

/// The entries of a type of condition, in the order in which they are told.
pub fn of(kind: ConditionType) -> impl Iterator<Item = &'static Entry> {
    all().filter(move |entry| entry.kind == kind)
}

/// The entry of a reason of a type of condition.
pub fn find(kind: ConditionType, reason: Reason) -> Option<&'static Entry> {
    of(kind).find(|entry| entry.reason == reason)
}

/// What is told of nodes.
pub fn of_nodes() -> impl Iterator<Item = &'static NodeEntry> {
    nodes::ENTRIES.iter()
}

/// What the agents say on pods.
pub fn of_pods() -> impl Iterator<Item = &'static PodEntry> {
    pods::ENTRIES.iter()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::conditions::{GuestPort, PluggedState};
    use crate::migration::Report;

    #[test]
    fn every_reason_is_in_the_catalogue_and_none_twice_for_one_condition() {
        let pairs: Vec<_> = all().map(|e| (e.kind, e.reason)).collect();
        assert_eq!(pairs.iter().collect::<BTreeSet<_>>().len(), pairs.len());
        let missing: Vec<_> = Reason::ALL.iter().filter(|r| !pairs.iter().any(|(_, reason)| reason == *r)).collect();
        assert_eq!(missing, Vec::<&Reason>::new());
    }

    #[test]
    fn entries_are_sentences_and_whatever_is_warned_of_has_a_cure() {
        for entry in all() {
            assert!(entry.means.ends_with('.'), "{entry:?}");
            assert!(entry.cure.is_empty() || entry.cure.ends_with('.'), "{entry:?}");
            assert!(!entry.reason.is_warning() || !entry.cure.is_empty(), "{entry:?}");
            // They become cells of a table.
            assert!(!entry.means.contains(['|', '\n']) && !entry.cure.contains(['|', '\n']), "{entry:?}");
        }
        for entry in of_nodes() {
            assert!(entry.means.ends_with('.') && !entry.means.contains('|') && !entry.cure.contains('|'), "{entry:?}");
            assert_eq!(entry.of.is_warning(), entry.cure.ends_with('.'), "{entry:?}");
        }
    }

    #[test]
    fn what_agents_say_on_pods_is_in_the_catalogue() {
        let plugged = [
            PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }),
            PluggedState::Unplugged,
            PluggedState::Waiting(String::new()),
            PluggedState::Failed(String::new()),
            PluggedState::ClaimLost,
        ];
        let moved =
            [Report::Moving(None), Report::Paused, Report::Loaded, Report::Running, Report::Failed(String::new())];
        let said: Vec<_> = plugged.iter().map(|s| ("Plugged", s.reason())).collect();
        let said: Vec<_> = said.into_iter().chain(moved.iter().map(|r| ("Migrated", r.reason()))).collect();
        assert_eq!(of_pods().map(|e| (e.condition, e.reason)).collect::<Vec<_>>(), said);
    }
}
