//! Leadership: of several controllers only the one that holds the lease writes.
//!
//! ```text
//!             it is free, or nobody has renewed it            another holds it
//!   standby --------------------------------------> leading ------------------> lost: the process ends
//!                                                    |   ^
//!                               not renewed in time  v   |  renewed
//!                                                    unsure
//! ```
//!
//! Who leads knows until when that is certain, and writes nothing after that, whatever has kept it from renewing the lease:
//! an API server that is away, or that the process itself was stopped for a while. Others wait for longer than that, each
//! by its own clock: times of two machines are never compared. Every write carries the version of the lease that was seen.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use patchbay_api::keys;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::report;

/// The lease.
const NAME: &str = "patchbay-controller";

/// A lease that is not renewed for so long, in seconds, may be taken by another.
const DURATION: i32 = 15;

/// For so long after it was renewed it is certain who leads. The rest of [`DURATION`] is for writes that are under way.
const CERTAIN: Duration = Duration::from_secs(10);

/// How often it is renewed.
const RENEW: Duration = Duration::from_secs(4);

/// How often the others look.
const LOOK: Duration = Duration::from_secs(2);

/// The pause before another try.
const AGAIN: Duration = Duration::from_secs(1);

/// The deadline of each request.
const REQUEST: Duration = Duration::from_secs(3);

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leadership {
    /// Another one leads, or nobody yet.
    Standby,
    /// This one does, for certain until then.
    Leading(Instant),
    /// Another one has taken over.
    Lost,
}

impl Leadership {
    /// Whether this process may write.
    pub(super) fn is_certain(self, now: Instant) -> bool {
        matches!(self, Self::Leading(until) if now < until)
    }
}

/// Why the lease could not be looked at or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    /// The API server refused, or could not be reached.
    #[error("the API server has not taken it")]
    Api(#[from] kube::Error),
    /// It did not answer in time.
    #[error("no answer from the API server within {REQUEST:?}")]
    Late,
}

impl LeaseError {
    /// Somebody else was faster.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

/// The lease, as it was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sight {
    version: Option<String>,
    holder: Option<String>,
    lasts: Duration,
    transitions: i32,
    /// When this version was seen first.
    since: Instant,
}

impl Sight {
    /// What is seen now, after what was seen before.
    fn next(lease: &Lease, before: Option<&Self>, now: Instant) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone();
        let lasts = spec.lease_duration_seconds.unwrap_or(DURATION);
        Self {
            since: before.filter(|b| b.version == version).map_or(now, |b| b.since),
            version,
            holder: spec.holder_identity.filter(|holder| !holder.is_empty()),
            lasts: Duration::from_secs(u64::try_from(lasts).unwrap_or(0)),
            transitions: spec.lease_transitions.unwrap_or(0),
        }
    }

    /// Whether `me` may have it. What a process of the same name held is its own: there is only one at a time.
    fn is_free(&self, me: &str, now: Instant) -> bool {
        self.holder.as_deref().is_none_or(|holder| holder == me) || now.duration_since(self.since) >= self.lasts
    }
}

/// A candidate for leadership.
pub(super) struct Candidate {
    leases: Api<Lease>,
    identity: String,
}

impl Candidate {
    /// `identity` has to be another one for each process that may run at the same time.
    pub(super) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { leases: Api::namespaced(client, namespace), identity }
    }

    /// Takes the lease when it is free and renews it, until another has it.
    pub(super) async fn run(&self, tell: &watch::Sender<Leadership>) {
        let mut sight = None;
        loop {
            let begun = Instant::now();
            let leading = matches!(*tell.borrow(), Leadership::Leading(_));
            let pause = match self.try_to_have_it(&mut sight, leading).await {
                Ok(true) => {
                    self.lead(tell, begun);
                    RENEW
                }
                Ok(false) if leading => {
                    tell.send_replace(Leadership::Lost);
                    return;
                }
                Ok(false) => LOOK,
                Err(error) => {
                    if !error.is_conflict() {
                        tracing::warn!(error = report::say(&error), leading, "lease is not renewed");
                    }
                    // Whoever leads looks before the next try: the lease may be another's by now.
                    sight = sight.filter(|_| !leading);
                    AGAIN
                }
            };
            sleep(pause).await;
        }
    }

    /// Says that this process leads. Only that it did not before is news.
    fn lead(&self, tell: &watch::Sender<Leadership>, renewed: Instant) {
        tell.send_if_modified(|state| {
            let news = !state.is_certain(Instant::now());
            *state = Leadership::Leading(renewed + CERTAIN);
            if news {
                tracing::info!(identity = self.identity, "this controller leads");
            }
            news
        });
    }

    /// Takes or renews the lease; false if another holds it. Who leads knows its version, and others have to look.
    async fn try_to_have_it(&self, sight: &mut Option<Sight>, leading: bool) -> Result<bool, LeaseError> {
        if !leading || sight.is_none() {
            match request(self.leases.get_opt(NAME)).await? {
                Some(lease) => *sight = Some(Sight::next(&lease, sight.as_ref(), Instant::now())),
                None => return self.create(sight).await,
            }
        }
        let Some(seen) = sight.as_ref().filter(|s| s.is_free(&self.identity, Instant::now())) else { return Ok(false) };
        let patch = Patch::Merge(renewal(seen, &self.identity, Timestamp::now()));
        let lease = request(self.leases.patch(NAME, &PatchParams::default(), &patch)).await?;
        *sight = Some(Sight::next(&lease, None, Instant::now()));
        Ok(true)
    }

    async fn create(&self, sight: &mut Option<Sight>) -> Result<bool, LeaseError> {
        let now = Some(MicroTime(Timestamp::now()));
        let lease = Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                acquire_time: now.clone(),
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(DURATION),
                renew_time: now,
                ..LeaseSpec::default()
            }),
        };
        let params = PostParams { field_manager: Some(keys::CONTROLLER.to_owned()), ..PostParams::default() };
        match request(self.leases.create(&params, &lease)).await {
            Ok(lease) => *sight = Some(Sight::next(&lease, None, Instant::now())),
            Err(error) if error.is_conflict() => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Gives the lease back, so that another one need not wait for its end.
    pub(super) async fn release(&self) {
        let released = self.try_to_release().await;
        tracing::info!(identity = self.identity, released = released.is_ok(), "lease given back");
    }

    async fn try_to_release(&self) -> Result<(), LeaseError> {
        let lease = request(self.leases.get(NAME)).await?;
        let seen = Sight::next(&lease, None, Instant::now());
        if seen.holder.as_deref() == Some(&self.identity) {
            let nobody = json!({"acquireTime": null, "holderIdentity": null, "renewTime": null});
            let patch = Patch::Merge(json!({"metadata": {"resourceVersion": seen.version}, "spec": nobody}));
            request(self.leases.patch(NAME, &PatchParams::default(), &patch)).await?;
        }
        Ok(())
    }
}

/// The merge patch with which `me` takes the lease, or renews it if it is its own.
fn renewal(seen: &Sight, me: &str, now: Timestamp) -> Value {
    let now = MicroTime(now);
    let spec = if seen.holder.as_deref() == Some(me) {
        json!({"leaseDurationSeconds": DURATION, "renewTime": now})
    } else {
        json!({
            "holderIdentity": me, "leaseDurationSeconds": DURATION, "renewTime": now,
            "acquireTime": now, "leaseTransitions": seen.transitions.saturating_add(1),
        })
    };
    json!({"metadata": {"resourceVersion": seen.version}, "spec": spec})
}

async fn request<T>(asking: impl Future<Output = kube::Result<T>>) -> Result<T, LeaseError> {
    Ok(timeout(REQUEST, asking).await.map_err(|_| LeaseError::Late)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(version: &str, holder: Option<&str>) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": NAME, "resourceVersion": version},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 3},
        }))
        .unwrap()
    }

    #[test]
    fn a_lease_that_nobody_renews_is_free_after_its_time_by_the_clock_of_who_looks() {
        let begin = Instant::now();
        let first = Sight::next(&lease("1", Some("other")), None, begin);
        assert!(!first.is_free("me", begin + SECOND * 14));
        let same = Sight::next(&lease("1", Some("other")), Some(&first), begin + SECOND * 14);
        assert!(same.is_free("me", begin + SECOND * 15));
        let renewed = Sight::next(&lease("2", Some("other")), Some(&first), begin + SECOND * 14);
        assert!(!renewed.is_free("me", begin + SECOND * 28));
    }

    #[test]
    fn a_lease_that_was_given_back_or_is_ones_own_is_free_at_once() {
        let now = Instant::now();
        for holder in [None, Some(""), Some("me")] {
            assert!(Sight::next(&lease("1", holder), None, now).is_free("me", now), "{holder:?}");
        }
    }

    #[test]
    fn leading_is_certain_until_its_time_whatever_has_happened() {
        let until = Instant::now() + CERTAIN;
        let leading = Leadership::Leading(until);
        assert!(leading.is_certain(until - SECOND) && !leading.is_certain(until));
        assert!(!Leadership::Standby.is_certain(until - SECOND));
        assert!(CERTAIN < Duration::from_secs(u64::try_from(DURATION).unwrap()));
        assert!(RENEW + REQUEST + AGAIN < CERTAIN, "one request may fail");
    }

    #[test]
    fn a_renewal_is_for_the_version_that_was_seen_and_a_change_of_hands_is_counted() {
        let now: Timestamp = "2026-01-01T00:00:00.000007Z".parse().unwrap();
        let own = renewal(&Sight::next(&lease("7", Some("me")), None, Instant::now()), "me", now);
        let spec = json!({"leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000007Z"});
        assert_eq!(own, json!({"metadata": {"resourceVersion": "7"}, "spec": spec}));
        let taken = renewal(&Sight::next(&lease("7", None), None, Instant::now()), "me", now);
        assert_eq!((&taken["spec"]["holderIdentity"], &taken["spec"]["leaseTransitions"]), (&json!("me"), &json!(4)));
        assert_eq!(taken["spec"]["acquireTime"], taken["spec"]["renewTime"]);
    }
}
