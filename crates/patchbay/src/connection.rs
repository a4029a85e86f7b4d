//! The way to the API server. Nothing waits for an answer for ever, not even when a connection has died without a word.

use std::time::Duration;

use anyhow::Context;
use kube::{Client, Config};

/// A watch on which nothing happens is closed by the API server after so long, unless it is asked for less
/// (`kube::runtime::watcher::Config::timeout`).
pub(crate) const WATCH: Duration = Duration::from_secs(290);

/// How much later than that a connection is given up: before the watcher does so itself and asks again, which it would do
/// on another connection of that time (`kube::runtime::watcher`, `WATCH_IDLE_TIMEOUT_MARGIN`, 5 s).
const MARGIN: Duration = Duration::from_secs(4);

/// A client with the rights of the pod's account, or of the kubeconfig. No watch of it may last longer than `watch`.
///
/// # Errors
/// There is neither.
pub(crate) async fn open(watch: Duration) -> anyhow::Result<Client> {
    let found = Config::infer().await;
    let mut config = found.context("neither a kubeconfig nor a service account to reach the cluster with")?;
    config.read_timeout = Some(watch + MARGIN);
    // Counted from the request on, and not from the last use of the connection.
    config.reset_reader_on_write = true;
    Client::try_from(config).context("cannot make a client for the API server")
}
