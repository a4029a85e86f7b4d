//! Moves of the machine: for how long its guest is without the device, from every kind of place to every other.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::clock::Clock;
use super::figures::{Row, Times};
use super::{HOME, IMPORTER, VM, attach, probe};
use crate::case::{BOOT, Case};
use crate::guest::{Guest, Line};

/// How often the machine goes around. One time more is not counted.
const ROUNDS: usize = 10;
/// A third node.
const OTHER: &str = "node-3";
/// For one move.
const MOVED: Duration = Duration::from_secs(120);
/// Where it goes, and what that is called.
const WAYS: [(&str, &str); 3] = [(OTHER, "remote to remote"), (HOME, "remote to local"), (IMPORTER, "local to remote")];

/// The moves of one kind.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Moves {
    pub(super) way: Cow<'static, str>,
    /// The guest has no device.
    pub(super) gap: Times,
    /// From the request to the completed operation.
    pub(super) whole: Times,
}

/// The rounds, which begin and end on [`IMPORTER`]. The machine is then started anew, so that its pod has the ordinary name.
///
/// # Errors
/// When a move does not complete.
pub(super) fn rounds(case: &Case<'_>, guest: &mut Guest, device: &str, clock: &Clock) -> Result<Vec<Moves>> {
    guest.forget();
    case.set_devices(VM, &[device])?;
    attach::comes(guest)?;
    case.wait_status(VM, device, true)?;
    let mut all = WAYS.map(|(_, way)| Moves { way: way.into(), ..Moves::default() });
    let mut from = IMPORTER;
    for round in 0..=ROUNDS {
        for ((to, way), moves) in WAYS.iter().zip(&mut all) {
            let (gap, whole) =
                once(case, guest, clock, (from, to), round).with_context(|| format!("{way}, {round}"))?;
            case.wait_status(VM, device, true)?;
            if round > 0 {
                moves.gap.push(gap);
                moves.whole.push(whole);
            }
            from = to;
        }
    }
    case.set_devices(VM, &[])?;
    attach::goes(guest)?;
    guest.forget();
    case.operate("restart", "Restart", VM)?;
    guest.wait_line("that it has booted", BOOT, |line| line.text.contains("guest: booted").then_some(()))?;
    Ok(all.into())
}

/// One move: for how long the guest has no device, and how long all of it takes.
fn once(
    case: &Case<'_>,
    guest: &mut Guest,
    clock: &Clock,
    (from, to): (&str, &str),
    round: usize,
) -> Result<(Duration, Duration)> {
    guest.forget();
    case.change_vm(VM, json!({"nodeSelector": {"kubernetes.io/hostname": to}}))?;
    let (name, begin) = (format!("{to}-{round}"), Instant::now());
    case.operate(&name, "Migrate", VM)?;
    case.completes(&name, MOVED)?;
    let whole = begin.elapsed();
    let (gone, back) = (attach::goes(guest)?, attach::comes(guest)?);
    let at = |node: &str, line: &Line| -> Result<Duration> {
        Ok(probe::skew(case.lab.node(node)?, clock)?.ours(line.written))
    };
    Ok((at(to, &back)?.saturating_sub(at(from, &gone)?), whole))
}

impl Moves {
    /// For the table.
    pub(super) fn rows(&self) -> [Row; 2] {
        [
            Row::times(&format!("migration, {}: the guest is without the device", self.way), &self.gap),
            Row::times("  all of it: asked -> completed", &self.whole),
        ]
    }
}
