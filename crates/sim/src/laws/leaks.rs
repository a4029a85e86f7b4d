//! What must not be left over in a world at rest: claims, ports, bindings, calls, failures.

use patchbay_core::importer::{Source, Step};
use patchbay_core::names::{DeviceName, NodeName, Uid};

use super::pods;
use super::rest::blocked;
use crate::cluster::Cluster;
use crate::importer::Call;
use crate::kernel::Node;

/// The first thing that is left over.
pub(super) fn leaks(cluster: &Cluster) -> Option<String> {
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
            let sources = node.prepared.values().map(|p| &p.source).chain(node.pods.values().map(|r| &r.source));
            let mut owners = sources.filter_map(|source| match source {
                Source::Remote { port: p, claim, .. } if p == port => Some(&claim.uid),
                _ => None,
            });
            if state.record.as_ref().is_some_and(|record| owners.all(|owner| owner != record)) {
                return Some(format!("port {port} of {name} is still recorded for {:?}", state.record));
            }
            let used = state.session.as_ref().is_none_or(|s| {
                let of = |home: &NodeName, device: &DeviceName| *home == s.home && *device == s.device;
                cluster.guests().iter().any(|g| of(g.home, g.physical))
                    || cluster.pod_users().iter().any(|u| of(u.home, u.physical))
            });
            if !used || state.hung {
                return Some(format!("port {port} of {name} is occupied for nobody"));
            }
        }
        for (device, local) in &node.plugged {
            let waits = seen.attachments.values().any(|a| a.device == *device && blocked(cluster, a))
                || pods::holder(cluster, name, device).is_some_and(|(_, claim)| pods::blocked(cluster, claim));
            if local.binding.is_some() && cluster.session(name, device).is_none() && !waits {
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
        if let Some(law) = agent(cluster, name, node) {
            return Some(law);
        }
    }
    None
}

/// What an agent is still at. Nobody can be granted a device that is not where it was, nor a pod one that is not its
/// namespace's any more.
fn agent(cluster: &Cluster, name: &NodeName, node: &Node) -> Option<String> {
    let gone =
        |home: &NodeName, device: &DeviceName| cluster.node(home).is_none_or(|n| !n.plugged.contains_key(device));
    let hopeless = |c: &Call| {
        let (device, claim) = (&c.request.device, &c.request.claim);
        gone(&c.home, device) || cluster.api.assigned(&c.home, device).as_ref() != Some(&claim.namespace)
    };
    if let Some(call) = node.agent.calls.values().find(|c| !hopeless(c)) {
        return Some(format!("{name} still asks for {}", call.request.device));
    }
    let of_pod = |uid: &Uid| match node.pods.get(uid).map(|r| &r.source) {
        Some(Source::Remote { device, home, .. }) => gone(home, device),
        _ => false,
    };
    let of_attachment = |uid: &Uid| cluster.api.attachment(uid).is_some_and(|a| cluster.in_hand.contains(&a.device));
    let hopeless = |step: &Step| matches!(step, Step::Call(uid) if of_attachment(uid) || of_pod(uid));
    let (step, why) = node.agent.failures.iter().find(|(step, _)| !hopeless(step))?;
    Some(format!("{name}'s agent is stuck at {step:?}: {why}"))
}
