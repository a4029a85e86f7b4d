//! Who this node is to others: its certificate is asked for, kept, renewed in time, and shown to whoever calls or answers.
//!
//! ```text
//!   ConfigMap patchbay-ca ----> ca.crt ---------+
//!                                               +--> identity --> calls, listener, moves
//!   key, request --> signed --> identity.pem ---+
//!        ^                          |
//!        +---- due, or not believed-+
//! ```
//!
//! When is [`patchbay_core::trust::renewal`]'s to say. What was signed is used for as long as it is valid, whether the API server or
//! the controller can be reached or not, also by the next agent: both files stay on the node. Nothing else of the agent waits
//! for any of this: devices are published and the kubelet is answered without.

mod ask;
mod files;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::{BoxFuture, FutureExt};
use futures::{Stream, StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use patchbay_api::authorities;
use patchbay_core::conditions::Seconds;
use patchbay_core::names::NodeName;
use patchbay_core::trust::renewal::{self, Held, Plan};
use patchbay_link::{Credentials, Identity, Standing, certificate};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::steps::{blocking, chain};
use ask::Request;
use files::{Files, Kept};

/// The pause before another try after one that has failed: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// After a certificate was signed no other one is asked for sooner, whatever is wrong with it: the ConfigMap may be late.
const SETTLES: Duration = Duration::from_secs(10);

/// So often the clock is looked at.
const NET: Duration = Duration::from_secs(60);

/// Why there is no other certificate yet, as long as nothing has failed.
const UNANSWERED: &str = "the controller has not signed the request of this node yet";

/// Keeps the certificate of a node.
struct Keeper {
    node: NodeName,
    client: Client,
    files: Files,
    kept: Kept,
    tell: watch::Sender<Standing>,
    /// What was told last is of these texts.
    told: Option<Kept>,
    /// Why there is no certificate yet, for people.
    missing: String,
}

/// Starts to keep the certificate of this node, with files in the folder `state`. `namespace` is that of the installation.
pub(super) fn keep(node: &NodeName, client: &Client, namespace: &str, state: &Path) -> Credentials {
    let files = Files::new(state);
    let missing = UNANSWERED.to_owned();
    let (tell, standing) = watch::channel(Err(missing.clone()));
    let kept = files.read();
    let mut keeper = Keeper { node: node.clone(), client: client.clone(), files, kept, tell, told: None, missing };
    // What a former agent was given is there from the first call on.
    keeper.look();
    let maps = Api::<ConfigMap>::namespaced(client.clone(), namespace);
    let bundles = watcher::watch_object(maps, authorities::NAME).default_backoff();
    tokio::spawn(keeper.run(bundles));
    Credentials::new(standing)
}

impl Keeper {
    async fn run(mut self, bundles: impl Stream<Item = watcher::Result<Option<ConfigMap>>>) {
        pin_mut!(bundles);
        let mut asking: Option<BoxFuture<'static, Result<String, String>>> = None;
        let (mut again, mut pause) = (Instant::now(), PAUSES.0);
        loop {
            let plan = self.look();
            if !plan.ask {
                pause = PAUSES.0;
            }
            if plan.ask && asking.is_none() && Instant::now() >= again {
                asking = Some(self.ask().boxed());
            }
            let due = plan.wake_at.map_or(NET, |at| until(at).min(NET));
            let wake = Instant::now() + due;
            let wake = if plan.ask && asking.is_none() { wake.min(again) } else { wake };
            tokio::select! {
                Some(bundle) = bundles.next() => match bundle {
                    Ok(Some(map)) => if self.believe(&map).await { again = Instant::now() },
                    Ok(None) => tracing::debug!("no ConfigMap says whom to believe: the last one counts"),
                    Err(error) => tracing::warn!(%error, "watch of the authorities: the last ones are believed"),
                },
                signed = wait(&mut asking) => {
                    asking = None;
                    let result = match signed {
                        Ok(pair) => self.accept(pair).await,
                        Err(why) => Err(why),
                    };
                    // Until one is signed that nothing is wrong with, the next is asked for later and later.
                    let rest = if result.is_ok() { pause.max(SETTLES) } else { pause };
                    (again, pause) = (Instant::now() + rest, (pause * 2).min(PAUSES.1));
                    if let Err(why) = &result {
                        tracing::warn!(why, again = ?rest, usable = plan.usable, "no new certificate");
                    }
                    self.missing = result.err().unwrap_or_else(|| UNANSWERED.to_owned());
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Looks at what there is, tells it if it is news, and says what is to be done.
    fn look(&mut self) -> Plan {
        let now = now();
        let validity = self.kept.pair.as_ref().and_then(|pair| certificate::validity(pair).ok());
        let identity = self.identity();
        let held = validity.map(|validity| {
            // Before the authorities are known nothing can be said against it.
            let believed = identity.is_ok() || self.kept.authorities.is_none() || !validity.holds(now);
            Held { validity, believed }
        });
        let plan = renewal::plan(held, now);
        match identity {
            Ok(identity) if plan.usable => self.show(identity),
            // One that was believed until now is used to its end: others may not know of the new authorities either.
            Err(_) if self.tell.borrow().as_ref().is_ok_and(|last| last.validity().holds(now)) => {}
            Ok(_) => {
                self.hide(format!("the certificate of this node has expired, or its clock is wrong; {}", self.missing))
            }
            Err(why) => self.hide(why),
        }
        plan
    }

    /// The identity that the texts make, or why they do not.
    fn identity(&self) -> Result<Identity, String> {
        identity(&self.node, &self.kept, &self.missing)
    }

    fn show(&mut self, identity: Identity) {
        if self.told.as_ref() == Some(&self.kept) {
            return;
        }
        let until = jiff::Timestamp::from_second(identity.validity().not_after).unwrap_or_default();
        tracing::info!(%until, "this node has a certificate");
        self.told = Some(self.kept.clone());
        drop(self.tell.send_replace(Ok(Arc::new(identity))));
    }

    fn hide(&mut self, why: String) {
        self.told = None;
        self.tell.send_if_modified(|standing| {
            let news = standing.as_ref().err() != Some(&why);
            if news {
                tracing::info!(why, "without a certificate this node neither calls other nodes nor answers them");
                *standing = Err(why);
            }
            news
        });
    }

    /// Takes over whom to believe. Whether that is news.
    async fn believe(&mut self, map: &ConfigMap) -> bool {
        let known = self.kept.authorities.as_deref();
        let Some(bundle) = authorities::bundle(map).filter(|bundle| known != Some(*bundle)).map(str::to_owned) else {
            return false;
        };
        tracing::info!("the authorities to believe are other ones");
        self.kept.authorities = Some(bundle.clone());
        self.store(move |files| files.believe(&bundle)).await;
        true
    }

    /// Takes over a certificate and its key. One that is not valid by the clock of this node does not take the place of one
    /// that is; it stays in its request, and is looked at again from there.
    ///
    /// # Errors
    /// In words for people: it is none, or not valid now.
    async fn accept(&mut self, pair: String) -> Result<(), String> {
        let validity =
            certificate::validity(&pair).map_err(|why| format!("what was signed is no certificate: {why}"))?;
        let now = now();
        if !validity.holds(now) {
            let time = |at| jiff::Timestamp::from_second(at).unwrap_or_default();
            return Err(format!(
                "what was signed is valid from {} to {}, and the clock of this node says {}: one of the clocks of node and \
                 controller is wrong",
                time(validity.not_before),
                time(validity.not_after),
                time(now)
            ));
        }
        self.kept.pair = Some(pair.clone());
        self.store(move |files| files.accept(&pair)).await;
        Ok(())
    }

    /// Writes a file. What cannot be written is good for this agent all the same.
    async fn store(&self, write: impl FnOnce(&Files) -> std::io::Result<()> + Send + 'static) {
        let files = self.files.clone();
        if let Err(why) = blocking(move || write(&files).map_err(|error| error.to_string())).await {
            tracing::warn!(why, "not written: the next agent has to ask for it once more");
        }
    }

    fn ask(&self) -> impl Future<Output = Result<String, String>> + Send + 'static {
        let files = self.files.clone();
        let (node, present) = (self.node.clone(), self.kept.pair.clone());
        let client = self.client.clone();
        async move { Request::begin(&node, &client, files, present).await?.signed().await }
    }
}

/// The identity that the files of a node's agent make, for whoever else is on the node, or why they make none.
///
/// # Errors
/// In words for people.
pub(crate) fn on(node: &NodeName, state: &Path) -> Result<Identity, String> {
    identity(node, &Files::new(state).read(), UNANSWERED)
}

/// The identity that texts make; `missing` is why there is no certificate yet.
fn identity(node: &NodeName, kept: &Kept, missing: &str) -> Result<Identity, String> {
    let pair = kept.pair.as_ref().ok_or_else(|| format!("this node has no certificate: {missing}"))?;
    let authorities = kept
        .authorities
        .as_ref()
        .ok_or("this node does not know yet whom to believe: the controller has to write the ConfigMap patchbay-ca")?;
    let identity = Identity::new(authorities, pair, pair)
        .map_err(|error| format!("the certificate of this node cannot be used: {}; {missing}", chain(&error)))?;
    if identity.node() != node.as_str() {
        return Err(format!("the certificate is for node {}, and this is {node}", identity.node()));
    }
    Ok(identity)
}

/// The end of what is under way; never, when nothing is.
async fn wait(asking: &mut Option<BoxFuture<'static, Result<String, String>>>) -> Result<String, String> {
    match asking {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    }
}

/// What the clock says.
fn now() -> Seconds {
    jiff::Timestamp::now().as_second()
}

/// How long it is until a time.
fn until(time: Seconds) -> Duration {
    let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap_or_default());
    time.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(100)
}
