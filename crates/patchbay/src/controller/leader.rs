//! Leadership: of several controllers only the one that holds the lease writes.
//!
//! ```text
//!   standby --(lease acquired)--> leading --(renewal fails)--> unsure --(lease is seen to be ours and fresh)--> leading
//!                                    |                            |
//!                                    +------(another holds it)----+--> lost: the process ends
//! ```
//!
//! While unsure nothing is written, so an API server that is away for long does no harm.

use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;

use super::report;

/// The lease.
const NAME: &str = "patchbay-controller";

/// A lease that is not renewed for so long may be taken by another, in seconds.
const DURATION: u64 = 15;

/// It is renewed so long before that, in seconds.
const GRACE: u64 = 5;

/// The deadline of each request.
const REQUEST: Duration = Duration::from_secs(5);

/// The pause between tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leadership {
    /// Another one leads, or nobody yet.
    Standby,
    /// This one does.
    Leading,
    /// This one did, but it is not known whether it still does.
    Unsure,
    /// Another one has taken over.
    Lost,
}

/// A candidate for leadership.
pub(super) struct Candidate {
    manager: LeaseManager,
    leases: Api<Lease>,
    identity: String,
}

impl Candidate {
    /// Makes the lease if it is not there. `identity` has to be another one for each process.
    ///
    /// # Errors
    ///
    /// When the API server cannot be reached or does not allow it.
    pub(super) async fn new(config: &Config, namespace: &str, identity: String) -> anyhow::Result<Self> {
        let mut config = config.clone();
        config.connect_timeout = Some(REQUEST);
        config.read_timeout = Some(REQUEST);
        config.write_timeout = Some(REQUEST);
        let client = Client::try_from(config).context("cannot make a client for the lease")?;
        let manager = LeaseManagerBuilder::new(client.clone(), NAME)
            .with_namespace(namespace)
            .with_identity(identity.clone())
            .with_duration(DURATION)
            .with_grace(GRACE)
            .build()
            .await
            .map_err(|error| anyhow::anyhow!("cannot use the lease {namespace}/{NAME}: {}", report::say(&error)))?;
        Ok(Self { manager, leases: Api::namespaced(client, namespace), identity })
    }

    /// Takes the lease when it is free and renews it, until another has it.
    pub(super) async fn run(&self, tell: &watch::Sender<Leadership>) {
        loop {
            match self.changed(tell).await {
                Ok(true) => {
                    tracing::info!(identity = self.identity, "this controller leads");
                    tell.send_replace(Leadership::Leading);
                }
                Ok(false) => {
                    tell.send_replace(Leadership::Lost);
                    return;
                }
                Err(error) => {
                    tracing::warn!(error = report::say(&error), "lease is not renewed");
                    tell.send_if_modified(|state| {
                        let unsure = *state == Leadership::Leading;
                        if unsure {
                            *state = Leadership::Unsure;
                        }
                        unsure
                    });
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits for a change; meanwhile, when unsure, looks whether the lease is still ours.
    async fn changed(&self, tell: &watch::Sender<Leadership>) -> kube_lease_manager::Result<bool> {
        let mut changed = std::pin::pin!(self.manager.changed());
        loop {
            if *tell.borrow() != Leadership::Unsure {
                return changed.await;
            }
            tokio::select! {
                change = &mut changed => return change,
                () = self.confirmed() => {
                    tracing::info!(identity = self.identity, "this controller still leads");
                    tell.send_replace(Leadership::Leading);
                }
            }
        }
    }

    /// Waits until the lease is seen to be ours and fresh.
    async fn confirmed(&self) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let lease = self.leases.get(NAME).await;
            if lease.is_ok_and(|l| holds(&l, &self.identity, Timestamp::now())) {
                return;
            }
        }
    }

    /// Gives the lease back, so that another one need not wait for its end.
    pub(super) async fn release(&self) {
        let released = tokio::time::timeout(Duration::from_secs(2), self.manager.release()).await;
        tracing::info!(identity = self.identity, released = matches!(released, Ok(Ok(()))), "lease given back");
    }
}

/// Whether a lease is held by `identity`, and for a while yet.
fn holds(lease: &Lease, identity: &str, now: Timestamp) -> bool {
    let Some(spec) = &lease.spec else { return false };
    let ours = spec.holder_identity.as_deref() == Some(identity);
    let (duration, grace) = (DURATION.cast_signed(), GRACE.cast_signed());
    let fresh = SignedDuration::from_secs(duration - grace);
    ours && spec.renew_time.as_ref().is_some_and(|t| now.duration_since(t.0) < fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_held_while_it_is_ours_and_fresh() {
        let renewed: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let lease: Lease = serde_json::from_value(serde_json::json!({
            "metadata": {"name": NAME},
            "spec": {"holderIdentity": "me", "renewTime": "2026-01-01T00:00:00.000000Z"},
        }))
        .unwrap();
        let after = |seconds| renewed + SignedDuration::from_secs(seconds);
        assert!(holds(&lease, "me", after(9)));
        assert!(!holds(&lease, "me", after(10)), "it is about to end");
        assert!(!holds(&lease, "another", after(1)));
        assert!(!holds(&Lease::default(), "me", renewed));
    }
}
