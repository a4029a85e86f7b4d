//! The life of a virtual machine: stopped and started, its pod killed, its node drained, deleted; and what becomes of its device.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

use super::limits::SMALL;
use super::migration;

/// A machine that is stopped or deleted gives its device back; one that is started, or whose pod was deleted by force, has it
/// again.
pub(super) fn stopped_killed_and_deleted(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "life")?;
    let stick = Stick::new("life").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;

    case.change_vm(VM, json!({"runPolicy": "AlwaysOff"}))?;
    case.wait_message(VM, &device, false, "the virtual machine is stopped")?;
    is_free(&case, &device).context("the machine was stopped")?;
    guest.forget();
    case.change_vm(VM, json!({"runPolicy": "AlwaysOn"}))?;
    guest.reads(&stick, BOOT).context("the machine was started again")?;
    case.wait_status(VM, &device, true)?;

    // Its name is free for the next pod at once, while the machine may still run for a moment.
    guest.forget();
    lab.kubectl(&["delete", "pod", "-n", "life", "vm-linux-vm", "--force", "--grace-period=0"])?;
    guest.reads(&stick, BOOT).context("the machine's pod was deleted by force")?;
    case.wait_status(VM, &device, true)?;

    case.delete_vm(VM)?;
    case.wait_gone("pod/vm-linux-vm")?;
    is_free(&case, &device).context("the machine was deleted")?;
    case.end()
}

/// Nobody has the device, anybody may have it, and nothing is left of its attachment.
pub(super) fn is_free(case: &Case<'_>, device: &str) -> Result<()> {
    case.lab.assert_no_leaks(SOON)?;
    case.wait_condition(device, "Ready", "Ready")?;
    case.lab.wait_for("the device to be said to be available", SOON, || {
        let message = case.wait_condition(device, "Attached", "Available").map_err(|error| format!("{error:#}"))?;
        if message == "Device is available for attachment" { Ok(()) } else { Err(message) }
    })
}

/// The node of a machine is drained, the way an administrator does it: the machine moves to another node while its guest runs,
/// and the device is in it there; the drain waits for that. The other node is the device's own here.
pub(super) fn drained(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "drain")?;
    let stick = Stick::new("drain").size(SMALL);
    // The controller need not move.
    let home = product::controller_node(lab)?;
    let drained = if home == "node-1" { "node-2" } else { "node-1" };
    let (device, mut guest) = case.reading(&stick, &home, drained)?;
    // Counts for the next pod, also if the machine moves there.
    case.change_vm(VM, json!({"nodeSelector": null}))?;

    let before = migration::uptime(&guest)?;
    guest.forget();
    let how = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s"];
    lab.kubectl(&[["drain", drained].as_slice(), &how].concat())?;
    guest.reads(&stick, BOOT)?;
    migration::has_run_on(&guest, before)?;
    lab.kubectl(&["uncordon", drained])?;
    case.wait_status(VM, &device, true)?;
    let message = case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(message.contains(&format!("on node {home}")), "the machine is not where it should be: {message}");
    case.end()
}
