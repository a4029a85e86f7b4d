//! The ResourceSlice publisher: keeps the slices in the API equal to what the
//! driver wants.
//!
//! One loop: observe (watch), plan ([`crate::slices`]), write, publish the
//! status. What the driver wants is written at once. What somebody else did to
//! the slices (edits, deletions) and what failed is repaired after a pause that grows
//! from 1 s to 30 s, so that two writers never spin. Every 10 minutes everything is
//! read anew. Slices belong to the Node object, so they go when the node is
//! deleted, and come back when it is made again.
//!
//! Until the driver has said for the first time what it wants, nothing is
//! touched. Slices stay when the publisher ends: a driver that restarts must not
//! take its devices away from anybody.

use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::driver::chain;
use crate::observed::{Noticed, Observed};
use crate::pool::Pool;
use crate::slices::{self, Action, PoolPlan, Publishing};

/// For every single request to the API.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// How patient the publisher is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The first pause before a repair or a retry.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// How often everything is read anew.
    pub resync: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(30), resync: Duration::from_secs(600) }
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
        let worker = Worker {
            slices: Api::all(client.clone()),
            nodes: Api::all(client),
            observed: Observed::new(publishing.clone()),
            publishing,
            wanted,
            wanted_closed: false,
            patience,
            backoff: Backoff::new(patience.first, patience.longest),
            owner: None,
            at_once: true,
            not_before: None,
            status: publish,
        };
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

/// What the loop does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Waits for the next event.
    Wait,
    /// Reads everything anew.
    Relist,
}

struct Worker {
    slices: Api<ResourceSlice>,
    nodes: Api<Node>,
    publishing: Publishing,
    observed: Observed,
    wanted: watch::Receiver<Option<Vec<Pool>>>,
    wanted_closed: bool,
    patience: Patience,
    backoff: Backoff,
    /// The Node object; looked up when not known.
    owner: Option<OwnerReference>,
    /// The driver wants something new: do not pause.
    at_once: bool,
    /// A pause is on.
    not_before: Option<Instant>,
    status: watch::Sender<PublisherStatus>,
}

impl Worker {
    async fn run(mut self) {
        if self.wanted.wait_for(Option::is_some).await.is_err() {
            return;
        }
        self.look_at_wanted();
        loop {
            let config = watcher::Config::default().fields(&format!("spec.driver={}", self.publishing.driver));
            let pauses = Pauses(Backoff::new(self.patience.first, self.patience.longest));
            let events = watcher::watcher(self.slices.clone(), config).backoff(pauses);
            self.follow(pin!(events)).await;
            self.owner = None;
        }
    }

    /// Follows one watch until everything is to be read anew.
    async fn follow(&mut self, mut events: impl Stream<Item = watcher::Result<watcher::Event<ResourceSlice>>> + Unpin) {
        let resync = Instant::now() + self.patience.resync;
        loop {
            let pause_ends = self.not_before.unwrap_or(resync);
            tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some(Err(error)) => {
                        tracing::warn!(error = chain(&error), "slices not watched; will be tried again");
                        continue;
                    }
                    Some(Ok(event)) => match self.observed.event(event) {
                        Noticed::Nothing => continue,
                        Noticed::Changed => {}
                        // It may be gone because the Node object is.
                        Noticed::Lost => self.owner = None,
                    },
                },
                changed = self.wanted.changed(), if !self.wanted_closed => {
                    if changed.is_err() {
                        self.wanted_closed = true;
                        continue;
                    }
                    if self.look_at_wanted() == Next::Relist {
                        return;
                    }
                }
                () = sleep_until(pause_ends), if self.not_before.is_some() => {}
                () = sleep_until(resync) => return,
            }
            if self.reconcile().await == Next::Relist {
                return;
            }
        }
    }

    /// Takes note that the driver wants something new.
    fn look_at_wanted(&mut self) -> Next {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else {
            return Next::Wait;
        };
        self.at_once = true;
        let names = wanted.iter().map(|pool| pool.name().to_owned()).collect();
        match self.observed.set_pools(names) {
            true => Next::Relist,
            false => Next::Wait,
        }
    }

    /// Plans and writes, unless a pause is on or has to begin.
    async fn reconcile(&mut self) -> Next {
        let pausing = self.not_before.is_some_and(|until| until > Instant::now());
        let known = self.observed.is_listed() && self.wanted.borrow().is_some();
        if !known || (pausing && !self.at_once) {
            return Next::Wait;
        }
        let owner = match &self.owner {
            Some(owner) => owner.clone(),
            None => match self.find_owner().await {
                Ok(owner) => owner,
                Err(problem) => return self.failed(problem, Next::Wait),
            },
        };
        let plans = self.plan(&owner);
        if plans.is_empty() {
            return self.in_sync();
        }
        if !self.at_once && self.not_before.is_none() {
            self.pause();
            self.report(|status| status.in_sync = false);
            return Next::Wait;
        }
        let failures = self.execute(plans).await;
        match failures.into_iter().next() {
            Some(failure) if failure.outdated => self.failed(failure.problem, Next::Relist),
            Some(failure) => self.failed(failure.problem, Next::Wait),
            None if self.plan(&owner).is_empty() => self.in_sync(),
            None => self.failed("the slices differ from what was written".into(), Next::Wait),
        }
    }

    fn plan(&self, owner: &OwnerReference) -> Vec<PoolPlan> {
        slices::plan(
            &self.publishing,
            owner,
            self.wanted.borrow().as_deref().unwrap_or_default(),
            &self.observed.slices(),
            self.observed.floors(),
        )
    }

    /// Writes; a failure ends the writes of its pool, not those of others.
    async fn execute(&mut self, plans: Vec<PoolPlan>) -> Vec<Failure> {
        let mut failures = Vec::new();
        for plan in plans {
            for action in plan.actions {
                match self.act(&action).await {
                    Ok(()) => self.report(|status| status.writes += 1),
                    Err(failure) => {
                        failures.push(failure);
                        break;
                    }
                }
            }
        }
        failures
    }

    async fn act(&mut self, action: &Action) -> Result<(), Failure> {
        let params = PostParams { field_manager: Some(self.publishing.driver.clone()), ..PostParams::default() };
        match action {
            Action::Create(slice) => {
                let got = request("create", slice, self.slices.create(&params, slice)).await?;
                self.wrote(slice, got);
            }
            Action::Update(slice) => {
                let name = slice.name_any();
                let write = self.slices.replace(&name, &params, slice);
                let got = request("update", slice, write).await?;
                self.wrote(slice, got);
            }
            Action::Delete { name, uid } => {
                let params = DeleteParams {
                    preconditions: uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
                    ..DeleteParams::default()
                };
                let delete = timeout(REQUEST_DEADLINE, self.slices.delete(name, &params));
                match delete.await {
                    Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {}
                    Ok(Err(error)) => return Err(Failure::new("delete", name, &error)),
                    Err(_) => return Err(Failure::timeout("delete", name)),
                    Ok(Ok(_)) => {}
                }
                tracing::info!(slice = name, "slice deleted");
                self.observed.deleted(name);
            }
        }
        Ok(())
    }

    fn wrote(&mut self, sent: &ResourceSlice, got: ResourceSlice) {
        let (slice, pool) = (got.name_any(), sent.spec.pool.clone());
        tracing::info!(slice, pool = pool.name, generation = pool.generation, "slice written");
        if self.observed.wrote(sent, got) {
            tracing::warn!(slice, "the API server altered the slice (fields it does not know?)");
        }
    }

    /// The Node object as an owner.
    async fn find_owner(&mut self) -> Result<OwnerReference, String> {
        let name = &self.publishing.node;
        let node = timeout(REQUEST_DEADLINE, self.nodes.get_opt(name))
            .await
            .map_err(|_| format!("node {name}: the API server did not answer in time"))?
            .map_err(|error| format!("node {name} could not be read: {}", chain(&error)))?
            .ok_or_else(|| format!("node {name} does not exist in the API (yet)"))?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid: node.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        self.owner = Some(owner.clone());
        Ok(owner)
    }

    fn in_sync(&mut self) -> Next {
        self.at_once = false;
        self.not_before = None;
        self.report(|status| {
            status.in_sync = true;
            status.problem = None;
        });
        Next::Wait
    }

    fn failed(&mut self, problem: String, next: Next) -> Next {
        tracing::warn!(problem, "slices not published; will be tried again");
        self.at_once = false;
        self.pause();
        self.report(|status| {
            status.in_sync = false;
            status.problem = Some(problem);
        });
        next
    }

    fn pause(&mut self) {
        let now = Instant::now();
        self.not_before = Some(now + self.backoff.next(now));
    }

    fn report(&self, change: impl FnOnce(&mut PublisherStatus)) {
        self.status.send_if_modified(|status| {
            let before = status.clone();
            change(status);
            *status != before
        });
    }
}

/// Why a write failed.
struct Failure {
    problem: String,
    /// The API has something else than was observed.
    outdated: bool,
}

impl Failure {
    fn new(verb: &str, slice: &str, error: &kube::Error) -> Self {
        let outdated = matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409 | 410));
        Self { problem: format!("{verb} slice {slice}: {}", chain(error)), outdated }
    }

    fn timeout(verb: &str, slice: &str) -> Self {
        Self { problem: format!("{verb} slice {slice}: the API server did not answer in time"), outdated: false }
    }
}

/// A write with its deadline.
async fn request(
    verb: &str,
    slice: &ResourceSlice,
    write: impl Future<Output = kube::Result<ResourceSlice>>,
) -> Result<ResourceSlice, Failure> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    match timeout(REQUEST_DEADLINE, write).await {
        Ok(Ok(got)) => Ok(got),
        Ok(Err(error)) => Err(Failure::new(verb, name, &error)),
        Err(_) => Err(Failure::timeout(verb, name)),
    }
}

/// Pauses of the watch between failed attempts.
struct Pauses(Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0.next(Instant::now()))
    }
}

impl kube::runtime::utils::Backoff for Pauses {
    fn reset(&mut self) {
        // Starts over by itself after a quiet time.
    }
}
