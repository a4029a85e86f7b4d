//! What our processes use while nothing happens.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use super::figures::Row;
use crate::cluster::Lab;
use crate::node::Node;

/// How long they are left alone before, and watched then.
const CALM: Duration = Duration::from_secs(5);
const WATCHED: Duration = Duration::from_secs(20);
/// Of `utime` and `stime` in `/proc/PID/stat` (proc(5)): 100 to a second on every Linux.
const TICK: f64 = 0.01;

/// Prints `<command> <pid> <kB resident> <ticks of CPU time>`, and for each thread `<its id>:<times it went to sleep>`,
/// for agent and controller.
const SCRIPT: &str = r#"for f in /proc/[0-9]*/cmdline; do
  d=${f%/cmdline}
  set -- $(tr '\0' ' ' <$f 2>/dev/null)
  [ "$1" = /patchbay ] || continue
  case $2 in agent | controller) ;; *) continue ;; esac
  name=$2 rss=$(awk '/^VmRSS:/ { print $2 }' $d/status)
  ticks=$(sed 's/.*) //' $d/stat | awk '{ print $12 + $13 }')
  naps=$(awk '/^Pid:/ { id = $2 } /^voluntary_ctxt/ { print id ":" $2 }' $d/task/*/status)
  echo $name ${d#/proc/} $rss $ticks $naps
done"#;

/// One process.
#[derive(Debug, Serialize)]
pub(super) struct Process {
    name: String,
    node: String,
    resident_mib: f64,
    cpu_percent: f64,
    wakeups_per_second: f64,
}

impl Process {
    /// Its lines of the table.
    pub(super) fn rows(&self) -> Vec<Row> {
        let Self { name, node, .. } = self;
        let aim = if name == "agent" { 20.0 } else { 60.0 };
        vec![
            Row::figure(&format!("{name} on {node}: resident memory"), self.resident_mib, "MiB").at_most(aim),
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

/// Watches them.
///
/// # Errors
/// When a node does not answer.
pub(super) fn idle(lab: &Lab) -> Result<Vec<Process>> {
    sleep(CALM);
    let look = |node: &Node| -> Result<(Instant, BTreeMap<Key, Usage>)> {
        Ok((Instant::now(), node.run(SCRIPT)?.lines().filter_map(of_line).collect()))
    };
    let before: Vec<_> = lab.nodes().iter().map(look).collect::<Result<_>>()?;
    sleep(WATCHED);
    let mut all = Vec::new();
    for (node, (then, before)) in lab.nodes().iter().zip(before) {
        let (now, after) = look(node)?;
        let seconds = now.duration_since(then).as_secs_f64();
        for (key, usage) in after {
            let Some(earlier) = before.get(&key) else { continue };
            all.push(Process {
                name: key.0,
                node: node.name().to_owned(),
                resident_mib: usage.resident / 1024.0,
                cpu_percent: (usage.ticks - earlier.ticks) * TICK / seconds * 100.0,
                wakeups_per_second: usage.naps_since(earlier) / seconds,
            });
        }
    }
    all.sort_by(|a, b| (&a.name, &a.node).cmp(&(&b.name, &b.node)));
    Ok(all)
}

fn of_line(line: &str) -> Option<(Key, Usage)> {
    let mut words = line.split_whitespace();
    let key = (words.next()?.to_owned(), words.next()?.to_owned());
    let (resident, ticks) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let thread = |word: &str| {
        let (thread, naps) = word.split_once(':')?;
        Some((thread.to_owned(), naps.parse().ok()?))
    };
    Some((key, Usage { resident, ticks, naps: words.filter_map(thread).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_ended_meanwhile_take_nothing_from_the_sleeps_of_the_others() {
        let (key, then) = of_line("agent 71 14336 12 71:100 72:9000").unwrap();
        let (_, now) = of_line("agent 71 14336 15 71:104 90:3").unwrap();
        assert_eq!(key, ("agent".into(), "71".into()));
        assert!((now.naps_since(&then) - 7.0).abs() < 1e-9);
        assert_eq!(of_line("agent 71"), None);
    }
}
