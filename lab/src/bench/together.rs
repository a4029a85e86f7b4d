//! As many devices as one node can have from others, listed at once: how long it takes until all are in the guest, beside the
//! slowest of them alone.
//!
//! A hub's kernel thread gives its devices their addresses one after the other, so a part of it is serial whoever asks: from the
//! first device of a hub to its last. Eight are on each of two hubs, which do not wait for each other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::clock::Clock;
use super::figures::{Row, Times};
use super::probe::{self, Uevent};
use super::shares::{self, Shares};
use super::{HOME, IMPORTER, NAMESPACE, VM};
use crate::case::{BOOT, Case, SOON};
use crate::guest::Guest;
use crate::stick::{Speed, Stick};

/// Devices of each of the two hubs.
const OF_HUB: usize = 8;
/// How often all are listed at once. One time more is not counted.
pub(super) const TIMES: usize = 5;
/// Size of their disks, in bytes.
const SIZE: usize = 256 << 10;

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Together {
    /// Each alone.
    alone: Times,
    /// All at once.
    all: Times,
    /// Of that, from the first to the last device of the slower hub.
    serial: Times,
    /// Who has used the importer's processor in the last round, in percent.
    #[serde(default)]
    shares: BTreeMap<String, f64>,
}

impl Together {
    /// Its lines of the table.
    ///
    /// `by_hand` is how long the stock tools take, and who has used the processor then.
    pub(super) fn rows(&self, (by_hand, shares_by_hand): (&Times, &BTreeMap<String, f64>)) -> Vec<Row> {
        let rest = (self.all.median() - self.serial.median()) / self.alone.worst();
        let mut rows = vec![Row::times("16 devices listed at once -> all are in the guest", &self.all)];
        rows.extend(shares::rows(&self.shares));
        rows.push(Row::times("  the same by hand", by_hand));
        rows.extend(shares::rows(shares_by_hand));
        rows.extend([
            Row::times("  one of them alone", &self.alone),
            Row::times("  the kernel's serial part: from the first device of a hub to its eighth", &self.serial),
            Row::figure("  the rest, in times of the slowest one alone", rest, "").at_most(1.5),
        ]);
        rows
    }
}

/// The rounds. The devices are unplugged at the end.
///
/// # Errors
/// When the guest does not see what it should.
pub(super) fn rounds(case: &Case<'_>, guest: &mut Guest, clock: &Clock) -> Result<Together> {
    let sticks: Vec<_> = sticks().into_iter().map(|stick| (HOME, stick)).collect();
    let names = case.plug_all(&sticks)?;
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    case.assign_all(&all, NAMESPACE)?;
    let mut together = Together::default();
    for name in &all {
        together.alone.push(listed(case, guest, &[name], clock)?.took);
    }
    for number in 0..=TIMES {
        let round = listed(case, guest, &all, clock)?;
        if number > 0 {
            together.all.push(round.took);
            together.serial.push(round.serial);
            together.shares = round.shares;
        }
    }
    for (node, stick) in &sticks {
        case.lab.node(node)?.unplug(stick)?;
    }
    Ok(together)
}

/// As many as the hubs have ports.
pub(super) fn sticks() -> Vec<Stick> {
    let kinds = [("high", Speed::High), ("super", Speed::Super)];
    let stick = |(kind, speed)| move |n| Stick::new(&format!("{kind}-{n}")).speed(speed).size(SIZE);
    kinds.into_iter().flat_map(|kind| (0..OF_HUB).map(stick(kind))).collect()
}

/// One round.
struct Round {
    /// From the list to the last device in the guest.
    took: Duration,
    /// From the first to the last device of the slower hub of the importer.
    serial: Duration,
    /// Who has used the importer's processor, in percent.
    shares: BTreeMap<String, f64>,
}

fn listed(case: &Case<'_>, guest: &mut Guest, names: &[&str], clock: &Clock) -> Result<Round> {
    guest.forget();
    let importer = case.lab.node(IMPORTER)?;
    let before = Shares::of(importer)?;
    let asked = clock.unix(case.set_devices(VM, names)?);
    let took = clock.unix(all_said(guest, "guest: usb add", names.len())?).saturating_sub(asked);
    let shares = Shares::of(importer)?.since(&before);
    let heard = probe::uevents(importer, clock)?;
    let came: Vec<&Uevent> = heard.iter().filter(|event| event.add && event.at >= asked).collect();
    for name in names {
        case.wait_status(VM, name, true)?;
    }
    guest.forget();
    case.set_devices(VM, &[])?;
    all_said(guest, "guest: usb remove", names.len())?;
    case.lab.assert_no_leaks(SOON)?;
    Ok(Round { took, shares, serial: serial(&came).context("the importer's kernel told of no device")? })
}

/// When the guest has said something so many times.
pub(super) fn all_said(guest: &Guest, text: &str, times: usize) -> Result<Instant> {
    let mut said = 0;
    guest.wait_line(&format!("{text:?} {times} times"), BOOT, |line| {
        said += usize::from(line.text.contains(text));
        (said == times).then_some(line.at)
    })
}

/// The longest time from the first to the last device of one hub.
fn serial(came: &[&Uevent]) -> Option<Duration> {
    let mut hubs: BTreeMap<&str, BTreeSet<Duration>> = BTreeMap::new();
    for event in came {
        hubs.entry(event.hub()).or_default().insert(event.at);
    }
    hubs.values().filter_map(|at| Some(at.last()?.saturating_sub(*at.first()?))).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hubs_do_not_wait_for_each_other() {
        let event = |ms, place: &str| Uevent { at: Duration::from_millis(ms), add: true, place: place.to_owned() };
        let heard = [event(10, "9-1"), event(20, "10-1"), event(310, "9-2"), event(420, "10-2"), event(500, "9-3")];
        assert_eq!(serial(&heard.iter().collect::<Vec<_>>()), Some(Duration::from_millis(490)));
        assert_eq!(serial(&[]), None);
    }
}
