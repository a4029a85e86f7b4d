//! Devices that their own node uses stay with it, and those that are somebody else's stay out of its reach.

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
/// The kubelet starts a container again after a pause that doubles each time.
const RESTART: Duration = Duration::from_secs(120);
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

/// Waits until a node has no disk for the stick in one of its ports.
fn no_disk(lab: &Lab, node: &Node, stick: &Stick) -> Result<()> {
    lab.wait_for(&format!("{} to have no disk for {}", node.name(), stick.name), SOON, || {
        let look = || -> Result<String> {
            let port = node.port_of(stick)?;
            node.run(&format!("find /sys/bus/usb/devices/{port}/ -path '*/block/*' -name 'sd*'"))
        };
        let found = look().map_err(|e| format!("{e:#}"))?;
        if found.is_empty() { Ok(()) } else { Err(found) }
    })
}

/// How often the drivers of a node have found a disk in whatever was plugged into it, by its kernel's log.
fn probed(node: &Node) -> Result<usize> {
    let count = node.run("dmesg | grep -c 'USB Mass Storage device detected\\|Attached SCSI'; true")?;
    Ok(count.trim().parse()?)
}

/// What the disk holds that a node has mounted, as it is when it is unmounted: nothing is written any more.
fn sum(node: &Node, disk: &str, point: &str) -> Result<String> {
    let line = node.run(&format!(
        "set -e; mount -o remount,ro {point}; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum /dev/{disk}"
    ))?;
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
    let name = disk(lab, node, &stick)?;
    let mut here = case.vm("here", "node-1", &[])?;
    let mut there = case.vm("there", "node-2", &[])?;

    node.run(&format!(
        "set -e; mke2fs /dev/{name} >/dev/null; mkdir -p {POINT}; mount -t ext2 /dev/{name} {POINT}; echo mine >{POINT}/note"
    ))?;
    case.assign(&device, "mounted")?;
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

    let left = sum(node, &name, POINT)?;
    node.run(&format!("umount {POINT}"))?;
    is_read(&there, &stick, &left)?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    there.forget();
    case.set_devices("there", &[])?;
    there.loses_disk(SOON)?;
    case.wait_condition(&device, "Attached", "Available")?;
    lab.wait_for(&format!("{device} to be ready again"), LOOKED, || {
        case.wait_condition(&device, "Ready", "Ready").map(drop).map_err(|e| format!("{e:#}"))
    })?;

    // Nobody has it while it is assigned: then the node has it again, and does not let go.
    case.reassign(&device, None)?;
    let name = disk(lab, node, &stick)?;
    node.run(&format!(
        "unshare -m sh -c 'mount -t ext2 -o ro /dev/{name} {POINT} && echo $$ >/run/holder && exec sleep 100000' \
         </dev/null >/dev/null 2>&1 &
         n=0; until [ -s /run/holder ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; usleep 20000; done"
    ))?;
    case.assign(&device, "mounted")?;
    here.forget();
    case.set_devices("here", &[&device])?;
    let message = case.wait_message("here", &device, false, &format!("has {name} for itself"))?;
    ensure!(message.contains("node-1"), "the message does not name the node: {message}");
    is_untouched(&here)?;
    // It was mounted to be read only, so it is what it was.
    node.run("kill $(cat /run/holder)")?;
    is_read(&here, &stick, &left)?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    give_back(&case, &["here"])?;
    case.end()
}

/// A disk that is assigned is with nobody while nobody uses it: its node's drivers do not find it from the assignment on, nor
/// after a machine of another node or of its own has released it, nor when the agent was killed. One that comes up anew they do
/// find, until the agent has seen it. When it is assigned to nobody any more, it is the node's again.
pub(super) fn a_tenants_disk_is_kept_from_its_node(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "withheld")?;
    let node = lab.node("node-1")?;
    let stick = Stick::new("withheld");
    let (device, _) = case.plug("node-1", &stick)?;
    disk(lab, node, &stick)?;
    case.assign(&device, "withheld")?;
    no_disk(lab, node, &stick)?;

    let before = probed(node)?;
    let mut there = case.vm("there", "node-2", &[])?;
    for round in 1..=2 {
        there.forget();
        case.set_devices("there", &[&device])?;
        is_read(&there, &stick, &stick.sha256())?;
        case.set_devices("there", &[])?;
        there.loses_disk(SOON)?;
        case.wait_condition(&device, "Attached", "Available")?;
        lab.assert_no_leaks(SOON)?;
        no_disk(lab, node, &stick)?;
        ensure!(probed(node)? == before, "the drivers of node-1 have found the disk in round {round}");
        if round == 1 {
            lab.kill("node-1", "agent")?;
            lab.wait_for("the agent of node-1 to run again", RESTART, || {
                if node.runs("agent").map_err(|e| format!("{e:#}"))? { Ok(()) } else { Err("no process".to_owned()) }
            })?;
        }
    }

    node.falter(&stick)?;
    no_disk(lab, node, &stick)?;
    case.wait_condition(&device, "Ready", "Ready")?;

    // On its own node a machine gets it through the node's drivers.
    let mut here = case.vm("here", "node-1", &[&device])?;
    is_read(&here, &stick, &stick.sha256())?;
    here.forget();
    case.set_devices("here", &[])?;
    here.loses_disk(SOON)?;
    case.wait_condition(&device, "Attached", "Available")?;
    no_disk(lab, node, &stick)?;

    case.reassign(&device, None)?;
    disk(lab, node, &stick)?;
    case.end()
}
