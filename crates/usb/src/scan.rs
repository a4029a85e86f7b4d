//! Which USB devices this node has.
//!
//! # Guarantees
//!
//! * Total: whatever sysfs holds, and whatever vanishes while it is read, a scan ends with a result. An attribute that is
//!   missing or odd costs that attribute; one without which a device cannot be told or used (vendor, product, address,
//!   speed) costs that device and leaves a line in [`Scan::problems`]. No device costs another one.
//! * Hubs, root hubs and interfaces are left out. What this node imported (anything below `vhci_hcd`) is never among its
//!   devices, but in [`Scan::imported`].
//! * Sorted by place, numerically: `1-2` before `1-10`.
//!
//! It reads some 15 small files for each device, each of which may wait for the device's lock in the kernel: callers in
//! async code use `spawn_blocking`.
//!
//! Descriptors and strings are read by the kernel once, when a device is plugged in, and a device whose descriptors are not the
//! same after a reset is made anew (`descriptors_changed` in `drivers/usb/core/hub.c`). So of one that an earlier scan has found
//! only what changes is read: its driver, and whether it is authorised. It is the same if its folder is, by the inode, which sysfs
//! gives to none a second time (`__kernfs_new_node` in `fs/kernfs/dir.c`), and if it has the same number.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use patchbay_core::device::{Attributes, BusAddress, HexId, PortPath, clean};
use patchbay_core::host_use::{HostUse, Keyboards};

use crate::custody;
use crate::host_use::Tables;
use crate::names;
use crate::root::{SysDir, SysError, SysRoot, explain};

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Devices plugged into this node.
    pub devices: Vec<Scanned>,
    /// Devices (and hubs) of other nodes that this node imported.
    pub imported: Vec<Imported>,
    /// What could not be read, one line each, for people.
    pub problems: Vec<String>,
}

/// A device plugged into this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// What is known of it.
    pub attributes: Attributes,
    /// The name of its folder in `sys/bus/usb/devices`.
    pub sysfs_name: String,
    /// The driver of the device as a whole: `usb`, or `usbip-host` while it is exported. None: nobody has it.
    pub driver: Option<String>,
    /// The kernel lets drivers have it: it has a configuration, and with it interfaces. See [`crate::custody`].
    pub authorized: bool,
    /// What the host does with it, so that it cannot be taken away; None when it can.
    pub host_use: Option<HostUse>,
    /// Its folder; None when not all could be read, so that it is read again.
    folder: Option<Folder>,
}

/// A folder in the tree of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    /// The real path.
    path: PathBuf,
    inode: u64,
}

/// A device that sits on a virtual controller of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Its name on this node.
    pub bus_id: PortPath,
    /// Its address on this node, if it can be told.
    pub address: Option<BusAddress>,
    /// N of `vhci_hcd.N`, if it can be told.
    pub controller: Option<u32>,
    /// The port of that controller's hub, from 1, if it can be told.
    pub root_port: Option<u16>,
}

/// The longest string descriptor has 126 UTF-16 units, each at most 3 bytes of UTF-8 (a pair of them 4).
const MAX_STRING: usize = 126 * 4;

/// `bDeviceClass` of a hub.
const HUB: u8 = 0x09;

enum Found {
    Device(Box<Scanned>),
    Imported(Imported),
    Hub,
}

/// Looks at every USB device of a node whose console has no keyboard for itself.
pub fn scan(root: &SysRoot) -> Scan {
    scan_with(root, &Keyboards::Free, [])
}

/// Looks at every USB device of the node. `consoles` are the keyboards that consoles have for themselves, `known` is what an
/// earlier scan has found.
pub fn scan_with<'k>(root: &SysRoot, consoles: &Keyboards, known: impl IntoIterator<Item = &'k Scanned>) -> Scan {
    let known: BTreeMap<&str, &Scanned> =
        known.into_iter().map(|device| (device.sysfs_name.as_str(), device)).collect();
    let mut scan = Scan::default();
    let names = root.dir("sys/bus/usb/devices").names();
    let names = names.unwrap_or_else(|error| {
        scan.problems.push(explain(&error));
        Vec::new()
    });
    let host = Tables::read(root, consoles);
    let mut places: Vec<PortPath> = Vec::new();
    // Root hubs (`usb1`) have no dash, interfaces (`1-1:1.0`) have a colon.
    for name in names.iter().filter(|n| n.contains('-') && !n.contains(':')) {
        match name.parse() {
            Ok(place) => places.push(place),
            Err(_) => scan.problems.push(format!("sys/bus/usb/devices/{name:?} is no place of a USB device: left out")),
        }
    }
    places.sort_by_key(place_order);
    for place in places {
        let known = known.get(place.as_str()).and_then(|known| look_again(root, &host, known));
        if let Some(device) = known {
            scan.devices.push(device);
            continue;
        }
        match look(root, &host, &place) {
            Ok(Found::Device(device)) => scan.devices.push(*device),
            Ok(Found::Imported(device)) => scan.imported.push(device),
            Ok(Found::Hub) => {}
            Err(error) => scan.problems.push(format!("device {place} left out: {}", explain(&error))),
        }
    }
    scan
}

/// The key that sorts places as people count: by bus, then port by port.
pub fn place_order(place: &PortPath) -> Vec<u32> {
    place.as_str().split(['-', '.']).map(|number| number.parse().unwrap_or(u32::MAX)).collect()
}

/// So many resets in a row are waited for.
const RESETS: usize = 3;

/// The address of the device at a place of this node: what a device node is named after. While the kernel resets the device, it
/// has none, and this waits: use `spawn_blocking`.
///
/// # Errors
/// There is no device, or it is going.
pub fn address(root: &SysRoot, place: &PortPath) -> Result<BusAddress, SysError> {
    let device = root.usb_device(place.as_str());
    let mut number: u16 = device.parse("devnum")?;
    for _ in 0..RESETS {
        if number != 0 {
            break;
        }
        // The kernel says 0 from the reset of the port on until the device has its old address again, and tells no configuration
        // before it is done (`hub_port_reset` in `drivers/usb/core/hub.c`, `bConfigurationValue_show` in `sysfs.c`).
        drop(device.text("bConfigurationValue"));
        number = device.parse("devnum")?;
    }
    if number == 0 {
        return Err(SysError::Odd { path: device.path().join("devnum"), text: number.to_string() });
    }
    Ok(BusAddress { bus: device.parse("busnum")?, device: number })
}

/// Where the device with this address is; None when there is none.
pub fn place_of(root: &SysRoot, at: BusAddress) -> Option<PortPath> {
    let names = root.dir("sys/bus/usb/devices").names().unwrap_or_default();
    let mut places = names.iter().filter(|n| n.contains('-') && !n.contains(':')).filter_map(|n| n.parse().ok());
    places.find(|place| address(root, place).is_ok_and(|found| found == at))
}

/// Whether the device at a place of this node is one that it imported.
///
/// # Errors
/// There is no device.
pub fn is_imported(root: &SysRoot, place: &PortPath) -> Result<bool, SysError> {
    let real = root.usb_device(place.as_str()).real()?;
    Ok(virtual_controller(root, &real).is_some())
}

/// Looks at a device that was found before; None when it is not the same any more.
fn look_again(root: &SysRoot, host: &Tables, known: &Scanned) -> Option<Scanned> {
    let device = root.usb_device(&known.sysfs_name);
    let folder = known.folder.as_ref()?;
    let same =
        device.inode().ok()? == folder.inode && device.parse::<u16>("devnum").ok()? == known.attributes.address.device;
    same.then(|| Scanned {
        driver: device.link("driver"),
        authorized: custody::is_authorized(&device),
        host_use: host.of(&folder.path).cloned(),
        ..known.clone()
    })
}

fn look(root: &SysRoot, host: &Tables, place: &PortPath) -> Result<Found, SysError> {
    let device = root.usb_device(place.as_str());
    // First: what is read of it thereafter is of this one or of one that comes later, which is noticed by the next scan.
    let inode = device.inode()?;
    let real = device.real()?;
    if let Some(controller) = virtual_controller(root, &real) {
        let root_port = place_order(place).get(1).and_then(|port| u16::try_from(*port).ok());
        let address = address(root, place).ok();
        return Ok(Found::Imported(Imported { bus_id: place.clone(), address, controller, root_port }));
    }
    // What is there and cannot be read now may be read another time.
    let whole = Cell::new(true);
    let text = |attribute: &str| match device.text(attribute) {
        Ok(text) => Some(text),
        Err(error) => {
            whole.set(whole.get() && error.is_gone());
            None
        }
    };
    let class = text("bDeviceClass").and_then(|c| u8::from_str_radix(&c, 16).ok()).unwrap_or(0);
    if class == HUB {
        return Ok(Found::Hub);
    }
    let found = Scanned {
        attributes: attributes(root, &device, place, class, text)?,
        sysfs_name: place.as_str().to_owned(),
        driver: device.link("driver"),
        authorized: custody::is_authorized(&device),
        host_use: host.of(&real).cloned(),
        folder: whole.get().then_some(Folder { path: real, inode }),
    };
    Ok(Found::Device(Box::new(found)))
}

/// What must be there is read from `device`, what may be missing with `text`.
fn attributes(
    root: &SysRoot,
    device: &SysDir,
    place: &PortPath,
    class: u8,
    text: impl Fn(&str) -> Option<String>,
) -> Result<Attributes, SysError> {
    let string = |attribute| text(attribute).and_then(|text| clean(&text, MAX_STRING));
    let (vendor_id, product_id) = (device.parse("idVendor")?, device.parse("idProduct")?);
    let words = names::complete(vendor_id, product_id, class, string("manufacturer"), string("product"));
    Ok(Attributes {
        vendor_id,
        product_id,
        bcd: text("bcdDevice").and_then(|bcd| bcd.parse().ok()).unwrap_or(HexId(0)),
        address: address(root, place)?,
        serial: string("serial"),
        manufacturer: words.manufacturer,
        product: words.product,
        name: words.name,
        speed: device.parse("speed")?,
        port_path: place.clone(),
        class,
    })
}

/// Whether a device is below a virtual controller, and below which: N of `vhci_hcd.N`.
fn virtual_controller(root: &SysRoot, real: &Path) -> Option<Option<u32>> {
    let top = root.dir("").real().ok()?;
    let below = real.strip_prefix(top).unwrap_or(real);
    let folder = below.iter().filter_map(|part| part.to_str()).find(|part| part.starts_with("vhci_hcd"))?;
    Some(folder.strip_prefix("vhci_hcd.").and_then(|number| number.parse().ok()))
}

#[cfg(test)]
mod tests;
