//! `NodeUSBDevice`s from what the agents publish, `USBDevice`s from assignments.

use crate::conditions::{ConditionType, Reason, find};
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{attachments_of, claim_name};
use crate::controller::description::{Description, Said};
use crate::controller::published::Found;
use crate::controller::twins::Claimants;
use crate::controller::view::View;
use crate::controller::world::{DeviceStatus, NodeDevice, World};
use crate::controller::{DEAD_AFTER, FORGET_AFTER, pods, status};
use crate::device::Device;
use crate::names::{DeviceName, Namespace, NodeName};

/// What is said of a device that nobody has assigned.
pub(super) const UNASSIGNED: &str = "No namespace is assigned for the device: set spec.assignedNamespace";

/// What is said of a device that is gone, before the node it was in.
const ABSENT: &str = "Device is absent on the host: it was last plugged into node";

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

    /// The condition `Ready`.
    pub(super) fn condition(&self) -> Said<'_> {
        match self {
            Self::Ready { .. } => Said::new(Reason::Ready, "Device is ready to use"),
            Self::NotReady { why, .. } => Said::new(Reason::NotReady, why.as_str()),
            Self::Absent { why } => Said::new(Reason::NotFound, why.as_str()),
        }
    }
}

/// Where the device of an object is.
pub(super) fn home<'w>(world: &'w View<'w>, object: &DeviceName) -> Presence<'w> {
    presence(world, object, world.publisher(object))
}

/// The node and the name under which the device of an object is published, or was last.
pub(super) fn place<'w>(world: &'w View<'w>, object: &'w DeviceName) -> Option<(&'w NodeName, &'w DeviceName)> {
    if let Some(found) = world.publisher(object) {
        return Some((found.node, &found.device.name));
    }
    let status = &world.node_devices.get(object)?.status;
    Some((status.node.as_ref()?, status.device_name.as_ref().unwrap_or(object)))
}

fn presence<'w>(world: &'w World, object: &DeviceName, found: Option<Found<'w>>) -> Presence<'w> {
    if let Some(Found { node, device, ready }) = found {
        return match &device.not_ready {
            _ if !ready => Presence::NotReady { node, device: Some(device), why: dead(node) },
            Some(host) => Presence::NotReady { node, device: Some(device), why: host.message(node) },
            None => Presence::Ready { node, device },
        };
    }
    let status = world.node_devices.get(object).map(|d| &d.status);
    let Some(node) = status.and_then(|s| s.node.as_ref()) else {
        return Presence::Absent { why: "Device is absent on the host".to_owned() };
    };
    let silence = match () {
        () if is_dead(world, node) => dead(node),
        () if is_silent(world, node) => {
            format!("node {node} does not publish its devices: check that the Patchbay agent runs there")
        }
        () => return Presence::Absent { why: format!("{ABSENT} {node}") },
    };
    // What was gone before its node fell silent has not come back by that.
    let gone =
        status.and_then(|s| find(&s.conditions, ConditionType::Ready)).is_some_and(|c| c.reason == Reason::NotFound);
    match gone {
        true => Presence::Absent { why: format!("{ABSENT} {node}; {silence}") },
        false => Presence::NotReady { node, device: None, why: silence },
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
    let claimants = Claimants::of(published);
    let mut met = 0;
    for (name, object) in &world.node_devices {
        let found = published.get(name);
        met += usize::from(found.is_some());
        if !object.deleting {
            keep(world, name, object, &presence(world, name, found), &claimants, plan);
        }
    }
    if met == published.len() {
        return;
    }
    for (name, found) in published.newcomers(&world.node_devices) {
        let (presence, before) = (presence(world, name, Some(found)), DeviceStatus::default());
        let mut said = describe(world, name, &presence, &before, None, plan);
        said.assigned = Some(Said::new(Reason::Available, UNASSIGNED));
        warn(&mut said.ready, name, &presence, &claimants);
        let status = said.status(&before, world.now);
        plan.actions.push(Action::CreateNodeDevice { name: name.clone(), status });
    }
}

/// Says in a `NodeUSBDevice` that there are others of its serial number. A `USBDevice` does not say it: where devices of other
/// namespaces are is for administrators, and so are their cables.
fn warn(ready: &mut Said<'_>, name: &DeviceName, presence: &Presence<'_>, claimants: &Claimants<'_>) {
    if let Some(warning) = claimants.warning(name, presence.device()) {
        ready.message.to_mut().push_str(&warning);
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
    let mut said = describe(world, name, presence, &object.status, Some(object.generation), plan);
    said.assigned = Some(assigned);
    warn(&mut said.ready, name, presence, claimants);
    let news = said.news(&object.status, world.now);
    if said.ready.reason == Reason::NotFound && object.assigned.is_none() {
        let conditions = &news.as_ref().unwrap_or(&object.status).conditions;
        let since = find(conditions, ConditionType::Ready).map_or(world.now, |c| c.since);
        let held = !world.objects(name).is_empty();
        if !held && world.now >= since + FORGET_AFTER {
            plan.actions.push(Action::ForgetNodeDevice { name: name.clone(), uid: object.uid.clone() });
            return;
        }
        plan.wake((since + FORGET_AFTER).max(world.now + 1));
    }
    if let Some(status) = news {
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
) -> Said<'static> {
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
            Some(message) => Said::new(Reason::InProgress, message),
            None => Said::new(Reason::Available, UNASSIGNED),
        };
    };
    if let Some(message) = leaving {
        return Said::new(Reason::InProgress, message);
    }
    let under_way = |message: String| Said::new(Reason::InProgress, message);
    match (world.namespaces.get(wanted), world.object(wanted, name)) {
        (None, _) => under_way(format!("namespace {wanted} does not exist: create it, or assign another one")),
        (Some(true), _) => under_way(format!("namespace {wanted} is being deleted: assign another one")),
        (Some(false), Some(device)) if device.deleting => {
            under_way(format!("the USBDevice in namespace {wanted} is being deleted and will be made anew"))
        }
        (Some(false), Some(_)) => Said::new(Reason::Assigned, "Namespace is assigned for the device"),
        (Some(false), None) => {
            let before = DeviceStatus::default();
            let mut said = describe(world, name, presence, &before, None, plan);
            said.device_name = None;
            let (namespace, owner, status) = (wanted.clone(), object.uid.clone(), said.status(&before, world.now));
            plan.actions.push(Action::CreateDevice { namespace, name: name.clone(), owner, status });
            under_way(format!("the USBDevice in namespace {wanted} is being created"))
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
    let Some(object) = world.object(namespace, name).filter(|d| !d.deleting) else { return };
    let mut said = describe(world, name, presence, &object.status, Some(object.generation), plan);
    said.device_name = None;
    if let Some(status) = said.news(&object.status, world.now) {
        plan.actions.push(Action::PublishDevice { namespace: namespace.clone(), name: name.clone(), status });
    }
}

/// What `NodeUSBDevice` and `USBDevice` say alike: place, attributes, `Ready`, `Attached`.
fn describe<'w>(
    world: &'w View<'_>,
    name: &DeviceName,
    presence: &'w Presence<'_>,
    before: &'w DeviceStatus,
    generation: Option<i64>,
    plan: &mut Plan,
) -> Description<'w> {
    let device = presence.device();
    let ready = presence.condition();
    let (attached, vm) = status::attached(world, name, ready.reason, before, plan);
    Description {
        node: presence.node().or(before.node.as_ref()),
        device_name: device.map(|d| &d.name).filter(|d| *d != name).or(before.device_name.as_ref()),
        attributes: device.map(|d| &d.attributes).or(before.attributes.as_ref()),
        ready,
        assigned: None,
        attached,
        generation: generation.unwrap_or(1),
        vm,
    }
}
