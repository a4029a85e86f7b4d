//! What the planner is told of the world.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::Planner;
use crate::controller::topic::{self, Fact, Object, Topic};
use crate::controller::world::{
    Attachment, Claim, Node, NodeDevice, Operation, PodClaim, Pool, Template, UsbDevice, Vm, VmPod, World,
};
use crate::names::{ClaimName, Namespace, NodeName, VmName};
use crate::speed::Hub;

impl Planner {
    /// An object is new, or has changed.
    pub fn put<F: Fact>(&mut self, key: &F::Key, fact: &F) {
        self.links.put(&F::object(key), fact.topics(key), &mut self.dirty);
        F::map_mut(&mut self.world).insert(key.clone(), fact.clone());
    }

    /// An object is gone.
    pub fn remove<F: Fact>(&mut self, key: &F::Key) {
        self.links.remove(&F::object(key), &mut self.dirty);
        F::map_mut(&mut self.world).remove(key);
    }

    /// A node is there as it is said to be, or gone.
    pub fn node(&mut self, name: &NodeName, node: Option<&Node>) {
        set(&mut self.world.nodes, name, node);
        self.dirty.insert(Topic::Node(name.clone()));
    }

    /// A namespace is there, and is being deleted or not, or it is gone.
    pub fn namespace(&mut self, name: &Namespace, deleting: Option<bool>) {
        set(&mut self.world.namespaces, name, deleting.as_ref());
        self.dirty.insert(Topic::Namespace(name.clone()));
    }

    /// What a node publishes; None when it publishes nothing any more.
    pub fn pool(&mut self, name: &NodeName, pool: Option<&Pool>) {
        let none = Pool::default();
        let (before, now) = (self.world.pools.get(name), pool.unwrap_or(&none));
        let rest = |pool: &Pool| {
            let Pool { ports, in_use, slices, silent, .. } = pool.clone();
            (ports, in_use, slices, silent)
        };
        if before.map(rest) != pool.map(rest) {
            self.dirty.insert(Topic::Node(name.clone()));
        }
        let before = before.unwrap_or(&none);
        let gone = before.devices.iter().filter(|device| !now.devices.contains(device));
        let new = now.devices.iter().filter(|device| !before.devices.contains(device));
        for device in gone.chain(new).map(|device| &device.name).collect::<BTreeSet<_>>() {
            let object = Object::Published((name.clone(), device.clone()));
            let left = now.devices.iter().filter(|d| d.name == *device);
            let topics: Vec<_> = left.flat_map(|d| topic::published(name, d)).collect();
            if topics.is_empty() {
                self.links.remove(&object, &mut self.dirty);
            } else {
                self.links.put(&object, topics, &mut self.dirty);
            }
        }
        set(&mut self.world.pools, name, pool);
    }

    /// So many ports of one half of a node are allocated.
    pub fn ports_used(&mut self, port: &(NodeName, Hub), used: Option<usize>) {
        set(&mut self.world.ports_used, port, used.as_ref());
        self.dirty.insert(Topic::Node(port.0.clone()));
    }

    /// A claim holds a port, or does not.
    pub fn port_claim(&mut self, key: &(Namespace, ClaimName), holds: bool) {
        let topic = Topic::PortClaim(key.0.clone(), key.1.clone());
        mark(&mut self.world.port_claims, key, holds);
        self.mark(&Object::PortClaim(key.clone()), topic, holds);
    }

    /// A machine has its budget, or has none.
    pub fn budget(&mut self, key: &(Namespace, VmName), there: bool) {
        mark(&mut self.world.budgets, key, there);
        self.mark(&Object::Budget(key.clone()), topic::machine(&key.0, &key.1), there);
    }

    /// A namespace has the template for ports of a half, or has none.
    pub fn port_template(&mut self, key: &(Namespace, Hub), there: bool) {
        mark(&mut self.world.port_templates, key, there);
        self.dirty.insert(Topic::Namespace(key.0.clone()));
    }

    /// It is another world: what differs has changed.
    pub fn follow(&mut self, next: &World) {
        self.follow_all::<NodeDevice>(next);
        self.follow_all::<UsbDevice>(next);
        self.follow_all::<Vm>(next);
        self.follow_all::<Operation>(next);
        self.follow_all::<VmPod>(next);
        self.follow_all::<Attachment>(next);
        self.follow_all::<Claim>(next);
        self.follow_all::<PodClaim>(next);
        self.follow_all::<Template>(next);
        let before = self.world.clone();
        for name in differing(&before.nodes, &next.nodes) {
            self.node(name, next.nodes.get(name));
        }
        for name in differing(&before.namespaces, &next.namespaces) {
            self.namespace(name, next.namespaces.get(name).copied());
        }
        for name in differing(&before.pools, &next.pools) {
            self.pool(name, next.pools.get(name));
        }
        for port in differing(&before.ports_used, &next.ports_used) {
            self.ports_used(port, next.ports_used.get(port).copied());
        }
        for key in before.port_claims.symmetric_difference(&next.port_claims) {
            self.port_claim(key, next.port_claims.contains(key));
        }
        for key in before.budgets.symmetric_difference(&next.budgets) {
            self.budget(key, next.budgets.contains(key));
        }
        for key in before.port_templates.symmetric_difference(&next.port_templates) {
            self.port_template(key, next.port_templates.contains(key));
        }
    }

    fn follow_all<F: Fact>(&mut self, next: &World) {
        let before = F::map(&self.world).clone();
        for key in differing(&before, F::map(next)) {
            match F::map(next).get(key) {
                Some(fact) => self.put(key, fact),
                None => self.remove::<F>(key),
            }
        }
    }

    fn mark(&mut self, object: &Object, topic: Topic, there: bool) {
        if there {
            self.links.put(object, vec![topic], &mut self.dirty);
        } else {
            self.links.remove(object, &mut self.dirty);
        }
    }
}

fn set<K: Clone + Ord, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value.clone())),
        None => drop(map.remove(key)),
    }
}

fn mark<K: Clone + Ord>(set: &mut BTreeSet<K>, key: &K, there: bool) {
    if there {
        set.insert(key.clone());
    } else {
        set.remove(key);
    }
}

/// The keys whose values are not the same.
fn differing<'m, K: Ord, V: PartialEq>(
    before: &'m BTreeMap<K, V>,
    next: &'m BTreeMap<K, V>,
) -> impl Iterator<Item = &'m K> {
    let keys = before.keys().chain(next.keys()).collect::<BTreeSet<_>>();
    keys.into_iter().filter(|key| before.get(*key) != next.get(*key))
}
