//! The home side: answers the calls of other agents, lends devices out, takes them back.
//!
//! Every decision is [`patchbay_core::home`]'s, on what the API server says at that moment. A device is bound, and the record
//! of for whom is on the disk, before a call is granted; so whatever dies in between, the next agent of this node knows
//! what it has lent and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use patchbay_core::crowd::too_many;
use patchbay_core::device::PortPath;
use patchbay_core::home::{Request, Verdict, authorise, no_room};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, Uid};
use patchbay_link::{Granted, HangUp, Incoming, LinkError, Listener, Request as Asked};
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use patchbay_usbip::host::{self, ExportStatus, HostError};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use super::custody::Custody;
use super::evidence;
use super::inventory::Inventory;
use super::moves::Moves;
use super::records::{Export, Records};
use super::steps::{blocking, chain};
use crate::metrics::{AgentMetrics, Ending};

pub(super) mod idle;
pub(super) mod keep;

/// A call that waits is judged again at least so often: rights may change without anybody telling us.
const JUDGE_AGAIN: Duration = Duration::from_secs(5);
/// For how long there is no point in another try after one that has failed.
const SETTLING: Duration = Duration::from_secs(1);
/// How long the kernel may take to reset a device after its session.
const RESET: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
const POLL: Duration = Duration::from_millis(20);
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
    /// Who may have the node's devices when they are not lent.
    pub(super) custody: Arc<Custody>,
    /// What the node has.
    pub(super) inventory: watch::Receiver<Arc<Inventory>>,
    /// Takes virtual machines.
    pub(super) moves: Arc<Moves>,
    /// Tells when a session ends.
    pub(super) hang_up: HangUp,
    /// Counts.
    pub(super) metrics: AgentMetrics,
    /// Something has changed: whoever waits looks again.
    pub(super) changed: watch::Sender<u64>,
    /// Places that somebody works on.
    pub(super) held: Mutex<BTreeSet<PortPath>>,
    /// Calls that have the right to a device and wait for it.
    pub(super) contenders: Mutex<BTreeMap<u64, Request>>,
    /// Since when the assignment of what is lent is withdrawn.
    pub(super) withdrawn: Mutex<BTreeMap<PortPath, Instant>>,
}

/// The right to change what usbip-host has in a place; ends with the value. The kernel does not survive a device that is
/// bound while its place in the driver's table is being given up.
struct Held<'a> {
    exports: &'a Exports,
    place: PortPath,
    /// Something was done, so that whoever waits shall look again. What only looked must wake nobody, least of all itself.
    acted: bool,
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
struct Refusal {
    why: String,
    /// For how long there is no point in another try, whatever happens.
    pause: Duration,
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self { why, pause: Duration::ZERO }
    }
}

/// A call that has the right to a device and waits for it; ends with the value.
struct Contender<'a>(&'a Exports, u64);

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        self.0.contenders.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// How many calls of each node are being answered.
type Counts = Mutex<BTreeMap<String, usize>>;

/// A call of a node, counted until the value is dropped.
struct Counted<'a>(&'a Counts, String);

impl<'a> Counted<'a> {
    /// Counts one more call of a node.
    ///
    /// # Errors
    /// Why it may have no more.
    fn of(counts: &'a Counts, peer: &str) -> Result<Self, String> {
        let mut all = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(peer.to_owned()).or_default();
        too_many(peer, *count).map_or(Ok(()), Err)?;
        *count += 1;
        Ok(Self(counts, peer.to_owned()))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.1) {
            *count = count.saturating_sub(1);
        }
        all.retain(|_, count| *count > 0);
    }
}

/// Answers calls for ever.
pub(super) async fn serve(exports: Arc<Exports>, mut listener: Listener) {
    let (calls, counts) = (Arc::new(Semaphore::new(MAX_CALLS)), Arc::new(Counts::default()));
    for number in 0u64.. {
        let incoming = listener.accept().await;
        // Beyond the bound callers wait in the listener's own.
        let Ok(permit) = calls.clone().acquire_owned().await else { return };
        let (exports, counts) = (exports.clone(), counts.clone());
        tokio::spawn(async move {
            let peer = incoming.peer_node().to_owned();
            let for_device = matches!(incoming.request(), Asked::Import(_));
            let answered = match Counted::of(&counts, &peer) {
                Ok(_counted) => exports.answer(incoming, number).await,
                Err(why) => incoming.deny(&why).await.map(|()| Ending::Denied),
            };
            if for_device {
                exports.metrics.ended(*answered.as_ref().unwrap_or(&Ending::Broken));
            }
            if let Err(error) = answered {
                tracing::info!(peer, error = chain(&error), "call ended");
            }
            drop(permit);
        });
    }
}

impl Exports {
    /// Wakes whoever waits.
    pub(super) fn wake(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Leads one call to its end. Calls for the move of a machine are not counted: what they end with is in its pods' conditions.
    async fn answer(&self, mut incoming: Incoming, number: u64) -> Result<Ending, LinkError> {
        let import = match incoming.request() {
            Asked::Import(import) => import,
            Asked::Migrate(asked) => {
                let asked = asked.clone();
                return self.moves.answer(incoming, asked).await.map(|()| Ending::Granted);
            }
            Asked::Greet => return incoming.greet_back().await.map(|()| Ending::Granted),
        };
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
            return incoming.deny(&reason).await.map(|()| Ending::Denied);
        }
        let _contender = Contender(self, number);
        let mut changed = self.changed.subscribe();
        let mut said = String::new();
        loop {
            changed.borrow_and_update();
            let refusal = match self.judge(&request).await.unwrap_or_else(Verdict::Wait) {
                Verdict::Deny(reason) => {
                    tracing::warn!(device = %request.device, peer = %request.peer, claim = %request.claim, reason, "denied");
                    return incoming.deny(&reason).await.map(|()| Ending::Denied);
                }
                Verdict::Wait(reason) | Verdict::Withdrawn(reason) => Refusal::from(reason),
                Verdict::Grant => {
                    self.contenders.lock().unwrap_or_else(PoisonError::into_inner).insert(number, request.clone());
                    match self.lend(&request).await {
                        Ok(held) => return self.grant(incoming, &request, held).await,
                        Err(refusal) => refusal,
                    }
                }
            };
            if refusal.why != said {
                incoming.wait(&refusal.why).await?;
                said = refusal.why;
            }
            let news = async {
                sleep(refusal.pause).await;
                changed.changed().await
            };
            tokio::select! {
                gone = incoming.hung_up() => return Err(gone),
                _ = news => {}
                () = sleep(JUDGE_AGAIN) => {}
            }
        }
    }

    async fn judge(&self, request: &Request) -> Result<Verdict, String> {
        let evidence = evidence::of(&self.client, &self.node, request).await?;
        Ok(authorise(&self.node, request, &evidence))
    }

    /// Makes a device ready for the session of `request`: bound, free, and recorded.
    async fn lend(&self, request: &Request) -> Result<Held<'_>, Refusal> {
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
    fn hold(&self, place: &PortPath) -> Option<Held<'_>> {
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

    /// Binds a device to usbip-host, and waits until it can have a session.
    async fn bind(&self, device: &DeviceName, place: &PortPath) -> Result<(), String> {
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

    /// Grants: the session is the kernel's when this returns.
    async fn grant(&self, incoming: Incoming, request: &Request, held: Held<'_>) -> Result<Ending, LinkError> {
        let place = &held.place;
        let speed = self.inventory.borrow().device(&request.device).map(|d| d.attributes.speed);
        let (root, path) = (self.root.clone(), place.clone());
        // Asked after binding: the address is the one the session will use.
        let address = blocking(move || scan::address(&root, &path).map_err(|e| chain(&e))).await;
        let (Some(speed), Ok(address)) = (speed, address) else {
            return incoming.deny("the device has just been pulled out; call again").await.map(|()| Ending::Denied);
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
        let ending = match handed.await {
            Ok(socket) => {
                self.metrics.lent();
                tracing::info!(device = %request.device, peer = %request.peer, claim = %request.claim, "exported");
                if let Err(error) = self.hang_up.add(u64::from(address.devid()), socket) {
                    tracing::error!(%error, "the end of sessions will be noticed late");
                }
                Ending::Granted
            }
            Err(why) => {
                tracing::warn!(device = %request.device, peer = %request.peer, why, "session not started");
                Ending::Broken
            }
        };
        drop(held);
        Ok(ending)
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

    /// Ends the session of a bound device, if it has one.
    async fn end(&self, place: &PortPath) -> Result<(), String> {
        let (root, path) = (self.root.clone(), place.clone());
        blocking(move || host::end(&root, &path).map_err(|e| chain(&e))).await
    }

    /// Ends the session of a bound device, if it has one, and gives the device to whom it is due: the drivers of the node, or
    /// nobody while it is assigned.
    async fn release(&self, device: &DeviceName, place: &PortPath) -> Result<(), String> {
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

#[cfg(test)]
mod tests {
    use patchbay_core::crowd::MAX_OF_ONE_NODE;

    use super::*;

    #[test]
    fn the_calls_of_a_node_are_counted_while_they_last_and_hold_up_no_other_node() {
        let counts = Counts::default();
        let mut calls: Vec<_> = (0..MAX_OF_ONE_NODE).map(|_| Counted::of(&counts, "node-2").unwrap()).collect();
        assert!(Counted::of(&counts, "node-2").is_err_and(|why| why.contains("node-2")));
        let other = Counted::of(&counts, "node-3").unwrap();
        calls.pop();
        calls.push(Counted::of(&counts, "node-2").unwrap());
        drop((calls, other));
        assert!(counts.lock().unwrap().is_empty());
    }
}
