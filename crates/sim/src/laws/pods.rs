//! The laws of ordinary pods: their rights, and what they have at rest.

use patchbay_core::controller::world::{Allocated, PodClaim};
use patchbay_core::home::Request;
use patchbay_core::names::{ClaimName, DeviceName, Namespace, NodeName, Uid};

use crate::cluster::Cluster;
use crate::pods::{State, claim_name};
use crate::scenario::Scenario;

/// A claim's namespace and name.
type Key = (Namespace, ClaimName);

/// The claim of a pod to which a device is allocated.
pub(super) fn holder<'c>(
    cluster: &'c Cluster,
    home: &NodeName,
    device: &DeviceName,
) -> Option<(&'c Key, &'c PodClaim)> {
    let has = |a: &Allocated| a.home == *home && a.device == *device;
    cluster.api.seen.pod_claims.iter().find(|(_, claim)| claim.allocated.as_ref().is_some_and(has))
}

/// The namespace of the pod to which a device is allocated in the place where it is, or was last.
pub(super) fn keeper<'c>(cluster: &'c Cluster, device: &DeviceName) -> Option<&'c Namespace> {
    let home = cluster.api.seen.node_devices.get(device)?.status.node.as_ref()?;
    holder(cluster, home, device).map(|((namespace, _), _)| namespace)
}

/// Whether a request is that of a pod on the caller's node, which is not being deleted.
pub(super) fn entitled(cluster: &Cluster, request: &Request) -> bool {
    let key = (request.claim.namespace.clone(), request.claim.name.clone());
    let claim = cluster.api.seen.pod_claims.get(&key).filter(|c| c.uid == request.claim.uid);
    let allocated = claim.and_then(|c| c.allocated.as_ref()).filter(|a| a.device == request.device);
    let pod = cluster.api.asks.get(&key).and_then(|ask| cluster.api.pods.values().find(|p| p.uid == ask.pod));
    allocated.is_some() && pod.is_some_and(|p| p.node.as_ref() == Some(&request.peer) && !p.deleting)
}

/// Whether the port that is allocated to a pod is used by a stranger.
pub(super) fn blocked(cluster: &Cluster, claim: &PodClaim) -> bool {
    let place = claim.allocated.as_ref().and_then(|a| a.node.as_ref().zip(a.port));
    let port = place.and_then(|(node, port)| cluster.node(node)?.ports.get(&port));
    port.is_some_and(|port| port.stranger)
}

/// Whether the pod to which a device is allocated has it in reach: it must, if it is `entitled` and no stranger hinders it.
pub(super) fn held(cluster: &Cluster, key: &Key, claim: &PodClaim, entitled: bool) -> Result<bool, String> {
    let pod = cluster.api.asks.get(key).map(|ask| &ask.pod);
    let has = cluster.pod_users().iter().any(|u| Some(u.pod) == pod);
    if has != claim.told.as_ref().is_some_and(|told| told.attached) {
        return Err(format!("claim {} should say attached={has}, and says {:?}", key.1, claim.told));
    }
    if !has && entitled && !blocked(cluster, claim) {
        return Err(format!("claim {} has its device, and its pod has not", key.1));
    }
    Ok(has)
}

/// What is wrong with pods, their claims, records and templates.
pub(super) fn at_rest(cluster: &Cluster, scenario: &Scenario) -> Option<String> {
    let api = &cluster.api;
    let alive = |uid: &Uid| api.pods.values().any(|p| p.uid == *uid && !p.ended);
    for ((namespace, name), pod) in api.pods.iter().filter(|(_, p)| !p.ended) {
        if pod.is_over() {
            return Some(format!("pod {name} does not come to its end"));
        }
        let key = (namespace.clone(), pod.device.clone());
        let claimed = api.seen.pod_claims.contains_key(&(namespace.clone(), claim_name(pod)));
        if offered(cluster, &key) && !claimed {
            return Some(format!("pod {name} has no claim, though it could be made"));
        }
    }
    if let Some((key, _)) = api.asks.iter().find(|(_, ask)| !alive(&ask.pod)) {
        return Some(format!("claim {} is left over", key.1));
    }
    for (name, node) in &cluster.nodes {
        let claimed = |uid: &Uid| api.seen.pod_claims.values().any(|c| c.uid == *uid);
        let mut records = node.pods.iter();
        if let Some((uid, _)) = records.find(|(uid, r)| r.state == State::Undoing || !claimed(uid) || !alive(&r.pod)) {
            return Some(format!("{name} still has {uid} in its journal"));
        }
    }
    templates(cluster).filter(|_| scenario.pods)
}

/// Whether a device is there, and its namespace's.
fn offered(cluster: &Cluster, (namespace, device): &(Namespace, DeviceName)) -> bool {
    let seen = &cluster.api.seen;
    let assigned = seen.node_devices.get(device).and_then(|d| d.assigned.as_ref());
    let there = cluster.nodes.values().any(|n| n.plugged.contains_key(device));
    there && assigned == Some(namespace) && seen.devices.contains_key(&(namespace.clone(), device.clone()))
}

/// Where a device is offered, there is its template, for the node it is on; and where there is no `USBDevice` is none.
fn templates(cluster: &Cluster) -> Option<String> {
    let seen = &cluster.api.seen;
    for (key, template) in &seen.templates {
        let at = cluster.node(&template.content.node).is_some_and(|n| n.plugged.contains_key(&key.1));
        if !seen.devices.contains_key(key) || (offered(cluster, key) && !at) {
            return Some(format!("the template of {} in {} is out of date", key.1, key.0));
        }
    }
    let missing = seen.devices.keys().find(|key| offered(cluster, key) && !seen.templates.contains_key(*key))?;
    Some(format!("{} has no template in {}", missing.1, missing.0))
}
