//! Plugging host devices into a guest by name.
//!
//! Two things exist in QEMU for each plugged device, and both carry its name, so that what is plugged can be read from
//! QEMU alone:
//!
//! * a descriptor of the device's usbfs node, in a set of its own, with the note `patchbay:<name>:<tag>`;
//! * a `usb-host` device with the id `usb-<name>` that has opened that set.
//!
//! The tag is the device's address on the node (`BBB-DDD`: bus and number of the kernel), which changes each time the
//! device is enumerated: it tells whether the guest has the device that is there now or one that is gone.
//!
//! A crash between any two steps leaves one without the other; [`plug`] and [`unplug`] clean up either.

use std::os::fd::BorrowedFd;

use serde_json::Value;

use crate::QmpError;
use crate::monitor::{FdSet, FdSetInfo, Monitor};

/// The bus that devices are plugged into: the guest's controller is made with `-device qemu-xhci,id=usb,p2=15,p3=15`.
pub const BUS: &str = "usb.0";
/// How the ids of our devices begin.
const ID: &str = "usb-";
/// How the notes on our descriptors begin.
const NOTE: &str = "patchbay:";

/// A device that a guest has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugged {
    /// The device's name.
    pub name: String,
    /// Bus and number of the device on the node, `BBB-DDD`. Empty when the device was plugged by something else.
    pub tag: String,
    /// QEMU's number of the guest's USB bus.
    pub bus: u32,
    /// The port on that bus, for example `3`. Empty when QEMU does not show it.
    pub port: String,
    /// Whether QEMU still reaches the device. It sends no event when the device vanishes from the node.
    pub attached: bool,
}

/// Plugs a device into the guest, after cleaning up whatever an earlier attempt for this name left.
///
/// `device` is the usbfs node, open for reading and writing. If this very device (same name and tag) is plugged and
/// reached by QEMU already, nothing is touched.
///
/// # Errors
/// [`QmpError::BadName`], [`QmpError::BadTag`], or what the monitor says; then the descriptor is taken back, unless the
/// connection is lost meanwhile. (QEMU 7.2 keeps a copy of its own when the device itself refuses to be opened.)
pub async fn plug(monitor: &Monitor, name: &str, device: BorrowedFd<'_>, tag: &str) -> Result<Plugged, QmpError> {
    let id = id(name)?;
    check_tag(tag)?;
    if let Some(there) = find(monitor, name).await?
        && there.tag == tag
        && there.attached
    {
        return Ok(there);
    }
    unplug(monitor, name).await?;
    let set = monitor.add_fd(device, &format!("{NOTE}{name}:{tag}")).await?;
    if let Err(error) = monitor.device_add_usb_host(&id, BUS, set, None).await {
        // The first error is the one worth telling; a set that stays is cleaned by the next plug or unplug.
        if let Err(second) = monitor.remove_fd(set).await {
            tracing::debug!(device = name, error = %second, "descriptor not taken back from QEMU");
        }
        return Err(error);
    }
    find(monitor, name).await?.ok_or_else(|| QmpError::Nonsense {
        command: "device_add",
        what: format!("{id} was accepted but is not there"),
    })
}

/// Takes a device from the guest and the descriptor from QEMU, each if it is there.
///
/// # Errors
/// [`QmpError::BadName`] or what the monitor says.
pub async fn unplug(monitor: &Monitor, name: &str) -> Result<(), QmpError> {
    let id = id(name)?;
    if monitor.peripherals().await?.contains(&id) {
        monitor.device_del(&id).await?;
    }
    for set in monitor.query_fdsets().await? {
        if note(&set).is_some_and(|(owner, _)| owner == name) {
            monitor.remove_fd(set.id).await?;
        }
    }
    Ok(())
}

/// All devices that are plugged, in the order of their names.
///
/// # Errors
/// What the monitor says.
pub async fn plugged(monitor: &Monitor) -> Result<Vec<Plugged>, QmpError> {
    let mut ids = monitor.peripherals().await?;
    ids.retain(|peripheral| peripheral.strip_prefix(ID).is_some_and(|name| id(name).is_ok()));
    ids.sort();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let sets = monitor.query_fdsets().await?;
    let topology = monitor.usb_topology().await?;
    let mut all = Vec::new();
    for id in ids {
        let attached = monitor.property(&id, "attached").await?.and_then(|value| value.as_bool()).unwrap_or(false);
        let set = monitor.property(&id, "hostdevice").await?.as_ref().and_then(set_of);
        let name = id.strip_prefix(ID).unwrap_or_default().to_owned();
        let note = sets.iter().filter(|info| Some(info.id) == set).find_map(note);
        let tag = note.filter(|(owner, _)| *owner == name).map_or(String::new(), |(_, tag)| tag.to_owned());
        let seen = topology.iter().find(|usb| usb.id.as_ref() == Some(&id));
        let (bus, port) = seen.map_or((0, String::new()), |usb| (usb.bus, usb.port.clone()));
        all.push(Plugged { name, tag, bus, port, attached });
    }
    Ok(all)
}

async fn find(monitor: &Monitor, name: &str) -> Result<Option<Plugged>, QmpError> {
    Ok(plugged(monitor).await?.into_iter().find(|plugged| plugged.name == name))
}

/// QEMU's id for a device of this name. Names are DNS labels, so the id is one that QEMU accepts.
fn id(name: &str) -> Result<String, QmpError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fine =
        (1..=63).contains(&name.len()) && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-');
    if fine { Ok(format!("{ID}{name}")) } else { Err(QmpError::BadName { name: name.to_owned() }) }
}

fn check_tag(tag: &str) -> Result<(), QmpError> {
    let digits = |part: &str| part.len() == 3 && part.chars().all(|c| c.is_ascii_digit());
    match tag.split_once('-') {
        Some((bus, number)) if digits(bus) && digits(number) => Ok(()),
        _ => Err(QmpError::BadTag { tag: tag.to_owned() }),
    }
}

/// Name and tag on a set's descriptor, if the set is ours.
fn note(set: &FdSetInfo) -> Option<(&str, &str)> {
    set.fds.iter().find_map(|fd| fd.opaque.as_deref()?.strip_prefix(NOTE)?.split_once(':'))
}

/// The set that a `usb-host` device has opened.
fn set_of(hostdevice: &Value) -> Option<FdSet> {
    hostdevice.as_str()?.strip_prefix("/dev/fdset/")?.parse().ok().map(FdSet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_qemu_or_the_note_would_misread_are_refused() {
        for name in ["", "-a", "a-", "a:b", "A", "a.b", "a b", &"a".repeat(64)] {
            assert!(id(name).is_err(), "{name}");
        }
        assert_eq!(id("logitech-c920-k3f9a").unwrap(), "usb-logitech-c920-k3f9a");
        assert_eq!(id(&"a".repeat(63)).unwrap().len(), 67);
    }

    #[test]
    fn tags_are_two_numbers_of_three_digits() {
        assert!(check_tag("005-002").is_ok());
        for tag in ["", "5-2", "005002", "005-002-1", "00a-002", "0055-02"] {
            assert!(check_tag(tag).is_err(), "{tag}");
        }
    }
}
