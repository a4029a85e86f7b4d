//! What must be true in a world at rest: whoever wants a device and may have it has it, and every status says what is.

use std::collections::BTreeSet;

use patchbay_core::conditions::{ConditionType, PluggedState, Reason, find};
use patchbay_core::controller::world::{Attachment, DeviceStatus, NodeDevice, PodState, VmPhase};
use patchbay_core::names::{DeviceName, Namespace, NodeName, VmName};

use super::{leaks, pods};
use crate::cluster::Cluster;
use crate::scenario::Scenario;

/// The law of rest that a world breaks: wishes that are not fulfilled, conditions that are not true, leaks.
pub fn at_rest(cluster: &Cluster, scenario: &Scenario) -> Option<String> {
    let stray = cluster.api.seen.node_devices.iter().find(|(name, object)| {
        let absent = reason(&object.status, ConditionType::Ready) == Some(Reason::NotFound);
        !scenario.devices.contains_key(name) && !absent
    });
    let stray =
        stray.map(|(name, _)| format!("NodeUSBDevice {name} stands for no device, and is not said to be absent"));
    let devices = scenario.devices.keys().find_map(|name| device(cluster, name));
    stray
        .or(devices)
        .or_else(|| machines(cluster))
        .or_else(|| leaks::leaks(cluster))
        .or_else(|| custody(cluster).filter(|_| scenario.custody))
        .or_else(|| pods::at_rest(cluster, scenario))
}

/// A machine that may have a device now.
fn wishers<'c>(cluster: &'c Cluster, namespace: &Namespace, device: &DeviceName) -> Vec<&'c VmName> {
    let seen = &cluster.api.seen;
    let running = |vm: &VmName| {
        let pod = seen.vm_pods.iter().find(|((ns, _), p)| ns == namespace && p.vm == *vm);
        pod.is_some_and(|(_, p)| p.state == PodState::Running && !p.deleting)
    };
    let vms = seen.vms.iter().filter(|((ns, name), vm)| ns == namespace && vm.run() && running(name));
    vms.filter(|(_, vm)| vm.usb_devices.contains(device)).map(|((_, name), _)| name).collect()
}

fn reason(status: &DeviceStatus, kind: ConditionType) -> Option<Reason> {
    find(&status.conditions, kind).map(|c| c.reason)
}

fn device(cluster: &Cluster, name: &DeviceName) -> Option<String> {
    let seen = &cluster.api.seen;
    let home = cluster.nodes.iter().find(|(_, n)| n.plugged.contains_key(name)).map(|(name, _)| name);
    let Some(object) = seen.node_devices.get(name) else {
        return home.map(|home| format!("{name} is in {home}, and has no NodeUSBDevice"));
    };
    let ready = if home.is_some() { Reason::Ready } else { Reason::NotFound };
    if reason(&object.status, ConditionType::Ready) != Some(ready) {
        return Some(format!("NodeUSBDevice {name} is not {ready:?}: {:?}", object.status));
    }
    if home.is_some() && object.status.node.as_ref() != home {
        return Some(format!("{name} is in {home:?}, its NodeUSBDevice says {:?}", object.status.node));
    }
    let places: Vec<_> = seen.devices.keys().filter(|(_, device)| device == name).map(|(ns, _)| ns).collect();
    // A pod keeps its device, and with it the namespace, for as long as it runs.
    let keeper = pods::keeper(cluster, name).filter(|ns| object.assigned.as_ref() != Some(*ns) && places == [*ns]);
    let given = match &object.assigned {
        _ if keeper.is_some() => Reason::InProgress,
        Some(_) => Reason::Assigned,
        None => Reason::Available,
    };
    if reason(&object.status, ConditionType::Assigned) != Some(given) {
        return Some(format!("NodeUSBDevice {name} is not {given:?}: {:?}", object.status));
    }
    if keeper.is_none() && places != object.assigned.iter().collect::<Vec<_>>() {
        return Some(format!("{name} is assigned to {:?}, and has USBDevices in {places:?}", object.assigned));
    }
    attachment(cluster, name, home, object)
}

/// Where a device must be attached, it is, and says so; where not, it is not.
fn attachment(cluster: &Cluster, name: &DeviceName, home: Option<&NodeName>, object: &NodeDevice) -> Option<String> {
    let seen = &cluster.api.seen;
    let wishers = object.assigned.as_ref().map(|ns| wishers(cluster, ns, name)).unwrap_or_default();
    let attachments: Vec<&Attachment> = seen.attachments.values().filter(|a| a.device == *name).collect();
    if let Some(stray) = attachments
        .iter()
        .find(|a| object.assigned.as_ref() != Some(&a.vm_pod.namespace) || !wishers.contains(&&a.vm) || a.deleting)
    {
        return Some(format!("nobody wants the attachment of {name} to {}", stray.vm_pod));
    }
    let guests: Vec<_> = cluster.guests().into_iter().filter(|g| g.physical == name).collect();
    if let Some((holder, claim)) = home.and_then(|home| pods::holder(cluster, home, name)) {
        if !guests.is_empty() || attachments.iter().any(|a| cluster.api.bound.contains_key(&a.uid)) {
            return Some(format!("{name} is claim {}'s, and some guest's", holder.1));
        }
        let entitled = object.assigned.as_ref() == Some(&holder.0);
        return match pods::held(cluster, holder, claim, entitled) {
            Ok(true) => says(cluster, name, object, Reason::AttachedToPod, None),
            Ok(false) => says(cluster, name, object, Reason::Available, None),
            Err(law) => Some(law),
        };
    }
    let expected = match (home, attachments.as_slice()) {
        (_, [_, _, ..]) => return Some(format!("{name} has {} attachments", attachments.len())),
        (Some(_), []) if !wishers.is_empty() => {
            return Some(format!("{name} is wanted by {wishers:?}, and attached to nobody"));
        }
        (None, _) | (_, []) => None,
        (Some(home), [one]) => Some((home, *one)),
    };
    let Some((home, one)) = expected else {
        if let Some(guest) = guests.first() {
            return Some(format!("{name} is in {}, and should be nowhere", guest.vm_pod));
        }
        return says(cluster, name, object, Reason::Available, None);
    };
    let port = cluster.api.bound.get(&one.uid).copied().flatten();
    let starved = one.node != *home && port.is_none();
    if starved {
        let taken = cluster.api.ports_taken(&one.node);
        if !seen
            .pools
            .get(&one.node)
            .is_some_and(|p| p.ports.iter().all(|p| Some(p.hub) != one.hub || taken.contains(p)))
        {
            return Some(format!("{name} has no port on {}, though one is free", one.node));
        }
        return says(cluster, name, object, Reason::NoFreeUSBIPPort, None);
    }
    if port.is_some() && !cluster.api.ports_taken(&one.node).iter().any(|taken| Some(*taken) == port) {
        return Some(format!("{name} is attached to {} by a port whose claim is gone", one.vm_pod));
    }
    if blocked(cluster, one) {
        if let Some(guest) = guests.first() {
            return Some(format!("{name} is in {}, and its port is somebody else's", guest.vm_pod));
        }
        if !matches!(&one.plugged, Some(PluggedState::Waiting(why)) if why.contains("used by something else")) {
            return Some(format!("{name} does not say that its port is somebody else's: {:?}", one.plugged));
        }
        return says(cluster, name, object, Reason::Available, None);
    }
    if !guests.iter().any(|g| *g.vm_pod == one.vm_pod.uid) || !matches!(one.plugged, Some(PluggedState::Plugged(_))) {
        return Some(format!("{name} is not in {}, though nothing hinders it: {:?}", one.vm_pod, one.plugged));
    }
    says(cluster, name, object, Reason::AttachedToVirtualMachine, Some(&one.vm))
}

/// Whether the port that is allocated to an attachment is used by a stranger.
pub(super) fn blocked(cluster: &Cluster, attachment: &Attachment) -> bool {
    let port = cluster.api.bound.get(&attachment.uid).copied().flatten();
    let port = port.and_then(|port| cluster.node(&attachment.node)?.ports.get(&port));
    port.is_some_and(|port| port.stranger)
}

/// Both objects of a device say the same of its attachment, and it is `expected`.
fn says(
    cluster: &Cluster,
    name: &DeviceName,
    object: &NodeDevice,
    expected: Reason,
    vm: Option<&VmName>,
) -> Option<String> {
    let devices = cluster.api.seen.devices.iter().filter(|((_, device), _)| device == name).map(|(_, d)| &d.status);
    for status in devices.chain([&object.status]) {
        if reason(status, ConditionType::Attached) != Some(expected) || status.vm.as_ref() != vm {
            return Some(format!("{name} should say Attached={expected:?} {vm:?}, and says {status:?}"));
        }
    }
    None
}

/// A device that is assigned, and that nobody has, is with nobody; and no other one is.
fn custody(cluster: &Cluster) -> Option<String> {
    for (home, node) in &cluster.nodes {
        for (name, local) in node.plugged.iter().filter(|(_, l)| l.binding.is_none()) {
            let used = cluster.guests().iter().any(|g| g.home == home && g.physical == name)
                || cluster.pod_users().iter().any(|u| u.home == home && u.physical == name);
            let expected = cluster.api.assigned(home, name).is_some() && !used;
            if local.withheld != expected {
                return Some(format!("{name} of {home} should be withheld: {expected}, and is not so"));
            }
        }
    }
    None
}

fn machines(cluster: &Cluster) -> Option<String> {
    let seen = &cluster.api.seen;
    let guests = cluster.guests();
    for ((namespace, name), vm) in &seen.vms {
        let pod = seen.vm_pods.iter().find(|((ns, _), p)| ns == namespace && p.vm == *name).map(|(_, p)| p);
        let expected = if vm.run() { VmPhase::Running } else { VmPhase::Stopped };
        if pod.is_some() != vm.run() || vm.status.phase != Some(expected) {
            return Some(format!("{name} should be {expected:?}, and says {:?}", vm.status.phase));
        }
        if vm.status.observed_generation != vm.generation {
            return Some(format!("{name}'s status is of an older generation: {:?}", vm.status));
        }
        let conditions = &vm.status.conditions;
        let says = |kind| find(conditions, kind).map(|c| c.reason.is_true());
        let attached = vm.status.usb_devices.iter().all(|u| u.attached);
        if says(ConditionType::Running) != Some(vm.run()) || says(ConditionType::USBDevicesAttached) != Some(attached) {
            return Some(format!("{name} contradicts itself: {:?}", vm.status));
        }
        let listed: BTreeSet<_> = vm.usb_devices.iter().collect();
        let told: BTreeSet<_> = vm.status.usb_devices.iter().map(|u| &u.name).collect();
        if listed != told {
            return Some(format!("{name} lists {listed:?}, and tells of {told:?}"));
        }
        for entry in &vm.status.usb_devices {
            let has = guests.iter().any(|g| Some(g.vm_pod) == pod.map(|p| &p.uid) && *g.device == entry.name);
            if has != entry.attached || has != entry.address.is_some() || entry.message.is_empty() {
                return Some(format!("{name} should say attached={has} of {}, and says {entry:?}", entry.name));
            }
        }
    }
    let orphan = seen.vm_pods.iter().find(|((ns, _), p)| !seen.vms.contains_key(&(ns.clone(), p.vm.clone())));
    orphan.map(|((_, pod), _)| format!("pod {pod} has no machine"))
}
