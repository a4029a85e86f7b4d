//! Attach and detach through the list of a virtual machine's devices.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::clock::Clock;
use super::{ROUNDS, VM};
use crate::case::{Case, SOON};
use crate::guest::{Guest, Line};

/// When things happened in one round.
#[derive(Debug, Clone)]
pub(super) struct Round {
    /// The list with the device was sent.
    pub(super) asked: Duration,
    /// The guest's line about the device arrived.
    pub(super) seen: Duration,
    /// The empty list was sent.
    pub(super) recalled: Duration,
    /// The guest's line about the end of the device arrived.
    pub(super) gone: Duration,
    /// Everything the attachment used was given back, and every object said so.
    pub(super) settled: Duration,
}

impl Round {
    /// From the list to the guest.
    pub(super) fn attach(&self) -> Duration {
        self.seen.saturating_sub(self.asked)
    }

    /// From the empty list to the guest.
    pub(super) fn detach(&self) -> Duration {
        self.gone.saturating_sub(self.recalled)
    }
}

/// The rounds, the first one not counted.
///
/// # Errors
/// When the guest does not see what it should.
pub(super) fn rounds(case: &Case<'_>, guest: &mut Guest, device: &str, clock: &Clock) -> Result<Vec<Round>> {
    let all: Result<Vec<Round>> = (0..=ROUNDS).map(|_| round(case, guest, device, clock)).collect();
    all.map(|mut rounds| rounds.split_off(1))
}

fn round(case: &Case<'_>, guest: &mut Guest, device: &str, clock: &Clock) -> Result<Round> {
    guest.forget();
    let asked = case.set_devices(VM, &[device])?;
    let seen = comes(guest)?;
    case.wait_status(VM, device, true)?;
    case.wait_condition(device, "Attached", "AttachedToVirtualMachine")?;
    settles(guest)?;
    guest.forget();
    let recalled = case.set_devices(VM, &[])?;
    let gone = goes(guest)?;
    case.lab.assert_no_leaks(SOON)?;
    case.wait_condition(device, "Attached", "Available")?;
    let [asked, seen, recalled, gone] = [asked, seen.at, recalled, gone.at].map(|at| clock.unix(at));
    Ok(Round { asked, seen, recalled, gone, settled: clock.unix(Instant::now()) })
}

/// Waits until the guest says that it has a USB device.
pub(super) fn comes(guest: &Guest) -> Result<Line> {
    guest.wait_line("that a device came", SOON, |line| line.text.contains("guest: usb add").then(|| line.clone()))
}

/// Waits until the guest has read the disk of its new device: while it looks what that is, it is in no hurry to see it go.
pub(super) fn settles(guest: &Guest) -> Result<()> {
    let read = |line: &Line| (line.text.contains("guest: disk ") && line.text.contains(" sha256=")).then_some(());
    guest.wait_line("that it has read the disk", SOON, read)
}

/// Waits until the guest says that a USB device is gone.
pub(super) fn goes(guest: &Guest) -> Result<Line> {
    guest.wait_line("that a device went", SOON, |line| line.text.contains("guest: usb remove").then(|| line.clone()))
}
