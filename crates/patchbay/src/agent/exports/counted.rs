//! The calls of each node that are being answered.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use patchbay_core::crowd::too_many;

/// How many calls of each node are being answered.
pub(super) type Counts = Mutex<BTreeMap<String, usize>>;

/// A call of a node, counted until the value is dropped.
pub(super) struct Counted<'a>(&'a Counts, String);

impl<'a> Counted<'a> {
    /// Counts one more call of a node.
    ///
    /// # Errors
    /// Why it may have no more.
    pub(super) fn of(counts: &'a Counts, peer: &str) -> Result<Self, String> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(peer.to_owned()).or_default();
        too_many(peer, *count).map_or(Ok(()), Err)?;
        *count += 1;
        Ok(Self(counts, peer.to_owned()))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count = count.saturating_sub(1);
        }
        all.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::crowd::MAX_OF_ONE_NODE;

    use super::*;

    #[test]
    fn the_calls_of_a_node_are_counted_while_they_last_and_hold_up_no_other_node() {
        let counts = Counts::default();
        let mut calls: Vec<_> = (0..MAX_OF_ONE_NODE).map(|_| Counted::of(&counts, "node-2").unwrap()).collect();
        assert!(Counted::of(&counts, "node-2").is_err_and(|why| why.contains("node-2")));
        let other = Counted::of(&counts, "node-3").unwrap();
        calls.pop();
        calls.push(Counted::of(&counts, "node-2").unwrap());
        drop((calls, other));
        assert!(counts.lock().unwrap().is_empty());
    }
}
