//! What people read: the `Attached` condition, and the status of virtual machines.

use std::collections::BTreeSet;

use crate::conditions::{Condition, ConditionType, PluggedState, Reason, find};
use crate::controller::UNDER_WAY_AFTER;
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{Verdict, Wait, Wish, verdict, wishes};
use crate::controller::devices::{Presence, home};
use crate::controller::engine;
use crate::controller::world::{Attachment, DeviceStatus, Vm, VmPhase, VmStatus, VmUsbStatus, World};
use crate::names::{DeviceName, Namespace, VmName};
use crate::speed::Hub;

/// What is said of a device that nobody uses.
const AVAILABLE: &str = "Device is available for attachment";

/// The `Attached` condition of a device, and the machine that has it.
pub(super) fn attached(
    world: &World,
    name: &DeviceName,
    ready: Reason,
    before: &DeviceStatus,
    plan: &mut Plan,
) -> (Condition, Option<VmName>) {
    let old = &before.conditions;
    let make = |reason, message| Condition::next(ConditionType::Attached, reason, message, old, world.now);
    let attachment = world.attachments.values().filter(|a| a.device == *name).max_by_key(|a| (a.holds(), a.created));
    let Some(attachment) = attachment else {
        let message = match ready {
            Reason::Ready => AVAILABLE,
            _ => "Device is not in use",
        };
        return (make(Reason::Available, message.to_owned()), None);
    };
    let vm = format!("virtual machine {}/{} on node {}", attachment.vm_pod.namespace, attachment.vm, attachment.node);
    match &attachment.plugged {
        _ if ready == Reason::NotFound => {
            let message = format!("Device is absent; it returns to {vm} when it is plugged in again");
            (make(Reason::Available, message), None)
        }
        Some(PluggedState::Plugged(port)) => {
            (make(Reason::AttachedToVirtualMachine, format!("Attached to {vm}, {port}")), Some(attachment.vm.clone()))
        }
        // It is out; what is left of the attachment is on its way out too, and nobody needs to read of each step.
        _ if attachment.deleting => (make(Reason::Available, AVAILABLE.to_owned()), None),
        _ => {
            if let Some(message) = no_free_port(world, attachment) {
                return (make(Reason::NoFreeUSBIPPort, message), None);
            }
            let settled = find(old, ConditionType::Attached).filter(|c| !c.reason.is_true());
            match settled.filter(|_| young(world, attachment, plan)) {
                Some(still) => (still.clone(), None),
                None => (make(Reason::Available, format!("Requested by {vm}: {}", step(attachment))), None),
            }
        }
    }
}

/// Whether the attachment has only just begun, so that its steps are not worth writing down; asks to be woken when they are.
fn young(world: &World, attachment: &Attachment, plan: &mut Plan) -> bool {
    let until = attachment.created + UNDER_WAY_AFTER;
    if world.now < until {
        plan.wake(until);
    }
    world.now < until
}

/// Says that, and why, there is no port for an attachment that needs one.
fn no_free_port(world: &World, attachment: &Attachment) -> Option<String> {
    let hub = attachment.hub.filter(|_| attachment.unschedulable)?;
    let node = &attachment.node;
    let all = world.pools.get(node).map_or(0, |p| p.ports.iter().filter(|p| p.hub == hub).count());
    let used = ports_used(world, attachment, hub);
    match (all, used) {
        (0, _) => Some(format!(
            "node {node} has no {} USB/IP ports: load the kernel module vhci-hcd there (modprobe vhci-hcd)",
            hub.title()
        )),
        (all, used) if used >= all => Some(format!(
            "all {all} {} USB/IP ports of node {node} are in use: detach another {} device there, or move the virtual machine",
            hub.title(),
            hub.title()
        )),
        _ => None,
    }
}

fn ports_used(world: &World, attachment: &Attachment, hub: Hub) -> usize {
    world.ports_used.get(&(attachment.node.clone(), hub)).copied().unwrap_or(0)
}

/// The step an attachment is at.
fn step(attachment: &Attachment) -> String {
    match &attachment.plugged {
        Some(PluggedState::Waiting(text)) => text.clone(),
        Some(PluggedState::Failed(text)) => format!("{text}; trying again"),
        Some(PluggedState::Unplugged) | None if attachment.unschedulable => {
            format!("its attachment pod cannot be scheduled to node {}", attachment.node)
        }
        Some(PluggedState::Unplugged) => "unplugged, to be plugged in again".to_owned(),
        Some(PluggedState::Plugged(port)) => port.to_string(),
        None => format!("waiting for the kubelet and the agent of node {}", attachment.node),
    }
}

/// Publishes the status of every virtual machine.
pub(super) fn plan(world: &World, plan: &mut Plan) {
    let wishes = wishes(world);
    for ((namespace, name), vm) in world.vms.iter().filter(|(_, vm)| !vm.deleting) {
        let phase = engine::phase(world, namespace, name, vm);
        let pod = world.vm_pods.get(&(namespace.clone(), engine::pod_name(name)));
        let entries = entries(world, namespace, name, vm, phase, &wishes, plan);
        // While a device that was taken off the list is still in the guest, the list has not been fulfilled.
        let listed = |e: &VmUsbStatus| vm.usb_devices.contains(&e.name);
        let settled = entries.as_ref().is_some_and(|e| e.iter().all(listed));
        let status = VmStatus {
            phase: Some(phase),
            node: pod.and_then(|p| p.node.clone()),
            observed_generation: if settled { vm.generation } else { vm.status.observed_generation },
            usb_devices: entries.unwrap_or_else(|| vm.status.usb_devices.clone()),
        };
        if status != vm.status {
            plan.actions.push(Action::PublishVm { namespace: namespace.clone(), name: name.clone(), status });
        }
    }
}

/// The entries of `status.usbDevices`; None while steps are under way that are not worth writing down.
fn entries(
    world: &World,
    namespace: &Namespace,
    name: &VmName,
    vm: &Vm,
    phase: VmPhase,
    wishes: &[Wish],
    plan: &mut Plan,
) -> Option<Vec<VmUsbStatus>> {
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for device in vm.usb_devices.iter().filter(|d| seen.insert((*d).clone())) {
        let wish = wishes.iter().find(|w| w.device == *device && w.vm == *name && w.vm_pod.namespace == *namespace);
        let ready = world.devices.contains_key(&(namespace.clone(), device.clone()))
            && matches!(home(world, device), Presence::Ready { .. });
        let entry =
            |message: String| VmUsbStatus { name: device.clone(), attached: false, ready, address: None, message };
        entries.push(match wish.map(|w| verdict(world, w)) {
            None => entry(match phase {
                VmPhase::Stopped => "the virtual machine is stopped".to_owned(),
                _ => "waiting for the virtual machine to run".to_owned(),
            }),
            Some(Verdict::Attach { .. }) => return None,
            Some(Verdict::Wait(wait)) => entry(explain(namespace, device, &wait)),
            Some(Verdict::Kept(attachment)) => match held(world, attachment, ready) {
                Some(held) => held,
                None if no_free_port(world, attachment).is_none() && young(world, attachment, plan) => return None,
                None => entry(no_free_port(world, attachment).unwrap_or_else(|| match home(world, device) {
                    Presence::Absent { why } => why,
                    _ => step(attachment),
                })),
            },
        });
    }
    // A device that is no longer listed stays in the list for as long as it is in the guest.
    let leaving = world
        .attachments
        .values()
        .filter(|a| a.vm == *name && a.vm_pod.namespace == *namespace && !vm.usb_devices.contains(&a.device));
    entries.extend(leaving.filter_map(|a| held(world, a, matches!(home(world, &a.device), Presence::Ready { .. }))));
    Some(entries)
}

/// The entry of a device that is in the guest.
fn held(world: &World, attachment: &Attachment, ready: bool) -> Option<VmUsbStatus> {
    let absent = matches!(home(world, &attachment.device), Presence::Absent { .. });
    match &attachment.plugged {
        Some(PluggedState::Plugged(port)) if !absent => Some(VmUsbStatus {
            name: attachment.device.clone(),
            attached: true,
            ready,
            address: Some(port.clone()),
            message: "attached".to_owned(),
        }),
        _ => None,
    }
}

/// Why a wish waits, and what to do.
fn explain(namespace: &Namespace, device: &DeviceName, wait: &Wait) -> String {
    match wait {
        Wait::NoDevice => format!(
            "there is no USBDevice {device} in namespace {namespace}: an administrator assigns one by setting \
             spec.assignedNamespace of the NodeUSBDevice to {namespace}"
        ),
        Wait::NotReady(why) => why.clone(),
        Wait::Leaving => format!("USBDevice {device} is being taken from namespace {namespace}"),
        Wait::HeldBy(vm) => format!("in use by virtual machine {vm}: it is attached here when released there"),
        Wait::Settling => "waiting for the previous attachment to be cleaned up".to_owned(),
    }
}
