//! The controller's shell: watches, snapshots, calls the planner, and writes what it says.
//!
//! ```text
//!   watches --> caches --(5 ms after the first change)--> world --> plan --> ledger --> writes (16 at a time)
//!                  ^                                                           ^           |
//!                  |                                                           +-- done ---+--> herald --> Events
//!                  +--------------------- the API server tells what happened --------------+
//! ```
//!
//! One task owns all of it; only the lease, the herald and the signer of agents have tasks of their own. Nothing is decided here but the order of writes: what
//! is in the way of what is in [`target`], what need not be repeated in [`ledger`].
//!
//! | event | effect |
//! |---|---|
//! | a cache has changed | a plan for what has, 5 ms later; while there is something to write, when twice the time of the last one has passed |
//! | a write has ended | the next one of the last plan begins; a plan, if something waited for just this one |
//! | the time the plan asked for, a pause is over | a plan |
//! | 30 s | a plan, compared with one for everything |
//! | the lease is lost | the process ends |
//! | SIGTERM, SIGINT | the lease is given back, the process ends |

mod act;
mod cache;
mod herald;
mod leader;
mod ledger;
mod report;
mod signer;
mod snapshot;
mod target;
mod watch;

use std::collections::{BTreeSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll, StreamExt};
use jiff::Timestamp;
use kube::Client;
use patchbay_core::conditions::Seconds;
use patchbay_core::controller::Action;
use patchbay_core::controller::census;
use patchbay_core::controller::events::{Notice, notices};
use patchbay_core::controller::stopwatch::Stopwatch;
use tokio::signal::unix::{SignalKind, signal};

use crate::connection;
use crate::metrics::{ControllerMetrics, Scrape};
use act::{ActError, Actor, Done};
use herald::Herald;
use leader::{Candidate, Leadership};
use ledger::{Ledger, Verdict};
use signer::Signer;
use snapshot::Caches;
use target::Target;
use watch::Seen;

/// Changes that come together are planned for together.
const COALESCE: Duration = Duration::from_millis(5);

/// After a plan none is made for so many times as long as it took, unless all that it says is done before, so that most of the time is
/// left for that: of ten thousand devices that are new each write is news.
const REST: u32 = 2;

/// The plan for what has changed is compared so often with one for everything.
const NET: Duration = Duration::from_secs(30);

/// The most writes at a time.
const MOST_WRITES: usize = 16;

/// Options of `patchbay controller`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Image that attachment pods run: the one of this program
    #[arg(long, env = "PATCHBAY_IMAGE")]
    image: String,
    /// Namespace of the installation; that of the service account or kubeconfig if not given
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// Name in the lease, different for each process; made from host and process if not given
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    #[command(flatten)]
    scrape: Scrape,
}

/// Runs until a signal or the loss of the lease ends it.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(control(args))
}

async fn control(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let client = connection::open(watch::LASTS).await?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let identity = args.identity.unwrap_or_else(identity);

    let (tell, leadership) = tokio::sync::watch::channel(Leadership::Standby);
    let mut signer = Signer::new(&client, &namespace, leadership.clone());
    let (metrics, registry) = ControllerMetrics::new();
    args.scrape.serve(registry).await;
    let mut shell = Shell::new(&client, args.image, identity.clone(), leadership, metrics);
    let candidate = Candidate::new(client, &namespace, identity);
    let ended = tokio::select! {
        () = candidate.run(&tell) => Err(anyhow::anyhow!("another controller has taken the lease")),
        never = shell.run() => match never {},
        never = signer.run() => match never {},
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    };
    match ended {
        Ok(signal) => {
            tracing::info!(signal, "ending");
            candidate.release().await;
            Ok(())
        }
        Err(error) => bail!(error),
    }
}

/// A name for this process.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

/// A write that has ended.
struct Ended {
    action: Action,
    /// What is to be told if it was done.
    notices: Vec<Notice>,
    result: Result<Done, ActError>,
    took: Duration,
}

/// The loop and all it owns.
struct Shell {
    watches: SelectAll<BoxStream<'static, Seen>>,
    caches: Caches,
    actor: Actor,
    herald: Herald,
    ledger: Ledger,
    writes: FuturesUnordered<BoxFuture<'static, Ended>>,
    leadership: tokio::sync::watch::Receiver<Leadership>,
    jitter: RandomState,
    metrics: ControllerMetrics,
    stopwatch: Stopwatch,
    /// What the stopwatch counts from.
    begun: Instant,
    /// What the last plan says and there was no room for: it goes on with it as writes end.
    backlog: VecDeque<Action>,
    /// An action waits for a certain write to end.
    waiting: bool,
    /// No plan before.
    rested: Instant,
    /// When to plan next, if it has rested.
    due: Instant,
    /// When plans were compared last.
    checked: Instant,
}

impl Shell {
    fn new(
        client: &Client,
        image: String,
        identity: String,
        leadership: tokio::sync::watch::Receiver<Leadership>,
        metrics: ControllerMetrics,
    ) -> Self {
        Self {
            watches: watch::all(client),
            caches: Caches::default(),
            actor: Actor::new(client.clone(), image),
            herald: Herald::new(client.clone(), identity, metrics.clone()),
            ledger: Ledger::default(),
            writes: FuturesUnordered::new(),
            leadership,
            jitter: RandomState::new(),
            metrics,
            stopwatch: Stopwatch::default(),
            begun: Instant::now(),
            backlog: VecDeque::new(),
            waiting: false,
            rested: Instant::now(),
            due: Instant::now() + NET,
            checked: Instant::now(),
        }
    }

    async fn run(&mut self) -> std::convert::Infallible {
        loop {
            tokio::select! {
                Some(seen) = self.watches.next() => self.see(seen),
                Some(ended) = self.writes.next() => self.end(ended),
                Ok(()) = self.leadership.changed() => self.hurry(Duration::ZERO),
                () = tokio::time::sleep_until(self.due.max(self.rested).into()) => self.due = self.step(),
            }
        }
    }

    /// Plans after `pause`, if it has rested.
    fn hurry(&mut self, pause: Duration) {
        self.due = self.due.min(Instant::now() + pause);
    }

    /// Takes in all news there are.
    fn see(&mut self, seen: Seen) {
        let mut changed = self.caches.apply(seen);
        while let Some(Some(seen)) = self.watches.next().now_or_never() {
            changed |= self.caches.apply(seen);
        }
        if changed {
            self.hurry(COALESCE);
        }
    }

    /// Notes how a write has ended.
    fn end(&mut self, Ended { action, notices, result, took }: Ended) {
        let now = Instant::now();
        let outcome = result.as_ref().map_or_else(report::outcome, |_| "done");
        self.metrics.wrote(report::what(&action), outcome, took);
        match result {
            Ok(Done { effect, written }) => {
                report::done(&action, took);
                self.ledger.done(&action, effect, now);
                if let Some(uid) = written {
                    self.herald.tell(notices, &uid);
                }
            }
            Err(error) => {
                let pause = self.ledger.fail(&action, self.jitter.hash_one(now), now);
                report::failed(&action, &error, pause);
                self.hurry(pause);
            }
        }
        if std::mem::take(&mut self.waiting) {
            self.hurry(Duration::ZERO);
        }
        // What was planned by a leader is done by one.
        while self.ledger.running() < MOST_WRITES && self.leadership.borrow().is_certain(now) {
            let Some(action) = self.backlog.pop_front() else { break };
            if let Some(until) = self.admit(action, now) {
                self.due = self.due.min(until);
            }
        }
        if self.ledger.running() == 0 && self.backlog.is_empty() {
            self.rested = now;
        }
    }

    /// Starts an action if it may be started. Where it has to wait for a time, that time.
    fn admit(&mut self, action: Action, now: Instant) -> Option<Instant> {
        match self.ledger.admit(&action, &self.caches.look(&Target::of(&action)), now) {
            Verdict::Go if self.ledger.running() < MOST_WRITES => {
                self.ledger.start(&action);
                self.writes.push(write(&self.actor, &self.caches, action));
            }
            Verdict::Go => self.backlog.push_back(action),
            Verdict::Busy => self.waiting = true,
            Verdict::Wait(until) => return Some(until),
        }
        None
    }

    /// Plans, and starts what may be started. Returns when to plan next.
    fn step(&mut self) -> Instant {
        let now = Instant::now();
        let mut next = now + NET;
        if !self.leadership.borrow().is_certain(now) || !self.caches.synced() {
            self.metrics.stands_by();
            self.stopwatch.stop();
            self.backlog.clear();
            return next;
        }
        let doubted = now >= self.checked + NET;
        if doubted {
            self.checked = now;
        }
        next = self.checked + NET;
        let plan = self.caches.plan(Timestamp::now().as_second(), doubted);
        let took = now.elapsed();
        let world = self.caches.world();
        let actions: Vec<_> = plan.actions.into_iter().filter(|a| !target::is_done(a, world)).collect();
        let mut planned = BTreeSet::new();
        self.backlog.clear();
        for action in actions {
            planned.insert(Target::of(&action));
            next = self.admit(action, now).map_or(next, |until| next.min(until));
        }
        self.ledger.retain(&planned, now);
        if let Some(wake) = plan.wake_at {
            next = next.min(now + until(wake));
        }
        // To count all there is takes longer than to plan for what has changed.
        let world = self.caches.world();
        let laps = self.stopwatch.look(world, now.duration_since(self.begun));
        self.metrics.planned(census::count(world), laps, took);
        if self.ledger.running() > 0 {
            self.rested = Instant::now() + now.elapsed() * REST;
        }
        next
    }
}

/// Begins to do what an action says.
fn write(actor: &Actor, caches: &Caches, action: Action) -> BoxFuture<'static, Ended> {
    let (notices, writing) = (notices(&action, caches.world()), actor.act(&action, caches));
    let begun = Instant::now();
    let ended = move |result| Ended { action, notices, result, took: begun.elapsed() };
    writing.map(ended).boxed()
}

/// How long it is until a time; never nothing, so that a plan that asks for the past does not keep us busy.
fn until(time: Seconds) -> Duration {
    let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or(0));
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    left.max(Duration::from_millis(100)) + Duration::from_millis(1)
}
