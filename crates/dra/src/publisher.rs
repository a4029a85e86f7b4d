//! The ResourceSlice publisher: keeps the slices in the API equal to what the
//! driver wants.
//!
//! One loop: observe (two watches), plan ([`crate::slices`]), write, publish the
//! status. What the driver wants is written at once, unless it changes its mind all the time: a device with a loose contact must
//! not flood the API server. What somebody else did to the slices (edits, deletions) and what failed is repaired after a pause that grows
//! from 1 s to 30 s, so that two writers never spin. Every 10 minutes everything is
//! read anew. Slices belong to the Node object, so they go when the node is
//! deleted, and come back when it is made again.
//!
//! Until the driver has said for the first time what it wants, nothing is
//! touched. Slices stay when the publisher ends: a driver that restarts must not
//! take its devices away from anybody.

mod watches;
mod worker;
mod writer;

use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::worker::Worker;
use crate::pool::Pool;
use crate::slices::Publishing;

/// How patient the publisher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first pause before a repair or a retry.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// How often everything is read anew.
    pub resync: Duration,
    /// How many changes of what the driver wants are written at once.
    pub burst: u32,
    /// How far apart those are written that come on top of them; each such time without one gives one of the burst back.
    pub interval: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            resync: Duration::from_secs(600),
            burst: 20,
            interval: Duration::from_secs(1),
        }
    }
}

/// How the publisher is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublisherStatus {
    /// Whether the slices were as wanted when last looked at.
    pub in_sync: bool,
    /// Successful writes since the start.
    pub writes: u64,
    /// What went wrong last, until it works again.
    pub problem: Option<String>,
}

/// A running publisher. Ends when dropped; the slices stay.
#[derive(Debug)]
pub struct SlicePublisher {
    status: watch::Receiver<PublisherStatus>,
    task: JoinHandle<()>,
}

impl SlicePublisher {
    /// Starts to publish what `wanted` holds; `None` means that it is not known
    /// yet. Needs get on nodes and list, watch, create, update and delete on
    /// resourceslices.
    pub fn start(
        client: Client,
        publishing: Publishing,
        wanted: watch::Receiver<Option<Vec<Pool>>>,
        patience: Patience,
    ) -> Self {
        let (publish, status) = watch::channel(PublisherStatus::default());
        let worker = Worker::new(client, publishing, wanted, patience, publish);
        Self { status, task: tokio::spawn(worker.run()) }
    }

    /// How it is doing, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<PublisherStatus> {
        self.status.clone()
    }
}

impl Drop for SlicePublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
