//! What must be true in every world, and what must be true in a world at rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use patchbay_core::controller::world::{Attachment, NodeDevice, PodState};
use patchbay_core::device::BusAddress;
use patchbay_core::home::Request;
use patchbay_core::importer::{self, Action, Plugged};
use patchbay_core::names::DeviceName;
use patchbay_core::speed::PortName;

use crate::cluster::Cluster;
use crate::importer::observe;
use crate::kernel::VhciPort;

mod leaks;
mod pods;
mod rest;

pub use rest::at_rest;

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
    let users = cluster.pod_users();
    for (index, user) in users.iter().enumerate() {
        if let Some(guest) = guests.iter().find(|g| (g.home, g.physical) == (user.home, user.physical)) {
            return Some(format!("{} is in {}, and in reach of pod {}", user.physical, guest.vm_pod, user.pod));
        }
        let same = users.iter().skip(index + 1).find(|u| (u.home, u.physical) == (user.home, user.physical));
        if let Some(other) = same {
            return Some(format!("two pods have {}: {} and {}", user.physical, user.pod, other.pod));
        }
    }
    // A device that changes namespaces is first out of the old one's machines and pods, and only then gone from it.
    let seen = &cluster.api.seen;
    for ((namespace, name), pod) in &cluster.api.pods {
        let uses = users.iter().any(|u| *u.pod == pod.uid);
        if uses && !seen.devices.contains_key(&(namespace.clone(), pod.device.clone())) {
            return Some(format!("pod {name} has a device, and the USBDevice of {namespace} is not there"));
        }
    }
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

/// The law that a party's own step breaks. A device does not vanish from under a guest but by accident: by a cable, a link, a
/// step of an agent that fails, or by objects that are deleted by force. `orderly` says that the last two do not happen here.
pub fn between(before: &Cluster, after: &Cluster, orderly: bool) -> Option<String> {
    for (name, node) in &after.nodes {
        let Some(old) = before.nodes.get(name).filter(|old| !Arc::ptr_eq(old, node)) else { continue };
        let freed = |(port, state): &(&PortName, &VhciPort)| {
            !state.stranger && old.ports.get(port).is_some_and(|old| old.stranger)
        };
        if let Some((port, _)) = node.ports.iter().find(freed) {
            return Some(format!("port {port} of {name} is taken from somebody who is none of ours"));
        }
        for (vm_pod, machine) in node.machines.iter().filter(|_| orderly) {
            let stayed = |p: &&Plugged| old.machines.get(vm_pod).is_some_and(|m| m.devices.contains(p));
            let pulled = |a: BusAddress| old.behind(name, a).is_some() && node.behind(name, a).is_none();
            if let Some(item) = machine.devices.iter().filter(stayed).find(|p| p.address.is_some_and(pulled)) {
                return Some(format!("{} is taken from under the guest in {vm_pod}", item.device));
            }
        }
    }
    None
}

/// Whether a request may be granted at this moment, said without the planner's words: the device is assigned to the namespace
/// of the claim, and an attachment of that namespace wants it on the caller's node, or the claim is that of a pod there.
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
        }) || pods::entitled(cluster, request)
    })
}
