//! What agents and controllers take up at rest: memory, descriptors, and what agents have written down.
//!
//! Of a process that leaks neither grows with the steps behind it. So what a walk measures once its processes are warm is
//! compared with what it measures later; how much more is still no growth is said at the bounds.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use crate::cluster::Lab;
use crate::product::for_each_process;

/// Descriptors more than before: an agent holds two for each machine of its node, and up to three machines may have come there
/// meanwhile; the rest are connections to the API server and to the kubelet that are under way.
const DESCRIPTORS: u64 = 10;
/// Memory more than before, in percent and in KiB: an allocator that has been busy keeps more than one that has not, and a process
/// that was killed a moment ago has not been busy. An agent that leaked but 4 KiB in each step that concerns it would be beyond
/// that after some hundreds.
const MEMORY: (u64, u64) = (125, 1024);
/// Bytes more than before in the two files of an agent: a line for each stick that its node had not seen before, and for each
/// machine it had not.
const RECORDED: u64 = 2048;

/// Prints `<command> <kB resident> <descriptors>` of agent and controller.
const PROCESS: &str = "echo $2 $(awk '/^VmRSS:/ { print $2 }' $d/status) $(ls $d/fd | wc -l)";
/// Prints `written <bytes> 0` of the agent's files.
const WRITTEN: &str = "cd /var/lib/patchbay && echo written $(cat journal.json records.json 2>/dev/null | wc -c) 0";

/// What is taken up of each node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Footprint(BTreeMap<(String, String), Usage>);

/// Memory in KiB, or bytes of files; descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    size: u64,
    descriptors: u64,
}

impl Footprint {
    /// Measures it.
    ///
    /// # Errors
    /// When a node does not answer.
    pub(super) fn measure(lab: &Lab) -> Result<Self> {
        let script = for_each_process(PROCESS) + WRITTEN;
        let mut all = BTreeMap::new();
        for node in lab.nodes() {
            let lines = node.run(&script)?;
            all.extend(lines.lines().filter_map(of_line).map(|(what, usage)| ((what, node.name().to_owned()), usage)));
        }
        Ok(Self(all))
    }

    /// What has grown since then, a sentence each.
    pub(super) fn grown_since(&self, then: &Self) -> Vec<String> {
        let grown = |(key, now): (&(String, String), &Usage)| {
            let then = then.0.get(key)?;
            let most = if key.0 == "written" { then.size + RECORDED } else { then.size * MEMORY.0 / 100 + MEMORY.1 };
            let grown = now.size > most || now.descriptors > then.descriptors + DESCRIPTORS;
            grown.then(|| format!("{} on {} had {then} and has {now}", key.0, key.1))
        };
        self.0.iter().filter_map(grown).collect()
    }
}

fn of_line(line: &str) -> Option<(String, Usage)> {
    let mut words = line.split_whitespace();
    let what = words.next()?.to_owned();
    Some((what, Usage { size: words.next()?.parse().ok()?, descriptors: words.next()?.parse().ok()? }))
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.descriptors {
            0 => write!(f, "{} bytes", self.size),
            descriptors => write!(f, "{} KiB and {descriptors} descriptors", self.size),
        }
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |((what, node), usage): (&(String, String), &Usage)| format!("{what} on {node} {usage}");
        f.write_str(&self.0.iter().map(one).collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(lines: &[&str]) -> Footprint {
        Footprint(
            lines.iter().filter_map(|l| of_line(l)).map(|(what, usage)| ((what, "node-1".into()), usage)).collect(),
        )
    }

    #[test]
    fn what_has_grown_beyond_its_bound_is_told_and_nothing_else() {
        let then = footprint(&["agent 16000 40", "controller 15000 20", "written 500 0"]);
        assert_eq!(then.grown_since(&then), Vec::<String>::new());
        let still = footprint(&["agent 21024 50", "controller 9000 4", "written 2548 0"]);
        assert_eq!(still.grown_since(&then), Vec::<String>::new());
        let more = footprint(&["agent 21025 40", "controller 15000 31", "written 2549 0"]);
        assert_eq!(
            more.grown_since(&then),
            [
                "agent on node-1 had 16000 KiB and 40 descriptors and has 21025 KiB and 40 descriptors",
                "controller on node-1 had 15000 KiB and 20 descriptors and has 15000 KiB and 31 descriptors",
                "written on node-1 had 500 bytes and has 2549 bytes",
            ]
        );
    }

    #[test]
    fn a_process_that_runs_elsewhere_now_is_not_compared() {
        assert_eq!(footprint(&["controller 90000 20"]).grown_since(&footprint(&[])), Vec::<String>::new());
    }
}
