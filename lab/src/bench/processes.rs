//! What our processes use while nothing happens, and while a device is in use.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::audit;
use super::figures::Row;
use crate::cluster::Lab;
use crate::node::Node;
use crate::product::for_each_process;

/// How long they are left alone before, and watched then.
const CALM: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(300);
/// Of `utime` and `stime` in `/proc/PID/stat` (proc(5)): 100 to a second on every Linux.
const TICK: f64 = 0.01;

/// Prints `<command> <pid> <kB resident> <kB of that anonymous> <ticks of CPU time>`, and for each thread `<its id>:<times it went to sleep>`.
const PROCESS: &str = r#"name=$2 rss=$(awk '/^VmRSS:/ { rss = $2 } /^RssAnon:/ { anon = $2 } END { print rss, anon }' $d/status)
  ticks=$(sed 's/.*) //' $d/stat | awk '{ print $12 + $13 }')
  naps=$(awk '/^Pid:/ { id = $2 } /^voluntary_ctxt/ { print id ":" $2 }' $d/task/*/status)
  echo $name ${d#/proc/} $rss $ticks $naps"#;

/// One process.
#[derive(Debug, Serialize)]
pub(super) struct Process {
    name: String,
    node: String,
    resident_mib: f64,
    anonymous_mib: f64,
    cpu_percent: f64,
    wakeups_per_second: f64,
}

impl Process {
    /// The lines of the table that say how often it was woken up while a disk was read at full speed, and what it did then, if it is
    /// the agent of one of these nodes.
    pub(super) fn under_load(&self, nodes: &[&str]) -> Vec<Row> {
        let Self { name, node, .. } = self;
        if name != "agent" || !nodes.contains(&node.as_str()) {
            return Vec::new();
        }
        let what = format!("{name} on {node}: wake-ups of its threads while a disk is read at full speed");
        vec![
            Row::figure(&what, self.wakeups_per_second, "/s"),
            Row::figure("  CPU of one core meanwhile", self.cpu_percent, "%"),
        ]
    }

    /// Its lines of the table.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Self { name, node, .. } = self;
        let aim = if name == "agent" { 15.0 } else { 60.0 };
        vec![
            Row::figure(&format!("{name} on {node}: resident memory"), self.resident_mib, "MiB").at_most(aim),
            Row::figure("  of that anonymous: heap and stacks", self.anonymous_mib, "MiB"),
            Row::figure("  CPU of one core while idle", self.cpu_percent, "%"),
            Row::figure("  wake-ups of its threads while idle", self.wakeups_per_second, "/s"),
        ]
    }
}

/// Name and number of a process.
type Key = (String, String);

/// What a process had used at some moment.
#[derive(Debug, PartialEq)]
struct Usage {
    resident: f64,
    anonymous: f64,
    ticks: f64,
    /// Of each thread.
    naps: BTreeMap<String, f64>,
}

impl Usage {
    /// How often its threads went to sleep since then. Threads come and go; those that were not there then began with 0.
    fn naps_since(&self, then: &Self) -> f64 {
        self.naps.iter().map(|(thread, naps)| naps - then.naps.get(thread).unwrap_or(&0.0)).sum()
    }
}

/// What all of them had used at some moment, by node.
pub(super) struct Usages(Vec<(String, Instant, BTreeMap<Key, Usage>)>);

impl Usages {
    /// Looks.
    ///
    /// # Errors
    /// When a node does not answer.
    pub(super) fn look(lab: &Lab) -> Result<Self> {
        let script = for_each_process(PROCESS);
        let look = |node: &Node| {
            let now = Instant::now();
            Ok((node.name().to_owned(), now, node.run(&script)?.lines().filter_map(of_line).collect()))
        };
        lab.nodes().iter().map(look).collect::<Result<_>>().map(Self)
    }

    /// What they have used from then on until this look.
    pub(super) fn since(self, then: Self) -> Vec<Process> {
        let mut all = Vec::new();
        for ((node, now, after), (_, then, before)) in self.0.into_iter().zip(then.0) {
            let seconds = now.duration_since(then).as_secs_f64();
            for (key, usage) in after {
                let Some(earlier) = before.get(&key) else { continue };
                all.push(Process {
                    name: key.0,
                    node: node.clone(),
                    resident_mib: usage.resident / 1024.0,
                    anonymous_mib: usage.anonymous / 1024.0,
                    cpu_percent: (usage.ticks - earlier.ticks) * TICK / seconds * 100.0,
                    wakeups_per_second: usage.naps_since(earlier) / seconds,
                });
            }
        }
        all.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
        all
    }
}

/// Watches them while nothing happens: what they use, and how often they write, leases left out.
///
/// # Errors
/// When a node does not answer.
pub(super) fn idle(lab: &Lab) -> Result<(Vec<Process>, f64)> {
    sleep(CALM);
    let log = lab.plane().audit_log();
    let (before, written) = (Usages::look(lab)?, audit::ours(&audit::read(&log)?));
    sleep(WATCHED);
    let processes = Usages::look(lab)?.since(before);
    let writes = audit::ours(&audit::read(&log)?).saturating_sub(written);
    Ok((processes, u32::try_from(writes).map_or(f64::NAN, f64::from)))
}

fn of_line(line: &str) -> Option<(Key, Usage)> {
    let mut words = line.split_whitespace();
    let key = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut number = || words.next()?.parse().ok();
    let (resident, anonymous, ticks) = (number()?, number()?, number()?);
    let thread = |word: &str| {
        let (thread, naps) = word.split_once(':')?;
        Some((thread.to_owned(), naps.parse().ok()?))
    };
    Some((key, Usage { resident, anonymous, ticks, naps: words.filter_map(thread).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_ended_meanwhile_take_nothing_from_the_sleeps_of_the_others() {
        let (key, then) = of_line("agent 71 14336 3072 12 71:100 72:9000").unwrap();
        let (_, now) = of_line("agent 71 14336 3072 15 71:104 90:3").unwrap();
        assert_eq!(key, ("agent".into(), "71".into()));
        assert!((now.naps_since(&then) - 7.0).abs() < 1e-9);
        assert_eq!(of_line("agent 71"), None);
    }
}
