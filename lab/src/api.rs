//! The Kubernetes API from synchronous code: one tokio runtime for the whole lab, every request with a deadline.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use kube::api::{Api, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Runtime};

/// Time one request may take.
pub const REQUEST: Duration = Duration::from_secs(10);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    #[expect(clippy::expect_used, reason = "without threads there is no lab, and nobody to report to")]
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads for the runtime")
    })
}

/// Runs a future to its end. Not from within a future.
pub fn block_on<F: Future>(future: F) -> F::Output {
    runtime().block_on(future)
}

/// Starts a future that runs beside the caller.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    runtime().spawn(future);
}

/// Runs one request to the API server.
///
/// # Errors
/// The request's own, or that there was no answer within [`REQUEST`].
pub fn request<T>(what: &str, future: impl Future<Output = kube::Result<T>>) -> Result<T> {
    match block_on(async { tokio::time::timeout(REQUEST, future).await }) {
        Ok(answer) => answer.with_context(|| what.to_owned()),
        Err(_) => Err(anyhow!("{what}: the API server did not answer within {} s", REQUEST.as_secs())),
    }
}

/// What a watch shows, and when, for as long as somebody listens, but no longer than a scenario takes.
pub fn watch<K>(objects: Api<K>, params: WatchParams) -> Receiver<(Instant, K)>
where
    K: Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (sender, receiver) = channel();
    spawn(async move {
        // The longest that kube allows.
        let Ok(events) = objects.watch(&params.timeout(290), "0").await else { return };
        let mut events = std::pin::pin!(events);
        while let Ok(Some(event)) = events.try_next().await {
            if let WatchEvent::Added(object) | WatchEvent::Modified(object) = event
                && sender.send((Instant::now(), object)).is_err()
            {
                return;
            }
        }
    });
    receiver
}

/// A client with the identity of a kubeconfig file.
///
/// # Errors
/// When the file cannot be read.
pub fn connect(kubeconfig: &Path) -> Result<kube::Client> {
    connect_as(kubeconfig, None)
}

/// A client with the identity of a kubeconfig file, which acts as `user` if one is given.
///
/// # Errors
/// When the file cannot be read.
pub fn connect_as(kubeconfig: &Path, user: Option<&str>) -> Result<kube::Client> {
    let context = || format!("cannot use {}", kubeconfig.display());
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).with_context(context)?;
    block_on(async {
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
        config.auth_info.impersonate = user.map(str::to_owned);
        kube::Client::try_from(config)
    })
    .with_context(context)
}
