//! The DRA driver: what the kubelet has prepared before a pod starts.
//!
//! For an attachment this is a check and a reservation, nothing more, so it returns at once: the claim is in the journal then,
//! and the importer's loop goes on from there.

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::Client;
use patchbay_core::names::{DeviceName, NodeName};
use patchbay_core::speed::PortName;
use patchbay_dra::{AllocatedClaim, AllocatedDevice, ClaimRef, Driver, DriverError, Prepared, Record};
use tokio::sync::watch;

use super::evidence;
use super::inventory::Inventory;
use super::records::Records;

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
}

impl UsbDriver {
    async fn check(&self, namespace: &str, device: &AllocatedDevice) -> Result<(), DriverError> {
        if device.pool == patchbay_api::slice::port_pool(&self.node) {
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

    fn check_port(&self, name: &str) -> Result<(), DriverError> {
        let port: PortName =
            name.parse().map_err(|e: patchbay_core::speed::PortNameError| DriverError::caused_by(&e))?;
        let ours = self.records.facts().ports.contains_key(&port);
        match self.inventory.borrow().is_free(port) {
            Some(free) if free || ours => Ok(()),
            Some(_) => {
                Err(format!("USB/IP port {port} of node {} is used by something else: see usbip port", self.node)
                    .into())
            }
            None => {
                Err(format!("node {} has no USB/IP port {port}: load the kernel module vhci-hcd", self.node).into())
            }
        }
    }
}

impl Driver for UsbDriver {
    fn prepare<'a>(&'a self, claim: &'a AllocatedClaim) -> BoxFuture<'a, Result<Prepared, DriverError>> {
        Box::pin(async move {
            for device in &claim.devices {
                self.check(&claim.namespace, device).await?;
            }
            Ok(Prepared::from(claim.devices.iter().map(|d| d.prepared(Vec::new())).collect::<Vec<_>>()))
        })
    }

    fn unprepare<'a>(
        &'a self,
        _claim: &'a ClaimRef,
        _record: Option<&'a Record>,
    ) -> BoxFuture<'a, Result<(), DriverError>> {
        // The record leaves the journal, and with it the claim's right to be plugged: the importer's loop does the rest.
        Box::pin(std::future::ready(Ok(())))
    }
}
