//! Who has used the processor of a node for how long, as its kernel counts it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::figures::Row;
use crate::node::Node;

/// Processes by the beginning of their names, and what they are called here. Whatever runs in containers' names for a moment
/// (runc, network plugins) is counted with containerd, which waits for it.
const NAMES: [(&str, &str); 5] = [
    ("qemu", "QEMU with the guest"),
    ("patchbay", "Patchbay"),
    ("kubelet", "kubelet"),
    ("containerd", "containerd"),
    ("usbip", "usbip"),
];
const KERNEL: &str = "threads of the kernel";
const OTHERS: &str = "others";
const IDLE: &str = "nobody";
/// The parent of all threads of the kernel.
const KTHREADD: &str = "2";

/// Time on the processor by who has used it, in ticks since the node has booted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shares(BTreeMap<&'static str, u64>);

impl Shares {
    /// As it is now.
    ///
    /// # Errors
    /// When the node does not answer, or with something else.
    pub(super) fn of(node: &Node) -> Result<Self> {
        let text = node.run("head -n 1 /proc/stat; cat /proc/[0-9]*/stat 2>/dev/null; true")?;
        Self::of_text(&text).context("the node's /proc makes no sense")
    }

    fn of_text(text: &str) -> Option<Self> {
        let (all, processes) = text.split_once('\n')?;
        let fields: Vec<u64> = all.strip_prefix("cpu ")?.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        // Idle, and waiting for a disk.
        let idle = fields.get(3)? + fields.get(4)?;
        let mut shares = BTreeMap::from([(IDLE, idle)]);
        for (who, ticks) in processes.lines().filter_map(of_process) {
            *shares.entry(who).or_default() += ticks;
        }
        Some(Self(shares))
    }

    /// What has come since, in percent of all of it.
    pub(super) fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let came = |who: &str, now: u64| now.saturating_sub(before.0.get(who).copied().unwrap_or_default());
        let all: u64 = self.0.iter().map(|(who, now)| came(who, *now)).sum();
        let float = |ticks: u64| u32::try_from(ticks).map_or(f64::NAN, f64::from);
        let percent = |ticks: u64| 100.0 * float(ticks) / float(all.max(1));
        self.0.iter().map(|(who, now)| ((*who).to_owned(), percent(came(who, *now)))).collect()
    }
}

/// The lines of a table, the largest first; what is not worth a line is left out.
pub(super) fn rows(shares: &BTreeMap<String, f64>) -> Vec<Row> {
    let mut shares: Vec<_> = shares.iter().filter(|(_, percent)| **percent >= 1.0).collect();
    shares.sort_by(|a, b| b.1.total_cmp(a.1));
    let row =
        |(who, percent): (&String, &f64)| Row::figure(&format!("  of the importer's processor: {who}"), *percent, "%");
    shares.into_iter().map(row).collect()
}

/// Whose process it is, and its ticks with those of its children that have ended (`/proc/PID/stat`, proc(5)).
fn of_process(line: &str) -> Option<(&'static str, u64)> {
    let (head, rest) = line.rsplit_once(") ")?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
    let known = NAMES.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, called)| *called);
    let who = if fields.get(1) == Some(&KTHREADD) { KERNEL } else { known.unwrap_or(OTHERS) };
    Some((who, ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  10 0 20 100 5 0 0 0 0 0\n\
        7 (kworker/0:1-usb) I 2 0 0 0 -1 1 0 0 0 0 0 30 0 0 20 0 1 0 5 0 0\n\
        412 (qemu-system-x86) S 400 1 1 0 -1 1 0 0 0 0 50 10 0 0 20 0 3 0 5 0 0\n\
        90 (containerd) S 1 1 1 0 -1 1 0 0 0 0 5 5 20 10 20 0 3 0 5 0 0\n";

    #[test]
    fn whoever_used_the_processor_is_told_with_what_its_children_have() {
        let after =
            BEFORE.replace("100 5", "120 5").replace("5 5 20 10 20", "5 5 40 40 20").replace(" 50 10 ", " 80 10 ");
        let (before, after) = (Shares::of_text(BEFORE).unwrap(), Shares::of_text(&after).unwrap());
        let shares = after.since(&before);
        let of = |who: &str| shares.get(who).copied();
        assert_eq!([of("containerd"), of("QEMU with the guest"), of(IDLE)], [Some(50.0), Some(30.0), Some(20.0)]);
        assert_eq!((of(KERNEL), of(OTHERS)), (Some(0.0), None));
        assert_eq!(rows(&shares).len(), 3);
        assert_eq!(Shares::of_text("what"), None);
    }

    #[test]
    fn names_with_spaces_and_parentheses_are_names() {
        let line = "5 (a) b (c)) S 1 1 1 0 -1 1 0 0 0 0 1 2 3 4 20 0 3 0 5 0 0";
        assert_eq!(of_process(line), Some((OTHERS, 10)));
    }
}
