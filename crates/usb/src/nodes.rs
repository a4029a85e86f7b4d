//! The device nodes of a USB device: what a program opens to use it.
//!
//! Besides the node of usbfs (`/dev/bus/usb/001/004`) these are the nodes that the drivers of its interfaces have made:
//! `ttyACM0`, `hidraw1`, `input/event3`, `video0`, `snd/pcmC1D0c`, `sda`. Each is found below the device's own folder in
//! sysfs, by the `uevent` file of the class device (`MAJOR`, `DEVNAME`; `drivers/base/core.c`, `dev_uevent`).

use std::path::PathBuf;

use patchbay_core::device::BusAddress;

use crate::root::{SysDir, SysRoot};

/// The major number of usbfs (`Documentation/admin-guide/devices.txt`).
const USBFS: u32 = 189;

/// How deep class devices lie at most: interface, host, target, unit, class, partition, and some to spare.
const DEPTH: usize = 12;

/// A node below `/dev`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNode {
    /// Its path below `/dev`: `ttyACM0`, `snd/pcmC1D0c`.
    pub name: String,
    /// The class or bus that made it: `tty`, `hidraw`, `block`.
    pub subsystem: String,
}

impl DeviceNode {
    /// Whether it is a block device: a disk or a partition.
    pub fn is_block(&self) -> bool {
        self.subsystem == "block"
    }
}

/// What the drivers of a device have made of it so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNodes {
    /// The nodes, sorted; the one of usbfs is not among them.
    pub nodes: Vec<DeviceNode>,
    /// The drivers of its interfaces; None for each that no driver wants, or none has taken yet.
    pub drivers: Vec<Option<String>>,
}

impl DeviceNodes {
    /// Whether more may be expected: an interface without a driver, or a disk whose medium has not been looked at yet
    /// (drivers of disks look for them after they have taken the interface).
    pub fn may_grow(&self, disks: bool) -> bool {
        let storage = self.drivers.iter().flatten().any(|d| d == "usb-storage" || d == "uas");
        self.drivers.is_empty()
            || self.drivers.contains(&None)
            || (disks && storage && !self.nodes.iter().any(DeviceNode::is_block))
    }
}

/// Looks at the device with this address; empty when there is none. Waits for drivers that are at work on it, and reads some
/// files for each of its class devices.
pub fn nodes(root: &SysRoot, address: BusAddress) -> DeviceNodes {
    let mut found = DeviceNodes::default();
    let Some(folder) = folder(root, address) else { return found };
    // An interface shows its driver before that driver has begun to work on it. All of them do while the kernel holds the
    // lock of the device, which this attribute waits for (`drivers/usb/core/sysfs.c`, `bConfigurationValue_show`).
    let _ = folder.text("bConfigurationValue");
    for name in folder.names().unwrap_or_default() {
        let child = folder.join(&name);
        if name.contains(':') && child.exists() {
            found.drivers.push(child.link("driver"));
            walk(&child, DEPTH, &mut found.nodes);
        }
    }
    found.nodes.sort();
    found.nodes.dedup();
    found.drivers.sort();
    found
}

/// The folder of the device: usbfs numbers its nodes by bus and device (`drivers/usb/core/usb.c`, `usb_alloc_dev`).
fn folder(root: &SysRoot, address: BusAddress) -> Option<SysDir> {
    let (bus, device) = (u32::from(address.bus).checked_sub(1)?, u32::from(address.device).checked_sub(1)?);
    let real: PathBuf = root.dir(format!("sys/dev/char/{USBFS}:{}", bus * 128 + device)).real().ok()?;
    Some(SysDir::at(real))
}

/// Collects the nodes of a folder and of those in it. Links are not followed: they lead out of the device.
fn walk(folder: &SysDir, depth: usize, found: &mut Vec<DeviceNode>) {
    let uevent = folder.text("uevent").unwrap_or_default();
    let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    if let (Some(_), Some(name)) = (value("MAJOR"), value("DEVNAME"))
        && is_plain(name)
    {
        let subsystem = folder.link("subsystem").unwrap_or_default();
        found.push(DeviceNode { name: name.to_owned(), subsystem });
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for name in folder.names().unwrap_or_default() {
        let child = folder.join(&name);
        if child.exists() && !child.path().is_symlink() {
            walk(&child, depth, found);
        }
    }
}

/// A name that stays below `/dev`.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;

    const DEVICE: &str = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1";
    const ADDRESS: BusAddress = BusAddress { bus: 1, device: 5 };

    /// A device with two interfaces, the first of which is a modem's.
    fn modem() -> Fixture {
        let fixture = Fixture::new();
        fixture.write(&format!("{DEVICE}/uevent"), "MAJOR=189\nMINOR=4\nDEVNAME=bus/usb/001/005\n");
        fixture.link("sys/dev/char/189:4", DEVICE);
        fixture.write(&format!("{DEVICE}/1-1:1.0/uevent"), "DEVTYPE=usb_interface\n");
        fixture.link(&format!("{DEVICE}/1-1:1.0/driver"), "sys/bus/usb/drivers/cdc_acm");
        node(&fixture, "1-1:1.0/tty/ttyACM0", "ttyACM0", "tty");
        fixture.write(&format!("{DEVICE}/1-1:1.1/uevent"), "DEVTYPE=usb_interface\n");
        fixture
    }

    fn node(fixture: &Fixture, folder: &str, name: &str, subsystem: &str) {
        fixture.write(&format!("{DEVICE}/{folder}/uevent"), format!("MAJOR=1\nMINOR=2\nDEVNAME={name}\n"));
        fixture.link(&format!("{DEVICE}/{folder}/subsystem"), &format!("sys/class/{subsystem}"));
    }

    fn names(found: &DeviceNodes) -> Vec<&str> {
        found.nodes.iter().map(|n| n.name.as_str()).collect()
    }

    #[test]
    fn the_nodes_of_all_interfaces_are_found_and_that_of_usbfs_is_not_among_them() {
        let fixture = modem();
        node(&fixture, "1-1:1.1/0003:1234:5678.0001/hidraw/hidraw0", "hidraw0", "hidraw");
        node(&fixture, "1-1:1.1/sound/card1/pcmC1D0c", "snd/pcmC1D0c", "sound");
        let found = nodes(fixture.root(), ADDRESS);
        assert_eq!(names(&found), ["hidraw0", "snd/pcmC1D0c", "ttyACM0"]);
        assert_eq!(found.nodes.last().map(|n| n.subsystem.as_str()), Some("tty"));
    }

    #[test]
    fn more_is_expected_until_every_interface_has_a_driver() {
        let fixture = modem();
        assert!(nodes(fixture.root(), ADDRESS).may_grow(false));
        fixture.link(&format!("{DEVICE}/1-1:1.1/driver"), "sys/bus/usb/drivers/cdc_acm");
        assert!(!nodes(fixture.root(), ADDRESS).may_grow(true));
        assert!(nodes(fixture.root(), BusAddress { bus: 9, device: 9 }).may_grow(false), "what is not there yet");
    }

    #[test]
    fn a_disk_is_expected_of_storage_only_by_those_who_want_it() {
        let fixture = modem();
        for interface in ["1-1:1.0", "1-1:1.1"] {
            fixture.link(&format!("{DEVICE}/{interface}/driver"), "sys/bus/usb/drivers/usb-storage");
        }
        let found = nodes(fixture.root(), ADDRESS);
        assert_eq!((found.may_grow(true), found.may_grow(false)), (true, false));
        node(&fixture, "1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda", "sda", "block");
        node(&fixture, "1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda/sda1", "sda1", "block");
        let found = nodes(fixture.root(), ADDRESS);
        assert!(!found.may_grow(true));
        assert_eq!(found.nodes.iter().filter(|n| n.is_block()).count(), 2);
    }

    #[test]
    fn links_are_not_followed_and_names_stay_below_dev() {
        let fixture = modem();
        fixture.link(&format!("{DEVICE}/1-1:1.0/device"), "sys/devices");
        node(&fixture, "1-1:1.1/odd", "../etc/shadow", "tty");
        assert_eq!(names(&nodes(fixture.root(), ADDRESS)), ["ttyACM0"]);
    }
}
