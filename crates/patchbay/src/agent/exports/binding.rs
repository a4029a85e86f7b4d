//! What usbip-host has in a place: bound, in a session, being reset, given back.

use std::time::Duration;

use patchbay_core::device::PortPath;
use patchbay_core::names::DeviceName;
use patchbay_usbip::host::{self, ExportStatus, HostError};
use tokio::time::{Instant, sleep};

use super::{Exports, POLL};
use crate::agent::steps::{blocking, chain};

/// How long the kernel may take to reset a device after its session.
const RESET: Duration = Duration::from_secs(10);

impl Exports {
    /// Binds a device to usbip-host, and waits until it can have a session.
    pub(super) async fn bind(&self, device: &DeviceName, place: &PortPath) -> Result<(), String> {
        if self.status(place).await == Some(ExportStatus::Error) {
            self.release(device, place).await?;
        }
        self.custody.may_use(place).await?;
        // And nothing of it can be mounted from here until it is bound.
        let claim = self.custody.claim(place).await?;
        let (root, path) = (self.root.clone(), place.clone());
        let bound = blocking(move || {
            let bound = host::bind(&root, &path).map_err(|e| chain(&e));
            drop(claim);
            bound
        });
        bound.await?;
        match self.settled(place).await? {
            Some(ExportStatus::Available) => Ok(()),
            None => Err("the device was pulled out".to_owned()),
            Some(ExportStatus::Used | ExportStatus::Error) => {
                Err("the kernel cannot reset the device: pull it out and put it back".to_owned())
            }
        }
    }

    /// What a bound device is doing; None when it is gone or not bound.
    pub(super) async fn status(&self, place: &PortPath) -> Option<ExportStatus> {
        let (root, path) = (self.root.clone(), place.clone());
        let status = blocking(move || match host::status(&root, &path) {
            Ok(status) => Ok(Some(status)),
            Err(HostError::Gone(_) | HostError::NotBound(_)) => Ok(None),
            Err(error) => Err(chain(&error)),
        });
        status.await.unwrap_or(Some(ExportStatus::Error))
    }

    /// Ends the session of a bound device, if it has one.
    pub(super) async fn end(&self, place: &PortPath) -> Result<(), String> {
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || host::end(&root, &path).map_err(|e| chain(&e))).await
    }

    /// Ends the session of a bound device, if it has one, and gives the device to whom it is due: the drivers of the node, or
    /// nobody while it is assigned.
    pub(super) async fn release(&self, device: &DeviceName, place: &PortPath) -> Result<(), String> {
        self.end(place).await?;
        self.settled(place).await?;
        // The kernel's thread still puts away its last orders when it has said that it is done.
        sleep(POLL).await;
        // First: what unbinding leaves is for whoever may have it.
        self.custody.settle(device, place).await?;
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || host::release(&root, &path).map_err(|e| chain(&e))).await
    }

    /// Waits until the kernel has dealt with the end of a device's session: it resets the device, and tells nobody when it is
    /// done. Then what the device is doing; None when it is gone.
    async fn settled(&self, place: &PortPath) -> Result<Option<ExportStatus>, String> {
        let deadline = Instant::now() + RESET;
        while Instant::now() < deadline {
            match self.status(place).await {
                Some(ExportStatus::Used) => sleep(POLL).await,
                status => return Ok(status),
            }
        }
        Err("the kernel does not finish resetting the device: pull it out and put it back".to_owned())
    }
}
