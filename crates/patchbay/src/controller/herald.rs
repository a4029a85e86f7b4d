//! Tells people what has become of devices and machines, in Events.
//!
//! ```text
//!   status written --tell--> queue --> memory: new, again or too much --> create or count, one after the other
//! ```
//!
//! It is a task of its own, and nobody waits for it. An Event that cannot be told in time, or for which the queue has no room,
//! is dropped: the condition it repeats is there in any case.

mod memory;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use patchbay_api::{event, keys};
use patchbay_core::controller::events::{Notice, Subject};
use patchbay_core::names::Uid;
use tokio::sync::mpsc;

use super::report;
use crate::metrics::{ControllerMetrics, Telling};
use memory::{Memory, Step};

/// So many may wait. When a node with a hundred devices dies, some four hundred do.
const WAITING: usize = 2048;

/// The longest that telling one may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why an Event was not told.
#[derive(Debug, thiserror::Error)]
enum HeraldError {
    /// The API server refused, or could not be reached.
    #[error("the API server has not taken it")]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("no answer from the API server within {DEADLINE:?}")]
    Late,
}

impl HeraldError {
    /// The namespace is going or gone, and with it whoever would read the Event.
    fn is_moot(&self) -> bool {
        let Self::Api(kube::Error::Api(status)) = self else { return false };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        status.code == 404 || causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
    }
}

/// Something to tell.
#[derive(Debug)]
struct News {
    notice: Notice,
    /// Of the object it is about.
    uid: Uid,
    /// When it came about.
    at: Timestamp,
}

/// Takes news, and tells them when it comes to it. Ends with the last of them when it is dropped.
pub(super) struct Herald {
    queue: mpsc::Sender<News>,
    metrics: ControllerMetrics,
    last: Timestamp,
}

impl Herald {
    /// Tells as `instance`.
    pub(super) fn new(client: Client, instance: String, metrics: ControllerMetrics) -> Self {
        let (queue, news) = mpsc::channel(WAITING);
        tokio::spawn(Crier { client, instance, metrics: metrics.clone(), memory: Memory::default() }.run(news));
        Self { queue, metrics, last: Timestamp::UNIX_EPOCH }
    }

    /// Has these told, in this order: of the object with this uid, and of nodes.
    pub(super) fn tell(&mut self, notices: Vec<Notice>, uid: &Uid) {
        for notice in notices {
            let at = self.now();
            let uid = match &notice.about {
                Subject::Node(name) => Uid::new(name.as_str()),
                _ => uid.clone(),
            };
            if let Err(error) = self.queue.try_send(News { notice, uid, at }) {
                self.metrics.tells(Telling::Dropped);
                tracing::warn!(%error, "an Event is dropped");
            }
        }
    }

    /// The time, in the microseconds of the API, but never the same twice: Events are sorted and named by it.
    fn now(&mut self) -> Timestamp {
        let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap_or(self.last);
        let next = self.last.checked_add(1.microsecond()).unwrap_or(self.last);
        self.last = now.max(next);
        self.last
    }
}

/// The task that tells.
struct Crier {
    client: Client,
    instance: String,
    metrics: ControllerMetrics,
    memory: Memory,
}

impl Crier {
    async fn run(mut self, mut queue: mpsc::Receiver<News>) {
        while let Some(news) = queue.recv().await {
            let about = news.notice.about.clone();
            match self.tell(news).await {
                Ok(telling) => self.metrics.tells(telling),
                Err(error) if error.is_moot() => {
                    tracing::debug!(?about, error = report::say(&error), "there is nobody to tell");
                }
                Err(error) => {
                    self.metrics.tells(Telling::Failed);
                    tracing::warn!(?about, error = report::say(&error), "cannot tell an Event");
                }
            }
        }
    }

    async fn tell(&mut self, news: News) -> Result<Telling, HeraldError> {
        let events = Api::<Event>::namespaced(self.client.clone(), event::namespace(&news.notice.about));
        match self.memory.next(&news.uid, &news.notice, Instant::now()) {
            Step::New => self.tell_anew(&events, news).await,
            Step::Again(name, count) => {
                let patch = Patch::Merge(event::series_patch(count, news.at));
                match within(events.patch(&name, &manager(), &patch)).await {
                    // Events do not live long, and somebody may have deleted this one.
                    Err(error) if error.is_moot() => self.tell_anew(&events, news).await,
                    told => told.map(|_| Telling::Counted),
                }
            }
            Step::Hold => {
                tracing::debug!(about = ?news.notice.about, "too much happens to tell it all");
                Ok(Telling::Held)
            }
        }
    }

    async fn tell_anew(&mut self, events: &Api<Event>, news: News) -> Result<Telling, HeraldError> {
        let event = event::build(&news.notice, &news.uid, news.at, &self.instance);
        let params = PostParams { field_manager: manager().field_manager, ..PostParams::default() };
        within(events.create(&params, &event)).await?;
        let name = event.metadata.name.unwrap_or_default();
        self.memory.told(&news.uid, news.notice, name, Instant::now());
        Ok(Telling::Told)
    }
}

fn manager() -> PatchParams {
    PatchParams { field_manager: Some(keys::CONTROLLER.to_owned()), ..PatchParams::default() }
}

async fn within<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, HeraldError> {
    Ok(tokio::time::timeout(DEADLINE, asking).await.map_err(|_| HeraldError::Late)??)
}
