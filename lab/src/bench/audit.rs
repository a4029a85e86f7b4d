//! What was written for an attach and a detach: who wrote what, and when it was done.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::attach::Round;
use super::clock;
use crate::audit::Request;
use crate::product::ACCOUNTS;

/// One request that changes something, whatever came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// When it was answered.
    pub(super) at: Duration,
    /// Who.
    pub(super) user: String,
    /// What was done: `create pods/binding`.
    pub(super) what: String,
}

impl Write {
    /// Which of our accounts it is; None for others, and for leases.
    fn account(&self) -> Option<&str> {
        self.user.strip_prefix(ACCOUNTS).filter(|_| !self.what.ends_with(" leases"))
    }
}

/// All writes so far.
///
/// # Errors
/// When the log cannot be read.
pub(super) fn read(path: &Path) -> Result<Vec<Write>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(of_line).collect())
}

fn of_line(line: &str) -> Option<Write> {
    let request = Request::of_line(line).filter(Request::is_write)?;
    Some(Write { at: clock::parse(&request.at)?, what: request.what(), user: request.user })
}

/// How many of them are our accounts', leases left out.
pub(super) fn ours(writes: &[Write]) -> usize {
    writes.iter().filter(|write| write.account().is_some()).count()
}

/// What our accounts write for one attach and detach, leases left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cycle {
    /// How many writes, without Events.
    pub(super) writes: f64,
    /// How many Events are told besides.
    pub(super) told: f64,
    /// Which of both, and how many of each.
    pub(super) by: BTreeMap<String, f64>,
}

/// The mean of all rounds.
pub(super) fn per_cycle(writes: &[Write], rounds: &[Round]) -> Cycle {
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else {
        return Cycle { writes: f64::NAN, told: f64::NAN, by: BTreeMap::new() };
    };
    let cycles = u32::try_from(rounds.len()).map_or(f64::NAN, f64::from);
    let mut by = BTreeMap::<String, u32>::new();
    for write in writes.iter().filter(|w| (first.asked..=last.settled).contains(&w.at)) {
        if let Some(account) = write.account() {
            *by.entry(format!("{account}: {}", write.what)).or_default() += 1;
        }
    }
    let all =
        |events: bool| by.iter().filter(|(what, _)| what.ends_with(" events") == events).map(|(_, n)| *n).sum::<u32>();
    let mean = |count: u32| f64::from(count) / cycles;
    Cycle {
        writes: mean(all(false)),
        told: mean(all(true)),
        by: by.into_iter().map(|(what, n)| (what, mean(n))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_of_our_accounts_during_the_rounds_count_leases_do_not_and_events_apart() {
        let at = |second| Duration::from_secs(second);
        let write = |second, user: &str, what: &str| Write { at: at(second), user: user.into(), what: what.into() };
        let ours = "system:serviceaccount:patchbay:controller";
        let round = |asked, settled| Round {
            asked: at(asked),
            seen: at(asked),
            recalled: at(settled),
            gone: at(settled),
            settled: at(settled),
        };
        let writes = [
            write(9, ours, "create pods"),
            write(10, ours, "create pods"),
            write(11, ours, "patch leases"),
            write(12, "system:kube-scheduler", "create pods/binding"),
            write(25, ours, "create pods"),
            write(25, ours, "create events"),
            write(26, ours, "patch events"),
            write(27, ours, "patch events"),
            write(31, ours, "create pods"),
        ];
        let cycle = per_cycle(&writes, &[round(10, 20), round(20, 30)]);
        assert!((cycle.writes - 1.0).abs() < 1e-9 && (cycle.told - 1.5).abs() < 1e-9, "{cycle:?}");
        let kinds: Vec<_> = cycle.by.keys().collect();
        assert_eq!(kinds, ["controller: create events", "controller: create pods", "controller: patch events"]);
    }
}
