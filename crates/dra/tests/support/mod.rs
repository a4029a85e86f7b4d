//! What the tests share: waiting, and an API server in memory.

#![allow(dead_code, reason = "every test binary uses another part")]

pub(crate) mod api;

use std::time::Duration;

use tokio::sync::watch;

pub(crate) use api::FakeApi;

/// For everything that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `done` is true; `what` names it when it never is.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for a value of a watch channel.
pub(crate) async fn reaches<T: Clone>(receiver: &mut watch::Receiver<T>, done: impl FnMut(&T) -> bool) -> T {
    let value = tokio::time::timeout(DEADLINE, receiver.wait_for(done)).await;
    value.expect("never reached").expect("sender is gone").clone()
}
