//! The status of virtual machines: what people read of a machine, and of each of its devices.

use std::collections::BTreeSet;

use crate::conditions::{Condition, ConditionType, PluggedState, Reason, find};
use crate::controller::action::{Action, Plan};
use crate::controller::attachments::{Verdict, Wait, verdict, wishes_of};
use crate::controller::devices::{Presence, home, is_dead};
use crate::controller::status::{given_up, no_free_port, step, young};
use crate::controller::view::View;
use crate::controller::world::{Attachment, Vm, VmPhase, VmStatus, VmUsbStatus, World};
use crate::controller::{engine, moves, operations, pods};
use crate::names::{DeviceName, Namespace, VmName};

/// Publishes the status of every virtual machine.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    for ((namespace, name), vm) in world.vms.iter().filter(|(_, vm)| !vm.deleting) {
        let phase = engine::phase(world, namespace, name, vm);
        let pod = engine::pod(world, namespace, name).map(|(_, pod)| pod);
        let devices = devices(world, namespace, name, vm, phase, plan);
        // While a device that was taken off the list is still in the guest, the list has not been fulfilled.
        let listed = |e: &VmUsbStatus| vm.usb_devices.contains(&e.name);
        let settled = devices.as_ref().is_some_and(|d| d.entries.iter().all(listed));
        let status = VmStatus {
            phase: Some(phase),
            power: operations::power(world, namespace, name, vm),
            node: pod.and_then(|p| p.node.clone()),
            observed_generation: if settled { vm.generation } else { vm.status.observed_generation },
            conditions: conditions(world, vm, engine::running_reason(world, phase, pod, vm), devices.as_ref()),
            usb_devices: devices.map_or_else(|| vm.status.usb_devices.clone(), |d| d.entries),
        };
        if status != vm.status {
            plan.actions.push(Action::PublishVm { namespace: namespace.clone(), name: name.clone(), status });
        }
    }
}

/// What is said of a machine's devices.
#[derive(Default)]
struct Devices {
    /// The entries of `status.usbDevices`.
    entries: Vec<VmUsbStatus>,
    /// Why the first that is not attached is not.
    first: Option<Reason>,
}

impl Devices {
    /// A device that is not attached.
    fn waits(&mut self, name: &DeviceName, ready: bool, reason: Reason, message: String) {
        self.first.get_or_insert(reason);
        self.entries.push(VmUsbStatus { name: name.clone(), attached: false, ready, address: None, message });
    }

    /// The reason and the message of the condition `USBDevicesAttached`.
    fn summary(&self) -> (Reason, String) {
        let (all, attached) = (self.entries.len(), self.entries.iter().filter(|e| e.attached).count());
        let first = self.entries.iter().find(|e| !e.attached);
        match (self.first.zip(first), all) {
            (Some((reason, first)), _) => {
                (reason, format!("{attached} of {all} USB devices are attached; {}: {}", first.name, first.message))
            }
            (None, 0) => (Reason::AllAttached, "no USB devices are listed".to_owned()),
            (None, 1) => (Reason::AllAttached, "the USB device is attached".to_owned()),
            (None, all) => (Reason::AllAttached, format!("all {all} USB devices are attached")),
        }
    }
}

/// The conditions of a machine. While steps of an attachment are under way that are not worth writing down, what was said
/// of its devices stays.
fn conditions(world: &World, vm: &Vm, running: (Reason, String), devices: Option<&Devices>) -> Vec<Condition> {
    let before = &vm.status.conditions;
    let next = |kind, (reason, message)| Condition::next(kind, reason, message, before, world.now);
    let attached = match devices {
        Some(devices) => Some(next(ConditionType::USBDevicesAttached, devices.summary())),
        None => find(before, ConditionType::USBDevicesAttached).cloned(),
    };
    std::iter::once(next(ConditionType::Running, running)).chain(attached).collect()
}

/// What is said of a machine's devices; None while steps are under way that are not worth writing down.
fn devices(
    world: &View<'_>,
    namespace: &Namespace,
    name: &VmName,
    vm: &Vm,
    phase: VmPhase,
    plan: &mut Plan,
) -> Option<Devices> {
    let pod = engine::pod(world, namespace, name).map(|(_, pod)| pod);
    let lost = pod.and_then(|p| p.node.as_ref()).filter(|node| is_dead(world, node));
    let wishes = wishes_of(world, namespace, name, vm);
    let mut devices = Devices::default();
    let mut seen = BTreeSet::new();
    for device in vm.usb_devices.iter().filter(|d| seen.insert(*d)) {
        let wish = wishes.iter().find(|w| w.device == *device);
        let ready = world.object(namespace, device).is_some() && matches!(home(world, device), Presence::Ready { .. });
        let (reason, message) = match wish.map(|w| verdict(world, w)) {
            None => (
                Reason::NotRunning,
                match (phase, lost) {
                    (VmPhase::Stopped, _) => "the virtual machine is stopped".to_owned(),
                    (VmPhase::Stopping, Some(node)) => {
                        format!("waiting for the machine's pod to end: {}", given_up(node))
                    }
                    _ => "waiting for the virtual machine to run".to_owned(),
                },
            ),
            Some(Verdict::Attach { .. }) => return None,
            Some(Verdict::Wait(wait)) => explain(world, namespace, device, &wait),
            Some(Verdict::Kept(attachment)) => match held(world, attachment, ready) {
                Some(held) => {
                    devices.entries.push(held);
                    continue;
                }
                None => kept(world, namespace, attachment, plan)?,
            },
        };
        devices.waits(device, ready, reason, message);
    }
    // A device that is no longer listed stays in the list for as long as it is in the guest.
    let own = world.attachments_to(namespace, name).iter();
    let leaving = own.filter(|a| !vm.usb_devices.contains(&a.device));
    let ready = |a: &Attachment| matches!(home(world, &a.device), Presence::Ready { .. });
    devices.entries.extend(leaving.filter_map(|a| held(world, a, ready(a))));
    Some(devices)
}

/// The entry of a device that is in the guest.
fn held(world: &View<'_>, attachment: &Attachment, ready: bool) -> Option<VmUsbStatus> {
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

/// Why a device whose attachment is there is not in the guest; None while it has only just begun.
fn kept(world: &View<'_>, namespace: &Namespace, attachment: &Attachment, plan: &mut Plan) -> Option<(Reason, String)> {
    if let Some(message) = no_free_port(world, attachment) {
        return Some((Reason::NoFreeUSBIPPort, message));
    }
    if let Some(gap) = moves::gap(world, namespace, &attachment.vm) {
        return Some((Reason::DetachedForMigration, gap));
    }
    if young(world, attachment, plan) {
        return None;
    }
    let device = &attachment.device;
    Some(match (home(world, device), pods::holder(world, device)) {
        (Presence::Absent { why }, _) => (Reason::NotFound, why),
        (_, Some(holder)) => explain(world, namespace, device, &Wait::HeldByPod(holder.subject())),
        (_, None) => (Reason::Attaching, step(attachment)),
    })
}

/// Why a wish waits, and what to do.
pub(super) fn explain(world: &View<'_>, namespace: &Namespace, device: &DeviceName, wait: &Wait) -> (Reason, String) {
    let reason = match wait {
        Wait::NoDevice | Wait::Leaving => Reason::NoUSBDevice,
        Wait::NotReady(_) if matches!(home(world, device), Presence::Absent { .. }) => Reason::NotFound,
        Wait::NotReady(_) => Reason::NotReady,
        Wait::HeldBy(_) | Wait::HeldByPod(_) => Reason::InUse,
        Wait::Settling | Wait::Moving => Reason::Attaching,
    };
    let message = match wait {
        Wait::NoDevice => format!(
            "there is no USBDevice {device} in namespace {namespace}: an administrator assigns one by setting \
             spec.assignedNamespace of the NodeUSBDevice to {namespace}"
        ),
        Wait::NotReady(why) => why.clone(),
        Wait::Leaving => format!("USBDevice {device} is being taken from namespace {namespace}"),
        Wait::HeldBy(vm) => format!("in use by virtual machine {vm}: it is attached here when released there"),
        Wait::HeldByPod(subject) => format!("in use by {subject}: it is attached here when released there"),
        Wait::Moving => "waiting until the virtual machine has moved to another node".to_owned(),
        Wait::Settling => "waiting for the previous attachment to be cleaned up".to_owned(),
    };
    (reason, message)
}
