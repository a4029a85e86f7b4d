//! The Linux side of a node: cables, usbip-host bindings, vhci ports and the sessions between them.
//!
//! A session is one fact in two places of the real world; here it is held by the importer's port, and ends for both sides at
//! once. An imported device is seen by its importer only after the kernel has enumerated it, a step of its own.

use std::collections::{BTreeMap, BTreeSet};

use patchbay_core::device::{BusAddress, Device};
use patchbay_core::home::Request;
use patchbay_core::importer::Action;
use patchbay_core::names::{DeviceName, NodeName, Uid};
use patchbay_core::speed::{Hub, PortName};

use crate::cluster::Cluster;
use crate::importer::Agent;
use crate::kubelet::Prepared;
use crate::memo::Memo;
use crate::pods::{Record, State};
use crate::qemu::Machine;
use crate::steps::Steps;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Devices in its sockets.
    pub plugged: BTreeMap<DeviceName, Local>,
    /// Its vhci.
    pub ports: BTreeMap<PortName, VhciPort>,
    /// Addresses of devices that a guest has had.
    pub used: BTreeSet<BusAddress>,
    /// QEMUs, by the uid of their pod.
    pub machines: BTreeMap<Uid, Machine>,
    /// What the kubelet has prepared, by the uid of the attachment pod.
    pub prepared: BTreeMap<Uid, Prepared>,
    /// The journal's records of claims of ordinary pods, by the claim's uid.
    pub pods: BTreeMap<Uid, Record>,
    /// What the agent remembers while it lives.
    pub agent: Agent,
    /// The hash of all this.
    pub hash: Memo<u64>,
}

/// A device in a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Local {
    /// What sysfs says of it.
    pub device: Device,
    /// Its binding to usbip-host; None when its own driver has it, or nobody.
    pub binding: Option<Binding>,
    /// It is kept from the drivers of the node: nobody there can use it.
    pub withheld: bool,
}

impl Local {
    /// The drivers of the node may have it.
    fn is_open(&self) -> bool {
        self.binding.is_none() && !self.withheld
    }
}

/// A device that is bound to usbip-host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// The journal's record: the request it was bound for last.
    pub request: Option<Request>,
    /// The caller and its attachment pod that have a grant, and are about to make it a session.
    pub granting: Option<(NodeName, Uid)>,
}

/// A vhci port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VhciPort {
    /// Its session.
    pub session: Option<Session>,
    /// Somebody else has attached a device to it, with a tool of the kernel's.
    pub stranger: bool,
    /// Its session broke while the device was being enumerated, and the kernel does not get over it.
    pub hung: bool,
    /// The journal's record: the claim it is occupied for.
    pub record: Option<Uid>,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The node the device is plugged into.
    pub home: NodeName,
    /// The device.
    pub device: DeviceName,
    /// Its address here, once enumerated.
    pub address: Option<BusAddress>,
}

impl Node {
    /// The physical device behind an address of this node's kernel: its home and its name.
    pub fn behind<'n>(&'n self, here: &'n NodeName, address: BusAddress) -> Option<(&'n NodeName, &'n DeviceName)> {
        let own = self.plugged.iter().find(|(_, l)| l.device.attributes.address == address && l.is_open());
        let imported = self.ports.values().filter_map(|p| p.session.as_ref()).find(|s| s.address == Some(address));
        own.map(|(name, _)| (here, name)).or_else(|| imported.map(|s| (&s.home, &s.device)))
    }

    /// Lets the drivers of the node have its device with this address, if it is one of its own.
    pub fn open(&mut self, address: BusAddress) {
        self.plugged.values_mut().filter(|l| l.device.attributes.address == address).for_each(|l| l.withheld = false);
    }

    /// A device number on `bus` that nothing mentions: the kernel counts up, so a number never means two devices.
    fn number(&self, bus: u16) -> BusAddress {
        let mentioned = |address: BusAddress| {
            self.plugged.values().any(|l| l.device.attributes.address == address)
                || self.machines.values().flat_map(|m| &m.devices).any(|p| p.address == Some(address))
                || self.pods.values().any(|r| r.state == State::Given(address))
                || self.agent.queue.iter().any(|a| matches!(a, Action::Plug { address: a, .. } if *a == address))
        };
        let numbers = (2..128).map(|device| BusAddress { bus, device });
        numbers.into_iter().find(|a| !mentioned(*a)).unwrap_or(BusAddress { bus, device: 127 })
    }
}

impl Cluster {
    /// The port in which the session of a device ends.
    pub fn session(&self, home: &NodeName, device: &DeviceName) -> Option<(&NodeName, PortName)> {
        self.nodes.iter().find_map(|(name, node)| {
            let of = |p: &VhciPort| p.session.as_ref().is_some_and(|s| s.home == *home && s.device == *device);
            node.ports.iter().find(|(_, p)| of(p)).map(|(port, _)| (name, *port))
        })
    }

    /// Ends the session of a device, if it has one.
    pub fn end_session(&mut self, home: &NodeName, device: &DeviceName) {
        let Some((node, port)) = self.session(home, device).map(|(n, p)| (n.clone(), p)) else { return };
        self.change(&node, |n| n.free(port));
    }

    /// Pulls a device out of its node.
    pub fn unplug(&mut self, node: &NodeName, device: &DeviceName) {
        self.end_session(node, device);
        self.change(node, |n| {
            if let Some(local) = n.plugged.remove(device) {
                n.used.remove(&local.device.attributes.address);
            }
        });
        self.in_hand.insert(device.clone());
    }

    /// Puts a device into a socket of a node.
    pub fn plug(&mut self, node: &NodeName, mut device: Device) {
        self.in_hand.remove(&device.name);
        self.change(node, |n| {
            device.attributes.address = n.number(1);
            n.plugged.insert(device.name.clone(), Local { device, binding: None, withheld: false });
        });
    }
}

impl VhciPort {
    /// Nothing is attached to it.
    pub fn is_free(&self) -> bool {
        self.session.is_none() && !self.hung && !self.stranger
    }
}

impl Node {
    /// Ends the session on a port, whosever it is.
    pub fn free(&mut self, port: PortName) {
        if let Some(port) = self.ports.get_mut(&port) {
            if let Some(address) = port.session.as_ref().and_then(|s| s.address) {
                self.used.remove(&address);
            }
            (port.session, port.hung, port.stranger) = (None, false, false);
        }
    }

    /// The ports that are offered: ours, and those that are free.
    pub fn offered(&self) -> Vec<PortName> {
        self.ports.iter().filter(|(_, p)| p.record.is_some() || p.is_free()).map(|(name, _)| *name).collect()
    }
}

/// The kernel's own steps: it enumerates what was imported.
pub fn steps(cluster: &Cluster, steps: &mut Steps) {
    for (name, node) in &cluster.nodes {
        let fresh = node.ports.iter().filter(|(_, p)| p.session.as_ref().is_some_and(|s| s.address.is_none()));
        for (port, _) in fresh {
            let mut next = cluster.clone();
            next.change(name, |n| {
                let address = n.number(bus(*port));
                if let Some(session) = n.ports.get_mut(port).and_then(|p| p.session.as_mut()) {
                    session.address = Some(address);
                }
            });
            steps.quiet(|| format!("{name}'s kernel enumerates the device on port {port}"), next);
        }
    }
}

/// The address of what somebody else has attached to a port.
pub fn strange(port: PortName) -> BusAddress {
    BusAddress { bus: bus(port), device: 1 }
}

/// The kernel's bus of a port: one for each, so that addresses never meet.
fn bus(port: PortName) -> u16 {
    let base: u16 = match port.hub {
        Hub::Usb2 => 20,
        Hub::Usb3 => 30,
    };
    base.saturating_add(port.index)
}
