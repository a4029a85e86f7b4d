//! Prepare and unprepare of one claim: what surrounds every driver's own work.
//!
//! Prepare, in this order: wait for the claim's turn; read the claim; a claim
//! that is prepared already is answered from the journal, also when the API is
//! away; a claim that was allocated anew since is first undone; `Preparing` goes
//! to the disk; the driver acts; its answer goes to the disk; the driver may let
//! the kubelet wait for it.
//!
//! A claim keeps its uid when the scheduler takes its devices back and allocates
//! others (a claim that outlives its pods). That is why the journal's answer is
//! compared with the API's allocation whenever the API answers.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use crate::claims::{self, ClaimError};
use crate::driver::{AllocatedClaim, AllocatedDevice, ClaimRef, Driver, DriverError, Prepared, PreparedDevice, chain};
use crate::journal::{Journal, JournalError, Record, State};
use crate::turns::Turns;

/// Why a claim was not prepared or unprepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(
        "the driver answered with device {pool}/{device} for request {request}, which is not allocated to the claim"
    )]
    NotAllocated { request: String, pool: String, device: String },
}

/// Does the work on claims; shared by all calls.
pub(crate) struct Preparer {
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) driver_name: String,
    pub(crate) client: Client,
    pub(crate) journal: Journal,
    pub(crate) turns: Turns,
    pub(crate) read_deadline: Duration,
}

impl Preparer {
    /// Prepares one claim.
    pub(crate) async fn prepare(&self, asked: &ClaimRef) -> Result<Vec<PreparedDevice>, PrepareError> {
        let turn = self.turns.take(&asked.uid).await;
        let known = self.journal.records().get(&asked.uid).cloned();
        let claim = match self.resolve(asked).await {
            Ok(claim) => claim,
            Err(error) => return answer_without_api(known, error),
        };
        match known {
            Some(record) if record.allocated != claim.devices => {
                tracing::info!(claim = %asked, "allocated anew: what was prepared before is undone");
                self.undo(asked, Some(&record)).await?;
                self.journal.put(&asked.uid, Record::preparing(&claim)).await?;
            }
            Some(record) if record.state == State::Prepared => return Ok(record.prepared),
            Some(_) => {
                self.journal.set_state(&asked.uid, State::Preparing).await?;
            }
            None => {
                self.journal.put(&asked.uid, Record::preparing(&claim)).await?;
            }
        }
        let devices = self.act(&claim).await?;
        tracing::info!(claim = %asked, uid = asked.uid, "claim prepared");
        // Who undoes it does not wait for its start.
        drop(turn);
        self.driver.before_start(&claim).await;
        Ok(devices)
    }

    /// Unprepares one claim, known or not.
    pub(crate) async fn unprepare(&self, asked: &ClaimRef) -> Result<(), PrepareError> {
        let _turn = self.turns.take(&asked.uid).await;
        let known = self.journal.records().get(&asked.uid).cloned();
        self.undo(asked, known.as_ref()).await?;
        // Also when nothing is known: the record of a prepare that was cut off may
        // still be on its way to the disk, and must not stay.
        self.journal.remove(&asked.uid).await?;
        tracing::info!(claim = %asked, uid = asked.uid, "claim unprepared");
        Ok(())
    }

    async fn resolve(&self, asked: &ClaimRef) -> Result<AllocatedClaim, ClaimError> {
        let claim = claims::fetch(&self.client, asked, self.read_deadline).await?;
        claims::resolve(&claim, asked, &self.driver_name)
    }

    /// Lets the driver act and keeps its answer.
    async fn act(&self, claim: &AllocatedClaim) -> Result<Vec<PreparedDevice>, PrepareError> {
        let Prepared { devices, data } = self.driver.prepare(claim).await?;
        check(&devices, &claim.devices)?;
        self.journal.finish(&claim.uid, devices.clone(), data).await?;
        Ok(devices)
    }

    /// Marks a known claim, so that nobody takes it for prepared any more, and
    /// lets the driver undo it.
    async fn undo(&self, asked: &ClaimRef, known: Option<&Record>) -> Result<(), PrepareError> {
        if known.is_some() {
            self.journal.set_state(&asked.uid, State::Unpreparing).await?;
        }
        Ok(self.driver.unprepare(asked, known).await?)
    }
}

/// A claim that is prepared needs no API: a kubelet that restarts while the API
/// is away must be able to go on.
fn answer_without_api(known: Option<Record>, error: ClaimError) -> Result<Vec<PreparedDevice>, PrepareError> {
    match known {
        Some(record) if record.state == State::Prepared && error.is_unanswered() => {
            tracing::warn!(error = chain(&error), "answering from the journal");
            Ok(record.prepared)
        }
        _ => Err(error.into()),
    }
}

/// A driver may answer for fewer devices than were allocated, never for others.
fn check(prepared: &[PreparedDevice], allocated: &[AllocatedDevice]) -> Result<(), PrepareError> {
    match prepared.iter().find(|prepared| !allocated.iter().any(|allocated| prepared.answers(allocated))) {
        None => Ok(()),
        Some(stranger) => Err(PrepareError::NotAllocated {
            request: stranger.request.clone(),
            pool: stranger.pool.clone(),
            device: stranger.device.clone(),
        }),
    }
}
