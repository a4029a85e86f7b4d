//! The `Attached` condition of a device, and what is said of an attachment that is under way.

use std::borrow::Cow;

use crate::conditions::{ConditionType, PluggedState, Reason, find};
use crate::controller::action::Plan;
use crate::controller::description::Said;
use crate::controller::devices::{dead, is_dead};
use crate::controller::view::View;
use crate::controller::world::{Attachment, DeviceStatus, Placement, World};
use crate::controller::{UNDER_WAY_AFTER, moves, pods};
use crate::names::{DeviceName, NodeName, VmName};
use crate::speed::Hub;

/// What is said of a device that nobody uses.
pub(super) const AVAILABLE: &str = "Device is available for attachment";

/// The same of one that cannot be used.
pub(super) const UNUSED: &str = "Device is not in use";

/// The `Attached` condition of a device, and the machine that has it.
pub(super) fn attached<'w>(
    world: &'w View<'_>,
    name: &DeviceName,
    ready: Reason,
    before: &'w DeviceStatus,
    plan: &mut Plan,
) -> (Said<'w>, Option<&'w VmName>) {
    let attachment = world.attachments_of(name).iter().copied().max_by_key(|a| (a.holds(), a.created));
    let holder = pods::holder(world, name).filter(|_| !attachment.is_some_and(Attachment::holds));
    if let Some(holder) = holder {
        return match ready {
            Reason::NotFound => (Said::new(Reason::Available, holder.message_of_absence()), None),
            _ => {
                let reason = if holder.attached(world) { Reason::AttachedToPod } else { Reason::Available };
                (Said::new(reason, holder.message(world) + &pods::queue(world, name)), None)
            }
        };
    }
    let Some(attachment) = attachment else {
        let message = match ready {
            Reason::Ready => pods::requested(world, name, plan).map_or(Cow::Borrowed(AVAILABLE), Cow::Owned),
            _ => Cow::Borrowed(UNUSED),
        };
        return (Said::new(Reason::Available, message), None);
    };
    let vm = format!("virtual machine {}/{} on node {}", attachment.vm_pod.namespace, attachment.vm, attachment.node);
    let gap = moves::gap(world, &attachment.vm_pod.namespace, &attachment.vm).filter(|_| !attachment.holds());
    match (&attachment.plugged, gap) {
        _ if ready == Reason::NotFound => {
            let message = format!("Device is absent; it returns to {vm} when it is plugged in again");
            (Said::new(Reason::Available, message), None)
        }
        // Nobody there will let go of it, or say so.
        _ if attachment.deleting && is_dead(world, &attachment.node) => {
            (Said::new(Reason::Available, format!("Not yet released by {vm}: {}", given_up(&attachment.node))), None)
        }
        (Some(PluggedState::Plugged(port)), _) => {
            let message = format!("Attached to {vm}, {port}{}", pods::queue(world, name));
            (Said::new(Reason::AttachedToVirtualMachine, message), Some(&attachment.vm))
        }
        (_, Some(gap)) => (Said::new(Reason::DetachedForMigration, format!("Device is {gap}")), None),
        // It is out; what is left of the attachment is on its way out too, and nobody needs to read of each step.
        _ if attachment.deleting => (Said::new(Reason::Available, AVAILABLE), None),
        _ => {
            if let Some(message) = no_free_port(world, attachment) {
                return (Said::new(Reason::NoFreeUSBIPPort, message), None);
            }
            let settled = find(&before.conditions, ConditionType::Attached).filter(|c| !c.reason.is_true());
            match settled.filter(|_| young(world, attachment, plan)) {
                Some(still) => (Said::new(still.reason, still.message.as_str()), None),
                None => (Said::new(Reason::Available, format!("Requested by {vm}: {}", step(attachment))), None),
            }
        }
    }
}

/// What is said of a dead node whose pods are to end: Kubernetes waits for it, until a person says that it need not.
pub(super) fn given_up(node: &NodeName) -> String {
    format!(
        "{}; if it is off for sure, delete it, or give it the taint node.kubernetes.io/out-of-service=nodeshutdown:NoExecute",
        dead(node)
    )
}

/// Whether the attachment has only just begun, so that its steps are not worth writing down; asks to be woken when they are.
pub(super) fn young(world: &World, attachment: &Attachment, plan: &mut Plan) -> bool {
    let until = attachment.created + UNDER_WAY_AFTER;
    if world.now < until {
        plan.wake(until);
    }
    world.now < until
}

/// Whether nothing is known of the ports of a node: its agent has not told them, or not again since somebody has removed what it
/// had told, as a kubelet does when it starts. They may still come.
pub(crate) fn keeps_ports_to_itself(world: &World, node: &NodeName) -> bool {
    world.pools.get(node).is_none_or(|pool| pool.silent && pool.ports.is_empty())
}

/// Says that, and why, there is no port for an attachment that needs one.
pub(crate) fn no_free_port(world: &World, attachment: &Attachment) -> Option<String> {
    let hub = attachment.hub.filter(|_| attachment.is_unschedulable())?;
    let (node, kind) = (&attachment.node, hub.title());
    let pool = world.pools.get(node).filter(|_| !keeps_ports_to_itself(world, node));
    let Some(pool) = pool else {
        return Some(format!("node {node} offers no USB/IP ports: check the pod of Patchbay's agent there"));
    };
    let all = pool.ports.iter().filter(|p| p.hub == hub).count();
    match (all, ports_used(world, attachment, hub)) {
        (0, _) if pool.ports.is_empty() => Some(format!(
            "node {node} has no {kind} USB/IP ports: load the kernel module vhci-hcd there (modprobe vhci-hcd)"
        )),
        (0, _) => Some(format!(
            "all {kind} USB/IP ports of node {node} are used by something else (see usbip port there): free one, or move \
             the virtual machine"
        )),
        (all, used) if used >= all => Some(format!(
            "all {all} {kind} USB/IP ports of node {node} are in use: detach another {kind} device there, or move the \
             virtual machine"
        )),
        _ => None,
    }
}

fn ports_used(world: &World, attachment: &Attachment, hub: Hub) -> usize {
    world.ports_used.get(&(attachment.node.clone(), hub)).copied().unwrap_or(0)
}

/// The step an attachment is at.
pub(crate) fn step(attachment: &Attachment) -> String {
    match &attachment.plugged {
        Some(PluggedState::Waiting(text)) => text.clone(),
        Some(PluggedState::Failed(text)) => format!("{text}; trying again"),
        Some(PluggedState::ClaimLost) => "a claim of its attachment was deleted: attaching it anew".to_owned(),
        Some(PluggedState::Unplugged) | None if attachment.is_unschedulable() => {
            format!("its attachment pod cannot be scheduled to node {}", attachment.node)
        }
        Some(PluggedState::Unplugged) | None if matches!(attachment.placement, Placement::Failed(_)) => {
            "the scheduler has failed with its attachment pod, which is made anew if that lasts".to_owned()
        }
        Some(PluggedState::Unplugged) => "unplugged, to be plugged in again".to_owned(),
        Some(PluggedState::Plugged(port)) => port.to_string(),
        None => format!("waiting for the kubelet and the agent of node {}", attachment.node),
    }
}
