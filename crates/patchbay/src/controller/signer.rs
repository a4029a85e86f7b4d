//! The signer of agents: keeps the authorities, tells agents whom to believe, and answers their requests.
//!
//! ```text
//!   Secret --> authorities --> plan --> Secret       (one is made, one is forgotten)
//!                               |
//!                               +-----> ConfigMap    (the certificates of all)
//!                               +-----> the one that signs <-- CertificateSigningRequests
//! ```
//!
//! Every decision is [`patchbay_core::trust`]'s. Only the leader writes, in this order: an authority signs nothing before it is
//! in the Secret and its certificate is in the ConfigMap. It has a task of its own: who waits for a certificate does not wait
//! for devices, and the other way round.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures::stream::{self, BoxStream, SelectAll, StreamExt, select_all};
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use patchbay_api::{authorities, certificate_request};
use patchbay_core::conditions::Seconds;
use patchbay_core::trust;
use patchbay_core::trust::request::Step;
use patchbay_link::pkcs10;
use serde::de::DeserializeOwned;

use super::leader::Leadership;
use super::{report, watch};

mod answer;
mod keep;

use answer::Answers;
use keep::Keeper;

/// What fails is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// All is looked at so often even if nothing seems to have changed.
const NET: Duration = Duration::from_secs(30);

/// Requests that are answered at a time.
const MOST_ANSWERS: usize = 8;

/// The longest that one request to the API server may take.
const REQUEST: Duration = Duration::from_secs(5);

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
enum SignerError {
    /// The API server refused, or could not be reached.
    #[error("the API server has not taken it")]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("no answer from the API server within {REQUEST:?}")]
    Late,
    /// An authority cannot be made, or does not sign.
    #[error(transparent)]
    Authority(#[from] patchbay_link::AuthorityError),
}

/// What a watch has told.
enum Seen {
    /// A request is there, or has changed.
    Request(Box<CertificateSigningRequest>),
    /// A request is gone.
    Gone(String),
    /// Secret or ConfigMap may have changed.
    Authorities,
}

/// The signer.
pub(super) struct Signer {
    seen: SelectAll<BoxStream<'static, Seen>>,
    keeper: Keeper,
    answers: Answers,
    leadership: tokio::sync::watch::Receiver<Leadership>,
    /// It was certain that this one leads, when that was last looked at.
    led: bool,
    /// Requests that are to be looked at.
    open: BTreeMap<String, CertificateSigningRequest>,
    /// The authorities are to be looked at by this time (seconds of the epoch).
    due: Seconds,
}

impl Signer {
    /// For an installation in `namespace`.
    pub(super) fn new(client: &Client, namespace: &str, leadership: tokio::sync::watch::Receiver<Leadership>) -> Self {
        Self {
            seen: watches(client, namespace),
            keeper: Keeper::new(client, namespace),
            answers: Answers::new(client, trust::account(namespace)),
            leadership,
            led: false,
            open: BTreeMap::new(),
            due: Seconds::MIN,
        }
    }

    /// Runs for ever.
    pub(super) async fn run(&mut self) -> Infallible {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                Some(seen) = self.seen.next() => {
                    self.see(seen);
                    next = Instant::now();
                }
                // The lease is renewed every few seconds, which is no news.
                Ok(()) = self.leadership.changed() => {
                    if !self.led && self.leadership.borrow_and_update().is_certain(Instant::now()) {
                        next = Instant::now();
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {
                    next = Instant::now() + self.step().await;
                }
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Request(request) => drop(self.open.insert(request.name_any(), *request)),
            Seen::Gone(name) => drop(self.open.remove(&name)),
            Seen::Authorities => self.due = Seconds::MIN,
        }
    }

    /// Does what is to be done. Returns how long there is nothing else.
    async fn step(&mut self) -> Duration {
        let leads = self.leadership.borrow().is_certain(Instant::now());
        if !std::mem::replace(&mut self.led, leads) {
            // Another one may have written while this one did not lead.
            self.due = Seconds::MIN;
        }
        if !leads {
            return NET;
        }
        let now = Timestamp::now().as_second();
        if self.due <= now {
            match self.keeper.keep(now).await {
                Ok(wake_at) => self.due = wake_at,
                Err(error) => {
                    tracing::warn!(error = report::say(&error), again = ?AGAIN, "cannot keep the authorities of agents");
                    return AGAIN;
                }
            }
        }
        let Some(authority) = self.keeper.signs() else { return AGAIN };
        let (answers, open) = (&self.answers, std::mem::take(&mut self.open));
        let results = stream::iter(open.into_values())
            .map(|request| async move {
                let result = answers.answer(&request, authority).await;
                (request, result)
            })
            .buffer_unordered(MOST_ANSWERS)
            .collect::<Vec<_>>()
            .await;
        for (request, result) in results {
            if let Err(error) = result {
                let name = request.name_any();
                tracing::warn!(name, error = report::say(&error), again = ?AGAIN, "cannot answer a request for a certificate");
                self.open.insert(name, request);
            }
        }
        if self.open.is_empty() { NET } else { AGAIN }
    }
}

fn watches(client: &Client, namespace: &str) -> SelectAll<BoxStream<'static, Seen>> {
    // Of the Secret only the metadata: its keys are read when they are needed.
    let secret = Api::<PartialObjectMeta<Secret>>::namespaced(client.clone(), namespace);
    let map = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), namespace);
    let named = format!("metadata.name={}", authorities::NAME);
    select_all([
        stream(secret, &named, |_| Some(Seen::Authorities)),
        stream(map, &named, |_| Some(Seen::Authorities)),
        stream(Api::<CertificateSigningRequest>::all(client.clone()), &certificate_request::selector(), |event| {
            match event {
                Event::InitApply(request) | Event::Apply(request) => Some(Seen::Request(Box::new(request))),
                Event::Delete(request) => Some(Seen::Gone(request.name_any())),
                Event::Init | Event::InitDone => None,
            }
        }),
    ])
}

fn stream<K>(api: Api<K>, fields: &str, see: fn(Event<K>) -> Option<Seen>) -> BoxStream<'static, Seen>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let config = watcher::Config { timeout: u32::try_from(watch::LASTS.as_secs()).ok(), ..watcher::Config::default() };
    let events = watcher(api, config.fields(fields)).default_backoff();
    events.filter_map(move |event| std::future::ready(watch::note(event).and_then(see))).boxed()
}

async fn request<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, SignerError> {
    Ok(tokio::time::timeout(REQUEST, asking).await.map_err(|_| SignerError::Late)??)
}
