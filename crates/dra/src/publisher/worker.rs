//! The publisher's loop: observe, plan, write, report.

use std::pin::pin;

use futures::{Stream, StreamExt};
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::watches::{self, Told};
use super::writer::{Failure, Kind, Writer};
use super::{Patience, PublisherStatus};
use crate::backoff::Backoff;
use crate::driver::chain;
use crate::observed::{Noticed, Observed};
use crate::pace::Pace;
use crate::pool::Pool;
use crate::slices::{self, Action, PoolPlan, Publishing};

/// What the loop does next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Waits for the next event.
    Wait,
    /// Reads everything anew.
    Relist,
}

/// The loop and what it knows.
pub(super) struct Worker {
    writer: Writer,
    publishing: Publishing,
    observed: Observed,
    wanted: watch::Receiver<Option<Vec<Pool>>>,
    wanted_closed: bool,
    patience: Patience,
    backoff: Backoff,
    pace: Pace,
    /// The Node object; looked up when not known.
    owner: Option<OwnerReference>,
    /// The driver wants something new: do not pause.
    at_once: bool,
    /// A pause is on.
    not_before: Option<Instant>,
    status: watch::Sender<PublisherStatus>,
}

impl Worker {
    pub(super) fn new(
        client: Client,
        publishing: Publishing,
        wanted: watch::Receiver<Option<Vec<Pool>>>,
        patience: Patience,
        status: watch::Sender<PublisherStatus>,
    ) -> Self {
        Self {
            writer: Writer::new(client, publishing.clone()),
            observed: Observed::new(publishing.clone()),
            publishing,
            wanted,
            wanted_closed: false,
            pace: Pace::new(patience.burst, patience.interval),
            patience,
            backoff: Backoff::new(patience.first, patience.longest),
            owner: None,
            at_once: true,
            not_before: None,
            status,
        }
    }

    pub(super) async fn run(mut self) {
        if self.wanted.wait_for(Option::is_some).await.is_err() {
            return;
        }
        self.look_at_wanted();
        loop {
            let events = watches::open(&self.writer.slices(), &self.publishing, self.patience);
            self.follow(pin!(events)).await;
            self.owner = None;
        }
    }

    /// Follows the watches until everything is to be read anew.
    async fn follow(&mut self, mut events: impl Stream<Item = Told> + Unpin) {
        let resync = Instant::now() + self.patience.resync;
        loop {
            let pause_ends = self.not_before.unwrap_or(resync);
            tokio::select! {
                event = events.next() => match event {
                    None => return,
                    Some((_, Err(error))) => {
                        tracing::warn!(error = chain(&error), "slices not watched; will be tried again");
                        continue;
                    }
                    Some((share, Ok(event))) => match self.observed.event(share, event) {
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
        let names = self
            .wanted
            .borrow_and_update()
            .as_ref()
            .map(|pools| pools.iter().map(Pool::name).map(str::to_owned).collect());
        let Some(names) = names else {
            return Next::Wait;
        };
        self.at_once = true;
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
        let now = Instant::now();
        let leave = self.pace.next(now);
        if self.at_once && leave > now {
            self.at_once = false;
            self.not_before = Some(leave);
            self.report(|status| status.in_sync = false);
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
        self.pace.take(Instant::now());
        let failures = self.execute(plans).await;
        match failures.into_iter().next() {
            Some(failure) if failure.kind == Kind::Outdated => self.failed(failure.problem, Next::Relist),
            Some(failure) => self.failed(failure.problem, Next::Wait),
            None if self.plan(&owner).is_empty() => self.in_sync(),
            // The driver wants something else by now, which is looked at next. That is no failure, and begins no pause.
            None if self.wanted.has_changed().unwrap_or(false) => self.overtaken(),
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
        match action {
            Action::Create(slice) => {
                let made = self.writer.create(slice).await;
                if made.as_ref().is_err_and(|failure| failure.kind == Kind::Taken) {
                    // No watch tells of it when it has the label of another node.
                    if let Some(there) = self.writer.named(&slice.name_any()).await? {
                        self.observed.found(there);
                    }
                }
                self.wrote(slice, made?);
            }
            Action::Update(slice) => self.wrote(slice, self.writer.update(slice).await?),
            Action::Delete { name, uid } => {
                self.writer.delete(name, uid.as_deref()).await?;
                self.observed.deleted(name);
            }
        }
        Ok(())
    }

    fn wrote(&mut self, sent: &ResourceSlice, got: ResourceSlice) {
        let slice = got.name_any();
        if self.observed.wrote(sent, got) {
            tracing::warn!(slice, "the API server altered the slice (fields it does not know?)");
        }
    }

    /// The Node object as an owner.
    async fn find_owner(&mut self) -> Result<OwnerReference, String> {
        let owner = self.writer.find_owner().await?;
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

    fn overtaken(&mut self) -> Next {
        self.at_once = false;
        self.not_before = None;
        self.report(|status| status.in_sync = false);
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
