//! Nodes: how they are, their USB/IP ports, and the devices plugged into them.

use std::collections::BTreeSet;

use patchbay_core::controller::world::{DeviceStatus, NodeDevice, World};
use patchbay_core::names::{DeviceName, NodeName};
use patchbay_core::speed::Hub;

/// What is said of a node without ports.
pub(crate) const NO_PORTS: &str = "no USB/IP ports: devices of other nodes cannot be used here";

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// As it should be.
    Good,
    /// No agent speaks for it.
    Silent,
    /// Not ready.
    NotReady,
    /// Not of the cluster any more.
    Gone,
}

impl Health {
    /// What is said after the node's name.
    pub(crate) const fn words(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Silent => Some("publishes nothing: no agent runs there"),
            Self::NotReady => Some("is not ready"),
            Self::Gone => Some("is no node of the cluster any more"),
        }
    }
}

/// All that there are, or were when a device was last seen there.
pub(crate) fn all(world: &World) -> BTreeSet<&NodeName> {
    let homes = world.node_devices.values().filter_map(|d| d.status.node.as_ref());
    world.nodes.keys().chain(world.pools.keys()).chain(homes).collect()
}

/// How a node is.
pub(crate) fn health(world: &World, node: &NodeName) -> Health {
    let silent = world.pools.get(node).is_none_or(|pool| pool.silent);
    match world.nodes.get(node) {
        None => Health::Gone,
        Some(state) if !state.ready => Health::NotReady,
        Some(_) if silent => Health::Silent,
        Some(_) => Health::Good,
    }
}

/// A node's vhci ports of one half.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    /// Which half.
    pub(crate) hub: Hub,
    /// How many are allocated.
    pub(crate) used: usize,
    /// How many there are.
    pub(crate) all: usize,
}

/// The node's ports of both halves; empty when it has none at all.
pub(crate) fn ports(world: &World, node: &NodeName) -> Vec<Ports> {
    let Some(pool) = world.pools.get(node).filter(|pool| !pool.ports.is_empty()) else { return Vec::new() };
    let count = |hub| Ports {
        hub,
        used: world.ports_used.get(&(node.clone(), hub)).copied().unwrap_or(0),
        all: pool.ports.iter().filter(|p| p.hub == hub).count(),
    };
    Hub::ALL.into_iter().map(count).collect()
}

/// The devices of a node, in the order of its ports.
pub(crate) fn devices<'w>(world: &'w World, node: &NodeName) -> Vec<(&'w DeviceName, &'w NodeDevice)> {
    let here = |d: &NodeDevice| d.status.node.as_ref() == Some(node);
    let mut found: Vec<_> = world.node_devices.iter().filter(|(_, d)| here(d)).collect();
    found.sort_by_key(|(name, d)| (order(&d.status), *name));
    found
}

/// Ports as people count: 1-2 before 1-10.
pub(crate) fn order(status: &DeviceStatus) -> Vec<u32> {
    let path = status.attributes.as_ref().map(|a| a.port_path.as_str()).unwrap_or_default();
    path.split(['-', '.']).filter_map(|n| n.parse().ok()).collect()
}
