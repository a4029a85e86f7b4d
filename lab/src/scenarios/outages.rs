//! Nodes without power, nodes that do not reach each other, an API server that does not answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

use super::reading;

/// A guest has to see within this time that the node of its device is gone.
pub(super) const NOTICED: Duration = Duration::from_secs(20);

/// The node of the virtual machine loses its power: machine and device return. Then the node of the device does: the device
/// is detached without it, asked for without it, and returns with it.
pub(super) fn nodes_rebooted(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "reboot")?;
    let stick = Stick::new("reboot");
    // Somebody has to delete what is left while the other node is off.
    let importer = product::controller_node(lab)?;
    let home = if importer == "node-1" { "node-2" } else { "node-1" };
    let (device, mut guest) = case.reading(&stick, home, &importer)?;

    guest.forget();
    lab.power_off(&importer)?;
    lab.boot(&importer)?;
    guest.reads(&stick, BOOT).context("after the node of the machine was rebooted")?;
    case.wait_status(VM, &device, true)?;

    guest.forget();
    lab.power_off(home)?;
    guest.loses_disk(NOTICED)?;
    case.set_devices(VM, &[])?;
    lab.assert_no_leaks(SOON).context("detached while the node of the device is off")?;
    case.set_devices(VM, &[&device])?;
    case.wait_message(VM, &device, false, home)?;
    lab.boot(home)?;
    guest.reads(&stick, BOOT).context("after the node of the device was rebooted")?;
    case.wait_status(VM, &device, true)?;
    case.end()
}

/// The importer does not reach the node of one device: that is said, and tried again until it works; a device of another node
/// comes as quickly as ever meanwhile.
pub(super) fn home_node_out_of_reach(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "out-of-reach")?;
    let (far, near) = (Stick::new("far"), Stick::new("near"));
    let (far_device, _) = case.plug("node-1", &far)?;
    let (near_device, _) = case.plug("node-3", &near)?;
    case.assign(&far_device, "out-of-reach")?;
    case.assign(&near_device, "out-of-reach")?;
    let mut guest = case.vm(VM, "node-2", &[])?;
    let (home, importer) = (lab.node("node-1")?, lab.node("node-2")?);
    case.diagnosed("node-1", '✓', "reaches", &["node-2 in ", "node-3 in ", " ms"])?;

    home.cut_from(importer);
    case.set_devices(VM, &[&far_device])?;
    case.wait_message(VM, &far_device, false, "the agent of node node-1 cannot be called")?;
    case.set_devices(VM, &[&far_device, &near_device])?;
    guest.reads(&near, SOON)?;
    case.wait_status(VM, &near_device, true)?;
    case.wait_message(VM, &far_device, false, "the agent of node node-1 cannot be called")?;
    let lent = home.run("ls -d /sys/bus/usb/drivers/usbip-host/*-* 2>/dev/null; true")?;
    ensure!(lent.is_empty(), "lent to nobody: {lent}");
    case.diagnosed("node-2", '✗', "reaches", &["not node-1: ", "took longer than 5s"])?;
    case.diagnosed("node-3", '✓', "reaches", &["node-1 in ", "node-2 in "])?;

    guest.forget();
    home.heal_from(importer);
    guest.reads(&far, SOON)?;
    case.wait_status(VM, &far_device, true)?;
    case.set_devices(VM, &[])?;
    lab.assert_no_leaks(SOON)?;
    case.end()
}

/// Nobody answers at the API server: the guest reads on, also when the agents are killed meanwhile, and sees the cable pulled.
/// When the server is back, so is the truth; and the device, when it is plugged in again.
pub(super) fn api_server_away(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "no-api")?;
    let stick = Stick::new("no-api");
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    reading::goes_on(&mut guest)?;

    let frozen = lab.freeze_api()?;
    reading::goes_on_in_log(lab.node("node-2")?, "no-api")?;
    for node in ["node-1", "node-2"] {
        lab.kill(node, "agent")?;
    }
    reading::goes_on_in_log(lab.node("node-2")?, "no-api")?;
    case.unplug("node-1", &stick)?;
    reading::ends_in_log(lab.node("node-2")?, "no-api")?;
    drop(frozen);

    case.wait_condition(&device, "Ready", "NotFound")?;
    case.wait_status(VM, &device, false)?;
    guest.forget();
    case.plug("node-1", &stick)?;
    guest.reads(&stick, SOON)?;
    case.wait_status(VM, &device, true)?;
    guest.forget();
    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;
    case.end()
}
