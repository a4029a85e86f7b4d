//! The same with the stock tools: what a person at three keyboards could do at best, without any waiting in between.
//!
//! node-1: `usbip bind`; node-2: `usbip attach`, and the descriptor of the device to QEMU as soon as the kernel tells of
//! it. The connection is plain TCP, and our own processes do not run.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::attach::{comes, goes};
use super::clock::Clock;
use super::data::Path;
use super::figures::{Row, Times};
use super::{HOME, IMPORTER, ROUNDS, VM, probe};
use crate::case::Case;
use crate::guest::Guest;
use crate::node::{COMMAND, Node};
use crate::progress::say;

/// The name of the device in QEMU.
const ID: &str = "byhand";

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ByHand {
    /// From `usbip bind` to the guest.
    pub(super) attach: Times,
    /// From `device_del` to the guest.
    pub(super) detach: Times,
    /// How fast the guest reads a disk that it has in this way.
    #[serde(default)]
    pub(super) disk: Path,
    /// A command that does nothing on a node: what the lab itself takes to bring one there.
    pub(super) command: Times,
    pub(super) bind: Times,
    pub(super) link: Times,
    pub(super) qemu: Times,
    pub(super) guest: Times,
}

impl ByHand {
    /// The steps of an attach.
    pub(super) fn steps(&self) -> Vec<Row> {
        vec![
            Row::times("usbip bind on the home node", &self.bind),
            Row::times("usbip attach, until the node's kernel has the device", &self.link),
            Row::times("QEMU takes it (add-fd, device_add)", &self.qemu),
            Row::times("the guest sees it and its line is here", &self.guest),
        ]
    }
}

/// The rounds, the first one not counted, and the disk; nothing where there are no tools. Both are told by their places.
///
/// # Errors
/// When a tool fails or the guest does not see what it should.
pub(super) fn rounds(case: &Case<'_>, guest: &mut Guest, (place, disk): (&str, &str), clock: &Clock) -> Result<ByHand> {
    let lab = case.lab;
    if lab.node(HOME)?.sh("command -v usbip && command -v usbipd", COMMAND)?.code != 0 {
        say(
            "the nodes have no usbip tools because this machine has none: not measured by hand (Debian: apt-get install usbip)",
        );
        return Ok(ByHand::default());
    }
    for what in ["deployment/controller", "daemonset/agent"] {
        let delete = ["delete", what, "-n", "patchbay", "--cascade=foreground", "--wait=true", "--timeout=60s"];
        lab.kubectl(&delete)?;
    }
    let (home, importer) = (lab.node(HOME)?, lab.node(IMPORTER)?);
    // Ours have kept it from the drivers of its node, because it is assigned.
    for place in [place, disk] {
        home.run(&format!("echo 1 >/sys/bus/usb/devices/{place}/authorized"))?;
    }
    home.run("usbipd -4 -D")?;
    let pod =
        lab.kubectl(&["get", "pod", &format!("vm-{VM}"), "-n", &case.namespace, "-o", "jsonpath={.metadata.uid}"])?;
    let folder = format!("/var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~empty-dir/run");
    let mut hand = ByHand::default();
    for number in 0..=ROUNDS {
        let mut this = ByHand::default();
        let to = if number == 0 { &mut this } else { &mut hand };
        attach(home, importer, guest, place, &folder, clock, to).context("attaching by hand")?;
        detach(home, importer, guest, place, &folder, to).context("detaching by hand")?;
    }
    let mut last = ByHand::default();
    attach(home, importer, guest, disk, &folder, clock, &mut last).context("attaching the disk by hand")?;
    hand.disk = Path::measure(guest).context("the disk by hand")?;
    detach(home, importer, guest, disk, &folder, &mut last).context("detaching the disk by hand")?;
    Ok(hand)
}

fn attach(
    home: &Node,
    importer: &Node,
    guest: &mut Guest,
    place: &str,
    folder: &str,
    clock: &Clock,
    to: &mut ByHand,
) -> Result<()> {
    let idle = Instant::now();
    home.run("true")?;
    to.command.push(idle.elapsed());
    guest.forget();
    let start = Instant::now();
    home.run(&format!("usbip bind -b {place}"))?;
    let bound = Instant::now();
    let said =
        importer.run(&format!("{} plug {folder} {ID} usbip attach -r {} -b {place}", probe::PROGRAM, home.ip()))?;
    let seen = clock.unix(comes(guest)?.at);
    let skew = probe::skew(importer, clock)?;
    let (device, plugged) = (skew.ours(moment(&said, "device")?), skew.ours(moment(&said, "plugged")?));
    to.attach.push(seen.saturating_sub(clock.unix(start)));
    to.bind.push(bound.duration_since(start));
    to.link.push(device.saturating_sub(clock.unix(bound)));
    to.qemu.push(plugged.saturating_sub(device));
    to.guest.push(seen.saturating_sub(plugged));
    Ok(())
}

fn detach(home: &Node, importer: &Node, guest: &mut Guest, place: &str, folder: &str, to: &mut ByHand) -> Result<()> {
    guest.forget();
    let start = Instant::now();
    importer.run(&format!("{} unplug {folder} {ID}", probe::PROGRAM))?;
    to.detach.push(goes(guest)?.at.saturating_duration_since(start));
    // 006 is a port in use; usbip wants its number without the zeros before it.
    importer.run(
        "set -e; p=$(awk '$3 == \"006\" { print $2 + 0 }' /sys/devices/platform/vhci_hcd.0/status); usbip detach -p $p",
    )?;
    home.run(&format!(
        "for i in $(seq 100); do [ \"$(cat /sys/bus/usb/devices/{place}/usbip_status)\" = 1 ] && break; usleep 20000; done; \
         usbip unbind -b {place}"
    ))?;
    Ok(())
}

/// A moment in what the probe says: `device 1795477787123456`.
fn moment(said: &str, what: &str) -> Result<Duration> {
    let found = said.lines().find_map(|line| probe::micros(line.strip_prefix(what)?));
    found.with_context(|| format!("no moment of {what} in:\n{said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_found_between_the_messages_of_the_tools() {
        let said = "usbip: info: something\ndevice 1000\nplugged 2500";
        assert_eq!(moment(said, "plugged").unwrap(), Duration::from_micros(2500));
        assert!(moment(said, "gone").unwrap_err().to_string().contains("usbip: info"));
    }
}
