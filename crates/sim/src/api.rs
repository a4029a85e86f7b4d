//! What the API server holds, and what it does by itself: finalizers, graceful deletion, uid preconditions.

use std::collections::{BTreeMap, BTreeSet};

use patchbay_core::controller::world::{Attachment, Claim, Placement};
use patchbay_core::controller::{World, claim_name};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, PodName, Uid};
use patchbay_core::speed::PortName;

use crate::memo::Memo;
use crate::pods::{Ask, Pod};

/// All objects: those the controller sees, as it sees them, and what only others look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Api {
    /// What the controller's caches hold when they are up to date.
    pub seen: World,
    /// The owners of `USBDevice`s: uids of `NodeUSBDevice`s.
    pub device_owners: BTreeMap<(Namespace, DeviceName), Uid>,
    /// The rest of each claim.
    pub claims: BTreeMap<(Namespace, ClaimName), ClaimRest>,
    /// Attachment pods that are bound to their node, by uid, with the port that was allocated to them.
    pub bound: BTreeMap<Uid, Option<PortName>>,
    /// Ordinary pods.
    pub pods: BTreeMap<(Namespace, PodName), Pod>,
    /// The rest of each claim of an ordinary pod.
    pub asks: BTreeMap<(Namespace, ClaimName), Ask>,
    /// The hash of all this.
    pub hash: Memo<u64>,
}

/// What the controller does not look at in a claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimRest {
    /// The device's name in its pool.
    pub dra_name: DeviceName,
    /// The uid of the `USBDevice` that owns it.
    pub owner: Uid,
    /// `status.reservedFor`. The claim is allocated as long as there is somebody in it.
    pub reserved: BTreeSet<Uid>,
}

impl Api {
    /// The attachment pod with this uid.
    pub fn attachment(&self, uid: &Uid) -> Option<&Attachment> {
        self.seen.attachments.values().find(|a| a.uid == *uid)
    }

    /// The attachment pod with this uid, to be changed.
    pub fn attachment_mut(&mut self, uid: &Uid) -> Option<&mut Attachment> {
        self.seen.attachments.values_mut().find(|a| a.uid == *uid)
    }

    /// The claim an attachment pod names, if it exists.
    pub fn claim_of(&self, attachment: &Attachment) -> Option<(ClaimRef, &Claim, &ClaimRest)> {
        let namespace = attachment.vm_pod.namespace.clone();
        let name = claim_name(&attachment.device);
        let key = (namespace.clone(), name.clone());
        let claim = self.seen.claims.get(&key)?;
        let rest = self.claims.get(&key)?;
        Some((ClaimRef { namespace, name, uid: claim.uid.clone() }, claim, rest))
    }

    /// Deletes an attachment pod: at once when no kubelet has it, else it waits for the kubelet.
    pub fn delete_attachment(&mut self, namespace: &Namespace, name: &PodName, uid: &Uid) {
        let key = (namespace.clone(), name.clone());
        let Some(pod) = self.seen.attachments.get_mut(&key).filter(|p| p.uid == *uid) else { return };
        if self.bound.contains_key(uid) {
            pod.deleting = true;
        } else {
            self.remove_attachment(uid);
        }
    }

    /// Removes an attachment pod; its port claim goes with it.
    pub fn remove_attachment(&mut self, uid: &Uid) {
        self.lose_port(uid);
        self.seen.attachments.retain(|_, a| a.uid != *uid);
        self.bound.remove(uid);
    }

    /// Removes the port claim of an attachment pod; false when it has none.
    pub fn lose_port(&mut self, uid: &Uid) -> bool {
        let claim = self.attachment(uid).and_then(|pod| Some((pod.vm_pod.namespace.clone(), pod.port_claim.clone()?)));
        let lost = claim.is_some_and(|claim| self.seen.port_claims.remove(&claim));
        self.count_ports();
        lost
    }

    /// Deletes the pod of a virtual machine: at once when it has no node, else it waits for the kubelet.
    pub fn delete_vm_pod(&mut self, namespace: &Namespace, name: &PodName, uid: &Uid) {
        let key = (namespace.clone(), name.clone());
        let Some(pod) = self.seen.vm_pods.get_mut(&key).filter(|p| p.uid == *uid) else { return };
        if pod.node.is_some() {
            pod.deleting = true;
        } else {
            self.seen.vm_pods.remove(&key);
        }
    }

    /// Deletes a claim: at once when it is not allocated, else it waits until nobody has it reserved.
    pub fn delete_claim(&mut self, namespace: &Namespace, name: &ClaimName, uid: &Uid) {
        let key = (namespace.clone(), name.clone());
        let Some(claim) = self.seen.claims.get_mut(&key).filter(|c| c.uid == *uid) else { return };
        if self.claims.get(&key).is_some_and(|rest| !rest.reserved.is_empty()) {
            claim.deleting = true;
        } else {
            self.seen.claims.remove(&key);
            self.claims.remove(&key);
        }
    }

    /// Binds an attachment pod to its node.
    pub fn bind(&mut self, uid: &Uid, port: Option<PortName>) {
        self.bound.insert(uid.clone(), port);
        let Some(((namespace, name), pod)) = self.seen.attachments.iter_mut().find(|(_, a)| a.uid == *uid) else {
            return;
        };
        // Since when is not told: the kubelets here need no reminding.
        pod.placement = Placement::Awaited;
        if port.is_some() {
            let claim = ClaimName::new(format!("{name}-port"));
            pod.port_claim = Some(claim.clone());
            self.seen.port_claims.insert((namespace.clone(), claim));
        }
        let key = (namespace.clone(), claim_name(&pod.device));
        if let Some(rest) = self.claims.get_mut(&key) {
            rest.reserved.insert(uid.clone());
        }
        self.count_ports();
    }

    /// The ports that are allocated on a node.
    pub fn ports_taken(&self, node: &NodeName) -> BTreeSet<PortName> {
        self.allocated_ports().filter(|(of, _)| *of == node).map(|(_, port)| port).collect()
    }

    /// The ports that are allocated, each with its node.
    fn allocated_ports(&self) -> impl Iterator<Item = (&NodeName, PortName)> {
        let attachments = self.seen.attachments.iter().filter_map(|((namespace, _), pod)| {
            let claim = (namespace.clone(), pod.port_claim.clone()?);
            let port = self.bound.get(&pod.uid).copied().flatten()?;
            self.seen.port_claims.contains(&claim).then_some((&pod.node, port))
        });
        let allocated = self.seen.pod_claims.values().filter_map(|claim| claim.allocated.as_ref());
        attachments.chain(allocated.filter_map(|a| a.node.as_ref().zip(a.port)))
    }

    /// The namespace a device of a node is assigned to.
    pub fn assigned(&self, home: &NodeName, device: &DeviceName) -> Option<Namespace> {
        let of_ours = self.seen.node_devices.iter().find(|(name, d)| {
            d.status.node.as_ref() == Some(home) && d.status.device_name.as_ref().unwrap_or(name) == device
        });
        of_ours.and_then(|(_, d)| d.assigned.clone())
    }

    /// Counts the ports that are allocated, after a change.
    pub fn count_ports(&mut self) {
        let mut used = BTreeMap::new();
        for (node, port) in self.allocated_ports() {
            *used.entry((node.clone(), port.hub)).or_insert(0) += 1;
        }
        self.seen.ports_used = used;
    }
}
