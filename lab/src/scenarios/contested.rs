//! One device, and two virtual machines that list it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::stick::Stick;

use super::limits::SMALL;
use super::reading;

/// The first machine keeps the device, and the second is told who has it. It moves over by itself when the first one lists it
/// no longer, and back when the second one is deleted.
pub(super) fn one_has_it_and_the_other_is_next(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "contested")?;
    let stick = Stick::new("contested").size(SMALL);
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "contested")?;
    let mut one = case.vm("one", "node-2", &[&device])?;
    one.reads(&stick, BOOT)?;
    // On the device's own node.
    let two = case.vm("two", "node-1", &[&device])?;
    case.wait_message("two", &device, false, "in use by virtual machine one")?;
    case.wait_usb("two", "0/1")?;
    reading::goes_on(&mut one)?;
    two.has_exactly(&BTreeSet::new(), SOON)?;
    case.wait_usb("one", "1/1")?;

    one.forget();
    case.set_devices("one", &[])?;
    two.reads(&stick, SOON)?;
    one.loses_disk(SOON)?;
    case.wait_status("two", &device, true)?;
    case.set_devices("one", &[&device])?;
    case.wait_message("one", &device, false, "in use by virtual machine two")?;

    one.forget();
    case.delete_vm("two")?;
    one.reads(&stick, SOON)?;
    case.wait_status("one", &device, true)?;
    let message = case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(message.contains("contested/one"), "the device is said to be with another machine: {message}");
    case.end()
}
