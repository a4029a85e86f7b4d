//! Assignments that change while the device is attached: to another namespace, to none, to one that is deleted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::history::History;
use crate::stick::Stick;

use super::limits::SMALL;

/// Time for a namespace with everything in it to go away.
const DELETED: Duration = Duration::from_secs(60);
/// The machine of the other namespace.
const OTHER: &str = "other-vm";

/// The device leaves the old namespace's machine before it enters that of the new one, which has listed it all along; the
/// assignment says meanwhile for whom it waits. Without an assignment it is in no machine. A namespace that is deleted takes
/// everything with it, and has the device again when it is made again.
pub(super) fn changed_while_attached(lab: &Lab) -> Result<()> {
    let (first, second) = (Case::begin(lab, "first")?, Case::begin(lab, "second")?);
    let stick = Stick::new("reassigned").size(SMALL);
    let (device, mut guest) = first.reading(&stick, "node-1", "node-2")?;
    let mut other = second.vm(OTHER, "node-2", &[&device])?;
    second.wait_message(OTHER, &device, false, "no USBDevice")?;
    let object = format!("usbdevice/{device}");
    let mut history = History::begin(lab, &device, "Assigned")?;

    guest.forget();
    first.reassign(&device, Some("second"))?;
    waits_for(&history.until("Assigned: ", SOON)?, "virtual machine linux-vm in namespace first")?;
    other.reads(&stick, SOON)?;
    let gone = guest.wait_line("that the device is gone", SOON, |l| l.text.contains("usb remove").then_some(l.at))?;
    let come = other.wait_line("that the device has come", SOON, |l| l.text.contains("usb add").then_some(l.at))?;
    ensure!(gone < come, "the device was in one machine {:?} before it had left the other", gone - come);
    second.wait_status(OTHER, &device, true)?;
    first.wait_gone(&object)?;
    first.wait_message(VM, &device, false, "no USBDevice")?;

    other.forget();
    second.reassign(&device, None)?;
    waits_for(&history.until("Available: ", SOON)?, "virtual machine other-vm in namespace second")?;
    other.loses_disk(SOON)?;
    second.wait_gone(&object)?;
    second.wait_message(OTHER, &device, false, "no USBDevice")?;
    lab.assert_no_leaks(SOON).context("the assignment was removed")?;

    other.forget();
    second.reassign(&device, Some("second"))?;
    other.reads(&stick, SOON)?;
    history.until("Assigned: ", SOON)?;
    lab.kubectl(&["delete", "namespace", "second", "--wait=false"])?;
    let told = history.until("namespace second does not exist", DELETED)?;
    ensure!(told.iter().any(|t| t.contains("namespace second is being deleted")), "the assignment only says {told:#?}");
    lab.assert_no_leaks(SOON).context("the namespace was deleted")?;
    first.wait_node_condition(&device, "Attached", "Available")?;

    let second = Case::begin(lab, "second")?;
    history.until("Assigned: ", SOON)?;
    second.wait_condition(&device, "Ready", "Ready")?;
    first.end()?;
    second.end()
}

/// Of all that the assignment has said on its way, something names whom it waits for.
fn waits_for(told: &[String], whom: &str) -> Result<()> {
    let names = |text: &String| text.starts_with("InProgress: ") && text.contains(whom);
    ensure!(told.iter().any(names), "the assignment does not say that it waits for {whom}: {told:#?}");
    Ok(())
}
