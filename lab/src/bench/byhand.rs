//! The same with the stock tools: what a person at three keyboards could do at best, without any waiting in between.
//!
//! node-1: `usbip bind`; node-2: `usbip attach`, and the descriptor of the device to QEMU as soon as the kernel tells of
//! it. The connection is plain TCP, and our own processes do not run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::data::{self, Path};
use super::figures::{Row, Times};
use super::shares::Shares;
use super::together::{self, all_said};
use super::{HOME, IMPORTER, ROUNDS, VM, attach, probe};
use crate::case::{Case, SOON};
use crate::guest::Guest;
use crate::node::{COMMAND, Node};
use crate::progress::say;

/// For sixteen devices to be attached and plugged. The probe gives up before.
const PLUGGED: Duration = Duration::from_secs(90);

/// What was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ByHand {
    /// From `usbip bind` to the guest.
    pub(super) attach: Times,
    /// From `device_del` to the guest.
    pub(super) detach: Times,
    /// What QEMU takes for `device_del`: before it lets the guest go on it resets the device, through the network.
    #[serde(default)]
    pub(super) closed: Times,
    /// The same with sixteen devices at once.
    #[serde(default)]
    pub(super) together: Times,
    /// Who has used the importer's processor in the last round of these, in percent.
    #[serde(default)]
    pub(super) shares: BTreeMap<String, f64>,
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
    let bench = Bench { home, importer, folder, clock };
    let mut hand = ByHand::default();
    for number in 0..=ROUNDS {
        let mut this = ByHand::default();
        let to = if number == 0 { &mut this } else { &mut hand };
        let took = bench.attach(guest, &[place], to).context("attaching by hand")?;
        to.attach.push(took);
        attach::settles(guest)?;
        let took = bench.detach(guest, &[place], to).context("detaching by hand")?;
        to.detach.push(took);
    }
    for _ in 0..data::SESSIONS {
        bench.attach(guest, &[disk], &mut ByHand::default()).context("attaching the disk by hand")?;
        hand.disk.extend(Path::measure(guest).context("the disk by hand")?);
        bench.detach(guest, &[disk], &mut ByHand::default()).context("detaching the disk by hand")?;
    }
    let sticks = together::sticks();
    sticks.iter().try_for_each(|stick| home.plug(stick).map(drop))?;
    let places = lab.wait_for("sixteen sticks to be in their ports", SOON, || {
        sticks.iter().map(|stick| home.port_of(stick).map_err(|e| format!("{e:#}"))).collect::<Result<Vec<_>, _>>()
    })?;
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    for number in 0..=together::TIMES {
        let before = Shares::of(importer)?;
        let took = bench.attach(guest, &places, &mut ByHand::default()).context("attaching sixteen by hand")?;
        hand.shares = Shares::of(importer)?.since(&before);
        bench.detach(guest, &places, &mut ByHand::default()).context("detaching sixteen by hand")?;
        if number > 0 {
            hand.together.push(took);
        }
    }
    Ok(hand)
}

/// The three keyboards.
struct Bench<'b> {
    home: &'b Node,
    importer: &'b Node,
    /// Of the machine's monitor, on the importer.
    folder: String,
    clock: &'b Clock,
}

impl Bench<'_> {
    /// How long it takes until the guest has these devices; the steps of one are noted.
    fn attach(&self, guest: &mut Guest, places: &[&str], to: &mut ByHand) -> Result<Duration> {
        let (home, importer, clock) = (self.home, self.importer, self.clock);
        let idle = Instant::now();
        home.run("true")?;
        to.command.push(idle.elapsed());
        let attach = |place: &str| format!("usbip attach -r {} -b {place}", home.ip());
        let attach = match places {
            [place] => attach(place),
            // One after the other: two at once may choose the same port. And again: the tool gives up when a device comes
            // while it reads sysfs.
            _ => format!(
                "sh -c 'for p in {}; do for again in 1 2 3 4 5; do {} && break; done; done'",
                places.join(" "),
                attach("$p")
            ),
        };
        guest.forget();
        let start = Instant::now();
        home.run(&format!("set -e; for p in {}; do usbip bind -b $p; done", places.join(" ")))?;
        let bound = Instant::now();
        let plug = format!("{} plug {} {} {attach}", probe::PROGRAM, self.folder, places.len());
        let output = importer.sh(&plug, PLUGGED)?;
        ensure!(output.code == 0, "on {}: {plug}: {}", importer.name(), output.text());
        let said = output.text();
        let seen = clock.unix(all_said(guest, "guest: usb add", places.len())?);
        let skew = probe::skew(importer, clock)?;
        let (device, plugged) = (skew.ours(moment(&said, "device")?), skew.ours(moment(&said, "plugged")?));
        to.bind.push(bound.duration_since(start));
        to.link.push(device.saturating_sub(clock.unix(bound)));
        to.qemu.push(plugged.saturating_sub(device));
        to.guest.push(seen.saturating_sub(plugged));
        Ok(seen.saturating_sub(clock.unix(start)))
    }

    /// How long it takes until they are gone from it; what QEMU takes for the first one is noted.
    fn detach(&self, guest: &mut Guest, places: &[&str], to: &mut ByHand) -> Result<Duration> {
        guest.forget();
        let start = Instant::now();
        let said = self.importer.run(&format!("{} unplug {} {}", probe::PROGRAM, self.folder, places.len()))?;
        let gone = all_said(guest, "guest: usb remove", places.len())?.saturating_duration_since(start);
        to.closed.push(moment(&said, "closed")?.saturating_sub(moment(&said, "asked")?));
        // 006 is a port in use; usbip wants its number without the zeros before it.
        self.importer.run(
            "set -e; for p in $(awk '$3 == \"006\" { print $2 + 0 }' /sys/devices/platform/vhci_hcd.0/status); do \
             usbip detach -p $p; done",
        )?;
        self.home.run(&format!(
            "set -e; for p in {}; do \
             for i in $(seq 100); do [ \"$(cat /sys/bus/usb/devices/$p/usbip_status)\" = 1 ] && break; usleep 20000; done; \
             usbip unbind -b $p; done",
            places.join(" ")
        ))?;
        Ok(gone)
    }
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
