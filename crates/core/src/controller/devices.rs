//! `NodeUSBDevice`s from what the agents publish, `USBDevice`s from assignments.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::conditions::{Condition, ConditionType, Reason, find};
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{attachments_of, claim_name};
use crate::controller::twins::Claimants;
use crate::controller::view::{Published, View};
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
pub(super) fn published(world: &World) -> Published<'_> {
    let mut all: Vec<(&NodeName, &Device)> = Vec::new();
    for (node, pool) in &world.pools {
        all.extend(pool.devices.iter().map(|device| (node, device)));
    }
    all.sort_by_key(|(node, device)| (&device.name, *node));
    let mut objects = Vec::with_capacity(all.len());
    for publishers in all.chunk_by(|(_, a), (_, b)| a.name == b.name) {
        let [(node, device)] = publishers else {
            objects.extend(claimed_by_many(world, publishers));
            continue;
        };
        objects.push((Cow::Borrowed(&device.name), (*node, *device)));
    }
    objects.into_iter().collect()
}

/// The objects of devices that several nodes publish under one name.
fn claimed_by_many<'w>(
    world: &World,
    publishers: &[(&'w NodeName, &'w Device)],
) -> Vec<(Cow<'w, DeviceName>, (&'w NodeName, &'w Device))> {
    let incumbent = |device: &Device| world.node_devices.get(&device.name).and_then(|d| d.status.node.as_ref());
    let mut ranked = publishers.to_vec();
    ranked.sort_by_key(|(node, device)| (Some(*node) != incumbent(device), *node));
    let object = |(rank, (node, device)): (usize, (&'w NodeName, &'w Device))| {
        let newcomer = rank > 0;
        let name = if newcomer { Cow::Owned(suffixed(&device.name, node)) } else { Cow::Borrowed(&device.name) };
        (name, (node, device))
    };
    ranked.into_iter().enumerate().map(object).collect()
}

/// All names that are published or have an object, in order, with both.
fn names<'v, 'w>(
    published: &'v Published<'w>,
    objects: &'v BTreeMap<DeviceName, NodeDevice>,
) -> impl Iterator<Item = (&'v DeviceName, Option<(&'w NodeName, &'w Device)>, Option<&'v NodeDevice>)> {
    let (mut published, mut objects) = (published.iter().peekable(), objects.iter().peekable());
    std::iter::from_fn(move || {
        let next = match (published.peek(), objects.peek()) {
            (Some((name, _)), Some((object, _))) => name.as_ref().cmp(*object),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let found = if next.is_le() { published.next() } else { None };
        let object = if next.is_ge() { objects.next() } else { None };
        let name = found.map(|(name, _)| name.as_ref()).or(object.map(|(name, _)| name))?;
        Some((name, found.map(|(_, found)| *found), object.map(|(_, object)| object)))
    })
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
pub(super) fn home<'w>(world: &'w View<'w>, object: &DeviceName) -> Presence<'w> {
    presence(world, object, world.publisher(object))
}

/// The node and the name under which the device of an object is published, or was last.
pub(super) fn place<'w>(world: &'w View<'w>, object: &'w DeviceName) -> Option<(&'w NodeName, &'w DeviceName)> {
    if let Some((node, device)) = world.publisher(object) {
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
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
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
    let published = world.published();
    let claimants = Claimants::of(world, published);
    for (name, found, object) in names(published, &world.node_devices) {
        let presence = presence(world, name, found);
        match object {
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
    world: &View<'_>,
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
        let held = !world.objects(name).is_empty();
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
    world: &View<'_>,
    name: &DeviceName,
    object: &NodeDevice,
    presence: &Presence<'_>,
    plan: &mut Plan,
) -> (Reason, String) {
    let mut leaving = None;
    for (namespace, device) in world.objects(name) {
        if object.assigned.as_ref() == Some(*namespace) {
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
                    plan.actions.push(Action::DeleteDevice {
                        namespace: (*namespace).clone(),
                        name: name.clone(),
                        uid,
                    });
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
pub(super) fn holder(world: &View<'_>, namespace: &Namespace, name: &DeviceName) -> Option<String> {
    let attachment = attachments_of(world, namespace, name).next();
    let claim = world.claims.get(&(namespace.clone(), claim_name(name)));
    let pod = pods::holder(world, name).filter(|h| h.namespace() == namespace);
    attachment
        .map(|a| format!("virtual machine {} in namespace {namespace}", a.vm))
        .or_else(|| pod.map(|h| format!("{} (delete it: a pod keeps its devices for as long as it runs)", h.subject())))
        .or_else(|| claim.map(|_| format!("its claim in namespace {namespace}")))
}

/// The status of the `USBDevice` in `namespace`.
fn publish(world: &View<'_>, namespace: &Namespace, name: &DeviceName, presence: &Presence<'_>, plan: &mut Plan) {
    let Some(object) = world.devices.get(&(namespace.clone(), name.clone())).filter(|d| !d.deleting) else { return };
    let mut status = describe(world, name, presence, &object.status, Some(object.generation), plan);
    status.device_name = None;
    if status != object.status {
        plan.actions.push(Action::PublishDevice { namespace: namespace.clone(), name: name.clone(), status });
    }
}

/// What `NodeUSBDevice` and `USBDevice` say alike: place, attributes, `Ready`, `Attached`.
fn describe(
    world: &View<'_>,
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
