//! A call to the agent of a device's node: it ends with a session at a port, with a refusal, or because it is given up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use patchbay_core::importer::unreachable;
use patchbay_core::names::{ClaimRef, DeviceName, NodeName, Uid};
use patchbay_core::speed::{PortName, Speed};
use patchbay_link::{Claim, Granted, Import, LinkError, call};
use patchbay_usbip::vhci;
use tokio::sync::Notify;

use super::{Steps, address, blocking, chain};

/// A call under way.
pub(in crate::agent) struct Call {
    word: String,
    hang_up: Arc<HangUp>,
    /// Where its session goes.
    port: PortName,
    granted: bool,
}

/// Ends a call from outside.
#[derive(Default)]
struct HangUp {
    asked: std::sync::atomic::AtomicBool,
    notify: Notify,
}

impl HangUp {
    fn ask(&self) {
        self.asked.store(true, std::sync::atomic::Ordering::SeqCst);
        self.notify.notify_one();
    }

    fn is_asked(&self) -> bool {
        self.asked.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// What a call is about.
pub(super) struct Wanted<'a> {
    pub(super) user: &'a Uid,
    pub(super) device: &'a DeviceName,
    pub(super) home: &'a NodeName,
    pub(super) claim: &'a ClaimRef,
    pub(super) port: PortName,
}

impl Steps {
    /// The calls under way, with the home agent's last word. A call that was granted is none any more: it has become a
    /// session, which the plan finds at its port.
    pub(in crate::agent) fn calls(&self) -> BTreeMap<Uid, String> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|(_, call)| !call.granted).map(|(uid, call)| (uid.clone(), call.word.clone())).collect()
    }

    /// Gives up a call.
    pub(in crate::agent) fn hang_up(&self, user: &Uid) {
        if let Some(call) = self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(user) {
            call.hang_up.ask();
        }
    }

    /// Asks the home agent for a device until it grants, denies, or the call is given up; attaches the session.
    pub(super) async fn call(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let hang_up = Arc::new(HangUp::default());
        let word = format!("asking node {} for the device", wanted.home);
        let call = Call { word, hang_up: hang_up.clone(), port: wanted.port, granted: false };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).insert(wanted.user.clone(), call);
        let granted = tokio::select! {
            // While the call lasts the port is nobody's: with the record of a session that has ended, what somebody else
            // attaches to it meanwhile would be taken for ours.
            granted = async { self.disown(wanted.port).await?; self.dial(wanted).await } => granted.map(Some),
            () = hang_up.notify.notified() => Ok(None),
        };
        // From here on the call is not given up midway: what is attached is recorded, and taken back in order.
        let result = match granted {
            Ok(Some((granted, socket))) => {
                if let Some(call) = self.calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(wanted.user) {
                    call.granted = true;
                }
                self.attach(wanted, &granted, socket).await
            }
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        let result = if hang_up.is_asked() { self.take_back(wanted).await } else { result };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).remove(wanted.user);
        result
    }

    /// The call proper: ends with the home agent's grant and a socket that the kernel encrypts.
    async fn dial(&self, wanted: &Wanted<'_>) -> Result<(Granted, OwnedFd), String> {
        let address = SocketAddr::new(address(&self.client, wanted.home).await?, self.port);
        let claim = Claim {
            namespace: wanted.claim.namespace.to_string(),
            name: wanted.claim.name.to_string(),
            uid: wanted.claim.uid.to_string(),
        };
        let import = Import { claim, pool: wanted.home.to_string(), device: wanted.device.to_string() };
        let (uid, calls, wake) = (wanted.user, &self.calls, &self.wake);
        let on_wait = |reason: String| {
            if let Some(call) = calls.lock().unwrap_or_else(PoisonError::into_inner).get_mut(uid) {
                call.word = reason;
                wake.notify_one();
            }
        };
        let identity = self.credentials.get(on_wait).await;
        call(address, wanted.home.as_str(), &identity, import, on_wait).await.map_err(|error| match error {
            // Says by itself who it was.
            LinkError::Denied { .. } => chain(&error),
            _ => format!("{}: {}", unreachable(wanted.home), chain(&error)),
        })
    }

    /// Gives the session to vhci.
    async fn attach(&self, wanted: &Wanted<'_>, granted: &Granted, socket: OwnedFd) -> Result<(), String> {
        let speed = Speed::ALL
            .into_iter()
            .find(|s| s.vhci_code() == granted.speed)
            .ok_or_else(|| format!("node {} grants a device of unknown speed {}", wanted.home, granted.speed))?;
        let devid = granted.devid;
        let (root, records, port, uid) =
            (self.root.clone(), self.records.clone(), wanted.port, wanted.claim.uid.clone());
        blocking(move || {
            records.change(|facts| facts.own(port, uid, devid)).map_err(|e| format!("records: {e}"))?;
            vhci::attach(&root, port, socket.as_fd(), devid, speed).map_err(|error| {
                // Nothing of ours is attached; what is there is somebody else's.
                let forgotten = records.change(|facts| facts.disown(port));
                forgotten.map_or_else(|e| format!("{error}; records: {e}"), |()| error.to_string())
            })
        })
        .await?;
        self.metrics.imported(port, &wanted.claim.uid);
        tracing::info!(device = %wanted.device, home = %wanted.home, port = %port, claim = %wanted.claim, "imported");
        self.shown(port, false).await
    }

    /// Whether a call is under way whose session is to go to a port, or has just gone there.
    pub(super) fn is_called_for(&self, port: PortName) -> bool {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.values().any(|call| call.port == port)
    }

    /// Frees the port of a call that was given up.
    async fn take_back(&self, wanted: &Wanted<'_>) -> Result<(), String> {
        let (root, port) = (self.root.clone(), wanted.port);
        if self.records.facts().last_claim(port) != Some(&wanted.claim.uid) {
            return Ok(());
        }
        blocking(move || vhci::detach(&root, port).map_err(|e| e.to_string())).await?;
        self.shown(port, true).await
    }
}
