//! The main job: a device of one node in a virtual machine of another, or of its own, and its way out again.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::stick::Stick;

/// A stick of node-1 is read in a virtual machine on node-2, unplugged from it, plugged again, all while it runs.
pub(super) fn are_attached_to_a_machine_on_another_node_and_detached(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "remote")?;
    let stick = Stick::new("remote");
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "remote")?;
    let mut guest = case.vm("linux-vm", "node-2", &[])?;
    for _ in 0..2 {
        guest.forget();
        case.set_devices("linux-vm", &[&device])?;
        let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
        ensure!(seen == stick.sha256(), "the guest reads {seen}, the stick holds {}", stick.sha256());
        let message = case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
        ensure!(
            message.contains("linux-vm") && message.contains("node-2"),
            "the message names neither VM nor node: {message}"
        );
        case.wait_status("linux-vm", &device, true)?;
        guest.forget();
        case.set_devices("linux-vm", &[])?;
        guest.wait_line("that the disk is gone", SOON, |l| l.text.contains("guest: disk remove").then_some(()))?;
        case.wait_condition(&device, "Attached", "Available")?;
        lab.assert_no_leaks(SOON)?;
    }
    case.end()
}

/// On one node there is no USB/IP: no port is taken, nothing is bound.
pub(super) fn on_the_machines_own_node_need_no_usbip(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "local")?;
    let stick = Stick::new("local");
    let (device, _) = case.plug("node-2", &stick)?;
    case.assign(&device, "local")?;
    let mut guest = case.vm("linux-vm", "node-2", &[&device])?;
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    ensure!(seen == stick.sha256(), "the guest reads {seen}, the stick holds {}", stick.sha256());
    case.wait_status("linux-vm", &device, true)?;
    let node = lab.node("node-2")?;
    let busy = node.run(
        "grep -vhE ' 004 |sockfd' /sys/devices/platform/vhci_hcd.0/status* | wc -l; ls -d /sys/bus/usb/drivers/usbip-host/*-* 2>/dev/null | wc -l",
    )?;
    ensure!(busy.split_whitespace().all(|n| n == "0"), "ports in use, devices bound: {busy}");
    let claims = lab.kubectl(&["get", "resourceclaims", "-n", "local", "-o", "name"])?;
    ensure!(claims.lines().count() == 1, "only the device is claimed, no port: {claims}");
    guest.forget();
    case.set_devices("linux-vm", &[])?;
    guest.wait_line("that the disk is gone", SOON, |l| l.text.contains("guest: disk remove").then_some(()))?;
    case.end()
}

/// A virtual machine that lists a device of another namespace does not get it, and is told why.
pub(super) fn of_another_namespace_are_not_attached(lab: &Lab) -> Result<()> {
    let other = Case::begin(lab, "owner")?;
    let case = Case::begin(lab, "stranger")?;
    let stick = Stick::new("foreign");
    let (device, _) = other.plug("node-1", &stick)?;
    other.assign(&device, "owner")?;
    let guest = case.vm("linux-vm", "node-2", &[&device])?;
    let message = case.wait_status("linux-vm", &device, false)?;
    ensure!(
        message.contains("no USBDevice") && message.contains("stranger") && message.contains("assignedNamespace"),
        "the message says neither what is missing nor what to do: {message}"
    );
    case.explained("linux-vm", &device, &["assigned to namespace owner", "stranger", "kubectl usb assign"])?;
    let pods = lab.kubectl(&["get", "pods", "-n", "stranger", "-l", crate::leaks::ATTACHMENT, "-o", "name"])?;
    ensure!(pods.trim().is_empty(), "there is an attachment: {pods}");
    ensure!(!guest.lines().iter().any(|l| l.text.contains("guest: usb add")), "the guest sees a device");
    let machines = format!("virtualmachine/{}", "linux-vm");
    lab.kubectl(&["delete", "-n", "stranger", &machines])?;
    other.end()?;
    case.end()
}

/// A machine that starts anew, in a new pod, has its device again.
pub(super) fn return_when_their_machine_is_restarted(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "restart")?;
    let stick = Stick::new("restart");
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "restart")?;
    let mut guest = case.vm("linux-vm", "node-2", &[&device])?;
    guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    guest.forget();
    lab.kubectl(&["delete", "pod", "-n", "restart", "vm-linux-vm", "--wait=false"])?;
    guest.wait_line("that it has booted again", BOOT, |l| l.text.contains("guest: booted").then_some(()))?;
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    ensure!(seen == stick.sha256(), "the guest reads {seen}, the stick holds {}", stick.sha256());
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    case.end()
}

/// QEMU dies while the guest reads two disks; the kubelet starts it again in the same pod, and they are in the new guest. What
/// the former guest was in the midst of with them is over: the one of another node has been imported anew, since that is what
/// resets it, and the other one has had no configuration for a moment, so that the node's driver has found both anew.
pub(super) fn return_when_qemu_crashed(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "crash")?;
    let importer = lab.node("node-2")?;
    let sticks = [("node-1", Stick::new("crash-away")), ("node-2", Stick::new("crash-here"))];
    let devices = case.plug_all(&sticks)?;
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    case.assign_all(&devices, "crash")?;
    let mut guest = case.vm("linux-vm", "node-2", &devices)?;
    sticks.iter().try_for_each(|(_, stick)| guest.reads(stick, BOOT))?;
    let imported = || importer.run("cat /sys/devices/platform/vhci_hcd.0/usb*/*-*/devnum");
    let found =
        || -> Result<u32> { Ok(importer.run("dmesg | grep -c 'USB Mass Storage device detected'")?.trim().parse()?) };
    let (before, seen) = (imported()?, found()?);
    guest.forget();
    importer.run("kill -9 $(pidof qemu-system-x86_64)")?;
    sticks.iter().try_for_each(|(_, stick)| guest.reads(stick, BOOT + Duration::from_secs(30)))?;
    let after = imported()?;
    ensure!(before != after, "it was not imported anew: its number is {before} as before");
    let again = found()?;
    ensure!(again >= seen + 2, "the node's driver found a disk {seen} times before, and {again} times in all");
    case.end()
}
