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
//!
//! While a guest is being sent to another node QEMU deletes no devices; [`switch_off`] takes them from the guest all the same.
//! When the move comes to nothing, what was switched off stays in QEMU as an id that cannot be used again. It is never shown, and
//! the device gets the next id, `usb-<name>.1` and so on.

mod memory;
mod view;

use std::os::fd::BorrowedFd;

use futures::future::join;
use serde_json::{Value, json};

use crate::QmpError;
use crate::monitor::{FdSet, Monitor};
use crate::topology::GuestUsb;
pub(crate) use memory::Memory;
pub use memory::Remembered;
use view::View;

/// The USB controllers of a guest, made with `-device qemu-xhci,id=usb0,p2=15,p3=15` and so on in the order of their
/// numbers, before any other. One alone has a port less than a virtual machine may have devices.
pub const BUSES: u32 = 2;
/// Ports of each bus, for devices of any speed; more than these a controller of QEMU cannot have.
pub const PORTS: u32 = 15;
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

/// Plugs a device into a free port of the guest, after cleaning up whatever an earlier attempt for this name left.
///
/// A device that is back anew comes into another port than before, and no device into one that was left a moment ago: ports are
/// taken in turn, the first one over a connection by the tag's number. A guest too busy to see that a port was empty for a moment
/// would go on as if nothing had been, with a device that has forgotten all that its driver had set.
///
/// `device` is the usbfs node, open for reading and writing. If this very device (same name and tag) is plugged and
/// reached by QEMU already, nothing is touched.
///
/// # Errors
/// [`QmpError::BadName`], [`QmpError::BadTag`], [`QmpError::NoFreePort`], or what the monitor says; then the descriptor is
/// taken back, unless the connection is lost meanwhile. (QEMU 7.2 keeps a copy of its own when the device itself refuses to
/// be opened.)
pub async fn plug(monitor: &Monitor, name: &str, device: BorrowedFd<'_>, tag: &str) -> Result<Plugged, QmpError> {
    let first = id(name)?;
    let number = number(tag)?;
    let mut last = monitor.turn().await;
    let view = known(monitor).await?;
    let change = monitor.memory().change();
    let mut off = Vec::new();
    for there in view.devices_of(name) {
        // What is in the way was not expected to be: what it is now counts.
        let mut there = view.device(monitor, &there.id).await?;
        if there.off {
            off.push(there.id);
            continue;
        }
        there.set = opened(monitor, &there.id).await?;
        let plugged = view.read(&there);
        if plugged.tag == tag && plugged.attached {
            // What made somebody ask for it is not known, so what is remembered is doubted.
            return Ok(plugged);
        }
        // Its port stays taken for this time.
        monitor.device_del(&there.id).await?;
        change.did(|view| view.remove(&there.id));
    }
    let ids = std::iter::once(first.clone()).chain((1..).map(|n: u32| format!("{first}.{n}")));
    let id = ids.into_iter().find(|id| !off.contains(id)).unwrap_or(first);
    remove_sets(monitor, &view, name, |set| change.did(|view| view.drop_set(set))).await?;
    let (bus, port) = free_port(&view.topology, last.map_or(number, |last| last + 1)).ok_or(QmpError::NoFreePort)?;
    *last = Some(bus * PORTS + port - 1);
    let set = FdSet(view.next_set);
    let (note, bus_id, place) = (format!("{NOTE}{name}:{tag}"), bus_id(bus), port.to_string());
    // At once: without the descriptor there is no device either.
    let (given, added) =
        join(monitor.add_fd(device, set, &note), monitor.device_add_usb_host(&id, &bus_id, set, &place)).await;
    given?;
    if let Err(error) = added {
        // The first error is the one worth telling; a set that stays is cleaned by the next plug or unplug.
        if let Err(second) = monitor.remove_fd(set).await {
            tracing::debug!(device = name, error = %second, "descriptor not taken back from QEMU");
        }
        return Err(error);
    }
    // QEMU says yes only after it has opened the device and put it on its port.
    let plugged = Plugged { name: name.to_owned(), tag: tag.to_owned(), bus, port: port.to_string(), attached: true };
    change.did(|view| view.add(&id, set, &plugged));
    change.end();
    Ok(plugged)
}

/// Takes a device from the guest and the descriptor from QEMU, each if it is there.
///
/// # Errors
/// [`QmpError::BadName`] or what the monitor says.
pub async fn unplug(monitor: &Monitor, name: &str) -> Result<(), QmpError> {
    id(name)?;
    let view = known(monitor).await?;
    let change = monitor.memory().change();
    for there in view.devices_of(name).filter(|device| !device.off) {
        monitor.device_del(&there.id).await?;
        change.did(|view| view.remove(&there.id));
    }
    remove_sets(monitor, &view, name, |set| change.did(|view| view.drop_set(set))).await?;
    change.end();
    Ok(())
}

/// Takes all devices of ours from a guest that runs while it is being sent, with their descriptors. The guest sees an unplug.
///
/// # Errors
/// What the monitor says.
pub async fn switch_off(monitor: &Monitor) -> Result<Vec<String>, QmpError> {
    let view = View::of(monitor).await?;
    let mut names = Vec::new();
    for device in view.devices.iter().filter(|device| !device.off) {
        monitor.set_property(&device.id, "realized", json!(false)).await?;
        names.extend(name_of(&device.id).map(str::to_owned));
    }
    for name in &names {
        remove_sets(monitor, &view, name, |_| {}).await?;
    }
    Ok(names)
}

/// Whether the guest has any device of ours.
///
/// # Errors
/// What the monitor says.
pub async fn any(monitor: &Monitor) -> Result<bool, QmpError> {
    Ok(View::of(monitor).await?.devices.iter().any(|device| !device.off))
}

/// Whether a device was switched off in this QEMU, ever.
///
/// # Errors
/// What the monitor says.
pub async fn any_off(monitor: &Monitor) -> Result<bool, QmpError> {
    Ok(View::of(monitor).await?.devices.iter().any(|device| device.off))
}

/// All devices that are plugged, in the order of their names: QEMU is asked.
///
/// # Errors
/// What the monitor says.
pub async fn plugged(monitor: &Monitor) -> Result<Vec<Plugged>, QmpError> {
    Ok(ask(monitor).await?.plugged())
}

/// The same without asking: what QEMU said last through this connection, and what was done through it since. None if it was
/// never asked.
#[must_use]
pub fn remembered(monitor: &Monitor) -> Option<Remembered> {
    monitor.memory().remembered()
}

/// Says that somebody else may have changed something: the next one asks.
pub fn doubt(monitor: &Monitor) {
    monitor.memory().doubt();
}

/// What QEMU has, asked only if it is not known.
async fn known(monitor: &Monitor) -> Result<View, QmpError> {
    match monitor.memory().view() {
        Some(view) => Ok(view),
        None => ask(monitor).await,
    }
}

async fn ask(monitor: &Monitor) -> Result<View, QmpError> {
    let asking = monitor.memory().asking();
    let view = View::of(monitor).await?;
    monitor.memory().keep(asking, view.clone());
    Ok(view)
}

/// Drops the descriptors that carry a name.
async fn remove_sets(monitor: &Monitor, view: &View, name: &str, done: impl Fn(FdSet)) -> Result<(), QmpError> {
    for (set, _) in view.sets_of(name) {
        monitor.remove_fd(set).await?;
        done(set);
    }
    Ok(())
}

/// Whether a device was switched off.
async fn is_off(monitor: &Monitor, id: &str) -> Result<bool, QmpError> {
    Ok(monitor.property(id, "realized").await? == Some(Value::Bool(false)))
}

/// QEMU's id for the bus of a controller.
pub(crate) fn bus_id(number: u32) -> String {
    format!("usb{number}.0")
}

/// The first port with nothing in it, as numbers of bus and port, searched from the port of this number on: QEMU itself would
/// put a slow hub into the last one to make room.
pub(crate) fn free_port(topology: &[GuestUsb], from: u32) -> Option<(u32, u32)> {
    let taken = |(bus, port): &(u32, u32)| topology.iter().any(|usb| usb.bus == *bus && usb.port == port.to_string());
    let all = BUSES * PORTS;
    (from..from.saturating_add(all)).map(|n| (n % all / PORTS, n % PORTS + 1)).find(|place| !taken(place))
}

/// QEMU's id for a device of this name. Names are DNS labels, so the id is one that QEMU accepts.
fn id(name: &str) -> Result<String, QmpError> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fine =
        (1..=63).contains(&name.len()) && name.chars().all(inner) && !name.starts_with('-') && !name.ends_with('-');
    if fine { Ok(format!("{ID}{name}")) } else { Err(QmpError::BadName { name: name.to_owned() }) }
}

/// The name of the device that has this id, if it is one of ours.
fn name_of(peripheral: &str) -> Option<&str> {
    let rest = peripheral.strip_prefix(ID)?;
    let name = rest.split_once('.').map_or(rest, |(name, _)| name);
    id(name).is_ok().then_some(name)
}

/// The number of a device on its bus.
fn number(tag: &str) -> Result<u32, QmpError> {
    let digits = |part: &str| part.len() == 3 && part.chars().all(|c| c.is_ascii_digit());
    let number = tag.split_once('-').filter(|(bus, number)| digits(bus) && digits(number));
    let number = number.and_then(|(_, number)| number.parse().ok());
    number.ok_or_else(|| QmpError::BadTag { tag: tag.to_owned() })
}

/// The set that a `usb-host` device has opened.
async fn opened(monitor: &Monitor, id: &str) -> Result<Option<FdSet>, QmpError> {
    Ok(monitor.property(id, "hostdevice").await?.as_ref().and_then(set_of))
}

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
    fn an_id_that_stands_for_the_same_name_once_more_is_known() {
        assert_eq!(
            ["usb-a", "usb-a.1", "usb-a.b.c", "usb-", "usb0"].map(name_of),
            [Some("a"), Some("a"), Some("a"), None, None]
        );
    }

    #[test]
    fn ports_are_taken_in_turn_and_none_twice() {
        let seen = |(bus, port): (u32, u32)| GuestUsb {
            bus,
            port: port.to_string(),
            id: None,
            speed: "480".to_owned(),
            product: String::new(),
        };
        assert_eq!(free_port(&[], 2), Some((0, 3)));
        assert_eq!(free_port(&[], 17), Some((1, 3)));
        assert_eq!(free_port(&[seen((0, 3))], 2), Some((0, 4)));
        let mut topology = Vec::new();
        while let Some(place) = free_port(&topology, 127) {
            assert!(!topology.contains(&seen(place)), "{place:?}");
            topology.push(seen(place));
        }
        assert_eq!(topology.len(), 30);
    }

    #[test]
    fn tags_are_two_numbers_of_three_digits() {
        assert_eq!(number("005-002").unwrap(), 2);
        for tag in ["", "5-2", "005002", "005-002-1", "00a-002", "0055-02"] {
            assert!(number(tag).is_err(), "{tag}");
        }
    }
}
