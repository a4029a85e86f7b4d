//! Turns: work on one claim is done by one at a time, in order of arrival;
//! work on different claims never waits for each other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// The turns of all claims.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    claims: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Held while it is one's turn.
pub(crate) type Turn = OwnedMutexGuard<()>;

impl Turns {
    /// Waits until nobody else has the turn for this claim.
    pub(crate) async fn take(&self, uid: &str) -> Turn {
        let claim = {
            let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
            // Claims that nobody holds or waits for are forgotten here.
            claims.retain(|_, claim| Arc::strong_count(claim) > 1);
            Arc::clone(claims.entry(uid.to_owned()).or_default())
        };
        claim.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn one_claim_is_worked_on_by_one_at_a_time() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        assert!(turns.take("a").now_or_never().is_none());
        drop(first);
        assert!(turns.take("a").now_or_never().is_some());
    }

    #[tokio::test]
    async fn another_claim_does_not_wait() {
        let turns = Turns::default();
        let _first = turns.take("a").await;
        assert!(turns.take("b").now_or_never().is_some());
    }

    #[tokio::test]
    async fn finished_claims_are_forgotten() {
        let turns = Turns::default();
        for n in 0..100 {
            drop(turns.take(&n.to_string()).await);
        }
        assert!(turns.claims.lock().unwrap().len() <= 1);
    }
}
