//! Making a device ready for a session: nobody else works on its place, it is free, recorded, and bound.

use std::sync::PoisonError;
use std::time::Duration;

use patchbay_core::device::PortPath;
use patchbay_core::home::{Request, Verdict, no_room};
use patchbay_usbip::host::{self, ExportStatus};
use tokio::time::{Instant, sleep};

use super::{Exports, POLL, SETTLING};
use crate::agent::records::Export;
use crate::agent::steps::{blocking, chain};

/// The right to change what usbip-host has in a place; ends with the value. The kernel does not survive a device that is
/// bound while its place in the driver's table is being given up.
pub(super) struct Held<'a> {
    exports: &'a Exports,
    pub(super) place: PortPath,
    /// Something was done, so that whoever waits shall look again. What only looked must wake nobody, least of all itself.
    pub(super) acted: bool,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.exports.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
        if self.acted {
            self.exports.wake();
        }
    }
}

/// Why a device is not lent out now.
pub(super) struct Refusal {
    pub(super) why: String,
    /// For how long there is no point in another try, whatever happens.
    pub(super) pause: Duration,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, pause: Duration::ZERO }
    }
}

impl Exports {
    /// Makes a device ready for the session of `request`: bound, free, and recorded.
    pub(super) async fn lend(&self, request: &Request) -> Result<Held<'_>, Refusal> {
        let device = &request.device;
        let scanned = self.inventory.borrow().device(device).cloned();
        let scanned = scanned.ok_or_else(|| format!("device {device} is not plugged into node {} now", self.node))?;
        let place = scanned.attributes.port_path;
        // Looked at now: nobody tells when something is mounted. What is lent already has no disks here.
        drop(self.custody.claim(&place).await?);
        let mut held = self.hold_soon(&place).await?;
        if self.status(&place).await == Some(ExportStatus::Used) {
            self.free(&place, request).await?;
        }
        self.reserve(&place, request).await?;
        held.acted = true;
        // A failed try wakes whoever waits, this very call too.
        self.bind(device, &place).await.map_err(|why| Refusal { why, pause: SETTLING })?;
        Ok(held)
    }

    /// Nobody else works on this place until the value is dropped; None while somebody does.
    pub(super) fn hold(&self, place: &PortPath) -> Option<Held<'_>> {
        let free = self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(place.clone());
        free.then(|| Held { exports: self, place: place.clone(), acted: false })
    }

    /// Like [`Self::hold`], but waits for those who only look at the place: they are done in a moment, and wake nobody.
    async fn hold_soon(&self, place: &PortPath) -> Result<Held<'_>, String> {
        let deadline = Instant::now() + SETTLING;
        loop {
            match self.hold(place) {
                Some(held) => return Ok(held),
                None if Instant::now() < deadline => sleep(POLL).await,
                None => return Err("the device is being given to another session, or back".to_owned()),
            }
        }
    }

    /// Records for whom a device is about to be bound, if the kernel has room for it.
    async fn reserve(&self, place: &PortPath, request: &Request) -> Result<(), String> {
        let (root, records, node, path) = (self.root.clone(), self.records.clone(), self.node.clone(), place.clone());
        let export =
            Export { device: request.device.clone(), claim: request.claim.clone(), peer: request.peer.clone() };
        blocking(move || {
            let bound = host::bound(&root).map_err(|e| chain(&e))?;
            let table = host::table(&root).into_iter().collect();
            let mut full = None;
            // Counted and recorded in one step, so that of many calls at a time none takes another's place.
            let recorded = records.change(|facts| {
                let lent = facts.exports.keys().cloned().chain(bound).collect();
                full = no_room(&node, &path, &lent, &table);
                if full.is_none() {
                    facts.exports.insert(path, export);
                }
            });
            recorded.map_err(|e| format!("records: {e}"))?;
            full.map_or(Ok(()), Err)
        })
        .await
    }

    /// Ends the session of a device if `request` may have it instead.
    async fn free(&self, place: &PortPath, request: &Request) -> Result<(), String> {
        let former = self.records.facts().exports.get(place).cloned();
        let former =
            former.ok_or("a USB/IP session that is not ours uses the device: end it with usbip on its node")?;
        // A node that calls again has lost its end of the session. Another node has to wait while the session has its right.
        if former.peer != request.peer {
            let session = Request { peer: former.peer.clone(), claim: former.claim, device: former.device };
            match self.judge(&session).await? {
                Verdict::Grant => return Err(format!("in use on node {}", former.peer)),
                Verdict::Wait(_) | Verdict::Withdrawn(_) | Verdict::Deny(_) => {}
            }
        }
        tracing::info!(device = %request.device, former = %former.peer, peer = %request.peer, "session cut for another");
        self.end(place).await
    }
}
