//! What was measured of the agent, and the table of it.

use serde::{Deserialize, Serialize};

use super::storm::{MESSAGES, Storm};
use crate::bench::figures::count;
use crate::bench::markdown;
use crate::bench::usage::Memory;

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    /// When, in seconds since 1970.
    pub(super) unix: u64,
    pub(super) kubernetes: String,
    /// For how long an agent was watched doing nothing.
    pub(super) watched_s: u32,
    /// The size of the program.
    pub(super) program_bytes: u64,
    pub(super) nodes: Vec<Node>,
}

/// The agent of one node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) devices: usize,
    pub(super) start: Start,
    pub(super) idle: Idle,
    pub(super) storms: Vec<Storm>,
    /// Its memory after the storms.
    pub(super) after: Memory,
}

/// How it begins.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    /// From the start of the process until the first of its slices was seen.
    pub(super) first_ms: f64,
    /// Until all were.
    pub(super) all_ms: f64,
    /// What it has written to the API server until it was idle.
    pub(super) writes: usize,
}

/// What it uses while nothing happens.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Idle {
    /// Of one processor.
    pub(super) cpu_percent: f64,
    /// How often its threads were woken up.
    pub(super) wakeups: u64,
    /// In how many seconds any was.
    pub(super) busy_seconds: u32,
    /// What it asked of the API server.
    pub(super) requests: usize,
    /// What of that were writes.
    pub(super) writes: usize,
    pub(super) memory: Memory,
}

/// A line of the table.
struct Line {
    what: String,
    unit: &'static str,
    digits: usize,
    at_most: Option<f64>,
    figures: Vec<f64>,
}

impl Line {
    fn cells(&self) -> Vec<String> {
        let shown = |figure: f64| format!("{figure:.*} {}", self.digits, self.unit).trim_end().to_owned();
        let verdict = self.at_most.map(|aim| {
            let met = self.figures.iter().all(|figure| *figure <= aim);
            format!("<= {}: {}", shown(aim), if met { "met" } else { "missed" })
        });
        let figures = self.figures.iter().map(|figure| shown(*figure));
        std::iter::once(self.what.clone()).chain(figures).chain([verdict.unwrap_or_default()]).collect()
    }
}

impl Report {
    /// When, in seconds since 1970, and with which Kubernetes.
    pub(in crate::bench) fn when(&self) -> (u64, &str) {
        (self.unix, &self.kubernetes)
    }

    /// For people, in Markdown.
    pub(in crate::bench) fn table(&self) -> String {
        let devices = self.nodes.iter().map(|node| format!("{} devices", node.devices));
        let heading = std::iter::once(String::new()).chain(devices).chain(["aim".to_owned()]).collect();
        let lines = self.lines();
        markdown::table(heading, lines.iter().map(Line::cells))
    }

    fn lines(&self) -> Vec<Line> {
        let line = |what: &str, unit, digits, at_most, of: &dyn Fn(&Node) -> f64| Line {
            what: what.to_owned(),
            unit,
            digits,
            at_most,
            figures: self.nodes.iter().map(of).collect(),
        };
        let watched = f64::from(self.watched_s);
        let mut lines = vec![
            line("start of the process -> first slice seen", "ms", 0, None, &|n| n.start.first_ms),
            line("start of the process -> all slices seen", "ms", 0, None, &|n| n.start.all_ms),
            line("API writes until it is idle", "", 0, None, &|n| count(n.start.writes)),
            line("resident memory (RSS)", "MiB", 1, Some(15.0), &|n| n.idle.memory.resident),
            line("of that pages of the program's file", "MiB", 1, None, &|n| n.idle.memory.of_files()),
            line("of that anonymous: heap and stacks", "MiB", 1, None, &|n| n.idle.memory.anonymous),
            line("proportional memory (PSS)", "MiB", 1, None, &|n| n.idle.memory.proportional),
            line("resident memory after the storms", "MiB", 1, None, &|n| n.after.resident),
            line("CPU of one core while idle", "%", 3, Some(0.1), &|n| n.idle.cpu_percent),
            line("wake-ups of its threads in 10 s while idle", "", 1, None, &|n| {
                count(n.idle.wakeups) * 10.0 / watched
            }),
            line(&format!("seconds of {watched} in which any was woken"), "", 0, None, &|n| n.idle.busy_seconds.into()),
            line("requests to the API server while idle", "", 0, None, &|n| count(n.idle.requests)),
            line("API writes while idle", "", 0, Some(0.0), &|n| count(n.idle.writes)),
        ];
        let storms = self.nodes.first().map_or(&[][..], |node| &node.storms);
        for (number, storm) in storms.iter().enumerate() {
            let shape = match storm.meant_s {
                0 => "at once".to_owned(),
                seconds => format!("in {seconds} s"),
            };
            let line = |what: &str, unit, at_most, of: &dyn Fn(&Storm) -> f64| {
                let what = format!("{MESSAGES} uevents {shape}: {what}");
                line(&what, unit, 0, at_most, &|n| n.storms.get(number).map_or(f64::NAN, of))
            };
            lines.push(line("CPU time", "ms", None, &|s| s.cpu_ms));
            lines.push(line("wake-ups", "", None, &|s| count(s.wakeups)));
            lines.push(line("last one -> quiet again", "ms", None, &|s| s.quiet_ms));
            lines.push(line("API writes", "", Some(1.0), &|s| count(s.writes)));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_missed_when_one_node_misses_it() {
        let line = |figures: &[f64]| Line {
            what: "memory".into(),
            unit: "MiB",
            digits: 1,
            at_most: Some(15.0),
            figures: figures.to_vec(),
        };
        assert_eq!(line(&[14.0, 15.0]).cells(), ["memory", "14.0 MiB", "15.0 MiB", "<= 15.0 MiB: met"]);
        assert_eq!(line(&[14.0, 15.1]).cells()[3], "<= 15.0 MiB: missed");
        assert_eq!(line(&[f64::NAN]).cells()[2], "<= 15.0 MiB: missed");
    }
}
