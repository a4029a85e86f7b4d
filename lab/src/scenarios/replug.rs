//! The cable is pulled and put back: into any port, at any moment, again and again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::Stick;

use super::limits::SMALL;
use super::reading;

/// For a device that was pulled and put back many times: back-offs have grown meanwhile.
const CALM: Duration = Duration::from_secs(60);

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// Everybody is told that the device is away, and it is in the guest again without anybody doing anything: from the same port,
/// another port, the machine's own node, and the first node. Its name, its namespace and its machine stay. Events of the
/// device and of the machine tell of both.
pub(super) fn return_in_any_port_of_any_node(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "replug")?;
    let (stick, filler) = (Stick::new("replug").size(SMALL), Stick::new("replug-filler").size(SMALL));
    let (device, mut guest) = case.reading(&stick, HOME, IMPORTER)?;
    let place = || attribute(lab, &device, "portPath");
    let (object, machine) = (format!("USBDevice/{device}"), format!("VirtualMachine/{VM}"));
    let mut moves = |from: &str, to: &str, meanwhile: &dyn Fn() -> Result<()>| -> Result<()> {
        guest.forget();
        let (of_device, of_machine) = (case.told(&object)?, case.told(&machine)?);
        case.unplug(from, &stick)?;
        guest.loses_disk(SOON)?;
        case.wait_away(VM, &device, "NotFound")?;
        case.explained(VM, &device, &["absent on the host", &format!("plugged into node {from}")])?;
        case.wait_told(&object, &of_device, &["NotFound", "Available"])?;
        case.wait_told(&machine, &of_machine, &["NotFound"])?;
        meanwhile()?;
        guest.forget();
        let (again, _) = case.plug(to, &stick)?;
        ensure!(again == device, "the device was {device} and came back as {again}");
        guest.reads(&stick, SOON)?;
        case.wait_status(VM, &device, true)?;
        case.wait_node_condition(&device, "Assigned", "Assigned")?;
        case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
        case.wait_told(&object, &of_device, &["Ready", "AttachedToVirtualMachine"])?;
        case.wait_told(&machine, &of_machine, &["AttachedToVirtualMachine", "AllAttached"])
    };
    let nothing = || Ok(());

    let first = place()?;
    moves(HOME, HOME, &nothing).context("the same port")?;
    ensure!(place()? == first, "the device was in port {first} and is now in {}", place()?);
    // A stick always goes into the first free port.
    moves(HOME, HOME, &|| case.insert(HOME, &filler).map(drop)).context("another port")?;
    ensure!(place()? != first, "the device is still in port {first}");
    moves(HOME, IMPORTER, &nothing).context("the machine's own node")?;
    moves(IMPORTER, HOME, &nothing).context("the first node")?;
    case.end()
}

/// The cable is pulled when the device has just been listed, when its session has just begun, and each time when it has just
/// been taken off the list: it is in the guest when it is plugged in and listed, and nothing is left when it is not.
pub(super) fn return_whatever_step_they_interrupt(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "interrupt")?;
    let stick = Stick::new("interrupt").size(SMALL);
    let (device, _) = case.plug(HOME, &stick)?;
    case.assign(&device, "interrupt")?;
    let mut guest = case.vm(VM, IMPORTER, &[])?;
    let importer = lab.node(IMPORTER)?;
    let session = || {
        lab.wait_for("a session", SOON, || {
            let used = "grep -hE ' 00[56] ' /sys/devices/platform/vhci_hcd.*/status*; true";
            let used = importer.run(used).map_err(|error| format!("{error:#}"))?;
            if used.is_empty() { Err("no port is used".to_owned()) } else { Ok(()) }
        })
    };
    let moments: [(&str, &dyn Fn() -> Result<()>); 2] = [("just listed", &|| Ok(())), ("with a new session", &session)];
    for (what, moment) in moments {
        case.set_devices(VM, &[&device])?;
        moment()?;
        case.unplug(HOME, &stick)?;
        case.wait_away(VM, &device, "NotFound").context(what)?;
        guest.forget();
        case.plug(HOME, &stick)?;
        guest.reads(&stick, SOON).context(what)?;
        case.wait_status(VM, &device, true)?;

        guest.forget();
        case.set_devices(VM, &[])?;
        case.unplug(HOME, &stick)?;
        lab.assert_no_leaks(SOON).context("pulled out on its way out of the guest")?;
        guest.has_exactly(&BTreeSet::new(), SOON)?;
        case.wait_usb(VM, "")?;
        case.plug(HOME, &stick)?;
        case.wait_condition(&device, "Attached", "Available")?;
    }
    case.end()
}

/// The cable is pulled and put back ten times without a pause: what the guest reads at the end is what was plugged in last.
/// Then the device comes up again by itself under another number, on another node and on the machine's own.
pub(super) fn return_ten_times_in_a_row(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "ten-times")?;
    let first = Stick::new("ten-times").size(SMALL);
    let (device, mut guest) = case.reading(&first, HOME, IMPORTER)?;

    guest.forget();
    let mut stick = first.clone();
    for round in 1..=10 {
        case.unplug(HOME, &stick)?;
        // Each time with another content, so that nobody takes an earlier one for the last.
        stick = first.clone().size(SMALL - round * 4096);
        case.insert(HOME, &stick)?;
    }
    let sum = format!("sha256={}", stick.sha256());
    guest.wait_line("the last content", CALM, |line| line.text.contains(&sum).then_some(()))?;
    case.wait_status(VM, &device, true)?;
    reading::goes_on(&mut guest)?;
    comes_up_anew(&case, HOME, &stick, &device, &mut guest).context("on another node")?;

    case.unplug(HOME, &stick)?;
    guest.loses_disk(SOON)?;
    guest.forget();
    case.plug(IMPORTER, &stick)?;
    guest.reads(&stick, SOON)?;
    case.wait_status(VM, &device, true)?;
    comes_up_anew(&case, IMPORTER, &stick, &device, &mut guest).context("on the machine's own node")?;
    case.end()
}

/// The device is enumerated again and has another number then; the guest has it again by itself. What counts afterwards of the
/// guest's lines is what it says of the new one.
fn comes_up_anew(case: &Case<'_>, node: &str, stick: &Stick, device: &str, guest: &mut Guest) -> Result<()> {
    let before = attribute(case.lab, device, "deviceNumber")?;
    guest.forget();
    case.lab.node(node)?.falter(stick)?;
    guest.loses_disk(SOON)?;
    guest.reads(stick, SOON)?;
    guest.forget();
    case.lab.wait_for("another device number", SOON, || {
        let now = attribute(case.lab, device, "deviceNumber").map_err(|error| format!("{error:#}"))?;
        if now == before { Err(now) } else { Ok(()) }
    })?;
    case.wait_status(VM, device, true)?;
    case.wait_condition(device, "Attached", "AttachedToVirtualMachine").map(drop)
}

/// An attribute of a device.
fn attribute(lab: &Lab, device: &str, name: &str) -> Result<String> {
    lab.kubectl(&["get", "nodeusbdevice", device, "-o", &format!("jsonpath={{.status.attributes.{name}}}")])
}
