//! `NodeUSBDevice`s from what the agents publish, `USBDevice`s from assignments.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::conditions::{Condition, ConditionType, Reason, find};
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{attachments_of, claim_name};
use crate::controller::twins::Claimants;
use crate::controller::world::{DeviceStatus, NodeDevice, World};
use crate::controller::{DEAD_AFTER, FORGET_AFTER, pods, status};
use crate::device::Device;
use crate::names::{DeviceName, Namespace, NodeName};

/// What is said of a device that nobody has assigned.
pub(super) const UNASSIGNED: &str = "No namespace is assigned for the device: set spec.assignedNamespace";

/// Where a device is, and whether it can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presence<'w> {
    /// It can.
    Ready {
        /// Its home node.
        node: &'w NodeName,
        /// What that node publishes.
        device: &'w Device,
    },
    /// It is known, but cannot be used.
    NotReady {
        /// Its home node.
        node: &'w NodeName,
        /// What that node publishes; None when the node is silent.
        device: Option<&'w Device>,
        /// Why, for people.
        why: String,
    },
    /// No node has it.
    Absent {
        /// A sentence that says so.
        why: String,
    },
}

impl<'w> Presence<'w> {
    /// The node that has it.
    pub(super) fn node(&self) -> Option<&'w NodeName> {
        match self {
            Self::Ready { node, .. } | Self::NotReady { node, .. } => Some(node),
            Self::Absent { .. } => None,
        }
    }

    /// What that node publishes.
    pub(super) fn device(&self) -> Option<&'w Device> {
        match self {
            Self::Ready { device, .. } => Some(device),
            Self::NotReady { device, .. } => *device,
            Self::Absent { .. } => None,
        }
    }

    /// The reason and the message of the condition `Ready`.
    pub(super) fn condition(&self) -> (Reason, String) {
        match self {
            Self::Ready { .. } => (Reason::Ready, "Device is ready to use".to_owned()),
            Self::NotReady { why, .. } => (Reason::NotReady, why.clone()),
            Self::Absent { why } => (Reason::NotFound, why.clone()),
        }
    }
}

/// Which published device stands behind which object.
///
/// A device that only one node publishes has the object of its own name. Of several nodes that publish one name (cloned
/// serial numbers) the one whose device the object describes keeps it; each newcomer gets an object of its own, whose name
/// has a suffix made from the node.
fn published(world: &World) -> BTreeMap<DeviceName, (&NodeName, &Device)> {
    let mut publishers: BTreeMap<&DeviceName, Vec<(&NodeName, &Device)>> = BTreeMap::new();
    for (node, pool) in &world.pools {
        for device in &pool.devices {
            publishers.entry(&device.name).or_default().push((node, device));
        }
    }
    let mut objects = BTreeMap::new();
    for (name, mut nodes) in publishers {
        let incumbent = world.node_devices.get(name).and_then(|d| d.status.node.as_ref());
        nodes.sort_by_key(|(node, _)| (Some(*node) != incumbent, *node));
        for (rank, (node, device)) in nodes.into_iter().enumerate() {
            let object = if rank == 0 { name.clone() } else { suffixed(name, node) };
            objects.insert(object, (node, device));
        }
    }
    objects
}

/// The name of a second device of one serial number: 63 bytes at most.
fn suffixed(name: &DeviceName, node: &NodeName) -> DeviceName {
    let digest = Sha256::digest(node.as_str());
    let suffix: String = digest.iter().take(2).map(|b| format!("{b:02x}")).collect();
    let text = name.as_str();
    let (cut, _) = text.split_at(text.floor_char_boundary(58.min(text.len())));
    DeviceName::new(format!("{}-{suffix}", cut.trim_end_matches('-')))
}

/// Where the device of an object is.
pub(super) fn home<'w>(world: &'w World, object: &DeviceName) -> Presence<'w> {
    presence(world, object, published(world).get(object).copied())
}

/// The node and the name under which the device of an object is published, or was last.
pub(super) fn place<'w>(world: &'w World, object: &'w DeviceName) -> Option<(&'w NodeName, &'w DeviceName)> {
    if let Some((node, device)) = published(world).get(object) {
        return Some((node, &device.name));
    }
    let status = &world.node_devices.get(object)?.status;
    Some((status.node.as_ref()?, status.device_name.as_ref().unwrap_or(object)))
}

fn presence<'w>(world: &'w World, object: &DeviceName, found: Option<(&'w NodeName, &'w Device)>) -> Presence<'w> {
    if let Some((node, device)) = found {
        let ready = world.nodes.get(node).is_some_and(|n| n.ready);
        return match &device.not_ready {
            _ if !ready => Presence::NotReady { node, device: Some(device), why: dead(node) },
            Some(host) => Presence::NotReady { node, device: Some(device), why: host.message(node) },
            None => Presence::Ready { node, device },
        };
    }
    let last = world.node_devices.get(object).and_then(|d| d.status.node.as_ref());
    match last {
        Some(node) if is_dead(world, node) => Presence::NotReady { node, device: None, why: dead(node) },
        Some(node) if is_silent(world, node) => {
            let why = format!("node {node} does not publish its devices: check that the Patchbay agent runs there");
            Presence::NotReady { node, device: None, why }
        }
        Some(node) => {
            Presence::Absent { why: format!("Device is absent on the host: it was last plugged into node {node}") }
        }
        None => Presence::Absent { why: "Device is absent on the host".to_owned() },
    }
}

/// Whether Kubernetes has lost a node that is there.
pub(super) fn is_dead(world: &World, node: &NodeName) -> bool {
    world.nodes.get(node).is_some_and(|n| !n.ready)
}

/// What is said of such a node.
pub(super) fn dead(node: &NodeName) -> String {
    format!("node {node} is not ready: check the node, its kubelet and its network")
}

/// Whether a node that is there says nothing of its devices, not even that it has none.
fn is_silent(world: &World, node: &NodeName) -> bool {
    world.nodes.contains_key(node) && world.pools.get(node).is_none_or(|p| p.silent)
}

/// Keeps objects and their statuses.
pub(super) fn plan(world: &World, plan: &mut Plan) {
    for (node, pool) in &world.pools {
        let Some(state) = world.nodes.get(node).filter(|n| !n.ready) else { continue };
        // A slice that was made since then shows that the agent lives: it would only make it again.
        let left = pool.slices.iter().filter(|(_, made)| **made <= state.since);
        if world.now >= state.since + DEAD_AFTER {
            plan.actions.extend(left.map(|(name, _)| Action::DeleteSlice { name: name.clone() }));
        } else if left.count() > 0 {
            plan.wake(state.since + DEAD_AFTER);
        }
    }
    let published = published(world);
    let claimants = Claimants::of(world, &published);
    let names: BTreeSet<&DeviceName> = published.keys().chain(world.node_devices.keys()).collect();
    for name in names {
        let presence = presence(world, name, published.get(name).copied());
        match world.node_devices.get(name) {
            None => {
                let mut status = describe(world, name, &presence, &DeviceStatus::default(), None, plan);
                status.conditions.insert(1, unassigned(world));
                warn(&mut status, name, &presence, &claimants);
                plan.actions.push(Action::CreateNodeDevice { name: name.clone(), status });
            }
            Some(object) if !object.deleting => keep(world, name, object, &presence, &claimants, plan),
            Some(_) => {}
        }
    }
}

/// What a new `NodeUSBDevice` says of its assignment.
fn unassigned(world: &World) -> Condition {
    Condition::next(ConditionType::Assigned, Reason::Available, UNASSIGNED.to_owned(), &[], world.now)
}

/// Says in a `NodeUSBDevice` that there are others of its serial number. A `USBDevice` does not say it: where devices of other
/// namespaces are is for administrators, and so are their cables.
fn warn(status: &mut DeviceStatus, name: &DeviceName, presence: &Presence<'_>, claimants: &Claimants<'_>) {
    for ready in status.conditions.iter_mut().filter(|c| c.kind == ConditionType::Ready) {
        ready.message = claimants.warn(name, presence.device(), std::mem::take(&mut ready.message));
    }
}

/// One existing `NodeUSBDevice` and the `USBDevice`s of its name.
fn keep(
    world: &World,
    name: &DeviceName,
    object: &NodeDevice,
    presence: &Presence<'_>,
    claimants: &Claimants<'_>,
    plan: &mut Plan,
) {
    let assigned = assign(world, name, object, presence, plan);
    let mut status = describe(world, name, presence, &object.status, Some(object.generation), plan);
    let (reason, message) = assigned;
    let before = &object.status.conditions;
    status.conditions.push(Condition::next(ConditionType::Assigned, reason, message, before, world.now));
    status.conditions.sort_by_key(|c| c.kind);
    warn(&mut status, name, presence, claimants);
    let absent = find(&status.conditions, ConditionType::Ready).filter(|c| c.reason == Reason::NotFound);
    if let Some(ready) = absent.filter(|_| object.assigned.is_none()) {
        let held = world.devices.keys().any(|(_, device)| device == name);
        if !held && world.now >= ready.since + FORGET_AFTER {
            plan.actions.push(Action::ForgetNodeDevice { name: name.clone(), uid: object.uid.clone() });
            return;
        }
        plan.wake((ready.since + FORGET_AFTER).max(world.now + 1));
    }
    if status != object.status {
        plan.actions.push(Action::PublishNodeDevice { name: name.clone(), status });
    }
}

/// Makes, keeps and deletes the `USBDevice`s of a name; gives the `Assigned` condition.
fn assign(
    world: &World,
    name: &DeviceName,
    object: &NodeDevice,
    presence: &Presence<'_>,
    plan: &mut Plan,
) -> (Reason, String) {
    let mut leaving = None;
    for ((namespace, _), device) in world.devices.iter().filter(|((_, n), _)| n == name) {
        if object.assigned.as_ref() == Some(namespace) {
            publish(world, namespace, name, presence, plan);
            continue;
        }
        leaving = Some(match holder(world, namespace, name) {
            Some(holder) => {
                publish(world, namespace, name, presence, plan);
                format!("waiting until {holder} has released the device")
            }
            None => {
                if !device.deleting {
                    let uid = device.uid.clone();
                    plan.actions.push(Action::DeleteDevice { namespace: namespace.clone(), name: name.clone(), uid });
                }
                format!("waiting until the USBDevice in namespace {namespace} is gone")
            }
        });
    }
    let Some(wanted) = &object.assigned else {
        return match leaving {
            Some(message) => (Reason::InProgress, message),
            None => (Reason::Available, UNASSIGNED.to_owned()),
        };
    };
    if let Some(message) = leaving {
        return (Reason::InProgress, message);
    }
    match (world.namespaces.get(wanted), world.devices.get(&(wanted.clone(), name.clone()))) {
        (None, _) => {
            (Reason::InProgress, format!("namespace {wanted} does not exist: create it, or assign another one"))
        }
        (Some(true), _) => (Reason::InProgress, format!("namespace {wanted} is being deleted: assign another one")),
        (Some(false), Some(device)) if device.deleting => {
            (Reason::InProgress, format!("the USBDevice in namespace {wanted} is being deleted and will be made anew"))
        }
        (Some(false), Some(_)) => (Reason::Assigned, "Namespace is assigned for the device".to_owned()),
        (Some(false), None) => {
            let mut status = describe(world, name, presence, &DeviceStatus::default(), None, plan);
            status.device_name = None;
            let (namespace, owner) = (wanted.clone(), object.uid.clone());
            plan.actions.push(Action::CreateDevice { namespace, name: name.clone(), owner, status });
            (Reason::InProgress, format!("the USBDevice in namespace {wanted} is being created"))
        }
    }
}

/// What still holds a device in a namespace it is leaving.
pub(super) fn holder(world: &World, namespace: &Namespace, name: &DeviceName) -> Option<String> {
    let attachment = attachments_of(world, namespace, name).next();
    let claim = world.claims.get(&(namespace.clone(), claim_name(name)));
    let pod = pods::holder(world, name).filter(|h| h.namespace() == namespace);
    attachment
        .map(|a| format!("virtual machine {} in namespace {namespace}", a.vm))
        .or_else(|| pod.map(|h| format!("{} (delete it: a pod keeps its devices for as long as it runs)", h.subject())))
        .or_else(|| claim.map(|_| format!("its claim in namespace {namespace}")))
}

/// The status of the `USBDevice` in `namespace`.
fn publish(world: &World, namespace: &Namespace, name: &DeviceName, presence: &Presence<'_>, plan: &mut Plan) {
    let Some(object) = world.devices.get(&(namespace.clone(), name.clone())).filter(|d| !d.deleting) else { return };
    let mut status = describe(world, name, presence, &object.status, Some(object.generation), plan);
    status.device_name = None;
    if status != object.status {
        plan.actions.push(Action::PublishDevice { namespace: namespace.clone(), name: name.clone(), status });
    }
}

/// What `NodeUSBDevice` and `USBDevice` say alike: place, attributes, `Ready`, `Attached`.
fn describe(
    world: &World,
    name: &DeviceName,
    presence: &Presence<'_>,
    before: &DeviceStatus,
    generation: Option<i64>,
    plan: &mut Plan,
) -> DeviceStatus {
    let device = presence.device();
    let (reason, message) = presence.condition();
    let ready = Condition::next(ConditionType::Ready, reason, message, &before.conditions, world.now);
    let (attached, vm) = status::attached(world, name, reason, before, plan);
    DeviceStatus {
        node: presence.node().cloned().or_else(|| before.node.clone()),
        device_name: device.map(|d| d.name.clone()).filter(|d| d != name).or_else(|| before.device_name.clone()),
        attributes: device.map(|d| d.attributes.clone()).or_else(|| before.attributes.clone()),
        conditions: vec![ready, attached],
        observed_generation: generation.unwrap_or(1),
        vm,
    }
}
