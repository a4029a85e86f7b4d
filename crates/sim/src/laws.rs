//! What must be true in every world, and what must be true in a world at rest.

use std::collections::BTreeSet;

use patchbay_core::conditions::{ConditionType, PluggedState, Reason, find};
use patchbay_core::controller::world::{Attachment, DeviceStatus, NodeDevice, PodState, VmPhase};
use patchbay_core::home::Request;
use patchbay_core::importer::{self, Action, Source};
use patchbay_core::names::{DeviceName, Namespace, NodeName, VmName};

use crate::cluster::Cluster;
use crate::importer::observe;
use crate::scenario::Scenario;

/// The law that a world breaks, in words; None when it breaks none.
pub fn always(cluster: &Cluster) -> Option<String> {
    let guests = cluster.guests();
    for (index, guest) in guests.iter().enumerate() {
        if guest.device != guest.physical {
            return Some(format!("{} in {} is really {}", guest.device, guest.vm_pod, guest.physical));
        }
        let same = guests.iter().skip(index + 1).find(|g| (g.home, g.physical) == (guest.home, guest.physical));
        if let Some(other) = same {
            return Some(format!("two guests have {}: {} and {}", guest.device, guest.vm_pod, other.vm_pod));
        }
    }
    // A device that changes namespaces is first out of the old one's machines, and only then gone from it.
    let seen = &cluster.api.seen;
    for ((namespace, name), pod) in &seen.attachments {
        if !seen.devices.contains_key(&(namespace.clone(), pod.device.clone())) {
            return Some(format!("attachment {name} is there, and the USBDevice of {namespace} is not"));
        }
    }
    let mut given = BTreeSet::new();
    if let Some((_, name)) = seen.devices.keys().find(|(_, name)| !given.insert(name)) {
        return Some(format!("{name} is given to two namespaces"));
    }
    let mut sessions = BTreeSet::new();
    for session in cluster.nodes.values().flat_map(|n| n.ports.values()).filter_map(|p| p.session.as_ref()) {
        if !sessions.insert((&session.home, &session.device)) {
            return Some(format!("{} of {} has two sessions", session.device, session.home));
        }
        let local = cluster.node(&session.home).and_then(|n| n.plugged.get(&session.device));
        if local.is_none_or(|l| l.binding.is_none()) {
            return Some(format!("{} of {} has a session, but is not bound", session.device, session.home));
        }
    }
    for (name, node) in &cluster.nodes {
        for (vm_pod, machine) in &node.machines {
            for item in &machine.devices {
                let backs = |a: &&Attachment| a.vm_pod.uid == *vm_pod && a.device == item.device && !a.deleting;
                let unplug = Action::Unplug { vm_pod: vm_pod.clone(), device: item.device.clone() };
                let backed = cluster.api.seen.attachments.values().any(|a| backs(&a) && a.state != PodState::Ended);
                let failed = importer::Step::Unplug(vm_pod.clone(), item.device.clone());
                if !backed && !node.agent.failures.contains_key(&failed) {
                    let plan = importer::plan(&observe(cluster, name, node));
                    if !plan.contains(&unplug) {
                        return Some(format!(
                            "nobody wants {} in {vm_pod}, and it is not being unplugged",
                            item.device
                        ));
                    }
                }
            }
        }
    }
    None
}

/// Whether a request may be granted at this moment, said without the planner's words: the device is assigned to the namespace
/// of the claim, and an attachment of that namespace wants it on the caller's node.
pub fn entitled(cluster: &Cluster, request: &Request) -> bool {
    let seen = &cluster.api.seen;
    let named = |name: &DeviceName, d: &NodeDevice| *d.status.device_name.as_ref().unwrap_or(name) == request.device;
    let object = seen
        .node_devices
        .iter()
        .find(|(name, d)| named(name, d) && d.assigned.as_ref() == Some(&request.claim.namespace));
    object.is_some_and(|(name, _)| {
        seen.attachments.iter().any(|((namespace, _), a)| {
            *namespace == request.claim.namespace && a.device == *name && a.node == request.peer && !a.deleting
        })
    })
}

/// The law of rest that a world breaks: wishes that are not fulfilled, conditions that are not true, leaks.
pub fn at_rest(cluster: &Cluster, scenario: &Scenario) -> Option<String> {
    let stray = cluster.api.seen.node_devices.iter().find(|(name, object)| {
        let absent = reason(&object.status, ConditionType::Ready) == Some(Reason::NotFound);
        !scenario.devices.contains_key(name) && !absent
    });
    let stray =
        stray.map(|(name, _)| format!("NodeUSBDevice {name} stands for no device, and is not said to be absent"));
    let devices = scenario.devices.keys().find_map(|name| device(cluster, name));
    stray.or(devices).or_else(|| machines(cluster)).or_else(|| leaks(cluster))
}

/// A machine that may have a device now.
fn wishers<'c>(cluster: &'c Cluster, namespace: &Namespace, device: &DeviceName) -> Vec<&'c VmName> {
    let seen = &cluster.api.seen;
    let running = |vm: &VmName| {
        let pod = seen.vm_pods.iter().find(|((ns, _), p)| ns == namespace && p.vm == *vm);
        pod.is_some_and(|(_, p)| p.state == PodState::Running && !p.deleting)
    };
    let vms = seen.vms.iter().filter(|((ns, name), vm)| ns == namespace && vm.run && running(name));
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
    let given = if object.assigned.is_some() { Reason::Assigned } else { Reason::Available };
    if reason(&object.status, ConditionType::Assigned) != Some(given) {
        return Some(format!("NodeUSBDevice {name} is not {given:?}: {:?}", object.status));
    }
    let places: Vec<_> = seen.devices.keys().filter(|(_, device)| device == name).map(|(ns, _)| ns).collect();
    if places != object.assigned.iter().collect::<Vec<_>>() {
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
    if !guests.iter().any(|g| *g.vm_pod == one.vm_pod.uid) || !matches!(one.plugged, Some(PluggedState::Plugged(_))) {
        return Some(format!("{name} is not in {}, though nothing hinders it: {:?}", one.vm_pod, one.plugged));
    }
    says(cluster, name, object, Reason::AttachedToVirtualMachine, Some(&one.vm))
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

fn machines(cluster: &Cluster) -> Option<String> {
    let seen = &cluster.api.seen;
    let guests = cluster.guests();
    for ((namespace, name), vm) in &seen.vms {
        let pod = seen.vm_pods.iter().find(|((ns, _), p)| ns == namespace && p.vm == *name).map(|(_, p)| p);
        let expected = if vm.run { VmPhase::Running } else { VmPhase::Stopped };
        if pod.is_some() != vm.run || vm.status.phase != Some(expected) {
            return Some(format!("{name} should be {expected:?}, and says {:?}", vm.status.phase));
        }
        if vm.status.observed_generation != vm.generation {
            return Some(format!("{name}'s status is of an older generation: {:?}", vm.status));
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

fn leaks(cluster: &Cluster) -> Option<String> {
    let (api, seen) = (&cluster.api, &cluster.api.seen);
    for (key, claim) in &seen.claims {
        let used = seen.attachments.iter().any(|((ns, _), a)| *ns == key.0 && a.device == claim.device);
        if !used || claim.deleting {
            return Some(format!("claim {} is left over", key.1));
        }
        let reserved = api.claims.get(key).map(|rest| rest.reserved.clone()).unwrap_or_default();
        if reserved.iter().any(|uid| api.attachment(uid).is_none()) {
            return Some(format!("claim {} is reserved for a pod that is gone", key.1));
        }
    }
    for (name, node) in &cluster.nodes {
        for (port, state) in &node.ports {
            let remote = node.prepared.values().find_map(|p| match &p.source {
                Source::Remote { port: p, claim, .. } if p == port => Some(&claim.uid),
                _ => None,
            });
            if state.record.as_ref().is_some_and(|record| Some(record) != remote) {
                return Some(format!("port {port} of {name} is still recorded for {:?}", state.record));
            }
            let used = state.session.as_ref().is_none_or(|s| {
                cluster.guests().iter().any(|g| g.node == name && *g.home == s.home && *g.physical == s.device)
            });
            if !used || state.hung {
                return Some(format!("port {port} of {name} is occupied for nobody"));
            }
        }
        for (device, local) in &node.plugged {
            if local.binding.is_some() && cluster.session(name, device).is_none() {
                return Some(format!("{device} of {name} is bound to usbip-host for nobody"));
            }
        }
        if let Some(uid) = node.prepared.keys().find(|uid| api.attachment(uid).is_none()) {
            return Some(format!("{name} has claims prepared for {uid}, which is gone"));
        }
        if let Some(stale) = node
            .machines
            .values()
            .flat_map(|m| &m.devices)
            .find(|p| p.address.is_none_or(|a| node.behind(name, a).is_none()))
        {
            return Some(format!("QEMU on {name} still has {}, which vanished", stale.device));
        }
        if let Some(call) = node.agent.calls.values().find(|c| !cluster.in_hand.contains(&c.request.device)) {
            return Some(format!("{name} still asks for {}", call.request.device));
        }
        // Nobody can be granted a device that is nowhere.
        let hopeless = |step: &importer::Step| match step {
            importer::Step::Call(uid) => api.attachment(uid).is_some_and(|a| cluster.in_hand.contains(&a.device)),
            _ => false,
        };
        if let Some((step, why)) = node.agent.failures.iter().find(|(step, _)| !hopeless(step)) {
            return Some(format!("{name}'s agent is stuck at {step:?}: {why}"));
        }
    }
    None
}
