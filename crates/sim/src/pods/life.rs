//! What becomes of an ordinary pod, step by step: Kubernetes' part, and the agent's that the kubelet waits for.

use patchbay_core::controller::world::{Allocated, PodClaim, TemplateContent};
use patchbay_core::importer::{Reach, Source, reach};
use patchbay_core::names::{ClaimName, ClaimRef, Namespace, NodeName, PodName, Uid};

use super::{Ask, Pod, Record, State, claim_name};
use crate::cluster::Cluster;
use crate::importer::observe;
use crate::kernel::Node;
use crate::kubelet::let_go;
use crate::scheduler;
use crate::steps::Steps;

/// The steps of everybody who has to do with ordinary pods.
pub fn steps(cluster: &Cluster, steps: &mut Steps) {
    let api = &cluster.api;
    for ((namespace, name), pod) in api.pods.iter().filter(|(_, p)| !p.is_over()) {
        let key = (namespace.clone(), claim_name(pod));
        match api.seen.pod_claims.get(&key) {
            None => make_claim(cluster, (namespace, name), pod, steps),
            Some(claim) if pod.node.is_none() && claim.allocated.is_none() => place(cluster, &key, name, pod, steps),
            Some(_) => {}
        }
    }
    for (key, ask) in &api.asks {
        if !api.pods.values().any(|p| p.uid == ask.pod && !p.ended) {
            let mut next = cluster.clone();
            next.api_mut().remove_pod_claim(key);
            steps.quiet(|| format!("controller-manager: deletes claim {}", key.1), next);
        }
    }
    for (name, node) in &cluster.nodes {
        for ((namespace, pod_name), pod) in api.pods.iter().filter(|(_, p)| p.node.as_ref() == Some(name)) {
            run(cluster, (name, node), (namespace, pod_name), pod, steps);
        }
        for (claim, record) in node.pods.iter().filter(|(_, r)| api.pods.values().all(|p| p.uid != r.pod)) {
            undo(cluster, (name, node), claim, record, steps);
        }
    }
}

/// The controller-manager makes a claim from the template, if there is one.
fn make_claim(cluster: &Cluster, (namespace, name): (&Namespace, &PodName), pod: &Pod, steps: &mut Steps) {
    let template = cluster.api.seen.templates.get(&(namespace.clone(), pod.device.clone()));
    let Some(template) = template.filter(|t| !t.deleting) else { return };
    let mut next = cluster.clone();
    let claim = PodClaim {
        uid: cluster.fresh_uid(&format!("claim-{name}")),
        created: 0,
        made_for: Some(pod.device.clone()),
        pods: vec![name.clone()],
        allocated: None,
        told: None,
    };
    let key = (namespace.clone(), claim_name(pod));
    let api = next.api_mut();
    api.asks.insert(key.clone(), Ask { pod: pod.uid.clone(), content: template.content.clone() });
    api.seen.pod_claims.insert(key, claim);
    steps.quiet(|| format!("controller-manager: makes the claim of pod {name}"), next);
}

/// The scheduler allocates the device, and a port or the device's token, on any node that the pod may run on.
fn place(cluster: &Cluster, key: &(Namespace, ClaimName), name: &PodName, pod: &Pod, steps: &mut Steps) {
    let api = &cluster.api;
    let Some(TemplateContent { node: home, dra_name, hub }) = api.asks.get(key).map(|ask| &ask.content) else { return };
    if !scheduler::is_free(api, home, dra_name) {
        return;
    }
    for node in cluster.nodes.keys().filter(|n| pod.pin.as_ref().is_none_or(|pin| pin == *n)) {
        let port = if node == home { None } else { scheduler::free_port(api, node, *hub) };
        if node != home && port.is_none() {
            continue;
        }
        let mut next = cluster.clone();
        let (home, device, on) = (home.clone(), dra_name.clone(), Some(node.clone()));
        next.api_mut().bind_pod(key, &pod.uid, Allocated { home, device, node: on, port });
        let with = port.map(|p| format!(" with port {p}")).unwrap_or_default();
        steps.quiet(|| format!("scheduler: binds pod {name} to {node}{with}"), next);
    }
}

/// The kubelet of a pod's node, and the agent that it asks.
fn run(
    cluster: &Cluster,
    (name, node): (&NodeName, &Node),
    (namespace, pod_name): (&Namespace, &PodName),
    pod: &Pod,
    steps: &mut Steps,
) {
    let key = (namespace.clone(), claim_name(pod));
    let claim = cluster.api.seen.pod_claims.get(&key).filter(|_| !pod.is_over());
    let mut next = cluster.clone();
    match (node.pods.iter().find(|(_, r)| r.pod == pod.uid), claim) {
        (Some((uid, record)), _) if pod.is_over() => undo(cluster, (name, node), uid, record, steps),
        (None, _) if pod.deleting => {
            next.api_mut().pods.remove(&(namespace.clone(), pod_name.clone()));
            steps.quiet(|| format!("{name}'s kubelet removes pod {pod_name}"), next);
        }
        (None, _) if pod.done && !pod.ended => {
            next.api_mut().change_pod(&pod.uid, |pod| pod.ended = true);
            steps.quiet(|| format!("{name}'s kubelet says that pod {pod_name} has ended"), next);
        }
        (None, Some(claim)) => {
            let Some(source) = claim.allocated.as_ref().map(|a| source(&key, &claim.uid, a)) else { return };
            let record = Record { pod: pod.uid.clone(), source, state: State::Preparing };
            next.change(name, |n| drop(n.pods.insert(claim.uid.clone(), record)));
            steps.quiet(|| format!("{name}'s kubelet asks for the device of pod {pod_name}"), next);
        }
        (Some((uid, record)), _) => {
            if let Some((state, label)) = onward(cluster, (name, node), namespace, uid, record) {
                if let State::Given(address) = state {
                    next.change(name, |n| n.open(address));
                }
                next.set_state(name, uid, state);
                steps.quiet(|| format!("{name}'s agent: {label} pod {pod_name}"), next);
            }
        }
        (None, None) => {}
    }
}

/// Where the device of a claim comes from.
fn source(key: &(Namespace, ClaimName), uid: &Uid, allocated: &Allocated) -> Source {
    let (device, home) = (allocated.device.clone(), allocated.home.clone());
    let claim = ClaimRef { namespace: key.0.clone(), name: key.1.clone(), uid: uid.clone() };
    match allocated.port {
        Some(port) => Source::Remote { device, home, claim, port },
        None => Source::Local { device },
    }
}

/// The next state of a claim whose pod shall run. A program ends when its device vanishes, and is started again.
fn onward(
    cluster: &Cluster,
    (name, node): (&NodeName, &Node),
    namespace: &Namespace,
    uid: &Uid,
    record: &Record,
) -> Option<(State, &'static str)> {
    let here = || match reach(&observe(cluster, name, node)).remove(uid) {
        Some(Reach::Here(address)) => Some(address),
        _ => None,
    };
    match &record.state {
        State::Preparing => {
            let (home, device) = match &record.source {
                Source::Local { device } => (name, device),
                Source::Remote { device, home, .. } => (home, device),
            };
            let assigned = cluster.api.assigned(home, device);
            (assigned.as_ref() == Some(namespace)).then_some((State::Checked, "has checked the claim of"))
        }
        State::Checked => here().map(|address| (State::Given(address), "has the device for")),
        State::Given(old) => {
            here().filter(|a| a != old).map(|a| (State::Given(a), "has the device again for the restarted"))
        }
        State::Undoing => None,
    }
}

/// Undoes a claim whose pod is over or gone.
fn undo(cluster: &Cluster, (name, node): (&NodeName, &Node), claim: &Uid, record: &Record, steps: &mut Steps) {
    let mut next = cluster.clone();
    if record.state != State::Undoing {
        next.set_state(name, claim, State::Undoing);
        steps.quiet(|| format!("{name}'s kubelet has ended pod {}, and asks to undo {claim}", record.pod), next);
    } else if let_go(cluster, name, node, claim, &record.source) {
        next.change(name, |n| drop(n.pods.remove(claim)));
        steps.quiet(|| format!("{name}'s agent has undone {claim}"), next);
    }
}
