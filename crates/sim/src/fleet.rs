//! A fleet of any size: which nodes, devices and machines there are, and which machine lists which device.
//!
//! Everything follows from four numbers and counting, so a fleet of a size is always the same, here and on a real API
//! server. Devices are dealt out so that no machine is on the node that one of its devices is plugged into, as long as there are as
//! many nodes as machines: every attachment needs a port.

mod settled;

use patchbay_core::device::{Attributes, BusAddress, Device, HexId, PortPath};
use patchbay_core::names::{DeviceName, Namespace, NodeName, VmName};
use patchbay_core::speed::Speed;

pub use settled::{Unsettled, settled};

/// Machines of one namespace.
const IN_NAMESPACE: usize = 50;

/// The size of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Nodes.
    pub nodes: usize,
    /// Devices plugged into each.
    pub devices: usize,
    /// Virtual machines.
    pub machines: usize,
    /// Devices that are in one of them: at most all there are.
    pub attachments: usize,
}

impl Fleet {
    /// The fleet of so many devices: ten in each node, as many machines as nodes, and two devices in each.
    pub fn of_devices(devices: usize) -> Self {
        let nodes = devices.div_ceil(10);
        Self { nodes, devices: 10, machines: nodes, attachments: nodes * 2 }
    }

    /// The name of a node.
    pub fn node(self, node: usize) -> NodeName {
        NodeName::new(format!("node-{node:04}"))
    }

    /// The name of a device, counted within its node.
    pub fn device_name(self, node: usize, device: usize) -> DeviceName {
        DeviceName::new(format!("acme-dongle-{:08x}", self.shuffled(node, device)))
    }

    /// A number for each device, no two alike. Names say nothing of the place, so their order is none of places.
    fn shuffled(self, node: usize, device: usize) -> u32 {
        let number = u32::try_from(node * self.devices + device).unwrap_or_default();
        number.wrapping_mul(2_654_435_761)
    }

    /// A device as its node publishes it: every second one is fast, so both kinds of port are used.
    pub fn device(self, node: usize, device: usize) -> Device {
        let number = u16::try_from(device + 1).unwrap_or(u16::MAX);
        let fast = device % 2 == 1;
        let bus = if fast { 2 } else { 1 };
        let attributes = Attributes {
            vendor_id: HexId(0x1d6b),
            product_id: HexId(0x0104),
            bcd: HexId(0x0515),
            address: BusAddress { bus, device: number },
            serial: Some(format!("SN{:010}", self.shuffled(node, device).rotate_left(16))),
            manufacturer: Some("ACME".to_owned()),
            product: Some("Dongle".to_owned()),
            name: "Dongle".to_owned(),
            speed: if fast { Speed::Super } else { Speed::High },
            port_path: place(bus, device),
            class: 0,
        };
        Device { name: self.device_name(node, device), attributes, not_ready: None }
    }

    /// The devices of a node.
    pub fn devices_of(self, node: usize) -> impl Iterator<Item = Device> {
        (0..self.devices).map(move |device| self.device(node, device))
    }

    /// The namespaces that have machines.
    pub fn namespaces(self) -> impl Iterator<Item = Namespace> {
        (0..self.machines.div_ceil(IN_NAMESPACE)).map(tenant)
    }

    /// A machine: where it is, and what it is called.
    pub fn machine(self, machine: usize) -> (Namespace, VmName) {
        (tenant(machine / IN_NAMESPACE), VmName::new(format!("vm-{machine:04}")))
    }

    /// The node that a machine runs on.
    pub fn node_of(self, machine: usize) -> usize {
        machine % self.nodes.max(1)
    }

    /// The machine that lists the device of an attachment, and that device: its node, and its number there.
    pub fn attachment(self, attachment: usize) -> (usize, (usize, usize)) {
        let nodes = self.nodes.max(1);
        (attachment % self.machines.max(1), ((attachment + 1) % nodes, attachment / nodes))
    }

    /// The devices that a machine lists.
    pub fn listed(self, machine: usize) -> Vec<DeviceName> {
        let own = (machine..self.attachments).step_by(self.machines.max(1));
        own.map(|attachment| self.attachment(attachment).1)
            .map(|(node, device)| self.device_name(node, device))
            .collect()
    }

    /// Each device that is given to a namespace, with that namespace.
    pub fn assignments(self) -> impl Iterator<Item = (DeviceName, Namespace)> {
        (0..self.attachments).map(move |attachment| {
            let (machine, (node, device)) = self.attachment(attachment);
            (self.device_name(node, device), self.machine(machine).0)
        })
    }
}

/// The place in a node of its device of this number.
#[expect(clippy::expect_used, reason = "it is made of two numbers")]
fn place(bus: u16, device: usize) -> PortPath {
    format!("{bus}-{}", device + 1).parse().expect("a port path")
}

fn tenant(number: usize) -> Namespace {
    Namespace::new(format!("tenant-{number:03}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_attachment_has_a_device_of_its_own_on_another_node() {
        let fleet = Fleet { nodes: 20, devices: 10, machines: 20, attachments: 200 };
        let devices: BTreeSet<_> = (0..fleet.attachments).map(|attachment| fleet.attachment(attachment).1).collect();
        assert_eq!(devices.len(), 200);
        assert!(devices.iter().all(|(node, device)| *node < 20 && *device < 10));
        for attachment in 0..200 {
            let (machine, (node, _)) = fleet.attachment(attachment);
            assert_ne!(fleet.node_of(machine), node);
        }
        let listed: usize = (0..20).map(|machine| fleet.listed(machine).len()).sum();
        assert_eq!(listed, 200);
    }
}
