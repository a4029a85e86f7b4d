//! The scheduler, and the controller-manager's part of allocation: devices and ports are given to one claim at a time.

use patchbay_core::controller::world::{Attachment, Placement};
use patchbay_core::names::{DeviceName, NodeName};
use patchbay_core::speed::{Hub, PortName};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::scenario::Scenario;
use crate::steps::Steps;

/// The scheduler's steps.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    let api = &cluster.api;
    for (key, pod) in api.seen.vm_pods.iter().filter(|(_, p)| p.node.is_none()) {
        let Some(node) = scenario.pins.get(&(key.0.clone(), pod.vm.clone())) else { continue };
        let mut next = cluster.clone();
        if let Some(pod) = next.api_mut().seen.vm_pods.get_mut(key) {
            pod.node = Some(node.clone());
        }
        steps.quiet(|| format!("scheduler: binds {} to {node}", key.1), next);
    }
    let waiting = api.seen.attachments.iter().filter(|(_, a)| !a.deleting && !api.bound.contains_key(&a.uid));
    for ((_, name), pod) in waiting {
        let mut next = cluster.clone();
        match place(api, pod) {
            Some(port) => {
                next.api_mut().bind(&pod.uid, port);
                let with = port.map(|p| format!(" with port {p}")).unwrap_or_default();
                steps.quiet(|| format!("scheduler: binds {name} to {}{with}", pod.node), next);
            }
            None if !pod.is_unschedulable() => {
                if let Some(pod) = next.api_mut().attachment_mut(&pod.uid) {
                    pod.placement = Placement::NoPlace;
                }
                steps.quiet(|| format!("scheduler: cannot place {name}"), next);
            }
            None => {}
        }
    }
    for (key, rest) in &api.claims {
        if rest.reserved.iter().any(|uid| api.attachment(uid).is_none()) {
            let mut next = cluster.clone();
            release(next.api_mut(), key);
            steps.quiet(|| format!("controller-manager: releases claim {}", key.1), next);
        }
    }
}

/// Whether a pod can be placed, and with which port.
fn place(api: &Api, pod: &Attachment) -> Option<Option<PortName>> {
    let (_, claim, rest) = api.claim_of(pod)?;
    if claim.deleting {
        return None;
    }
    if rest.reserved.is_empty() && !is_free(api, &claim.node, &rest.dra_name) {
        return None;
    }
    let Some(hub) = pod.hub else { return Some(None) };
    free_port(api, &pod.node, hub).map(Some)
}

/// Whether a device is published, and allocated to nobody.
pub fn is_free(api: &Api, home: &NodeName, device: &DeviceName) -> bool {
    let pool = api.seen.pools.get(home);
    let taken = api.seen.claims.iter().any(|(key, claim)| {
        let rival = api.claims.get(key).filter(|r| !r.reserved.is_empty() && r.dra_name == *device);
        claim.node == *home && rival.is_some()
    });
    let mut of_pods = api.seen.pod_claims.values().filter_map(|claim| claim.allocated.as_ref());
    pool.is_some_and(|pool| pool.devices.iter().any(|d| d.name == *device))
        && !taken
        && !of_pods.any(|a| a.home == *home && a.device == *device)
}

/// A port of a node that is offered, and allocated to nobody.
pub fn free_port(api: &Api, node: &NodeName, hub: Hub) -> Option<PortName> {
    let taken = api.ports_taken(node);
    api.seen.pools.get(node)?.ports.iter().find(|p| p.hub == hub && !taken.contains(p)).copied()
}

/// Takes pods that are gone out of a claim; the last one deallocates it, and lets it go if it is being deleted.
fn release(api: &mut Api, key: &(patchbay_core::names::Namespace, patchbay_core::names::ClaimName)) {
    let pods: std::collections::BTreeSet<_> = api.seen.attachments.values().map(|a| a.uid.clone()).collect();
    let Some(rest) = api.claims.get_mut(key) else { return };
    rest.reserved.retain(|uid| pods.contains(uid));
    let deleting = api.seen.claims.get(key).is_some_and(|c| c.deleting);
    if rest.reserved.is_empty() && deleting {
        api.seen.claims.remove(key);
        api.claims.remove(key);
    }
}
