//! Devices come into a running guest and leave it in any order, and nobody disturbs the one that is read.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::{Speed, Stick};

use super::limits::{Device, SMALL, devices, names};
use super::reading;

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// A machine starts with two devices on its list, of which one does not exist yet: it is in the guest as soon as it is plugged
/// in and assigned. Then the list is edited again and again. After each edit the guest has exactly what is listed, and the one
/// device that is always listed is never disturbed.
pub(super) fn in_any_order_beside_one_that_is_read(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "hotplug")?;
    let unborn = Stick::new("unborn").speed(Speed::High).size(SMALL);
    let name = forgotten(&case, &unborn)?;
    let sticks = [
        (HOME, "steady", Speed::Super),
        (HOME, "high", Speed::High),
        (HOME, "super", Speed::Super),
        (IMPORTER, "local-high", Speed::High),
        (IMPORTER, "local-super", Speed::Super),
    ];
    let all = devices(&case, sticks.into_iter().map(|(node, name, speed)| (node, name.to_owned(), speed)))?;
    let [steady, high, superspeed, local_high, local_super] = all.as_slice() else { bail!("not all are there") };
    let unborn = Device { name, stick: unborn };

    let guest = case.vm(VM, IMPORTER, &[&steady.name, &unborn.name])?;
    steady.is_read(&guest)?;
    let disk = guest.disk(&serial(steady)).context("the guest has lost the disk it has just read")?;
    case.wait_message(VM, &unborn.name, false, "there is no USBDevice")?;
    case.wait_usb(VM, "1/2")?;
    let mut list = List { case: &case, guest, disk, steady, listed: BTreeSet::from([serial(steady)]) };
    let born = |list: &List<'_>| -> Result<()> {
        case.plug(HOME, &unborn.stick)?;
        list.guest.has_exactly(&list.listed, SOON)?;
        case.assign(&unborn.name, &case.namespace)
    };
    list.becomes("listed before it existed", &[steady, &unborn], born)?;

    let edits: [(&str, &[&Device]); 6] = [
        ("one more", &[steady, &unborn, high]),
        ("three at once", &[steady, &unborn, high, superspeed, local_high, local_super]),
        ("in another order", &[local_super, high, steady, local_high, &unborn, superspeed]),
        ("two less", &[steady, high, &unborn, local_super]),
        ("two that were there before, and two others no more", &[superspeed, local_super, steady, local_high]),
        ("only the one that is read", &[steady]),
    ];
    for (what, devices) in edits {
        list.becomes(what, devices, |_| case.set_devices(VM, &names(devices.iter().copied())).map(drop))?;
    }
    case.end()
}

/// The name of the device that a stick will be: it has been there before, and nobody remembers it.
fn forgotten(case: &Case<'_>, stick: &Stick) -> Result<String> {
    let (name, _) = case.plug(HOME, stick)?;
    case.unplug(HOME, stick)?;
    case.wait_node_condition(&name, "Ready", "NotFound")?;
    case.lab.kubectl(&["delete", "nodeusbdevice", &name])?;
    Ok(name)
}

fn serial(device: &Device) -> String {
    device.stick.serial.clone().unwrap_or_default()
}

/// The list of a machine's devices, and the guest that is to have them.
struct List<'c> {
    case: &'c Case<'c>,
    guest: Guest,
    /// The one that is always listed, and its name in the guest.
    steady: &'c Device,
    disk: String,
    /// The serial numbers of those that the guest has.
    listed: BTreeSet<String>,
}

impl List<'_> {
    /// By some change these become the guest's devices, no more and no less: those that are new are read, the steady one has
    /// not noticed, and the machine's status says what is.
    fn becomes(&mut self, what: &str, devices: &[&Device], change: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let before = self.case.conditions(&[&self.steady.name])?;
        self.guest.forget();
        change(self)?;
        let listed: BTreeSet<String> = devices.iter().map(|device| serial(device)).collect();
        self.guest.has_exactly(&listed, SOON).context(what.to_owned())?;
        for device in devices.iter().filter(|device| !self.listed.contains(&serial(device))) {
            device.is_read(&self.guest).context(what.to_owned())?;
        }
        self.case.wait_attached(VM, &names(devices.iter().copied())).context(what.to_owned())?;
        reading::is_undisturbed(&self.guest, &self.disk).context(what.to_owned())?;
        let after = self.case.conditions(&[&self.steady.name])?;
        ensure!(before == after, "{what}: what is said of the other has changed:\n{before:?}\n{after:?}");
        // Nothing that had to stay has left and come back.
        let left = self.guest.lines().iter().filter(|line| line.text.contains("guest: usb remove")).count();
        let less = self.listed.difference(&listed).count();
        ensure!(left == less, "{what}: the guest lost {left} devices where {less} were to leave");
        self.listed = listed;
        Ok(())
    }
}
