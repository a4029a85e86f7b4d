//! Operations on machines, as a person asks for them: what each does to the machine and its device, and what it says when it
//! cannot be done.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::stick::Stick;

use super::life::is_free;
use super::limits::SMALL;

/// A restarted machine has its device again. A stopped one gives it back and stays stopped, whatever dies; a started one has
/// it again. What cannot be done says why and does nothing, and all operations stay to be read.
pub(super) fn start_stop_and_restart(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "operations")?;
    let stick = Stick::new("operations").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;

    guest.forget();
    case.operate("restart", "Restart", VM)?;
    guest.wait_line("that it has booted again", BOOT, |l| l.text.contains("guest: booted").then_some(()))?;
    guest.reads(&stick, BOOT).context("the machine was restarted")?;
    let said = case.completes("restart", SOON)?;
    ensure!(said == "virtual machine linux-vm runs again on node node-2", "the restart says: {said}");
    case.wait_status(VM, &device, true)?;
    cannot(&case, "start-1", "Start", VM, "NotApplicableForVirtualMachinePhase", "runs already")?;

    case.operate("stop", "Stop", VM)?;
    case.proceeds("stop", "StopInProgress", SOON)?;
    cannot(&case, "restart-2", "Restart", VM, "OtherOperationInProgress", "operation stop (Stop)")?;
    case.completes("stop", SOON)?;
    case.wait_message(VM, &device, false, "the virtual machine is stopped")?;
    is_free(&case, &device).context("the machine was stopped")?;
    cannot(&case, "stop-2", "Stop", VM, "NotApplicableForVirtualMachinePhase", "is stopped already")?;
    cannot(&case, "restart-3", "Restart", VM, "NotApplicableForVirtualMachinePhase", "start it instead")?;
    cannot(&case, "nobody", "Start", "no-such-vm", "VirtualMachineNotFound", "there is no virtual machine no-such-vm")?;

    // The controller that comes next knows it from the machine's status.
    lab.kubectl(&["delete", "pod", "-n", "patchbay", "-l", "app.kubernetes.io/component=controller"])?;
    lab.kubectl(&["rollout", "status", "-n", "patchbay", "deployment/controller", "--timeout=60s"])?;
    cannot(&case, "stop-3", "Stop", VM, "NotApplicableForVirtualMachinePhase", "is stopped already")?;

    guest.forget();
    case.operate("start", "Start", VM)?;
    guest.reads(&stick, BOOT).context("the machine was started")?;
    let said = case.completes("start", SOON)?;
    ensure!(said == "virtual machine linux-vm runs on node node-2", "the start says: {said}");
    case.wait_status(VM, &device, true)?;

    guest.forget();
    case.change_vm(VM, json!({"runPolicy": "AlwaysOn"}))?;
    cannot(&case, "stop-4", "Stop", VM, "NotApplicableForVirtualMachineRunPolicy", "is AlwaysOn")?;
    refused(&case)?;
    ensure!(!guest.lines().iter().any(|l| l.text.contains("remove")), "what was not done has disturbed the device");

    let left = lab.kubectl(&["get", "vmop", "-n", &case.namespace, "--no-headers"])?;
    ensure!(left.lines().count() == 10, "not all operations are there to be read:\n{left}");
    case.end()
}

/// An operation fails with this reason and these words.
fn cannot(case: &Case<'_>, name: &str, kind: &str, vm: &str, reason: &str, words: &str) -> Result<()> {
    case.operate(name, kind, vm)?;
    let message = case.fails(name, reason, SOON)?;
    ensure!(message.contains(words), "the message of {name} does not say {words:?}: {message}");
    Ok(())
}

/// What is no operation is refused at once, and none can be changed.
fn refused(case: &Case<'_>) -> Result<()> {
    for (name, kind, words) in [("dance", "Dance", "is no type of operation"), ("start", "Stop", "make another one")] {
        let refusal = match case.operate(name, kind, VM) {
            Ok(()) => "(nothing)".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        ensure!(refusal.contains(words), "{kind} by the name {name} should be refused with {words:?}: {refusal}");
    }
    Ok(())
}
