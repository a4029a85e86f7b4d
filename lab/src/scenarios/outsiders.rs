//! USB/IP that is none of ours: ports that others use are left to them, and what they send can be read on the network, where
//! what we send cannot; the stock tools get nothing from our nodes.

use anyhow::{Context, Result, ensure};

use super::limits::{give_back, wait_offered};
use super::wiretap::{BEGIN, DESCRIPTOR, read_along};
use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::node::{COMMAND, Node};
use crate::stick::Stick;

const HOST: &str = "/sys/bus/usb/drivers/usbip-host";
const VHCI: &str = "/sys/devices/platform/vhci_hcd.0";
/// The TCP port of a session.
const TCP: u16 = 3240;

/// The TCP port of our agents.
const AGENT: u16 = 3241;
/// Shell script that prints the disk of the device with a serial number, as its node knows it.
const DISK: &str =
    "ls -d $(grep -lx SERIAL /sys/bus/usb/devices/*/serial | sed 's,/serial$,,')/*:*/host*/target*/*:*/block/*";

/// A SuperSpeed port of a node, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    name: String,
    number: String,
    free: bool,
    /// State, speed, device, socket and bus id.
    rest: String,
}

/// The SuperSpeed ports in a table of vhci's: hub, number, state and the rest.
fn ports(table: &str) -> Vec<Port> {
    let lines = table.lines().filter_map(|line| line.strip_prefix("ss"));
    let port = |(index, line): (usize, &str)| {
        let (number, rest) = line.trim_start().split_once(' ')?;
        let number = number.trim_start_matches('0');
        let number = if number.is_empty() { "0" } else { number };
        let (name, free) = (format!("usb3-{index}"), rest.starts_with("004"));
        Some(Port { name, number: number.to_owned(), free, rest: rest.to_owned() })
    };
    lines.enumerate().filter_map(port).collect()
}

/// A device that somebody lends out by hand, and what they do with it: what `usbip bind` and `usbip attach` do, without
/// the tools, which not every machine has.
struct ByHand<'l> {
    home: &'l Node,
    importer: &'l Node,
    place: String,
}

impl<'l> ByHand<'l> {
    /// Binds the device at a place of its node.
    fn bind(home: &'l Node, importer: &'l Node, place: String) -> Result<Self> {
        home.run(&format!(
            "set -e; printf 'add {place}' >{HOST}/match_busid; printf {place} >/sys/bus/usb/drivers/usb/unbind; printf {place} >{HOST}/bind"
        ))?;
        Ok(Self { home, importer, place })
    }

    /// Attaches it to a port and waits until it is there: how the kernel shows the port from then on.
    fn attach(&self, lab: &Lab, name: &str) -> Result<Port> {
        let Self { home, importer, place } = self;
        let port = self.port(name)?;
        ensure!(port.free, "{port:?} is not free");
        let device = format!("/sys/bus/usb/devices/{place}");
        let devid = home.run(&format!("echo $(($(cat {device}/busnum) << 16 | $(cat {device}/devnum)))"))?;
        // The program that nc starts has the connection as its standard input.
        home.run(&format!(
            "printf '#!/bin/sh\\nprintf 0 >{device}/usbip_sockfd\\n' >/run/lend; chmod 755 /run/lend\n\
             nc -l -p {TCP} -e /run/lend </dev/null >/dev/null 2>&1 &"
        ))?;
        importer.run(&format!(
            "printf '#!/bin/sh\\nprintf \"{} 0 {devid} 5\" >{VHCI}/attach\\n' >/run/borrow; chmod 755 /run/borrow\n\
             n=0; until nc {} {TCP} -e /run/borrow; do n=$((n+1)); [ $n -lt 100 ] || exit 1; usleep 20000; done",
            port.number,
            home.ip()
        ))?;
        lab.wait_for(&format!("a device on port {name}"), SOON, || {
            let port = self.port(name).map_err(|e| format!("{e:#}"))?;
            if port.rest.starts_with("006") { Ok(port) } else { Err(format!("{port:?}")) }
        })
    }

    /// Detaches it.
    fn detach(&self, port: &Port) -> Result<()> {
        self.importer.run(&format!("printf {} >{VHCI}/detach", port.number)).map(drop)
    }

    /// Gives it back to its own driver.
    fn unbind(self) -> Result<()> {
        self.home.run(&format!("printf {0} >{HOST}/unbind && printf {0} >{HOST}/rebind", self.place)).map(drop)
    }

    fn port(&self, name: &str) -> Result<Port> {
        let found = self.ports()?.into_iter().find(|port| port.name == name);
        found.with_context(|| format!("{} has no port {name}", self.importer.name()))
    }

    fn ports(&self) -> Result<Vec<Port>> {
        Ok(ports(&self.importer.run(&format!("cd {VHCI}; cat status; cat status.[0-9]* 2>/dev/null; true"))?))
    }

    /// The one port that is in use besides theirs.
    fn ours(&self, theirs: &Port) -> Result<Port> {
        let used: Vec<Port> = self.ports()?.into_iter().filter(|port| !port.free).collect();
        ensure!(used.contains(theirs), "their session is not what it was: {theirs:?}, now {used:?}");
        let ours: Vec<Port> = used.into_iter().filter(|port| port != theirs).collect();
        match ours.as_slice() {
            [ours] => Ok(ours.clone()),
            _ => anyhow::bail!("besides theirs these ports are in use: {ours:?}"),
        }
    }
}

/// Reads the begin of the disk that was borrowed by hand, as its node does by itself sooner or later.
fn read_theirs(lab: &Lab, importer: &Node, stick: &Stick) -> Result<()> {
    let find = DISK.replace("SERIAL", stick.serial.as_deref().unwrap_or_default());
    lab.wait_for("the disk that was borrowed by hand", SOON, || {
        importer
            .run(&format!("dd if=/dev/$(basename $({find})) of=/dev/null bs=4096 count=1"))
            .map_err(|e| format!("{e:#}"))
    })
    .map(drop)
}

/// The stock tools and their bytes, from another node: nobody listens on their port, and our agent tells them nothing.
fn stock_clients_get_nothing(home: &Node, importer: &Node, place: &str) -> Result<()> {
    let ip = home.ip();
    let listening = home.run("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null; true")?;
    let hex = |port: u16| format!(":{port:04X} 0");
    let listens = |port: u16| listening.lines().any(|line| line.contains(&hex(port)) && line.contains(" 0A "));
    ensure!(!listens(TCP) && listens(AGENT), "who listens on {}:\n{listening}", home.name());
    // OP_REQ_DEVLIST: its answer has twelve bytes and more. An alert of TLS has seven.
    let ask = format!("printf '\\001\\021\\200\\005\\000\\000\\000\\000' | timeout 10 nc {ip} {AGENT} | wc -c");
    let said = importer.run(&ask)?;
    ensure!(said.trim().parse::<usize>().is_ok_and(|bytes| bytes <= 7), "a stranger is told {said} bytes");
    if importer.sh("command -v usbip", COMMAND)?.code != 0 {
        return Ok(());
    }
    // The tool itself works.
    importer.run("usbip version")?;
    for tool in [format!("usbip --tcp-port {AGENT}"), "usbip".to_owned()] {
        let listed = importer.sh(&format!("timeout 20 {tool} list -r {ip} 2>&1"), COMMAND)?;
        ensure!(listed.code != 0 && !listed.text().contains(place), "{tool} lists: {}", listed.text());
        let attached = importer.sh(&format!("timeout 20 {tool} attach -r {ip} -b {place} 2>&1"), COMMAND)?;
        ensure!(attached.code != 0, "{tool} attaches: {}", attached.text());
    }
    Ok(())
}

/// A port that somebody uses by hand is not offered, and their session never touched, not even by an agent that starts anew.
/// When they take the very port that was allocated for a device which is absent just then, that device waits and says so.
/// Whoever reads along on the network reads their stick, and nothing of ours.
pub(super) fn ports_of_theirs_are_not_offered(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "outsiders")?;
    let (ours, theirs) = (Stick::new("ours"), Stick::new("theirs"));
    let (device, _) = case.plug("node-1", &ours)?;
    let (other, _) = case.plug("node-1", &theirs)?;
    case.assign(&device, "outsiders")?;
    let place = lab.kubectl(&["get", "nodeusbdevice", &other, "-o", "jsonpath={.status.attributes.portPath}"])?;
    let (home, importer) = (lab.node("node-1")?, lab.node("node-2")?);
    let by_hand = ByHand::bind(home, importer, place)?;

    home.record();
    let session = by_hand.attach(lab, "usb3-0")?;
    wait_offered(lab, "node-2", 0..8, 1..9)?;
    let mut guest = case.vm("linux-vm", "node-2", &[&device])?;
    let serial = ours.serial.as_deref().unwrap_or_default();
    ensure!(guest.sha256(serial, BOOT)? == ours.sha256(), "the guest reads something else than the stick holds");
    read_theirs(lab, importer, &theirs)?;
    let tape = home.recorded()?;
    ensure!(tape.len() > ours.image().len(), "{} bytes: the recording lacks what the guest has read", tape.len());
    let control = read_along(&tape, &theirs);
    ensure!(
        [DESCRIPTOR, BEGIN].iter().all(|secret| control.contains(secret)),
        "of a session in clear was read: {control:?}"
    );
    let leaked = read_along(&tape, &ours);
    ensure!(leaked.is_empty(), "whoever reads along learns of our device: {leaked:?}");
    let lent = lab.kubectl(&["get", "nodeusbdevice", &device, "-o", "jsonpath={.status.attributes.portPath}"])?;
    stock_clients_get_nothing(home, importer, &lent)?;
    let port = by_hand.ours(&session)?;
    // Its DaemonSet makes a new one at once; a container that is killed again and again would be kept waiting.
    let agent = "app.kubernetes.io/component=agent";
    let here = "spec.nodeName=node-2";
    lab.kubectl(&["delete", "pod", "-n", "patchbay", "-l", agent, "--field-selector", here, "--wait=false"])?;
    guest.forget();
    case.unplug("node-1", &ours)?;
    guest.wait_line("that the disk is gone", BOOT, |l| l.text.contains("guest: disk remove").then_some(()))?;
    case.wait_condition(&device, "Attached", "Available")?;
    ensure!(by_hand.port("usb3-0")? == session, "their session is not what it was: {session:?}");
    by_hand.detach(&session)?;
    wait_offered(lab, "node-2", 0..8, 0..8)?;

    let session = by_hand.attach(lab, &port.name)?;
    guest.forget();
    case.plug("node-1", &ours)?;
    let message = case.wait_refused("linux-vm", &device, "Available", &[&port.name, "usbip port", "free it"])?;
    ensure!(message.contains("node-2"), "the message does not name the node: {message}");
    ensure!(by_hand.port(&port.name)? == session, "their session is not what it was: {session:?}");
    ensure!(guest.lines().iter().all(|line| !line.text.contains("usb add")), "the guest has got a device of theirs");
    by_hand.detach(&session)?;
    ensure!(guest.sha256(serial, SOON)? == ours.sha256(), "the guest reads something else than the stick holds");
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    by_hand.unbind()?;
    give_back(&case, &["linux-vm"])?;
    case.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_by_their_order_over_all_controllers() {
        let table = "hub port sta spd dev      sockfd local_busid\nhs  0000 004 000 00000000 000000 0-0\n\
                     ss  0008 006 005 00020002 000003 4-1\nhub port sta spd dev      sockfd local_busid\n\
                     ss  0024 004 000 00000000 000000 0-0\n";
        let port = |name: &str, number: &str, free, rest: &str| Port {
            name: name.into(),
            number: number.into(),
            free,
            rest: rest.into(),
        };
        let expected = [
            port("usb3-0", "8", false, "006 005 00020002 000003 4-1"),
            port("usb3-1", "24", true, "004 000 00000000 000000 0-0"),
        ];
        assert_eq!(ports(table), expected);
    }
}
