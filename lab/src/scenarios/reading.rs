//! How a guest's reading of its disks goes on: what is good, wrong, and failed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::case::SOON;
use crate::guest::{Guest, Line};
use crate::node::Node;
use crate::wait::wait_for;

/// How many blocks a disk has to give, all of them good, before its reading counts as going on.
const BLOCKS: u64 = 100;

/// What the guest has read of its disk since it was plugged in: good, wrong, failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reads {
    ok: u64,
    bad: u64,
    errors: u64,
}

impl Reads {
    fn is_wrong(self) -> bool {
        self.bad != 0 || self.errors != 0
    }
}

fn reads(line: &str) -> Option<Reads> {
    let text = line.split_once(" reads ")?.1;
    let number = |name: &str| {
        let value = text.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))?;
        value.parse().ok()
    };
    Some(Reads { ok: number("ok")?, bad: number("bad")?, errors: number("errors")? })
}

/// The guest goes on reading for some time, and never reads anything wrong.
pub(super) fn goes_on(guest: &mut Guest) -> Result<()> {
    guest.forget();
    has_gone_on(guest, SOON)
}

/// The same of everything the guest has said since [`Guest::forget`], which may be long ago.
pub(crate) fn has_gone_on(guest: &Guest, deadline: Duration) -> Result<()> {
    let first = guest.wait_line("how its reading goes", deadline, |line| reads(&line.text))?;
    let what = "that it has read a hundred blocks more";
    guest.wait_line(what, deadline, |line| reads(&line.text).filter(|now| now.ok >= first.ok + BLOCKS))?;
    for line in guest.lines() {
        let wrong = reads(&line.text).is_some_and(Reads::is_wrong);
        ensure!(!wrong, "the guest has read something wrong: {}", line.text);
        ensure!(!line.text.contains("remove"), "the guest has lost its device: {}", line.text);
    }
    Ok(())
}

/// The guest, which may have lost its disk for a moment and may not have said so yet, reads it for some time without losing it
/// again; nothing it reads is wrong.
pub(super) fn settles(guest: &mut Guest) -> Result<()> {
    guest.forget();
    let (mut first, mut wrong) = (None, None);
    let what = "that it has read a hundred blocks without a break";
    guest.wait_line(what, SOON, |line| {
        if line.text.contains("guest: disk remove") {
            first = None;
        }
        let now = reads(&line.text)?;
        wrong = wrong.take().or_else(|| (now.bad != 0).then(|| line.text.clone()));
        let begin = *first.get_or_insert(now.ok);
        (now.ok >= begin + BLOCKS || wrong.is_some()).then_some(())
    })?;
    ensure!(wrong.is_none(), "the guest has read something wrong: {}", wrong.unwrap_or_default());
    Ok(())
}

/// Nothing has disturbed a disk since [`Guest::forget`], whatever other disks have done, and its reading goes on now.
pub(super) fn is_undisturbed(guest: &Guest, disk: &str) -> Result<()> {
    let (begin, tally) = (Instant::now(), format!("guest: disk {disk} reads "));
    let goes_on = |line: &Line| (line.at >= begin && line.text.contains(&tally)).then_some(());
    guest.wait_line(&format!("how the reading of {disk} goes"), SOON, goes_on)?;
    for line in guest.lines() {
        let wrong = line.text.contains(&tally) && reads(&line.text).is_none_or(Reads::is_wrong);
        ensure!(!wrong, "the guest has read something wrong: {}", line.text);
        let gone = line.text.contains(&format!("guest: disk remove {disk} "));
        ensure!(!gone, "the guest has lost its device: {}", line.text);
    }
    Ok(())
}

/// As [`goes_on`], told by the log that a node keeps of a machine's console: it needs no API server.
pub(super) fn goes_on_in_log(node: &Node, namespace: &str) -> Result<()> {
    let last = || {
        let lines = node.run(&format!("cat {} | grep ' reads ' | tail -n 1", log(namespace)))?;
        reads(&lines).with_context(|| format!("the console says nothing of reading: {lines:?}"))
    };
    let first = last()?;
    let later = wait_for("the guest to read a hundred blocks more", SOON, || {
        let now = last().map_err(|error| format!("{error:#}"))?;
        if now.ok >= first.ok + BLOCKS { Ok(now) } else { Err(format!("{now:?}")) }
    })?;
    ensure!(!later.is_wrong(), "the guest has read something wrong: {later:?}");
    Ok(())
}

/// Waits until that log says that the disk is gone.
pub(super) fn ends_in_log(node: &Node, namespace: &str) -> Result<()> {
    wait_for("the guest to lose its disk", SOON, || {
        let gone = node.run(&format!("cat {} | grep -c 'guest: disk remove'; true", log(namespace)));
        gone.map_err(|error| format!("{error:#}")).and_then(|count| if count == "0" { Err(count) } else { Ok(()) })
    })
}

fn log(namespace: &str) -> String {
    format!("/var/log/pods/{namespace}_vm-*/*/*.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tally_of_reads_is_understood() {
        let seen = reads("guest: disk sda reads ok=20 bad=0 errors=1 up=3.10");
        assert_eq!(seen, Some(Reads { ok: 20, bad: 0, errors: 1 }));
        assert_eq!(reads("guest: disk sda sha256=00 bytes=3"), None);
    }
}
