//! Devices that are lent: looked at again and again, and taken back from those who have no right to them any more.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use patchbay_core::device::PortPath;
use patchbay_core::home::{Bound, Keeping, Request, Verdict, keeping};
use patchbay_usbip::host::ExportStatus;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::super::records::Export;
use super::super::steps::blocking;
use super::{Exports, SETTLING};

/// Lent devices are looked at so often; more often while one is about to be called for again or to be returned.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// Takes back what nobody has a right to, for ever.
pub(in crate::agent) async fn run(exports: Arc<Exports>) {
    let mut changed = exports.changed.subscribe();
    // What is released goes to its host driver or to nobody: whether it is assigned has to be known.
    exports.custody.ready().await;
    loop {
        changed.borrow_and_update();
        let unsettled = exports.look().await;
        tokio::select! {
            _ = changed.changed() => {}
            () = sleep(if unsettled { SETTLING } else { LOOK_AGAIN }) => {}
        }
    }
}

/// Wakes the home side when a session ends.
pub(in crate::agent) async fn hang_ups(
    exports: Arc<Exports>,
    mut ended: mpsc::UnboundedReceiver<u64>,
    rescan: Arc<Notify>,
) {
    while ended.recv().await.is_some() {
        exports.wake();
        rescan.notify_one();
    }
}

impl Exports {
    /// Looks at every lent device once, at all at the same time: one that is slow delays no other. True if one is about to
    /// change.
    async fn look(&self) -> bool {
        let exports = self.records.facts().exports.clone();
        let looks = exports.into_iter().map(|(place, export)| self.look_at(place, export));
        join_all(looks).await.contains(&true)
    }

    async fn look_at(&self, place: PortPath, export: Export) -> bool {
        let place = &place;
        let request = Request { peer: export.peer.clone(), claim: export.claim.clone(), device: export.device.clone() };
        // Asked first: no place is held while the API server is.
        let verdict = self.judge(&request).await;
        let Some(mut held) = self.hold(place) else { return true };
        if self.records.facts().exports.get(place) != Some(&export) {
            return true;
        }
        let Some(status) = self.status(place).await else {
            self.forget(place).await;
            held.acted = true;
            return false;
        };
        let in_session = status == ExportStatus::Used;
        // While the API server is silent everything stays as it is.
        let Ok(verdict) = verdict else { return !in_session };
        let contested = {
            let contenders = self.contenders.lock().unwrap_or_else(PoisonError::into_inner);
            contenders.values().any(|r| r.device == request.device && r.claim != request.claim)
        };
        // The kernel goes on showing a session for a moment after its end, and tells nobody when it stops.
        let unsettled = !in_session || verdict != Verdict::Grant;
        let withdrawn_for = self.withdrawn_for(place, &verdict);
        let result = match keeping(&Bound { in_session, verdict: Some(verdict), contested, withdrawn_for }) {
            Keeping::Keep => return unsettled,
            Keeping::Cut => self.end(place).await,
            Keeping::Release => {
                let released = self.release(&request.device, place).await;
                if released.is_ok() {
                    self.forget(place).await;
                }
                released
            }
        };
        match result {
            Ok(()) => {
                held.acted = true;
                tracing::info!(device = %request.device, peer = %request.peer, "taken back");
                false
            }
            Err(why) => {
                tracing::warn!(device = %request.device, why, "not taken back; trying again");
                true
            }
        }
    }

    /// How long the assignment of what is lent from a place has been withdrawn, as far as this agent has seen.
    fn withdrawn_for(&self, place: &PortPath, verdict: &Verdict) -> Duration {
        let mut all = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(verdict, Verdict::Withdrawn(_)) {
            all.entry(place.clone()).or_insert_with(Instant::now).elapsed()
        } else {
            all.remove(place);
            Duration::ZERO
        }
    }

    /// Forgets for whom a device was bound: there is room for another.
    async fn forget(&self, place: &PortPath) {
        let (records, path) = (self.records.clone(), place.clone());
        let changed = blocking(move || records.change(|f| drop(f.exports.remove(&path))).map_err(|e| e.to_string()));
        if let Err(why) = changed.await {
            tracing::warn!(why, "records not written");
        }
    }
}
