//! Our own processes die: guests notice nothing, and nothing is left behind.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::stick::Stick;

use super::reading;

/// The kubelet starts a container again after a pause that doubles each time.
const RESTART: Duration = Duration::from_secs(120);

/// Kills the agent of `victim` while the guest on node-2 reads a stick of node-1; then detaches.
fn kill_an_agent(lab: &Lab, namespace: &str, victim: &str) -> Result<()> {
    let case = Case::begin(lab, namespace)?;
    let stick = Stick::new(namespace);
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, namespace)?;
    let mut guest = case.vm("linux-vm", "node-2", &[&device])?;
    guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    case.wait_status("linux-vm", &device, true)?;
    lab.kill(victim, "agent")?;
    reading::goes_on(&mut guest)?;
    // The kubelet has started it again: it takes over what it finds, and can let go of it.
    lab.wait_for(&format!("the agent of {victim} to run again"), RESTART, || {
        let runs = lab.node(victim).and_then(|n| n.runs("agent")).map_err(|e| format!("{e:#}"))?;
        if runs { Ok(()) } else { Err("no process".to_owned()) }
    })?;
    reading::goes_on(&mut guest)?;
    case.wait_status("linux-vm", &device, true)?;
    guest.forget();
    case.set_devices("linux-vm", &[])?;
    guest.wait_line("that the disk is gone", SOON, |l| l.text.contains("guest: disk remove").then_some(()))?;
    case.wait_condition(&device, "Attached", "Available")?;
    case.end()
}

/// The agent of the node where the device is used is killed.
pub(super) fn agent_of_the_importer_killed(lab: &Lab) -> Result<()> {
    kill_an_agent(lab, "importer-killed", "node-2")
}

/// The agent of the node where the device is plugged in is killed.
pub(super) fn agent_of_the_home_node_killed(lab: &Lab) -> Result<()> {
    kill_an_agent(lab, "home-killed", "node-1")
}

/// The controller and both agents are killed in the middle of an attach: it is finished all the same.
pub(super) fn everything_killed_while_attaching(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "all-killed")?;
    let stick = Stick::new("all-killed");
    let (device, _) = case.plug("node-1", &stick)?;
    case.assign(&device, "all-killed")?;
    let mut guest = case.vm("linux-vm", "node-2", &[])?;
    guest.forget();
    case.set_devices("linux-vm", &[&device])?;
    for victim in ["controller", "agent"] {
        for node in lab.nodes() {
            // The controller runs on one of the nodes only.
            let _ = lab.kill(node.name(), victim);
        }
    }
    let seen = guest.sha256(stick.serial.as_deref().unwrap_or_default(), BOOT)?;
    ensure!(seen == stick.sha256(), "the guest reads {seen}, the stick holds {}", stick.sha256());
    case.wait_status("linux-vm", &device, true)?;
    guest.forget();
    case.set_devices("linux-vm", &[])?;
    guest.wait_line("that the disk is gone", BOOT, |l| l.text.contains("guest: disk remove").then_some(()))?;
    case.wait_condition(&device, "Attached", "Available")?;
    case.end()
}
