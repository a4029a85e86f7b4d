//! The home side: lending devices out.
//!
//! # States of a device
//!
//! ```text
//!   with its host driver -- bind --> Available -- export --> Used -- end, or the connection breaks --> Available
//!          ^                             |                    |
//!          +---------- release ----------+                                Error: release and bind again
//! ```
//!
//! `export` and `end` return at once; the kernel's thread then resets the device and only thereafter shows `Available`.
//! The socket is the kernel's from `export` on: closing our descriptor, or dying, changes nothing.
//!
//! # The table of usbip-host
//!
//! usbip-host takes only devices whose bus id is in a table of 16 places (`stub_main.c`, `MAX_BUSID`). How places come and
//! go decides the order of our writes (read and tried on 7.3):
//!
//! * `add <bus id>` to `match_busid` takes a place, or finds the old one. ENOMEM when all are taken.
//! * `del` frees nothing. On a bound device it marks the place so that the device can never be bound again, and on an
//!   unbound one it has no effect. It is not used here.
//! * `rebind` frees the place and probes the device for other drivers. It follows a pointer to the device that was bound
//!   last without knowing whether that one still exists, so it is only written for a device that this very call has
//!   unbound.
//! * `rebind` frees the place even if the device was bound again after the unbinding, and the kernel stops (`BUG` in
//!   `stub_disconnect`) when that device is unbound: nobody may bind a device while another releases it.
//! * A device that is pulled out while bound leaves its place taken. The place serves whatever is bound in the same port
//!   next, and is freed when that is released. Nothing else frees it but reloading the module.
//! * usbip-host means to refuse devices of vhci, but does not know their controllers by name any more and takes them:
//!   [`bind`] refuses them itself.
//! * Unbinding unconfigures a device, so its interfaces are gone while it is bound; strings and descriptors stay.
//! * A device that is not authorised ([`custody`]) can be bound, but nobody at the other end can configure it: [`bind`]
//!   authorises it once the driver has it. When it is withheld before [`release`], no other driver gets it.

use std::fmt::Display;
use std::os::fd::{AsRawFd, BorrowedFd};

use patchbay_core::device::PortPath;
use patchbay_usb::custody;
use patchbay_usb::root::{SysDir, SysError, SysRoot};
use patchbay_usb::scan::{is_imported, place_order};
use rustix::io::Errno;

const DRIVER: &str = "usbip-host";

/// What a bound device is doing: `usbip_status` (`enum usbip_device_status` in `include/uapi/linux/usbip.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportStatus {
    /// It waits for a session.
    Available,
    /// A session uses it.
    Used,
    /// It could not be reset after its last session. Releasing it may help, pulling it out does.
    Error,
}

/// Why a device could not be lent out or taken back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The module is not loaded.
    #[error("the module usbip-host is not loaded on this node: modprobe usbip-host")]
    ModuleMissing,
    /// Nothing is plugged in there.
    #[error("there is no USB device at {0}")]
    Gone(PortPath),
    /// It is there, but not bound.
    #[error("the device at {0} is not bound to usbip-host")]
    NotBound(PortPath),
    /// All places of usbip-host are taken.
    #[error(
        "usbip-host lends out at most 16 devices of a node, and its places are taken by {taken}; places of devices that \
         were pulled out come free with: modprobe -r usbip-host"
    )]
    Limit {
        /// Whose they are.
        taken: String,
    },
    /// Somebody else has it.
    #[error("the device at {port} is busy: {reason}")]
    Busy {
        /// Where it is.
        port: PortPath,
        /// Who has it.
        reason: &'static str,
    },
    /// It is another node's device.
    #[error("the device at {0} is imported from another node: lend it out there")]
    Imported(PortPath),
    /// usbip-host does not want it.
    #[error(
        "usbip-host refused the device at {0}: it takes no hubs; if it is none, its place in the driver's table is \
         spoilt: modprobe -r usbip-host"
    )]
    Refused(PortPath),
    /// It did not survive the end of its last session.
    #[error("the device at {0} is in usbip-host's error state: pull it out and plug it in again")]
    Failed(PortPath),
    /// The kernel did not take the socket.
    #[error("the kernel refused the socket for the device at {0}: it takes connected stream sockets only")]
    BadSocket(PortPath),
    /// Sysfs failed in another way.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// Whether usbip-host is loaded.
pub fn modules_present(root: &SysRoot) -> bool {
    driver(root).exists()
}

/// Takes a device from its host driver, if it has one, and gives it to usbip-host. Nothing happens when it is there already.
///
/// # Errors
/// The module is missing, the device is gone or another node's, all places are taken, somebody else has the device, or
/// usbip-host refuses it. The device is with its host driver then.
pub fn bind(root: &SysRoot, port: &PortPath) -> Result<(), HostError> {
    if !modules_present(root) {
        return Err(HostError::ModuleMissing);
    }
    let device = device(root, port);
    if !device.exists() {
        return Err(HostError::Gone(port.clone()));
    }
    let present = device.link("driver");
    if present.as_deref() == Some(DRIVER) {
        // A crash may have come between the two.
        return Ok(custody::authorize(root, port)?);
    }
    if is_imported(root, port).map_err(|error| absent(&device, port, error))? {
        return Err(HostError::Imported(port.clone()));
    }
    // No line ends: the kernel would take them for a part of the name.
    let name = port.as_str();
    driver(root).write("match_busid", &format!("add {name}")).map_err(|error| match error.errno() {
        Some(Errno::NOMEM) => HostError::Limit { taken: list(table(root)) },
        _ => error.into(),
    })?;
    if let Some(present) = present {
        unless_gone(root.usb_driver(&present).write("unbind", name))?;
    }
    driver(root).write("bind", name).map_err(|error| {
        // Back to the host driver. Should that fail too, the device has no driver, and `release` tries again.
        let _undone = probe(root, port);
        match error.errno() {
            _ if !device.exists() => HostError::Gone(port.clone()),
            Some(Errno::BUSY) => busy(port, "another program or driver holds it"),
            // EPROBE_DEFER: the message that it is plugged in comes before it can be bound.
            Some(Errno::AGAIN) => busy(port, "the kernel is still setting it up"),
            Some(Errno::NODEV) => HostError::Refused(port.clone()),
            _ => error.into(),
        }
    })?;
    Ok(custody::authorize(root, port)?)
}

/// What a bound device is doing.
///
/// # Errors
/// It is gone or not bound.
pub fn status(root: &SysRoot, port: &PortPath) -> Result<ExportStatus, HostError> {
    let device = device(root, port);
    let text = device.text("usbip_status").map_err(|error| absent(&device, port, error))?;
    match text.as_str() {
        "1" => Ok(ExportStatus::Available),
        "2" => Ok(ExportStatus::Used),
        "3" => Ok(ExportStatus::Error),
        _ => Err(SysError::Odd { path: device.path().join("usbip_status"), text }.into()),
    }
}

/// Gives a bound device the connected socket of its session. The kernel keeps a reference of its own.
///
/// # Errors
/// The device is gone, not bound, in use or in its error state, or the socket is none the kernel takes.
pub fn export(root: &SysRoot, port: &PortPath, socket: BorrowedFd<'_>) -> Result<(), HostError> {
    let device = device(root, port);
    let written = device.write("usbip_sockfd", &socket.as_raw_fd().to_string());
    written.map_err(|error| match error.errno() {
        Some(Errno::INVAL) => match status(root, port) {
            Ok(ExportStatus::Used) => busy(port, "another session uses it"),
            Ok(ExportStatus::Error) => HostError::Failed(port.clone()),
            Ok(ExportStatus::Available) => HostError::BadSocket(port.clone()),
            Err(error) => error,
        },
        _ => absent(&device, port, error),
    })
}

/// Ends the session of a device. Nothing happens when there is none, or no device.
///
/// # Errors
/// Sysfs failed.
pub fn end(root: &SysRoot, port: &PortPath) -> Result<(), HostError> {
    match status(root, port) {
        Ok(ExportStatus::Used) => {}
        Ok(_) | Err(HostError::Gone(_) | HostError::NotBound(_)) => return Ok(()),
        Err(error) => return Err(error),
    }
    match device(root, port).write("usbip_sockfd", "-1") {
        // It ended between our look and our write.
        Err(error) if error.errno() == Some(Errno::INVAL) => Ok(()),
        written => unless_gone(written),
    }
}

/// Gives a device without a session back to its host driver, or to nobody if it is withheld. Nothing happens when it is gone or
/// back already, so it may be repeated after a crash.
///
/// Wait a moment after [`status`] has stopped to show a session: the kernel's thread has still to put away its last orders,
/// and uses what unbinding frees (`event_handler` in `usbip_event.c`).
///
/// # Errors
/// It has a session: [`end`] that first. Or sysfs failed.
pub fn release(root: &SysRoot, port: &PortPath) -> Result<(), HostError> {
    if matches!(status(root, port), Ok(ExportStatus::Used)) {
        return Err(busy(port, "its session has not ended yet"));
    }
    let device = device(root, port);
    match device.link("driver").as_deref() {
        Some(DRIVER) => {
            unless_gone(driver(root).write("unbind", port.as_str()))?;
            if device.exists() {
                // It frees the place; whether it found a driver does not matter, we probe again.
                unless_gone(driver(root).write("rebind", port.as_str()))?;
            }
            probe(root, port)
        }
        Some(_) => Ok(()),
        // A crash between unbinding and probing leaves a device without any driver.
        None if device.exists() => probe(root, port),
        None => Ok(()),
    }
}

/// The devices that are bound to usbip-host; none when the module is not loaded.
///
/// # Errors
/// The driver's folder cannot be listed.
pub fn bound(root: &SysRoot) -> Result<Vec<PortPath>, HostError> {
    let names = match driver(root).names() {
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        names => names?,
    };
    Ok(places(names.iter().map(String::as_str)))
}

/// The bus ids that take a place in usbip-host's table: the bound ones, and those that were pulled out while bound.
pub fn table(root: &SysRoot) -> Vec<PortPath> {
    let text = driver(root).text("match_busid").unwrap_or_default();
    places(text.split_whitespace())
}

fn places<'a>(names: impl Iterator<Item = &'a str>) -> Vec<PortPath> {
    let mut places: Vec<PortPath> = names.filter_map(|name| name.parse().ok()).collect();
    places.sort_by_key(place_order);
    places
}

fn list(names: Vec<impl Display>) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn driver(root: &SysRoot) -> SysDir {
    root.usb_driver(DRIVER)
}

fn device(root: &SysRoot, port: &PortPath) -> SysDir {
    root.usb_device(port.as_str())
}

/// Lets the drivers of the node have the device, if none has.
fn probe(root: &SysRoot, port: &PortPath) -> Result<(), HostError> {
    unless_gone(root.dir("sys/bus/usb").write("drivers_probe", port.as_str()))
}

fn unless_gone(written: Result<(), SysError>) -> Result<(), HostError> {
    match written {
        Err(error) if !error.is_gone() => Err(error.into()),
        _ => Ok(()),
    }
}

/// An attribute of usbip-host is missing: because the device is, or because it is not bound.
fn absent(device: &SysDir, port: &PortPath, error: SysError) -> HostError {
    match error.is_gone() {
        true if device.exists() => HostError::NotBound(port.clone()),
        true => HostError::Gone(port.clone()),
        false => error.into(),
    }
}

fn busy(port: &PortPath, reason: &'static str) -> HostError {
    HostError::Busy { port: port.clone(), reason }
}

#[cfg(test)]
mod tests;
