//! All caches together, and the world they show.
//!
//! The world is kept, and changed where a cache has changed: of ten thousand devices one has, and to make a world of all of them
//! again would take longer than anything else. The planner has it, and knows by that for what to plan.

use std::collections::{BTreeMap, BTreeSet};

use patchbay_api::claim::{Role, Seen as ClaimSeen};
use patchbay_api::slice::{Pools, Slice};
use patchbay_api::virtual_machine::Machine;
use patchbay_core::conditions::Seconds;
use patchbay_core::controller::topic::Fact;
use patchbay_core::controller::world::{self, World};
use patchbay_core::controller::{Plan, Planner};
use patchbay_core::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, PodName, Uid, VmName};
use patchbay_core::speed::Hub;

use super::cache::{Cache, Entry, ObjectKey};
use super::target::{Kind, Target};
use super::watch::{Seen, VmValue};

/// A claim, with its key.
type ClaimValue = ((Namespace, ClaimName), ClaimSeen);

/// Everything the watches have told.
#[derive(Debug, Default)]
pub(super) struct Caches {
    nodes: Cache<(NodeName, world::Node)>,
    namespaces: Cache<(Namespace, bool)>,
    slices: Cache<Slice>,
    node_devices: Cache<(DeviceName, world::NodeDevice)>,
    devices: Cache<((Namespace, DeviceName), world::UsbDevice)>,
    vms: Cache<VmValue>,
    budgets: Cache<(Namespace, VmName)>,
    operations: Cache<((Namespace, OperationName), world::Operation)>,
    vm_pods: Cache<((Namespace, PodName), world::VmPod)>,
    attachments: Cache<((Namespace, PodName), world::Attachment)>,
    claims: Cache<ClaimValue>,
    templates: Cache<((Namespace, DeviceName), world::Template)>,
    port_templates: Cache<(Namespace, Hub)>,
    /// What is believed of each node's slices.
    pools: BTreeMap<NodeName, Pools>,
    /// The nodes whose slices have changed since they were looked at.
    stale: BTreeSet<NodeName>,
    planner: Planner,
}

/// What the caches show of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The newest version seen of any object of the kind.
    pub(super) newest: u64,
    /// The object's uid, and whether it is being deleted; None when it is not there.
    pub(super) object: Option<(Uid, bool)>,
}

impl Caches {
    /// Takes news in; says whether anything is different now.
    pub(super) fn apply(&mut self, seen: Seen) -> bool {
        let Self { planner, stale, .. } = self;
        match seen {
            Seen::Node(delta) => self.nodes.apply(delta, |old, new| {
                let name = old.or(new).map(|(name, _)| name);
                name.into_iter().for_each(|name| planner.node(name, new.map(|(_, node)| node)));
            }),
            Seen::Namespace(delta) => self.namespaces.apply(delta, |old, new| {
                let name = old.or(new).map(|(name, _)| name);
                name.into_iter().for_each(|name| planner.namespace(name, new.map(|(_, deleting)| *deleting)));
            }),
            Seen::Slice(delta) => self.slices.apply(delta, |old, new| {
                stale.extend(old.into_iter().chain(new).map(|slice| slice.node.clone()));
            }),
            Seen::NodeDevice(delta) => self.node_devices.apply(delta, |old, new| put(planner, old, new)),
            Seen::Device(delta) => self.devices.apply(delta, |old, new| put(planner, old, new)),
            Seen::Vm(delta) => self.vms.apply(delta, |old, new| {
                let vm = |value: &VmValue| (value.0.clone(), value.1.clone());
                put(planner, old.map(vm).as_ref(), new.map(vm).as_ref());
            }),
            Seen::Budget(delta) => {
                self.budgets.apply(delta, |old, new| mark(old, new, |key, there| planner.budget(key, there)))
            }
            Seen::Operation(delta) => self.operations.apply(delta, |old, new| put(planner, old, new)),
            Seen::VmPod(delta) => self.vm_pods.apply(delta, |old, new| put(planner, old, new)),
            Seen::Attachment(delta) => self.attachments.apply(delta, |old, new| put(planner, old, new)),
            Seen::Claim(delta) => self.claims.apply(delta, |old, new| claim(planner, old, new)),
            Seen::Template(delta) => self.templates.apply(delta, |old, new| put(planner, old, new)),
            Seen::PortTemplate(delta) => self
                .port_templates
                .apply(delta, |old, new| mark(old, new, |key, there| planner.port_template(key, there))),
        }
    }

    /// All first lists are whole.
    pub(super) fn synced(&self) -> bool {
        self.nodes.synced()
            && self.namespaces.synced()
            && self.slices.synced()
            && self.node_devices.synced()
            && self.devices.synced()
            && self.vms.synced()
            && self.budgets.synced()
            && self.operations.synced()
            && self.vm_pods.synced()
            && self.attachments.synced()
            && self.claims.synced()
            && self.templates.synced()
            && self.port_templates.synced()
    }

    /// What to do at `now`. Where it is `doubted` that everything was planned for that has changed, that is found out first.
    pub(super) fn plan(&mut self, now: Seconds, doubted: bool) -> Plan {
        let mut parts: BTreeMap<&NodeName, Vec<&Slice>> = BTreeMap::new();
        if !self.stale.is_empty() {
            for slice in self.slices.values().filter(|slice| self.stale.contains(&slice.node)) {
                parts.entry(&slice.node).or_default().push(slice);
            }
        }
        for node in &self.stale {
            let Some(slices) = parts.remove(node) else {
                self.pools.remove(node);
                self.planner.pool(node, None);
                continue;
            };
            for (node, pool) in self.pools.entry(node.clone()).or_default().update(slices) {
                self.planner.pool(&node, Some(&pool));
            }
        }
        self.stale.clear();
        if doubted && self.planner.doubt(now) {
            tracing::warn!("something has changed and was not planned for: everything is planned for anew");
        }
        self.planner.plan(now)
    }

    /// The world as it was at the last [`plan`](Self::plan).
    pub(super) fn world(&self) -> &World {
        self.planner.world()
    }

    /// What is known of one object.
    pub(super) fn look(&self, target: &Target) -> Look {
        match target.kind {
            Kind::NodeDevice => look(&self.node_devices, &target.key),
            Kind::Device => look(&self.devices, &target.key),
            Kind::Vm => look(&self.vms, &target.key),
            Kind::Budget => look(&self.budgets, &target.key),
            Kind::Operation => look(&self.operations, &target.key),
            Kind::VmPod => look(&self.vm_pods, &target.key),
            Kind::Attachment => look(&self.attachments, &target.key),
            Kind::Claim => look(&self.claims, &target.key),
            Kind::PortTemplate => look(&self.port_templates, &target.key),
            Kind::Template => look(&self.templates, &target.key),
            Kind::Slice => look(&self.slices, &target.key),
        }
    }

    /// What the pod of a virtual machine is made from.
    pub(super) fn machine(&self, namespace: &Namespace, vm: &VmName) -> Option<Machine> {
        let key = (namespace.to_string(), vm.to_string());
        self.vms.get(&key)?.value.as_ref().map(|(_, _, machine)| machine.clone())
    }
}

/// Tells the planner what has changed in a cache. What an object is called may be written in it, and then changes with it.
fn put<F: Fact>(planner: &mut Planner, old: Option<&(F::Key, F)>, new: Option<&(F::Key, F)>) {
    if let Some((key, _)) = old.filter(|(key, _)| new.is_none_or(|(now, _)| now != key)) {
        planner.remove::<F>(key);
    }
    if let Some((key, fact)) = new {
        planner.put(key, fact);
    }
}

/// The same of what is only there or not there.
fn mark<K: PartialEq>(old: Option<&K>, new: Option<&K>, mut tell: impl FnMut(&K, bool)) {
    if let Some(key) = old.filter(|key| new != Some(*key)) {
        tell(key, false);
    }
    if let Some(key) = new {
        tell(key, true);
    }
}

/// The same of claims: what they are for, and the ports they hold.
fn claim(planner: &mut Planner, old: Option<&ClaimValue>, new: Option<&ClaimValue>) {
    if let Some((key, claim)) = old {
        match claim.role {
            Role::Device(_) => planner.remove::<world::Claim>(key),
            Role::Pod(_) => planner.remove::<world::PodClaim>(key),
            Role::Other => {}
        }
    }
    if let Some((key, claim)) = new {
        match &claim.role {
            Role::Device(claim) => planner.put(key, claim),
            Role::Pod(claim) => planner.put(key, claim),
            Role::Other => {}
        }
    }
    let ports = |value: Option<&ClaimValue>| value.map(|(_, claim)| claim.ports.clone()).unwrap_or_default();
    let (before, now) = (ports(old), ports(new));
    if before == now {
        return;
    }
    if let Some((key, _)) = old.or(new) {
        planner.port_claim(key, !now.is_empty());
    }
    for port in before.iter().chain(&now).collect::<BTreeSet<_>>() {
        let count = |ports: &[(NodeName, Hub)]| ports.iter().filter(|p| *p == port).count();
        let used = planner.world().ports_used.get(port).copied().unwrap_or_default();
        let used = (used + count(&now)).saturating_sub(count(&before));
        planner.ports_used(port, Some(used).filter(|used| *used > 0));
    }
}

fn look<V: PartialEq>(cache: &Cache<V>, key: &ObjectKey) -> Look {
    let object = |e: &Entry<V>| (e.uid.clone(), e.deleting);
    Look { newest: cache.newest(), object: cache.get(key).map(object) }
}

#[cfg(test)]
mod tests {
    use patchbay_api::slice::{Contents, Ports};
    use patchbay_core::controller::world::{Node, Pool};

    use super::super::cache::Delta;
    use super::*;

    fn world(caches: &mut Caches, now: Seconds) -> &World {
        caches.plan(now, false);
        caches.world()
    }

    fn entry<V>(value: V) -> Entry<V> {
        Entry { uid: "u1".into(), deleting: false, value: Some(value) }
    }

    fn put<V>(namespace: &str, name: &str, value: V) -> Delta<V> {
        Delta::Put((namespace.to_owned(), name.to_owned()), 7, entry(value))
    }

    fn end_all(caches: &mut Caches) {
        for seen in [
            Seen::Node(Delta::End),
            Seen::Namespace(Delta::End),
            Seen::Slice(Delta::End),
            Seen::NodeDevice(Delta::End),
            Seen::Device(Delta::End),
            Seen::Vm(Delta::End),
            Seen::Budget(Delta::End),
            Seen::Operation(Delta::End),
            Seen::VmPod(Delta::End),
            Seen::Attachment(Delta::End),
            Seen::Claim(Delta::End),
            Seen::Template(Delta::End),
            Seen::PortTemplate(Delta::End),
        ] {
            assert!(!caches.synced());
            caches.apply(seen);
        }
    }

    #[test]
    fn nothing_is_known_until_every_list_is_whole() {
        let mut caches = Caches::default();
        end_all(&mut caches);
        assert!(caches.synced());
        assert_eq!(*world(&mut caches, 5), World { now: 5, ..World::default() });
    }

    #[test]
    fn ports_in_use_are_counted_by_node_and_half_and_their_claims_known() {
        let mut caches = Caches::default();
        let port = |node: &str, hub| (NodeName::new(node), hub);
        let mut claim = |namespace: &str, name: &str, ports| {
            let key = (Namespace::new(namespace), ClaimName::new(name));
            caches.apply(Seen::Claim(put(namespace, name, (key, ClaimSeen { role: Role::Other, ports }))));
        };
        claim("a", "1", vec![port("node-1", Hub::Usb2)]);
        claim("b", "1", vec![port("node-1", Hub::Usb2), port("node-2", Hub::Usb2)]);
        claim("b", "2", vec![]);
        let seen = world(&mut caches, 0);
        assert_eq!(seen.ports_used, [(port("node-1", Hub::Usb2), 2), (port("node-2", Hub::Usb2), 1)].into());
        let holders: Vec<_> = seen.port_claims.iter().map(|(ns, name)| (ns.as_str(), name.as_str())).collect();
        assert_eq!(holders, [("a", "1"), ("b", "1")]);
        caches.apply(Seen::Claim(Delta::Remove(("b".to_owned(), "1".to_owned()), 8)));
        let seen = world(&mut caches, 0);
        assert_eq!(seen.ports_used, [(port("node-1", Hub::Usb2), 1)].into());
        assert_eq!(seen.port_claims.len(), 1);
    }

    #[test]
    fn a_budget_that_says_to_be_another_machines_is_no_longer_the_firsts() {
        let mut caches = Caches::default();
        for vm in ["vm-a", "vm-b"] {
            let key = (Namespace::new("blue"), VmName::new(vm));
            caches.apply(Seen::Budget(put("blue", "budget", key.clone())));
            assert_eq!(world(&mut caches, 0).budgets, [key].into());
        }
    }

    #[test]
    fn a_list_that_begins_anew_takes_what_is_gone_out_of_the_world() {
        let mut caches = Caches::default();
        let node = |ready| Node { ready, since: 0, cordoned: false };
        let listed = |name: &str, ready| {
            Seen::Node(Delta::Listed((String::new(), name.to_owned()), 7, entry((name.into(), node(ready)))))
        };
        for seen in [listed("node-1", true), listed("node-2", true), Seen::Node(Delta::End)] {
            caches.apply(seen);
        }
        caches.apply(Seen::Node(Delta::Begin));
        assert_eq!(world(&mut caches, 0).nodes.len(), 2);
        for seen in [listed("node-2", false), listed("node-3", true), Seen::Node(Delta::End)] {
            caches.apply(seen);
        }
        let nodes = [("node-2".into(), node(false)), ("node-3".into(), node(true))];
        assert_eq!(world(&mut caches, 0).nodes, nodes.into());
    }

    #[test]
    fn a_pool_whose_slices_are_being_replaced_stays_in_the_world() {
        let mut caches = Caches::default();
        let slice = |name: &str, generation, count| Slice {
            name: name.to_owned(),
            node: "node-1".into(),
            created: 7,
            generation,
            count,
            contents: Contents::Ports(Ports { ports: vec!["usb2-0".parse().unwrap()], ..Ports::default() }),
            skipped: vec![],
        };
        caches.apply(Seen::Slice(put("", "old", slice("old", 1, 1))));
        let ports = vec!["usb2-0".parse().unwrap()];
        let pool = |slices: &[&str]| Pool {
            ports: ports.clone(),
            slices: slices.iter().map(|s| ((*s).to_owned(), 7)).collect(),
            silent: true,
            ..Pool::default()
        };
        assert_eq!(world(&mut caches, 0).pools, [("node-1".into(), pool(&["old"]))].into());
        caches.apply(Seen::Slice(put("", "new", slice("new", 2, 2))));
        assert_eq!(world(&mut caches, 0).pools, [("node-1".into(), pool(&["new", "old"]))].into());
        for gone in ["old", "new"] {
            caches.apply(Seen::Slice(Delta::Remove((String::new(), gone.to_owned()), 9)));
        }
        assert!(world(&mut caches, 0).pools.is_empty());
    }

    #[test]
    fn a_look_shows_the_object_and_how_new_the_cache_is() {
        let mut caches = Caches::default();
        let target = Target { kind: Kind::Slice, key: (String::new(), "s".to_owned()) };
        assert_eq!(caches.look(&target), Look::default());
        let node = Node { ready: true, since: 0, cordoned: false };
        caches.apply(Seen::Node(put("", "node-1", ("node-1".into(), node))));
        assert_eq!(caches.look(&target).newest, 0, "kinds are apart");
        let template = Target { kind: Kind::PortTemplate, key: ("ns".to_owned(), "usb-port-usb2".to_owned()) };
        caches.apply(Seen::PortTemplate(put("ns", "usb-port-usb2", ("ns".into(), Hub::Usb2))));
        assert_eq!(caches.look(&template), Look { newest: 7, object: Some(("u1".into(), false)) });
    }
}
