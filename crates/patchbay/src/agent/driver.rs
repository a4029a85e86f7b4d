//! The DRA driver: what the kubelet has prepared before a pod starts.
//!
//! For an attachment this is a check and a reservation, nothing more: the claim is in the journal then, and the importer's loop goes
//! on from there. Only the kubelet, which would start the attachment's pod, waits for a moment, because that is less urgent than the
//! devices that are on their way into guests. For an ordinary pod it returns when the device is here and its containers can
//! be given it; the importer's loop brings it, as soon as the journal says that it is wanted.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use patchbay_api::claim::DEVICE_REQUEST;
use patchbay_api::{keys, port, slice};
use patchbay_core::importer::{DEVICES_FIRST, Held, Start, Starting, start};
use patchbay_core::names::{self, ClaimName, DeviceName, Namespace, NodeName, Uid};
use patchbay_core::speed::PortName;
use patchbay_dra::{AllocatedClaim, AllocatedDevice, ClaimRef, Driver, DriverError, Journal, Prepared, Record};
use tokio::sync::watch;
use tokio::time::timeout;

use super::containers::{Containers, Reaches};
use super::evidence;
use super::importer::Looked;
use super::inventory::Inventory;
use super::pod_use::PodUse;
use super::records::Records;

/// How long undoing waits for a device to be let go of. The kubelet asks again after an error.
const LET_GO: Duration = Duration::from_secs(15);

/// The driver of one node.
pub(super) struct UsbDriver {
    /// This node.
    pub(super) node: NodeName,
    /// To the API server.
    pub(super) client: Client,
    /// Devices and ports.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// What is ours.
    pub(super) records: Records,
    /// Gives devices to containers.
    pub(super) containers: Containers,
    /// How far the devices of pods are.
    pub(super) reach: Reaches,
    /// What the importer's loop has seen last.
    pub(super) looked: watch::Receiver<Option<Looked>>,
    /// What this node has not let go of yet.
    pub(super) held: watch::Receiver<Option<Held>>,
    /// Which claims are prepared: told which of them have been checked.
    pub(super) journal: Journal,
}

impl UsbDriver {
    async fn check(&self, namespace: &str, device: &AllocatedDevice) -> Result<(), DriverError> {
        if device.pool == slice::port_pool(&self.node) {
            return self.check_port(&device.device);
        }
        let (home, name) = (NodeName::new(&device.pool), DeviceName::new(&device.device));
        match evidence::assigned(&self.client, &home, &name).await? {
            Some(assigned) if assigned.as_str() == namespace => Ok(()),
            Some(_) | None => Err(DriverError::from(format!(
                "USB device {name} of node {home} is not assigned to namespace {namespace}: \
                 an administrator sets spec.assignedNamespace of its NodeUSBDevice"
            ))),
        }
    }

    /// What a pod's containers get; for an attachment nothing.
    async fn give(&self, claim: &AllocatedClaim) -> Result<Prepared, DriverError> {
        let reference = names::ClaimRef {
            namespace: Namespace::new(&claim.namespace),
            name: ClaimName::new(&claim.name),
            uid: Uid::new(&claim.uid),
        };
        let Some(wanted) = PodUse::read(&self.node, &reference, &claim.devices)? else {
            return match lonely(&self.node, claim) {
                Some(why) => Err(why.into()),
                None => Ok(claim.devices.iter().map(|d| d.prepared(Vec::new())).collect::<Vec<_>>().into()),
            };
        };
        // From here on the importer's loop brings the device.
        if self.journal.records().get(&claim.uid).is_some_and(|record| record.data.is_null()) {
            let checked = self.journal.set_data(&claim.uid, "checked".into()).await;
            checked.map_err(|e| DriverError::caused_by(&e))?;
        }
        let (ids, given) = self.containers.give(&claim.uid, &wanted, self.reach.clone()).await?;
        let answer = |d: &AllocatedDevice| {
            let is_device = d.device == wanted.device().as_str() && d.pool != slice::port_pool(&self.node);
            d.prepared(if is_device { ids.clone() } else { Vec::new() })
        };
        let data = serde_json::to_value(&given).map_err(|e| DriverError::caused_by(&e))?;
        Ok(Prepared { devices: claim.devices.iter().map(answer).collect(), data: Some(data) })
    }

    /// Waits until a claim's device is out of the guest and its port is free.
    async fn let_go(&self, claim: &Uid, record: &Record) -> Result<(), DriverError> {
        let own = |d: &&AllocatedDevice| d.pool == self.node.as_str();
        let local: Vec<_> = record.allocated.iter().filter(own).map(|d| DeviceName::new(&d.device)).collect();
        let mut held = self.held.clone();
        // Before the first look nothing is known to be free.
        let free = |held: &Option<Held>| held.as_ref().is_some_and(|h| !h.has(claim, &local));
        match timeout(LET_GO, held.wait_for(free)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err("its USB device is still in use on this node, and is being taken back".to_owned().into())
            }
        }
    }

    /// Waits until the pod of an attachment's claim may start.
    async fn may_start(&self, claim: &AllocatedClaim) {
        let name = (claim.namespace.clone(), claim.name.clone());
        let look = |last: &Looked| Starting {
            seen: last.journal.prepared().any(|(uid, _)| uid == claim.uid),
            unwanted: last.unwanted.contains(&name),
            bringing: last.bringing,
        };
        let decide = |last: &Option<Looked>| last.as_ref().map_or(Start::NotYet, |last| start(look(last)));
        let mut looked = self.looked.clone();
        loop {
            let known = decide(&looked.borrow_and_update());
            let changed = looked.wait_for(|last| decide(last) != known);
            let over = match known {
                Start::Now => true,
                Start::After(quiet) => timeout(quiet, changed).await.is_err(),
                // When the importer's loop has ended, the agent has with it.
                Start::NotYet => changed.await.is_err(),
            };
            if over {
                return;
            }
        }
    }

    /// A port that is not there, or that somebody else has taken since it was allocated, is no error here: the importer's
    /// loop says what is wrong, and goes on the moment it is right. The kubelet would try again only after a minute or two.
    fn check_port(&self, name: &str) -> Result<(), DriverError> {
        if slice::is_token(name) {
            return Ok(());
        }
        let port: PortName =
            name.parse().map_err(|e: patchbay_core::speed::PortNameError| DriverError::caused_by(&e))?;
        let ours = self.records.facts().last_claim(port).is_some();
        if !ours && self.inventory.borrow().is_free(port) != Some(true) {
            tracing::warn!(port = %port, "a port that is not free was allocated: its device has to wait");
        }
        Ok(())
    }
}

impl Driver for UsbDriver {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            for device in &claim.devices {
                self.check(&claim.namespace, device).await?;
            }
            self.give(claim).await
        })
    }

    fn before_start<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if !is_of_attachment(claim) {
                return;
            }
            if timeout(DEVICES_FIRST, self.may_start(claim)).await.is_err() {
                tracing::debug!(claim = %claim.name, "its pod is started while devices are still on their way");
            }
        })
    }

    fn unprepare<'a>(
        &'a self,
        claim: &'a ClaimRef,
        record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        // The record is marked by now, and with it the claim's right to its device: the importer's loop does the rest. Its pod
        // is there until then, and so is the claim, which keeps the device from everybody else.
        Box::pin(async move {
            if let Some(record) = record {
                self.let_go(&Uid::new(&claim.uid), record).await?;
            }
            self.containers.take(&claim.uid).await
        })
    }
}

/// Whether a claim was made by the controller for an attachment.
fn is_of_attachment(claim: &AllocatedClaim) -> bool {
    [keys::DEVICE, keys::PORT].iter().any(|key| claim.labels.contains_key(*key))
}

/// Why a claim that asks for one thing only is of no use to its pod; None when it is an attachment's.
fn lonely(node: &NodeName, claim: &AllocatedClaim) -> Option<String> {
    let device = claim.devices.first().filter(|_| !is_of_attachment(claim))?;
    Some(if device.pool == slice::port_pool(node) {
        "the claim asks for a port and for no device".to_owned()
    } else {
        format!(
            "the claim asks for a USB device and for no port: make it from ResourceClaimTemplate {}, or add the request \
             {:?} as that template has it beside {DEVICE_REQUEST:?}",
            device.device,
            port::PORT_REQUEST
        )
    })
}
