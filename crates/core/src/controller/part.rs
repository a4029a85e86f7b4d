//! The world of one part.

use std::collections::BTreeMap;

use crate::controller::links::Part;
use crate::controller::topic::{Object, Topic};
use crate::controller::world::{Pool, World};
use crate::names::{Namespace, NodeName};
use crate::speed::Hub;

impl Part<'_> {
    /// A world in which only this part is. Of a pool it has the part's devices, and no slices: those are a matter of [`of_node`].
    pub(super) fn world(&self, whole: &World) -> World {
        let mut world = World { now: whole.now, ..World::default() };
        for place in &self.places {
            match place {
                Topic::Node(name) => {
                    node(whole, name, &mut world);
                    if let Some(pool) = whole.pools.get(name) {
                        let Pool { ports, in_use, silent, .. } = pool;
                        let (ports, in_use) = (ports.clone(), in_use.clone());
                        let pool = Pool { ports, in_use, silent: *silent, ..Pool::default() };
                        world.pools.insert(name.clone(), pool);
                    }
                }
                Topic::Namespace(name) => namespace(whole, name, &mut world),
                _ => {}
            }
        }
        for object in &self.objects {
            copy(whole, object, &mut world);
        }
        world
    }
}

/// A world of a node and its slices.
pub(super) fn of_node(whole: &World, name: &NodeName) -> World {
    let mut world = World { now: whole.now, ..World::default() };
    node(whole, name, &mut world);
    if let Some(pool) = whole.pools.get(name) {
        world.pools.insert(name.clone(), Pool { slices: pool.slices.clone(), ..Pool::default() });
    }
    world
}

fn node(whole: &World, name: &NodeName, world: &mut World) {
    entry(&whole.nodes, name, &mut world.nodes);
    for hub in Hub::ALL {
        entry(&whole.ports_used, &(name.clone(), hub), &mut world.ports_used);
    }
}

fn namespace(whole: &World, name: &Namespace, world: &mut World) {
    entry(&whole.namespaces, name, &mut world.namespaces);
    let templates = Hub::ALL.map(|hub| (name.clone(), hub));
    world.port_templates.extend(templates.into_iter().filter(|key| whole.port_templates.contains(key)));
}

fn copy(whole: &World, object: &Object, world: &mut World) {
    match object {
        Object::NodeDevice(key) => entry(&whole.node_devices, key, &mut world.node_devices),
        Object::Published((node, name)) => {
            let devices = whole.pools.get(node).into_iter().flat_map(|pool| &pool.devices);
            let pool = world.pools.entry(node.clone()).or_default();
            pool.devices.extend(devices.filter(|device| device.name == *name).cloned());
        }
        Object::Device(key) => entry(&whole.devices, key, &mut world.devices),
        Object::Vm(key) => entry(&whole.vms, key, &mut world.vms),
        Object::Budget(key) => world.budgets.extend(whole.budgets.get(key).cloned()),
        Object::Operation(key) => entry(&whole.operations, key, &mut world.operations),
        Object::VmPod(key) => entry(&whole.vm_pods, key, &mut world.vm_pods),
        Object::Attachment(key) => entry(&whole.attachments, key, &mut world.attachments),
        Object::Claim(key) => entry(&whole.claims, key, &mut world.claims),
        Object::PodClaim(key) => entry(&whole.pod_claims, key, &mut world.pod_claims),
        Object::PortClaim(key) => world.port_claims.extend(whole.port_claims.get(key).cloned()),
        Object::Template(key) => entry(&whole.templates, key, &mut world.templates),
    }
}

fn entry<K: Clone + Ord, V: Clone>(from: &BTreeMap<K, V>, key: &K, to: &mut BTreeMap<K, V>) {
    if let Some((key, value)) = from.get_key_value(key) {
        to.insert(key.clone(), value.clone());
    }
}
