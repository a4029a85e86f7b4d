//! Ordinary pods that make a claim from a device's template, and what Kubernetes does for them.
//!
//! ```text
//!   made --> has a claim --> allocated and bound --> Preparing --> Checked --> Given --> Undoing --> ended, or gone
//! ```
//!
//! The last four are the states of the claim's record in the journal. Containers run from `Given` on, and until their program
//! ends or the kubelet asks to undo the claim.

use patchbay_core::controller::world::{Allocated, TemplateContent};
use patchbay_core::device::BusAddress;
use patchbay_core::importer::Source;
use patchbay_core::names::{ClaimName, DeviceName, Namespace, NodeName, PodName, Uid};

use crate::api::Api;
use crate::cluster::Cluster;

mod life;

pub use life::steps;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its uid.
    pub uid: Uid,
    /// The device whose template its claim is made from.
    pub device: DeviceName,
    /// The node it has to run on; None for any.
    pub pin: Option<NodeName>,
    /// Where it runs, once bound.
    pub node: Option<NodeName>,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Its program has ended, and is not started again.
    pub done: bool,
    /// Its phase says so.
    pub ended: bool,
}

impl Pod {
    /// It shall not run any more.
    pub fn is_over(&self) -> bool {
        self.deleting || self.done
    }
}

/// What the controller does not look at in a pod's claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The uid of the pod.
    pub pod: Uid,
    /// What it asks for.
    pub content: TemplateContent,
}

/// The record of a pod's claim in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// The uid of the pod.
    pub pod: Uid,
    /// Where the device comes from, from the allocation.
    pub source: Source,
    /// How far it is.
    pub state: State,
}

/// How far a pod's claim is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The kubelet has asked for it, and nothing is known of its right.
    Preparing,
    /// Its namespace has the device: from here on the importer's loop brings it.
    Checked,
    /// Containers were started with the device under this address.
    Given(BusAddress),
    /// The containers have ended, and the kubelet has asked to undo it.
    Undoing,
}

/// The claim of a pod: each has a name of its own.
pub fn claim_name(pod: &Pod) -> ClaimName {
    ClaimName::new(format!("{}-claim", pod.uid))
}

impl Api {
    /// Binds a pod to the node that its claim's allocation names.
    fn bind_pod(&mut self, key: &(Namespace, ClaimName), uid: &Uid, allocated: Allocated) {
        self.change_pod(uid, |pod| pod.node.clone_from(&allocated.node));
        if let Some(claim) = self.seen.pod_claims.get_mut(key) {
            claim.allocated = Some(allocated);
        }
        self.count_ports();
    }

    fn change_pod(&mut self, uid: &Uid, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.values_mut().find(|p| p.uid == *uid) {
            change(pod);
        }
    }

    /// Deletes a pod: at once when no kubelet has it, else it waits for the kubelet. False when there is nothing to delete.
    pub fn delete_pod(&mut self, key: &(Namespace, PodName)) -> bool {
        let Some(pod) = self.pods.get_mut(key).filter(|p| !p.deleting) else { return false };
        if pod.node.is_some() && !pod.ended {
            pod.deleting = true;
        } else {
            self.pods.remove(key);
        }
        true
    }

    fn remove_pod_claim(&mut self, key: &(Namespace, ClaimName)) {
        self.seen.pod_claims.remove(key);
        self.asks.remove(key);
        self.count_ports();
    }
}

impl Cluster {
    /// The program of a pod that runs comes to its end; false when none runs.
    pub fn end_pod(&mut self, key: &(Namespace, PodName)) -> bool {
        let Some(pod) = self.api.pods.get(key).filter(|p| !p.is_over()) else { return false };
        let mut records = self.nodes.values().flat_map(|n| n.pods.values());
        let runs = records.any(|r| r.pod == pod.uid && matches!(r.state, State::Given(_)));
        if runs {
            let uid = pod.uid.clone();
            self.api_mut().change_pod(&uid, |pod| pod.done = true);
        }
        runs
    }

    fn set_state(&mut self, node: &NodeName, claim: &Uid, state: State) {
        self.change(node, |n| {
            if let Some(record) = n.pods.get_mut(claim) {
                record.state = state;
            }
        });
    }
}

/// A device that is in reach of a pod's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User<'c> {
    /// The node the device is plugged into.
    pub home: &'c NodeName,
    /// The device itself.
    pub physical: &'c DeviceName,
    /// The pod.
    pub pod: &'c Uid,
}

impl Cluster {
    /// Every device in reach of containers that run.
    pub fn pod_users(&self) -> Vec<User<'_>> {
        let mut users = Vec::new();
        for (name, node) in &self.nodes {
            for record in node.pods.values() {
                let State::Given(address) = record.state else { continue };
                let ended = self.api.pods.values().any(|p| p.uid == record.pod && p.done);
                let Some((home, physical)) = node.behind(name, address).filter(|_| !ended) else { continue };
                users.push(User { home, physical, pod: &record.pod });
            }
        }
        users
    }
}
