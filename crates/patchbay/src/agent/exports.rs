//! The home side: answers the calls of other agents, lends devices out, takes them back.
//!
//! Every decision is [`patchbay_core::home`]'s, on what the API server says at that moment. A device is bound, and the record
//! of for whom is on the disk, before a call is granted; so whatever dies in between, the next agent of this node knows
//! what it has lent and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use patchbay_core::device::PortPath;
use patchbay_core::home::{Bound, Keeping, Request, Verdict, authorise, keeping};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, Uid};
use patchbay_link::{Granted, HangUp, Incoming, LinkError, Listener};
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use patchbay_usbip::host::{self, ExportStatus, HostError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep};

use super::evidence;
use super::inventory::Inventory;
use super::records::{Export, Records};
use super::steps::{blocking, chain};

/// A call that waits is judged again at least so often: rights may change without anybody telling us.
const JUDGE_AGAIN: Duration = Duration::from_secs(5);
/// Lent devices are looked at so often; more often while one is about to be called for again or to be returned.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
const SETTLING: Duration = Duration::from_secs(1);
/// How long the kernel may take to reset a device after its session.
const RESET: Duration = Duration::from_secs(10);
/// Calls that may wait at a time.
const MAX_CALLS: usize = 256;

/// The home side of one node.
pub(super) struct Exports {
    /// This node.
    pub(super) node: NodeName,
    /// To the API server.
    pub(super) client: Client,
    /// Where sysfs is.
    pub(super) root: SysRoot,
    /// What is lent, and to whom.
    pub(super) records: Records,
    /// What the node has.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// Tells when a session ends.
    pub(super) hang_up: HangUp,
    /// Something has changed: whoever waits looks again.
    pub(super) changed: watch::Sender<u64>,
    /// Devices for which a grant is under way.
    pub(super) granting: Mutex<BTreeSet<DeviceName>>,
    /// Calls that have the right to a device and wait for it.
    pub(super) contenders: Mutex<BTreeMap<u64, Request>>,
}

/// A grant under way; ends with the value.
struct Granting<'a>(&'a Exports, DeviceName);

impl Drop for Granting<'_> {
    fn drop(&mut self) {
        self.0.granting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
        self.0.wake();
    }
}

/// A call that has the right to a device and waits for it; ends with the value.
struct Contender<'a>(&'a Exports, u64);

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        self.0.contenders.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Answers calls for ever.
pub(super) async fn serve(exports: Arc<Exports>, mut listener: Listener) {
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    for number in 0u64.. {
        let incoming = listener.accept().await;
        // Beyond the bound callers wait in the listener's own.
        let Ok(permit) = calls.clone().acquire_owned().await else { return };
        let exports = exports.clone();
        tokio::spawn(async move {
            let peer = incoming.peer_node().to_owned();
            if let Err(error) = exports.answer(incoming, number).await {
                tracing::info!(peer, error = chain(&error), "call ended");
            }
            drop(permit);
        });
    }
}

/// Takes back what nobody has a right to, for ever.
pub(super) async fn keep(exports: Arc<Exports>) {
    let mut changed = exports.changed.subscribe();
    loop {
        changed.borrow_and_update();
        let unsettled = exports.look().await;
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep(if unsettled { SETTLING } else { LOOK_AGAIN }) => {}
        }
    }
}

impl Exports {
    /// Wakes whoever waits.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Leads one call to its end.
    async fn answer(&self, mut incoming: Incoming, number: u64) -> Result<(), LinkError> {
        let import = incoming.request();
        let request = Request {
            peer: NodeName::new(incoming.peer_node()),
            claim: ClaimRef {
                namespace: Namespace::new(&import.claim.namespace),
                name: ClaimName::new(&import.claim.name),
                uid: Uid::new(&import.claim.uid),
            },
            device: DeviceName::new(&import.device),
        };
        if import.pool != self.node.as_str() {
            let reason = format!("this is node {}, not {}", self.node, import.pool);
            return incoming.deny(&reason).await;
        }
        let _contender = Contender(self, number);
        let mut changed = self.changed.subscribe();
        let mut said = String::new();
        loop {
            changed.borrow_and_update();
            let reason = match self.judge(&request).await.unwrap_or_else(Verdict::Wait) {
                Verdict::Deny(reason) => {
                    tracing::warn!(device = %request.device, peer = %request.peer, claim = %request.claim, reason, "denied");
                    return incoming.deny(&reason).await;
                }
                Verdict::Wait(reason) => reason,
                Verdict::Grant => {
                    self.contenders.lock().unwrap_or_else(PoisonError::into_inner).insert(number, request.clone());
                    match self.lend(&request).await {
                        Ok((granting, place)) => return self.grant(incoming, &request, &place, granting).await,
                        Err(reason) => reason,
                    }
                }
            };
            if reason != said {
                incoming.wait(&reason).await?;
                said = reason;
            }
            tokio::select! {
                gone = incoming.hung_up() => return Err(gone),
                _ = changed.changed() => {}
                () = sleep(JUDGE_AGAIN) => {}
            }
        }
    }

    async fn judge(&self, request: &Request) -> Result<Verdict, String> {
        let evidence = evidence::of(&self.client, &self.node, request).await?;
        Ok(authorise(&self.node, request, &evidence))
    }

    /// Makes a device ready for the session of `request`: bound, free, and recorded.
    async fn lend(&self, request: &Request) -> Result<(Granting<'_>, PortPath), String> {
        let device = &request.device;
        if !self.granting.lock().unwrap_or_else(PoisonError::into_inner).insert(device.clone()) {
            return Err("the device is being given to another session".to_owned());
        }
        let granting = Granting(self, device.clone());
        let scanned = self.inventory.borrow().device(device).cloned();
        let scanned = scanned.ok_or_else(|| format!("device {device} is not plugged into node {} now", self.node))?;
        if let Some(why) = scanned.host_use {
            return Err(why);
        }
        let place = scanned.attributes.port_path;
        if self.status(&place).await == Some(ExportStatus::Used) {
            self.free(&place, request).await?;
        }
        let (root, records, path) = (self.root.clone(), self.records.clone(), place.clone());
        let export = Export { device: device.clone(), claim: request.claim.clone(), peer: request.peer.clone() };
        blocking(move || {
            records.change(|f| drop(f.exports.insert(path.clone(), export))).map_err(|e| format!("records: {e}"))?;
            if matches!(host::status(&root, &path), Ok(ExportStatus::Error)) {
                host::release(&root, &path).map_err(|e| chain(&e))?;
            }
            host::bind(&root, &path).map_err(|e| chain(&e))
        })
        .await?;
        self.available(&place).await?;
        Ok((granting, place))
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
                Verdict::Wait(_) | Verdict::Deny(_) => {}
            }
        }
        tracing::info!(device = %request.device, former = %former.peer, peer = %request.peer, "session cut for another");
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || host::end(&root, &path).map_err(|e| chain(&e))).await
    }

    /// Grants: the session is the kernel's when this returns.
    async fn grant(
        &self,
        incoming: Incoming,
        request: &Request,
        place: &PortPath,
        granting: Granting<'_>,
    ) -> Result<(), LinkError> {
        let speed = self.inventory.borrow().device(&request.device).map(|d| d.attributes.speed);
        let (root, path) = (self.root.clone(), place.clone());
        // Asked after binding: the address is the one the session will use.
        let address = blocking(move || scan::address(&root, &path).map_err(|e| chain(&e))).await;
        let (Some(speed), Ok(address)) = (speed, address) else {
            return incoming.deny("the device has just been pulled out; call again").await;
        };
        let granted = Granted { devid: address.devid(), speed: speed.vhci_code(), bus_id: place.to_string() };
        let session = incoming.grant(granted).await?;
        let (root, path) = (self.root.clone(), place.clone());
        let handed = blocking(move || {
            use std::os::fd::AsFd;
            let socket = session.into_kernel().map_err(|e| chain(&e))?;
            host::export(&root, &path, socket.as_fd()).map_err(|e| chain(&e))?;
            Ok(socket)
        });
        match handed.await {
            Ok(socket) => {
                tracing::info!(device = %request.device, peer = %request.peer, claim = %request.claim, "exported");
                if let Err(error) = self.hang_up.add(u64::from(address.devid()), socket) {
                    tracing::error!(%error, "the end of sessions will be noticed late");
                }
            }
            Err(why) => tracing::warn!(device = %request.device, peer = %request.peer, why, "session not started"),
        }
        drop(granting);
        Ok(())
    }

    /// Looks at every lent device once; true if one is about to change.
    async fn look(&self) -> bool {
        let mut unsettled = false;
        for (place, export) in self.records.facts().exports {
            let granting = self.granting.lock().unwrap_or_else(PoisonError::into_inner).contains(&export.device);
            let status = self.status(&place).await;
            if status.is_none() && !granting {
                self.forget(&place).await;
                continue;
            }
            let in_session = status == Some(ExportStatus::Used);
            let request = Request { peer: export.peer, claim: export.claim, device: export.device };
            // While the API server is silent everything stays as it is.
            let Ok(verdict) = self.judge(&request).await else {
                unsettled |= !in_session;
                continue;
            };
            let contested = {
                let contenders = self.contenders.lock().unwrap_or_else(PoisonError::into_inner);
                contenders.values().any(|r| r.device == request.device && r.claim != request.claim)
            };
            let bound = Bound { in_session, granting, verdict: Some(verdict), contested };
            let (root, path) = (self.root.clone(), place.clone());
            let result = match keeping(&bound) {
                Keeping::Keep => {
                    // The kernel goes on showing a session for a moment after its end, and tells nobody when it stops.
                    unsettled |= !in_session || bound.verdict != Some(Verdict::Grant);
                    continue;
                }
                Keeping::Cut => blocking(move || host::end(&root, &path).map_err(|e| chain(&e))).await,
                Keeping::Release => {
                    let released = blocking(move || host::release(&root, &path).map_err(|e| chain(&e))).await;
                    if released.is_ok() {
                        self.forget(&place).await;
                    }
                    released
                }
            };
            match result {
                Ok(()) => tracing::info!(device = %request.device, peer = %request.peer, "taken back"),
                Err(why) => {
                    unsettled = true;
                    tracing::warn!(device = %request.device, why, "not taken back; trying again");
                }
            }
        }
        unsettled
    }

    async fn forget(&self, place: &PortPath) {
        let (records, path) = (self.records.clone(), place.clone());
        let changed = blocking(move || records.change(|f| drop(f.exports.remove(&path))).map_err(|e| e.to_string()));
        if let Err(why) = changed.await {
            tracing::warn!(why, "records not written");
        }
    }

    /// What a bound device is doing; None when it is gone or not bound.
    async fn status(&self, place: &PortPath) -> Option<ExportStatus> {
        let (root, path) = (self.root.clone(), place.clone());
        let status = blocking(move || match host::status(&root, &path) {
            Ok(status) => Ok(Some(status)),
            Err(HostError::Gone(_) | HostError::NotBound(_)) => Ok(None),
            Err(error) => Err(chain(&error)),
        });
        status.await.unwrap_or(Some(ExportStatus::Error))
    }

    /// Waits until a bound device has no session: after one the kernel resets it.
    async fn available(&self, place: &PortPath) -> Result<(), String> {
        let deadline = Instant::now() + RESET;
        while Instant::now() < deadline {
            match self.status(place).await {
                Some(ExportStatus::Available) => return Ok(()),
                None => return Err("the device was pulled out".to_owned()),
                // The kernel tells nobody when it is done.
                Some(ExportStatus::Used | ExportStatus::Error) => sleep(Duration::from_millis(20)).await,
            }
        }
        Err("the kernel does not finish resetting the device: pull it out and put it back".to_owned())
    }
}

/// Wakes the home side when a session ends.
pub(super) async fn hang_ups(
    exports: Arc<Exports>,
    mut ended: tokio::sync::mpsc::UnboundedReceiver<u64>,
    rescan: Arc<Notify>,
) {
    while ended.recv().await.is_some() {
        exports.wake();
        rescan.notify_one();
    }
}
