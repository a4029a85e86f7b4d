//! The home side: answers the calls of other agents, lends devices out, takes them back.
//!
//! Every decision is [`patchbay_core::home`]'s, on what the API server says at that moment. A device is bound, and the record
//! of for whom is on the disk, before a call is granted; so whatever dies in between, the next agent of this node knows
//! what it has lent and to whom.

mod binding;
mod counted;
pub(super) mod idle;
pub(super) mod keep;
mod lend;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use patchbay_core::device::PortPath;
use patchbay_core::home::{Request, Verdict, authorise};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, Uid};
use patchbay_link::{Granted, HangUp, Incoming, LinkError, Listener, Request as Asked};
use patchbay_usb::root::SysRoot;
use patchbay_usb::scan;
use patchbay_usbip::host;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};

use self::counted::{Counted, Counts};
use self::lend::{Held, Refusal};
use super::custody::Custody;
use super::evidence;
use super::inventory::Inventory;
use super::moves::Moves;
use super::records::Records;
use super::steps::{blocking, chain};
use crate::metrics::{AgentMetrics, Ending};

/// A call that waits is judged again at least so often: rights may change without anybody telling us.
const JUDGE_AGAIN: Duration = Duration::from_secs(5);
/// For how long there is no point in another try after one that has failed.
const SETTLING: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether it is done.
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

/// A call that has the right to a device and waits for it; ends with the value.
struct Contender<'a>(&'a Exports, u64);

impl Drop for Contender<'_> {
    fn drop(&mut self) {
        self.0.contenders.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
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
}
