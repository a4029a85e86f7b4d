//! The importer's side: attaching sessions to the ports of `vhci_hcd`.
//!
//! # Which port a session lands on
//!
//! All controllers are driven through the files of `vhci_hcd.0`. `attach` takes `number socket devid speed`. The kernel
//! takes only the controller (`number / 2P`) and the port of the hub (`number % P`) from the number; the half it takes from
//! the *speed*: super speed and up go to the USB 3 half, everything else to the USB 2 half (`vhci_sysfs.c`,
//! `attach_store`). So the number of a USB 3 port with a slower speed silently occupies the USB 2 port beside it. [`attach`]
//! refuses a speed that does not belong to the named port's half; what it accepts lands exactly on that port.
//! `detach` takes all three from the number.
//!
//! # States of a port
//!
//! ```text
//!   Free -- attach --> NotAssigned -- the device is given an address --> Used
//!     ^                    |                                              |
//!     +----- detach, or the session ends, or the device is pulled out ----+        Error: needs a reload of the module
//! ```
//!
//! `attach` and `detach` return before the port has reached its next state: watch for it. The socket is the kernel's from
//! `attach` on. Its number counts in the process that writes, so the process that holds the socket attaches.
//!
//! A device is there about half a second after `attach`. When its session breaks within that time, the kernel is busy with
//! the dead device for up to 6 s more although the port is Free (a control transfer has to time out): other ports of the
//! same half of that controller wait for it, and what is attached to the same port meanwhile stays NotAssigned for ever. So
//! a port that is NotAssigned for longer than 8 s is to be detached and attached anew (tried on 7.3: the second try
//! works). After `detach` by us the kernel is done within a second or two.

use std::os::fd::{AsRawFd, BorrowedFd};

use patchbay_core::device::{BusAddress, PortPath};
use patchbay_core::speed::{Hub, PortName, Speed};
use patchbay_usb::root::{SysDir, SysError, SysRoot};
use patchbay_usb::scan;
use rustix::io::Errno;

use crate::status::{self, PortState, VhciPort};

/// Why a session could not be attached or a port not be freed.
#[derive(Debug, thiserror::Error)]
pub enum VhciError {
    /// The module is not loaded.
    #[error("the module vhci-hcd is not loaded on this node: modprobe vhci-hcd")]
    ModuleMissing,
    /// The kernel has no such port.
    #[error("this node's vhci has no port {0}")]
    NoSuchPort(PortName),
    /// Something is attached already.
    #[error("port {0} is used by something else on this node (see usbip port): free it")]
    Taken(PortName),
    /// The device does not fit the port.
    #[error("a device of {speed} Mbit/s does not fit port {port}: it needs a {} port", .speed.hub())]
    WrongHub {
        /// The port.
        port: PortName,
        /// The device's speed.
        speed: Speed,
    },
    /// The kernel refused what it was given.
    #[error("the kernel refused to attach the socket to port {0}: it takes connected stream sockets only")]
    Refused(PortName),
    /// Sysfs failed in another way.
    #[error(transparent)]
    Sys(#[from] SysError),
}

/// The ports of this node, in the kernel's order.
///
/// # Errors
/// The module is missing, or its status cannot be read.
pub fn ports(root: &SysRoot) -> Result<Vec<VhciPort>, VhciError> {
    let folder = folder(root);
    let mut texts = Vec::new();
    for controller in 0u32.. {
        let name = if controller == 0 { "status".to_owned() } else { format!("status.{controller}") };
        match folder.text(&name) {
            Ok(text) => texts.push(text),
            Err(error) if !error.is_gone() => return Err(error.into()),
            Err(_) if controller == 0 => return Err(VhciError::ModuleMissing),
            Err(_) => break,
        }
    }
    Ok(status::parse(texts.iter().map(String::as_str)))
}

/// Attaches a session to a port. `devid` and `speed` are what the home node says of its device.
///
/// # Errors
/// The module is missing, there is no such port, it is taken or of the wrong half, or the kernel refuses the socket.
/// Nothing is attached then.
pub fn attach(
    root: &SysRoot,
    name: PortName,
    socket: BorrowedFd<'_>,
    devid: u32,
    speed: Speed,
) -> Result<(), VhciError> {
    if speed.hub() != name.hub {
        return Err(VhciError::WrongHub { port: name, speed });
    }
    let port = find(root, name)?;
    if port.state != PortState::Free {
        return Err(VhciError::Taken(name));
    }
    let command = format!("{} {} {devid} {}", port.number, socket.as_raw_fd(), speed.vhci_code());
    folder(root).write("attach", &command).map_err(|error| match error.errno() {
        Some(Errno::BUSY) => VhciError::Taken(name),
        Some(Errno::INVAL) => VhciError::Refused(name),
        _ if error.is_gone() => VhciError::ModuleMissing,
        _ => error.into(),
    })
}

/// Frees a port: its device is unplugged from this node and its session ends. Nothing happens when it is free, when there
/// is no such port, or no module.
///
/// # Errors
/// Sysfs failed.
pub fn detach(root: &SysRoot, name: PortName) -> Result<(), VhciError> {
    let port = match find(root, name) {
        Err(VhciError::ModuleMissing | VhciError::NoSuchPort(_)) => return Ok(()),
        port => port?,
    };
    if port.state == PortState::Free {
        return Ok(());
    }
    match folder(root).write("detach", &port.number.to_string()) {
        // The kernel says so of a port that came free since we looked.
        Err(error) if error.errno() == Some(Errno::INVAL) && is_free(root, name) => Ok(()),
        Err(error) if error.is_gone() => Ok(()),
        written => Ok(written?),
    }
}

/// Whether nothing is attached to a port; a port that is not there, or cannot be read, is not free.
pub fn is_free(root: &SysRoot, name: PortName) -> bool {
    find(root, name).is_ok_and(|port| port.state == PortState::Free)
}

/// The device behind a port, under its name and address on this node. None until the kernel has made it.
pub fn device_of(root: &SysRoot, port: &VhciPort) -> Option<(PortPath, BusAddress)> {
    // The table shows the name a moment before sysfs has the device.
    let name = port.import()?.bus_id.clone()?;
    let address = scan::address(root, &name).ok()?;
    Some((name, address))
}

/// How many ports each half has, over all controllers.
pub fn count(ports: &[VhciPort], hub: Hub) -> usize {
    ports.iter().filter(|p| p.name.hub == hub).count()
}

fn find(root: &SysRoot, name: PortName) -> Result<VhciPort, VhciError> {
    ports(root)?.into_iter().find(|p| p.name == name).ok_or(VhciError::NoSuchPort(name))
}

/// The first controller's folder, through which all are driven.
pub(crate) fn folder(root: &SysRoot) -> SysDir {
    root.dir("sys/devices/platform/vhci_hcd.0")
}

#[cfg(test)]
mod tests;
