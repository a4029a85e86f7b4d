//! The kubelets: they start and end pods, prepare claims before and unprepare them after, and remove deleted pods last.
//!
//! Unpreparing takes two steps: the agent marks its record, and with that the claim's right to the device ends; the record
//! goes, and the kubelet goes on, only once the node has let the device go.

use patchbay_core::controller::world::{Attachment, PodState};
use patchbay_core::importer::{Source, held};
use patchbay_core::names::{NodeName, Uid};
use patchbay_core::speed::PortName;

use crate::api::Api;
use crate::cluster::Cluster;
use crate::importer::observe;
use crate::kernel::Node;
use crate::qemu::Machine;
use crate::steps::Steps;

/// What is prepared for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// The device's claim.
    pub claim: Uid,
    /// Where the device comes from, from the allocation.
    pub source: Source,
    /// The kubelet has asked to undo it.
    pub undoing: bool,
}

/// The kubelets' steps.
pub fn steps(cluster: &Cluster, steps: &mut Steps) {
    for (name, node) in &cluster.nodes {
        attachments(cluster, name, node, steps);
        machines(cluster, name, node, steps);
    }
}

fn attachments(cluster: &Cluster, name: &NodeName, node: &Node, steps: &mut Steps) {
    let api = &cluster.api;
    for ((_, pod), attachment) in api.seen.attachments.iter().filter(|(_, a)| a.node == *name) {
        let Some(port) = api.bound.get(&attachment.uid) else { continue };
        let uid = &attachment.uid;
        let mut next = cluster.clone();
        let over = attachment.deleting || attachment.state == PodState::Ended;
        if over && node.prepared.contains_key(uid) {
            undo(cluster, name, node, uid, steps);
        } else if attachment.deleting {
            next.api_mut().remove_attachment(uid);
            steps.quiet(|| format!("{name}'s kubelet removes pod {pod}"), next);
        } else if let Some(prepared) = prepare(api, node, attachment, *port) {
            // A kubelet that still waits for the former pod's claims to be undone takes them for prepared.
            if !node.prepared.values().any(|p| p.claim == prepared.claim && p.undoing) {
                next.change(name, |n| {
                    n.prepared.insert(uid.clone(), prepared);
                });
            }
            if let Some(pod) = next.api_mut().attachment_mut(uid) {
                pod.state = PodState::Running;
            }
            steps.quiet(|| format!("{name}'s kubelet prepares the claims of pod {pod} and starts it"), next);
        }
    }
    for uid in node.prepared.keys().filter(|uid| api.attachment(uid).is_none()) {
        undo(cluster, name, node, uid, steps);
    }
}

/// Undoes what was prepared for a pod. A device's claim that another pod shares stays as it is.
fn undo(cluster: &Cluster, name: &NodeName, node: &Node, uid: &Uid, steps: &mut Steps) {
    let Some(prepared) = node.prepared.get(uid) else { return };
    let shared = node.prepared.iter().any(|(other, p)| other != uid && p.claim == prepared.claim);
    let mut next = cluster.clone();
    if shared || (prepared.undoing && let_go(cluster, name, node, &prepared.claim, &prepared.source)) {
        next.change(name, |n| {
            n.prepared.remove(uid);
        });
        steps.quiet(|| format!("{name}'s kubelet has the claims of pod {uid} undone"), next);
    } else if !prepared.undoing {
        next.change(name, |n| {
            if let Some(prepared) = n.prepared.get_mut(uid) {
                prepared.undoing = true;
            }
        });
        steps.quiet(|| format!("{name}'s kubelet asks to undo the claims of pod {uid}"), next);
    }
}

/// Whether the node has nothing of a claim's device any more.
pub fn let_go(cluster: &Cluster, name: &NodeName, node: &Node, claim: &Uid, source: &Source) -> bool {
    let held = held(&observe(cluster, name, node));
    match source {
        Source::Local { device } => !held.local.contains(device),
        Source::Remote { .. } => !held.claims.contains(claim),
    }
}

/// What there is to prepare for a pod that has not been started, if its claims are in order.
fn prepare(api: &Api, node: &Node, attachment: &Attachment, port: Option<PortName>) -> Option<Prepared> {
    let (reference, claim, rest) = api.claim_of(attachment)?;
    let known = node.prepared.values().any(|p| p.claim == claim.uid);
    let startable = attachment.state == PodState::Pending && rest.reserved.contains(&attachment.uid);
    if !startable || (claim.deleting && !known) {
        return None;
    }
    let device = rest.dra_name.clone();
    let home = claim.node.clone();
    let source = match port {
        Some(port) => Source::Remote { device, home, claim: reference, port },
        None => Source::Local { device },
    };
    Some(Prepared { claim: claim.uid.clone(), source, undoing: false })
}

fn machines(cluster: &Cluster, name: &NodeName, node: &Node, steps: &mut Steps) {
    for (key, pod) in cluster.api.seen.vm_pods.iter().filter(|(_, p)| p.node.as_ref() == Some(name)) {
        let mut next = cluster.clone();
        let up = node.machines.contains_key(&pod.uid);
        if pod.deleting && up {
            next.change(name, |n| {
                n.machines.remove(&pod.uid);
            });
            steps.quiet(|| format!("{name}'s kubelet kills QEMU in {}", key.1), next);
        } else if pod.deleting {
            next.api_mut().seen.vm_pods.remove(key);
            steps.quiet(|| format!("{name}'s kubelet removes pod {}", key.1), next);
        } else if pod.state == PodState::Pending {
            next.change(name, |n| {
                n.machines.insert(pod.uid.clone(), Machine::default());
            });
            if let Some(pod) = next.api_mut().seen.vm_pods.get_mut(key) {
                pod.state = PodState::Running;
            }
            steps.quiet(|| format!("{name}'s kubelet starts QEMU in {}", key.1), next);
        }
    }
}
