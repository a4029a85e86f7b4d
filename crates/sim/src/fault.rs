//! What goes wrong. Each accident costs one of the path's faults; putting a device back in, or giving back a port, costs nothing.

use patchbay_core::controller::world::PodState;
use patchbay_core::importer::Step;
use patchbay_core::names::NodeName;

use crate::clock::age;
use crate::cluster::Cluster;
use crate::scenario::Scenario;
use crate::steps::{Kind, Steps};

/// A kind of accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A device is unplugged, and may be plugged in again, into any node.
    Cable,
    /// An agent is killed, and starts again: its calls and grants end, its memory is lost.
    AgentCrash,
    /// An agent's action fails, and is remembered as failed.
    AgentFails,
    /// The controller is killed in the middle of its plan.
    ControllerCrash,
    /// One of the controller's writes fails, and the plan goes on.
    Conflict,
    /// The controller plans before it sees what it did last.
    StaleCache,
    /// QEMU crashes and is started again in the same pod.
    QemuCrash,
    /// A guest shuts itself down: QEMU ends, and so does its pod.
    PowerOff,
    /// An attachment pod is deleted without waiting for the kubelet.
    ForceDelete,
    /// An attachment pod is evicted.
    Evict,
    /// What was prepared for an attachment pod that runs is gone: a claim of it was deleted by force.
    ClaimLost,
    /// The claim of an attachment's port is deleted by force while its pod runs: the port may be given to somebody else.
    PortClaimLost,
    /// Somebody attaches a device of theirs to a free port with a tool of the kernel's, and may take it away again. A port that
    /// is recorded as ours counts as ours: from the end of a session to the end of its record is a matter of milliseconds.
    Stranger,
    /// A session breaks; one that is not enumerated yet may leave its port hanging.
    LinkCut,
    /// Seconds pass in the middle of something.
    Slow,
}

impl FaultKind {
    /// All kinds.
    pub const ALL: [Self; 15] = [
        Self::Cable,
        Self::AgentCrash,
        Self::AgentFails,
        Self::ControllerCrash,
        Self::Conflict,
        Self::StaleCache,
        Self::QemuCrash,
        Self::PowerOff,
        Self::ForceDelete,
        Self::Evict,
        Self::ClaimLost,
        Self::PortClaimLost,
        Self::Stranger,
        Self::LinkCut,
        Self::Slow,
    ];
}

/// The steps of fate.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    for name in &cluster.in_hand {
        let Some(device) = scenario.devices.get(name) else { continue };
        for node in cluster.nodes.keys() {
            let mut next = cluster.clone();
            next.plug(node, device.clone());
            steps.add(Kind::Fault, || format!("{name} is plugged into {node}"), next);
        }
    }
    strangers(cluster, scenario, steps);
    if cluster.faults == 0 {
        return;
    }
    if scenario.has(FaultKind::Slow) {
        let mut next = cluster.clone();
        age(&mut next);
        if next != *cluster {
            steps.fault(|| "a few seconds pass meanwhile".to_owned(), next);
        }
    }
    pods(cluster, scenario, steps);
    readers(cluster, scenario, steps);
    for (name, node) in &cluster.nodes {
        if scenario.has(FaultKind::Cable) {
            for device in node.plugged.keys() {
                let mut next = cluster.clone();
                next.unplug(name, device);
                steps.fault(|| format!("{device} is unplugged from {name}"), next);
            }
        }
        if scenario.has(FaultKind::LinkCut) {
            for (port, state) in node.ports.iter().filter(|(_, p)| p.session.is_some()) {
                let mut next = cluster.clone();
                next.change(name, |n| n.free(*port));
                steps.fault(|| format!("the session on port {port} of {name} breaks"), next.clone());
                if state.session.as_ref().is_some_and(|s| s.address.is_none()) {
                    next.change(name, |n| {
                        if let Some(port) = n.ports.get_mut(port) {
                            port.hung = true;
                        }
                    });
                    steps.fault(|| format!("the session on port {port} of {name} breaks, and the port hangs"), next);
                }
            }
        }
        if scenario.has(FaultKind::QemuCrash) {
            for (uid, _) in node.machines.iter().filter(|(_, m)| !m.devices.is_empty()) {
                let mut next = cluster.clone();
                next.change(name, |n| {
                    n.machines.insert(uid.clone(), Default::default());
                });
                steps.fault(|| format!("QEMU crashes in {uid} and starts again"), next);
            }
        }
        if scenario.has(FaultKind::PowerOff) {
            for uid in node.machines.keys() {
                let mut next = cluster.clone();
                next.change(name, |n| {
                    n.machines.remove(uid);
                });
                if let Some(pod) = next.api_mut().seen.vm_pods.values_mut().find(|p| p.uid == *uid) {
                    pod.state = PodState::Ended;
                }
                steps.fault(|| format!("the guest in {uid} shuts itself down"), next);
            }
        }
        if scenario.has(FaultKind::AgentCrash) {
            let mut next = cluster.clone();
            crash(&mut next, name);
            if next != *cluster {
                steps.fault(|| format!("{name}'s agent is killed and starts again"), next);
            }
        }
    }
}

/// Somebody else takes a port that a device of this world could use, or gives it back.
fn strangers(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    let may_come = cluster.faults > 0 && scenario.has(FaultKind::Stranger);
    for (name, node) in &cluster.nodes {
        for (port, state) in &node.ports {
            let mut next = cluster.clone();
            if state.stranger {
                next.change(name, |n| n.free(*port));
                steps.add(Kind::Fault, || format!("somebody gives back port {port} of {name}"), next);
            } else if may_come && scenario.uses(port.hub) && state.is_free() && state.record.is_none() {
                next.change(name, |n| n.ports.entry(*port).or_default().stranger = true);
                steps.fault(|| format!("somebody else takes port {port} of {name}"), next);
            }
        }
    }
}

/// What goes wrong with attachment pods.
fn pods(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    for ((_, name), pod) in &cluster.api.seen.attachments {
        if scenario.has(FaultKind::ForceDelete) {
            let mut next = cluster.clone();
            next.api_mut().remove_attachment(&pod.uid);
            steps.fault(|| format!("attachment {name} is deleted by force"), next);
        }
        if scenario.has(FaultKind::Evict) && pod.state == PodState::Running {
            let mut next = cluster.clone();
            if let Some(pod) = next.api_mut().attachment_mut(&pod.uid) {
                pod.state = PodState::Ended;
            }
            steps.fault(|| format!("attachment {name} is evicted"), next);
        }
        if scenario.has(FaultKind::PortClaimLost) && pod.state == PodState::Running {
            let mut next = cluster.clone();
            if next.api_mut().lose_port(&pod.uid) {
                steps.fault(|| format!("the port's claim of attachment {name} is deleted by force"), next);
            }
        }
        if scenario.has(FaultKind::ClaimLost) && pod.state == PodState::Running {
            let mut next = cluster.clone();
            next.change(&pod.node, |n| drop(n.prepared.remove(&pod.uid)));
            steps.fault(|| format!("a claim of attachment {name} is deleted by force"), next);
        }
    }
}

/// Ordinary pods that are deleted without waiting for the kubelet.
fn readers(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    for key in cluster.api.pods.keys().filter(|_| scenario.has(FaultKind::ForceDelete)) {
        let mut next = cluster.clone();
        next.api_mut().pods.remove(key);
        steps.fault(|| format!("pod {} is deleted by force", key.1), next);
    }
}

/// Kills an agent. Those who were calling it see their connection end.
fn crash(cluster: &mut Cluster, name: &NodeName) {
    cluster.change(name, |n| {
        n.agent = Default::default();
        for binding in n.plugged.values_mut().filter_map(|l| l.binding.as_mut()) {
            binding.granting = None;
        }
    });
    for caller in cluster.nodes.keys().cloned().collect::<Vec<_>>() {
        let agent = cluster.node(&caller).map(|n| &n.agent);
        let calling = agent.is_some_and(|a| a.calls.values().any(|c| c.home == *name));
        if calling {
            cluster.change(&caller, |n| {
                let (lost, kept) = std::mem::take(&mut n.agent.calls).into_iter().partition(|(_, c)| c.home == *name);
                n.agent.calls = kept;
                let lost: std::collections::BTreeMap<_, _> = lost;
                n.agent.failures.extend(lost.into_keys().map(|uid| (Step::Call(uid), "connection closed".to_owned())));
            });
        }
    }
}
