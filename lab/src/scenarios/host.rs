//! Devices that their own node uses: they stay with it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::limits::give_back;
use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::node::Node;
use crate::stick::Stick;

/// A node is looked at again after half a minute: nobody tells when something is mounted.
const LOOKED: Duration = Duration::from_secs(60);
/// Where the node mounts the disk.
const POINT: &str = "/run/stick";

/// The kernel's name for the disk of the stick in a port of a node, once it is there.
fn disk(lab: &Lab, node: &Node, stick: &Stick) -> Result<String> {
    lab.wait_for(&format!("{} to have a disk for {}", node.name(), stick.name), SOON, || {
        let port = node.port_of(stick).map_err(|e| format!("{e:#}"))?;
        let look = format!("ls -d /sys/bus/usb/devices/{port}/{port}:*/host*/target*/*/block/sd*");
        let found = node.run(&look).map_err(|e| format!("{e:#}"))?;
        found.trim().rsplit('/').next().map(str::to_owned).ok_or(found)
    })
}

/// What a disk holds, as its own node reads it.
fn sum(node: &Node, disk: &str) -> Result<String> {
    let line = node.run(&format!("sha256sum /dev/{disk}"))?;
    Ok(line.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The guest has read the disk as its own node has left it.
fn is_read(guest: &Guest, stick: &Stick, left: &str) -> Result<()> {
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    ensure!(seen == left, "the guest reads {seen}, the node has left {left}");
    Ok(())
}

fn is_untouched(guest: &Guest) -> Result<()> {
    ensure!(guest.lines().iter().all(|l| !l.text.contains("guest: usb add")), "the guest sees a device of the node's");
    Ok(())
}

/// A disk that its node has mounted is lent to nobody, from the moment of the mount on, and it is said where it is mounted.
/// It comes by itself once it is unmounted. Nor does a machine of the node itself get one that is mounted where the node
/// does not see it: in the own view of a container.
pub(super) fn a_mounted_disk_is_not_lent(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "mounted")?;
    let node = lab.node("node-1")?;
    let stick = Stick::new("mounted");
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "mounted")?;
    let name = disk(lab, node, &stick)?;
    let mut here = case.vm("here", "node-1", &[])?;
    let mut there = case.vm("there", "node-2", &[])?;

    node.run(&format!(
        "set -e; mke2fs /dev/{name} >/dev/null; mkdir -p {POINT}; mount -t ext2 /dev/{name} {POINT}; echo mine >{POINT}/note"
    ))?;
    case.set_devices("there", &[&device])?;
    let message = case.wait_message("there", &device, false, POINT)?;
    ensure!(message.contains("node-1") && message.contains("unmount"), "it is not said who and what to do: {message}");
    lab.wait_for(&format!("{device} not to be ready"), LOOKED, || {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")]}";
        let said = lab.kubectl(&["get", "nodeusbdevice", &device, "-o", path]).map_err(|e| format!("{e:#}"))?;
        if said.contains("NotReady") && said.contains(POINT) { Ok(()) } else { Err(said) }
    })?;
    case.wait_condition(&device, "Ready", "NotReady")?;
    is_untouched(&there)?;
    let note = node.run(&format!("echo 3 >/proc/sys/vm/drop_caches; cat {POINT}/note"))?;
    ensure!(note.trim() == "mine", "the node's file system holds {note:?}");

    node.run(&format!("umount {POINT}"))?;
    let left = sum(node, &name)?;
    is_read(&there, &stick, &left)?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    there.forget();
    case.set_devices("there", &[])?;
    there.loses_disk(SOON)?;
    case.wait_condition(&device, "Attached", "Available")?;
    lab.wait_for(&format!("{device} to be ready again"), LOOKED, || {
        case.wait_condition(&device, "Ready", "Ready").map(drop).map_err(|e| format!("{e:#}"))
    })?;

    let name = disk(lab, node, &stick)?;
    node.run(&format!(
        "unshare -m sh -c 'mount -t ext2 -o ro /dev/{name} {POINT} && echo $$ >/run/holder && exec sleep 100000' \
         </dev/null >/dev/null 2>&1 &
         n=0; until [ -s /run/holder ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; usleep 20000; done"
    ))?;
    here.forget();
    case.set_devices("here", &[&device])?;
    let message = case.wait_message("here", &device, false, &format!("has {name} for itself"))?;
    ensure!(message.contains("node-1"), "the message does not name the node: {message}");
    is_untouched(&here)?;
    node.run("kill $(cat /run/holder)")?;
    let left = sum(node, &name)?;
    is_read(&here, &stick, &left)?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    give_back(&case, &["here"])?;
    case.end()
}
