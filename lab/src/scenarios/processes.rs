//! Our own processes die: guests notice nothing, and nothing is left behind.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::guest::{Guest, Line};
use crate::stick::Stick;

/// What the guest has read of its disk since it was plugged in: good, wrong, failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reads {
    ok: u64,
    bad: u64,
    errors: u64,
}

fn reads(line: &Line) -> Option<Reads> {
    let text = line.text.split_once(" reads ")?.1;
    let number = |name: &str| {
        let value = text.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('='))?;
        value.parse().ok()
    };
    Some(Reads { ok: number("ok")?, bad: number("bad")?, errors: number("errors")? })
}

/// The guest goes on reading for some time, and never reads anything wrong.
fn reading_goes_on(guest: &mut Guest) -> Result<()> {
    guest.forget();
    let first = guest.wait_line("how its reading goes", SOON, reads)?;
    let later = guest
        .wait_line("that it has read a hundred blocks more", SOON, |l| reads(l).filter(|r| r.ok >= first.ok + 100))?;
    ensure!(later.bad == 0 && later.errors == 0, "the guest read something wrong: {later:?}");
    let lost = guest.lines().iter().any(|l| l.text.contains("remove"));
    ensure!(!lost, "the guest lost its device");
    Ok(())
}

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
    reading_goes_on(&mut guest)?;
    // The kubelet has started it again: it takes over what it finds, and can let go of it.
    lab.wait_for(&format!("the agent of {victim} to run again"), Duration::from_secs(60), || {
        let alive = lab.node(victim).and_then(|n| n.run("pidof patchbay")).map_err(|e| format!("{e:#}"))?;
        if alive.trim().is_empty() { Err("no process".to_owned()) } else { Ok(()) }
    })?;
    reading_goes_on(&mut guest)?;
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_tally_of_reads_is_understood() {
        let line = |text: &str| Line { at: Instant::now(), text: text.into() };
        let seen = reads(&line("guest: disk sda reads ok=20 bad=0 errors=1 up=3.10"));
        assert_eq!(seen, Some(Reads { ok: 20, bad: 0, errors: 1 }));
        assert_eq!(reads(&line("guest: disk sda sha256=00 bytes=3")), None);
    }
}
