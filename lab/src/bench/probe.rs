//! A small program on each node: tells the time, hears the kernel's uevents, and passes devices to QEMU by hand.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::clock::Clock;
use crate::cluster::Lab;
use crate::command::Command;
use crate::namespace;
use crate::node::Node;

/// Where it is on a node.
pub(super) const PROGRAM: &str = "/run/byhand";
const HEARD: &str = "/run/byhand.uevents";
/// Where it tells the time.
const PORT: u16 = 4242;
/// How often the time is asked for, and for how long at most.
const ASKED: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// Something the kernel of a node has told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Uevent {
    /// When.
    pub(super) at: Duration,
    /// Whether the device came, or went.
    pub(super) add: bool,
    /// Where the device is: `9-1`.
    pub(super) place: String,
}

impl Uevent {
    /// The bus, which has one hub of its own.
    pub(super) fn hub(&self) -> &str {
        self.place.split_once('-').map_or(&self.place, |(bus, _)| bus)
    }
}

/// How far the clock of a node is from ours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Skew {
    ahead: Duration,
    behind: Duration,
}

impl Skew {
    /// Our time when the node's clock showed this one.
    pub(super) fn ours(self, theirs: Duration) -> Duration {
        theirs.saturating_sub(self.ahead) + self.behind
    }

    /// In either direction.
    pub(super) fn size(self) -> Duration {
        self.ahead + self.behind
    }
}

/// Builds it, brings it to all nodes and starts it there.
///
/// # Errors
/// When it cannot be built or does not run.
pub(super) fn start(lab: &Lab) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("parts/bench/byhand.c");
    let program = namespace::state().join("byhand");
    let flags = ["-static", "-O2", "-s", "-Wall", "-Wextra", "-o"];
    Command::new("gcc", &lab.logs().join("byhand.log")).args(flags).args([&program, &source]).run()?;
    let bytes = std::fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    for node in lab.nodes() {
        node.put(&bytes, PROGRAM)?;
        node.run(&format!(
            "chmod 755 {PROGRAM}; setsid {PROGRAM} watch >{HEARD} 2>&1 &\nsetsid {PROGRAM} clock >/run/byhand.clock 2>&1 &"
        ))?;
    }
    Ok(())
}

/// Compares clocks: of many questions the one that was answered fastest counts.
///
/// # Errors
/// When the node does not answer.
pub(super) fn skew(node: &Node, clock: &Clock) -> Result<Skew> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((node.ip(), PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let end = Instant::now() + PATIENCE;
    let mut answers = Vec::new();
    while answers.len() < ASKED && Instant::now() < end {
        answers.extend(ask(&socket, clock));
    }
    let best = answers.into_iter().min_by_key(|(time, _)| *time);
    best.map(|(_, skew)| skew).with_context(|| format!("{} does not tell the time", node.name()))
}

/// One question: how long the answer took, and what it says.
fn ask(socket: &UdpSocket, clock: &Clock) -> Option<(Duration, Skew)> {
    let mut text = [0; 32];
    let before = clock.unix(Instant::now());
    socket.send(b"?").ok()?;
    let length = socket.recv(&mut text).ok()?;
    let time = clock.unix(Instant::now()).saturating_sub(before);
    let theirs = micros(std::str::from_utf8(text.get(..length)?).ok()?)?;
    // It was asked halfway.
    let ours = before + time / 2;
    Some((time, Skew { ahead: theirs.saturating_sub(ours), behind: ours.saturating_sub(theirs) }))
}

/// All uevents of USB devices so far, in our time.
///
/// # Errors
/// When the node does not answer.
pub(super) fn uevents(node: &Node, clock: &Clock) -> Result<Vec<Uevent>> {
    let skew = skew(node, clock)?;
    let heard = node.run(&format!("cat {HEARD}"))?;
    Ok(heard.lines().filter_map(of_line).map(|event| Uevent { at: skew.ours(event.at), ..event }).collect())
}

fn of_line(line: &str) -> Option<Uevent> {
    let mut words = line.split_whitespace();
    let at = micros(words.next()?)?;
    Some(Uevent { at, add: words.next()? == "add", place: words.next()?.to_owned() })
}

/// Microseconds since 1970.
pub(super) fn micros(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_wrong_is_corrected_in_both_directions() {
        let ms = Duration::from_millis;
        assert_eq!(Skew { ahead: ms(30), behind: ms(0) }.ours(ms(1000)), ms(970));
        assert_eq!(Skew { ahead: ms(0), behind: ms(30) }.ours(ms(1000)), ms(1030));
    }

    #[test]
    fn what_the_probe_says_is_understood_and_its_complaints_are_not() {
        let heard = |at, add| Some(Uevent { at: Duration::from_micros(at), add, place: "2-1".to_owned() });
        assert_eq!(of_line("17 add 2-1"), heard(17, true));
        assert_eq!(of_line("18 remove 2-1"), heard(18, false));
        assert_eq!(of_line("byhand: uevents: No buffer space available"), None);
    }
}
