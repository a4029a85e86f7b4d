//! What QEMU says of the devices of ours, as one value: read at once, then kept up to date with what is done through the same
//! connection.

use futures::future::{try_join_all, try_join3};

use super::{NOTE, Plugged, is_off, name_of, opened};
use crate::QmpError;
use crate::monitor::{FdInSet, FdSet, FdSetInfo, Monitor};
use crate::topology::GuestUsb;

/// What QEMU says of all devices.
#[derive(Debug, Clone)]
pub(super) struct View {
    /// Devices of ours, in the order of their ids.
    pub(super) devices: Vec<Device>,
    /// Sets of descriptors.
    pub(super) sets: Vec<FdSetInfo>,
    /// All that is in a port of the guest.
    pub(super) topology: Vec<GuestUsb>,
    /// The number of the next set. None is used twice: while a guest is paused QEMU keeps sets that were dropped.
    pub(super) next_set: u32,
}

/// A device of ours.
#[derive(Debug, Clone)]
pub(super) struct Device {
    /// QEMU's id.
    pub(super) id: String,
    /// The set it has opened.
    pub(super) set: Option<FdSet>,
    /// QEMU still reaches it.
    pub(super) attached: bool,
    /// It was switched off.
    pub(super) off: bool,
}

impl View {
    /// Asks. All questions about one thing go at once: a busy QEMU answers many not much later than one.
    pub(super) async fn of(monitor: &Monitor) -> Result<Self, QmpError> {
        let asked = (monitor.peripherals(), monitor.query_fdsets(), monitor.usb_topology());
        let (mut ids, sets, topology) = try_join3(asked.0, asked.1, asked.2).await?;
        ids.retain(|id| name_of(id).is_some());
        let next_set = sets.iter().map(|set| set.id.0.saturating_add(1)).max().unwrap_or(0);
        let mut view = Self { devices: Vec::new(), sets, topology, next_set };
        view.devices = try_join_all(ids.iter().map(|id| view.device(monitor, id))).await?;
        Ok(view)
    }

    /// One device, asked for.
    pub(super) async fn device(&self, monitor: &Monitor, id: &str) -> Result<Device, QmpError> {
        let attached = attached(monitor, id).await?;
        // Where one set alone carries the name, it is the one that was opened, unless something is left of an earlier attempt.
        let mut sets = self.sets_of(name_of(id).unwrap_or_default()).map(|(set, _)| set);
        let set = match (sets.next(), sets.next()) {
            (set, None) => set,
            _ => opened(monitor, id).await?,
        };
        let off = !attached && is_off(monitor, id).await?;
        Ok(Device { id: id.to_owned(), set, attached, off })
    }

    /// The devices that are plugged, in the order of their names.
    pub(super) fn plugged(&self) -> Vec<Plugged> {
        self.devices.iter().filter(|device| !device.off).map(|device| self.read(device)).collect()
    }

    /// What is known of one device.
    pub(super) fn read(&self, device: &Device) -> Plugged {
        let name = name_of(&device.id).unwrap_or_default();
        let carried = self.sets_of(name).find(|(set, _)| Some(*set) == device.set);
        let tag = carried.map_or(String::new(), |(_, tag)| tag.to_owned());
        let seen = self.topology.iter().find(|usb| usb.id.as_deref() == Some(&device.id));
        let (bus, port) = seen.map_or((0, String::new()), |usb| (usb.bus, usb.port.clone()));
        Plugged { name: name.to_owned(), tag, bus, port, attached: device.attached }
    }

    /// The devices of a name.
    pub(super) fn devices_of(&self, name: &str) -> impl Iterator<Item = &Device> {
        self.devices.iter().filter(move |device| name_of(&device.id) == Some(name))
    }

    /// The sets whose descriptors carry a name, with their tags.
    pub(super) fn sets_of(&self, name: &str) -> impl Iterator<Item = (FdSet, &str)> {
        let notes = self.sets.iter().filter_map(|set| Some((set.id, note(set)?)));
        notes.filter(move |(_, (owner, _))| *owner == name).map(|(set, (_, tag))| (set, tag))
    }

    /// A device was plugged, with a descriptor in this set.
    pub(super) fn add(&mut self, id: &str, set: FdSet, plugged: &Plugged) {
        let note = format!("{NOTE}{}:{}", plugged.name, plugged.tag);
        // QEMU's number of the descriptor is of use to nobody.
        self.sets.push(FdSetInfo { id: set, fds: vec![FdInSet { fd: 0, opaque: Some(note) }] });
        self.next_set = self.next_set.max(set.0.saturating_add(1));
        let (bus, port) = (plugged.bus, plugged.port.clone());
        let (speed, product) = (String::new(), String::new());
        self.topology.push(GuestUsb { bus, port, id: Some(id.to_owned()), speed, product });
        self.devices.push(Device { id: id.to_owned(), set: Some(set), attached: true, off: false });
        self.devices.sort_by(|a, b| a.id.cmp(&b.id));
    }

    /// A device was deleted.
    pub(super) fn remove(&mut self, id: &str) {
        self.devices.retain(|device| device.id != id);
        self.topology.retain(|usb| usb.id.as_deref() != Some(id));
    }

    /// A set was dropped.
    pub(super) fn drop_set(&mut self, set: FdSet) {
        self.sets.retain(|there| there.id != set);
    }
}

/// Whether QEMU reaches a device.
async fn attached(monitor: &Monitor, id: &str) -> Result<bool, QmpError> {
    Ok(monitor.property(id, "attached").await?.and_then(|value| value.as_bool()).unwrap_or(false))
}

/// Name and tag on a set's descriptor, if the set is ours.
fn note(set: &FdSetInfo) -> Option<(&str, &str)> {
    set.fds.iter().find_map(|fd| fd.opaque.as_deref()?.strip_prefix(NOTE)?.split_once(':'))
}
