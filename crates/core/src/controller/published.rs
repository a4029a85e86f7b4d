//! Which published device stands behind which object.
//!
//! A device that only one node publishes has the object of its own name. Of several nodes that publish one name (cloned
//! serial numbers) the one whose device the object describes keeps it; each newcomer gets an object of its own, whose name
//! has a suffix made from the node.

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use sha2::{Digest, Sha256};

use crate::controller::index::Index;
use crate::controller::world::{NodeDevice, World};
use crate::device::Device;
use crate::names::{DeviceName, NodeName};

/// A published device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'w> {
    /// The node that publishes it.
    pub(super) node: &'w NodeName,
    /// What that says of it.
    pub(super) device: &'w Device,
    /// The node is ready.
    pub(super) ready: bool,
}

/// All of them, by their objects.
#[derive(Default)]
pub(super) struct Published<'w> {
    /// Those whose object has their own name.
    own: Index<&'w DeviceName, Found<'w>>,
    /// The others.
    suffixed: BTreeMap<DeviceName, Found<'w>>,
}

impl<'w> Published<'w> {
    /// Finds them.
    pub(super) fn of(world: &'w World) -> Self {
        let mut published = Self::default();
        published.own.reserve(world.pools.values().map(|pool| pool.devices.len()).sum());
        let mut many: BTreeMap<&DeviceName, Vec<Found<'w>>> = BTreeMap::new();
        for (node, pool) in &world.pools {
            let ready = world.nodes.get(node).is_some_and(|n| n.ready);
            for device in &pool.devices {
                let found = Found { node, device, ready };
                match published.own.entry(&device.name) {
                    Entry::Vacant(entry) => drop(entry.insert(found)),
                    Entry::Occupied(first) => {
                        many.entry(&device.name).or_insert_with(|| vec![*first.get()]).push(found);
                    }
                }
            }
        }
        for (name, mut publishers) in many {
            let incumbent = world.node_devices.get(name).and_then(|d| d.status.node.as_ref());
            publishers.sort_by_key(|found| (Some(found.node) != incumbent, found.node));
            for (rank, found) in publishers.into_iter().enumerate() {
                match rank {
                    0 => drop(published.own.insert(name, found)),
                    _ => drop(published.suffixed.insert(suffixed(name, found.node), found)),
                }
            }
        }
        published
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.own.len() + self.suffixed.len()
    }

    /// The device of an object.
    pub(super) fn get(&self, object: &DeviceName) -> Option<Found<'w>> {
        self.own.get(object).or_else(|| self.suffixed.get(object)).copied()
    }

    /// All of them with the names of their objects, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceName, Found<'w>)> {
        let own = self.own.iter().map(|(name, found)| (*name, *found));
        own.chain(self.suffixed.iter().map(|(name, found)| (name, *found)))
    }

    /// Those that have no object yet, in order.
    pub(super) fn newcomers(&self, objects: &BTreeMap<DeviceName, NodeDevice>) -> Vec<(&DeviceName, Found<'w>)> {
        let mut new: Vec<_> = self.iter().filter(|(name, _)| !objects.contains_key(name)).collect();
        new.sort_by_key(|(name, _)| *name);
        new
    }
}

/// The name of a second device of one serial number: 63 bytes at most.
pub(super) fn suffixed(name: &DeviceName, node: &NodeName) -> DeviceName {
    let digest = Sha256::digest(node.as_str());
    let suffix: String = digest.iter().take(2).map(|b| format!("{b:02x}")).collect();
    let text = name.as_str();
    let (cut, _) = text.split_at(text.floor_char_boundary(58.min(text.len())));
    DeviceName::new(format!("{}-{suffix}", cut.trim_end_matches('-')))
}
