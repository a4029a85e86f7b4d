//! QEMU, as far as it is asked: which devices are in the guest.

use patchbay_core::conditions::GuestPort;
use patchbay_core::device::BusAddress;
use patchbay_core::importer::Plugged;
use patchbay_core::names::{DeviceName, NodeName, Uid};

use crate::cluster::Cluster;

/// A running QEMU. A device that vanishes underneath stays in its list until it is unplugged: QEMU does not notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Its usb-host devices.
    pub devices: Vec<Plugged>,
}

impl Machine {
    /// Takes a device that was handed over as a descriptor.
    pub fn plug(&mut self, device: DeviceName, address: BusAddress) {
        if self.devices.iter().any(|p| p.device == device) {
            return;
        }
        let taken = |port: &str| self.devices.iter().any(|p| p.guest.as_ref().is_some_and(|g| g.port == port));
        let free = (1..=30_u8).map(|n| n.to_string()).find(|n| !taken(n)).unwrap_or_default();
        self.devices.push(Plugged { device, address: Some(address), guest: Some(GuestPort { bus: 0, port: free }) });
        self.devices.sort_by(|a, b| a.device.cmp(&b.device));
    }

    /// Lets a device go.
    pub fn unplug(&mut self, device: &DeviceName) {
        self.devices.retain(|p| p.device != *device);
    }
}

/// A device a guest really has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest<'c> {
    /// The node the device is plugged into.
    pub home: &'c NodeName,
    /// The device itself.
    pub physical: &'c DeviceName,
    /// The node of the machine.
    pub node: &'c NodeName,
    /// The pod of the machine.
    pub vm_pod: &'c Uid,
    /// The name it was plugged under.
    pub device: &'c DeviceName,
}

impl Cluster {
    /// Every device in a guest that has not vanished underneath it.
    pub fn guests(&self) -> Vec<Guest<'_>> {
        let mut guests = Vec::new();
        for (node, state) in &self.nodes {
            for (vm_pod, machine) in &state.machines {
                for item in &machine.devices {
                    let Some((home, physical)) = item.address.and_then(|a| state.behind(node, a)) else { continue };
                    guests.push(Guest { home, physical, node, vm_pod, device: &item.device });
                }
            }
        }
        guests.sort();
        guests
    }
}
