//! What a node can take and give: ports for the devices of others, places for its own, and no ports without the module.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::{Api, ListParams};
use patchbay_core::speed::{Hub, PortName};
use serde_json::Value;

use crate::api::request;
use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::{Speed, Stick};
use crate::wait::patient;

/// The size of the sticks' disks: many are read at once.
pub(super) const SMALL: usize = 256 << 10;
/// Within this time a device that waits is in the guest when what it waits for is there, however busy the machine is. A kubelet
/// that was not yet allowed to read a new claim tries again after a minute and a half; the scheduler by itself looks at waiting
/// pods again after five minutes.
const UNASKED: Duration = Duration::from_secs(180);
/// For the devices of a full node to be given back.
const BACK: Duration = Duration::from_secs(60);
/// The driver of vhci's controllers.
pub(super) const VHCI: &str = "/sys/bus/platform/drivers/vhci_hcd";

/// A stick in a node, and the name of its device.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) stick: Stick,
}

impl Device {
    /// Waits until a guest has read all of it.
    pub(super) fn is_read(&self, guest: &Guest) -> Result<()> {
        let (seen, held) = (guest.sha256(self.stick.serial.as_deref().unwrap_or_default(), BOOT)?, self.stick.sha256());
        ensure!(seen == held, "the guest reads {seen}, {} holds {held}", self.stick.name);
        Ok(())
    }
}

/// Sticks with these names and speeds in these nodes, as devices of the case's namespace.
pub(super) fn devices(
    case: &Case<'_>,
    sticks: impl Iterator<Item = (&'static str, String, Speed)>,
) -> Result<Vec<Device>> {
    let sticks: Vec<_> = sticks.map(|(node, name, speed)| (node, Stick::new(&name).speed(speed).size(SMALL))).collect();
    let names = case.plug_all(&sticks)?;
    case.assign_all(&names.iter().map(String::as_str).collect::<Vec<_>>(), &case.namespace)?;
    Ok(names.into_iter().zip(sticks).map(|(name, (_, stick))| Device { name, stick }).collect())
}

pub(super) fn names<'d>(devices: impl IntoIterator<Item = &'d Device>) -> Vec<&'d str> {
    devices.into_iter().map(|device| device.name.as_str()).collect()
}

/// How many devices a guest has lost since its lines count.
fn lost(guest: &Guest) -> usize {
    guest.lines().iter().filter(|line| line.text.contains("guest: usb remove")).count()
}

/// The ports a node offers, in order.
fn offered(lab: &Lab, node: &str) -> Result<Vec<PortName>, String> {
    let slices = Api::<ResourceSlice>::all(lab.api());
    let slices = request("list the slices", slices.list(&ListParams::default())).map_err(|e| format!("{e:#}"))?;
    let of_node = slices.items.into_iter().filter(|slice| slice.spec.pool.name == format!("{node}-ports"));
    let devices = of_node.flat_map(|slice| slice.spec.devices.unwrap_or_default());
    // Whatever else is in the pool is no port.
    let mut ports: Vec<PortName> = devices.filter_map(|device| device.name.parse().ok()).collect();
    ports.sort();
    Ok(ports)
}

/// Waits until a node offers exactly the ports of these numbers in each half.
pub(super) fn wait_offered(lab: &Lab, node: &str, usb2: Range<u16>, usb3: Range<u16>) -> Result<()> {
    let port = |hub| move |index| PortName { hub, index };
    let wanted: Vec<PortName> = usb2.map(port(Hub::Usb2)).chain(usb3.map(port(Hub::Usb3))).collect();
    lab.wait_for(&format!("{node} to offer {wanted:?}"), SOON, || {
        let offered = offered(lab, node)?;
        if offered == wanted { Ok(()) } else { Err(format!("{offered:?}")) }
    })
}

/// A node's ports are filled, eight of each half, with devices of two other nodes. The ninth of each kind waits and says what
/// for, nobody else notices, a device of the node itself needs no port, and a port that comes free is used at once.
pub(super) fn full_importer(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "ports")?;
    let kinds = [("high", Speed::High), ("super", Speed::Super)];
    let homes = ["node-1", "node-2"].into_iter().cycle();
    let remote = kinds.into_iter().flat_map(|(kind, speed)| (1..=9).map(move |n| (format!("{kind}-{n}"), speed)));
    let all = devices(&case, remote.zip(homes).map(|((name, speed), home)| (home, name, speed)))?;
    let local = devices(&case, [("node-3", "local".to_owned(), Speed::Super)].into_iter())?;
    let (ninth, first): (Vec<&Device>, Vec<&Device>) = all.iter().partition(|device| device.stick.name.ends_with("-9"));

    let mut one = case.vm("one", "node-3", &names(first.iter().copied()))?;
    for device in &first {
        device.is_read(&one)?;
        case.wait_condition(&device.name, "Attached", "AttachedToVirtualMachine")?;
    }
    one.forget();
    let before = case.conditions(&names(first.iter().copied()))?;

    let mut two = case.vm("two", "node-3", &names(ninth.iter().copied()))?;
    for (device, kind) in ninth.iter().zip(["USB 2.0", "USB 3.0"]) {
        case.wait_refused("two", &device.name, "NoFreeUSBIPPort", &["all 8", kind, "node-3", "detach"])?;
    }
    case.set_devices("two", &names(ninth.iter().copied().chain(&local)))?;
    for device in &local {
        device.is_read(&two)?;
    }
    let after = case.conditions(&names(first.iter().copied()))?;
    ensure!(before == after, "what is said of the others has changed:\n{before:?}\n{after:?}");
    ensure!(lost(&one) == 0, "a device without a port has cost another guest one of its own");

    // One of each kind is given up.
    two.forget();
    let (gone, kept): (Vec<&Device>, Vec<&Device>) =
        first.iter().copied().partition(|device| device.stick.name.ends_with("-1"));
    let at = case.set_devices("one", &names(kept.iter().copied()))?;
    for device in &ninth {
        device.is_read(&two)?;
        case.wait_condition(&device.name, "Attached", "AttachedToVirtualMachine")?;
    }
    ensure!(at.elapsed() < patient(UNASKED), "the waiting devices came in only after {:?}", at.elapsed());
    let of_kept = |said: &Value| kept.iter().any(|d| said.get(0).and_then(Value::as_str) == Some(d.name.as_str()));
    let (before, after): (Vec<_>, _) =
        (before.into_iter().filter(of_kept).collect(), case.conditions(&names(kept.iter().copied()))?);
    ensure!(before.len() == 14 && before == after, "what is said of the others has changed:\n{before:?}\n{after:?}");
    ensure!(lost(&one) == gone.len() && lost(&two) == 0, "the guests lost {} and {} devices", lost(&one), lost(&two));
    give_back(&case, &["one", "two"])?;
    case.end()
}

/// A node lends out as many devices as its kernel can. One more waits, says whose limit that is, nobody else notices, and it
/// is in when one of the others is given back.
pub(super) fn full_home_node(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "exports")?;
    let kinds = [("high", Speed::High, 8), ("super", Speed::Super, 9)];
    let sticks = kinds.into_iter().flat_map(|(kind, speed, count)| (1..=count).map(move |n| (kind, n, speed)));
    let all = devices(&case, sticks.map(|(kind, n, speed)| ("node-1", format!("{kind}-{n}"), speed)))?;
    let (beyond, first): (Vec<&Device>, Vec<&Device>) =
        all.iter().partition(|device| device.stick.name.ends_with("-9"));

    let mut one = case.vm("one", "node-3", &names(first.iter().copied()))?;
    for device in &first {
        device.is_read(&one)?;
        case.wait_condition(&device.name, "Attached", "AttachedToVirtualMachine")?;
    }
    one.forget();
    let before = case.conditions(&names(first.iter().copied()))?;

    let two = case.vm("two", "node-2", &names(beyond.iter().copied()))?;
    for device in &beyond {
        case.wait_refused("two", &device.name, "Available", &["node node-1 lends out 16 devices", "kernel", "detach"])?;
    }
    let after = case.conditions(&names(first.iter().copied()))?;
    ensure!(before == after, "what is said of the others has changed:\n{before:?}\n{after:?}");
    ensure!(lost(&one) == 0, "a device beyond the limit has cost another guest one of its own");

    let at = case.set_devices("one", &names(first.iter().copied().skip(1)))?;
    for device in &beyond {
        device.is_read(&two)?;
        case.wait_condition(&device.name, "Attached", "AttachedToVirtualMachine")?;
    }
    ensure!(at.elapsed() < patient(UNASKED), "the waiting device came in only after {:?}", at.elapsed());
    ensure!(lost(&one) == 1, "the guest lost {} devices", lost(&one));
    give_back(&case, &["one", "two"])?;
    case.end()
}

/// Without vhci a node offers no ports. Its own devices go to its own machines and to those of others, those of others wait
/// and say which module is missing, and come in when it is there.
pub(super) fn node_without_vhci(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "no-vhci")?;
    let node = lab.node("node-2")?;
    node.run(&format!("echo vhci_hcd.0 >{VHCI}/unbind"))?;
    wait_offered(lab, "node-2", 0..0, 0..0)?;
    let sticks = [("node-1", "foreign"), ("node-2", "own"), ("node-2", "lent")];
    let all = devices(&case, sticks.into_iter().map(|(node, name)| (node, name.to_owned(), Speed::Super)))?;
    let [foreign, own, lent] = all.as_slice() else { anyhow::bail!("there are {} devices", all.len()) };

    let mut here = case.vm("here", "node-2", &names([foreign, own]))?;
    let there = case.vm("there", "node-1", &names([lent]))?;
    own.is_read(&here)?;
    lent.is_read(&there)?;
    case.wait_refused("here", &foreign.name, "NoFreeUSBIPPort", &["node-2", "vhci-hcd", "modprobe"])?;
    case.diagnosed("node-2", '·', "kernel", &["module vhci-hcd is missing"])?;
    case.diagnosed("node-1", '✓', "kernel", &["with all modules"])?;

    here.forget();
    node.run(&format!("echo vhci_hcd.0 >{VHCI}/bind"))?;
    wait_offered(lab, "node-2", 0..8, 0..8)?;
    foreign.is_read(&here)?;
    case.wait_condition(&foreign.name, "Attached", "AttachedToVirtualMachine")?;
    ensure!(lost(&here) + lost(&there) == 0, "a guest lost a device");
    give_back(&case, &["here", "there"])?;
    case.end()
}

/// Takes all devices from machines and waits until they are with their own drivers again: usbip-host never again frees the
/// place of a device that is pulled out while lent.
pub(super) fn give_back(case: &Case<'_>, machines: &[&str]) -> Result<()> {
    for machine in machines {
        case.set_devices(machine, &[])?;
    }
    case.lab.assert_no_leaks(BACK)
}
