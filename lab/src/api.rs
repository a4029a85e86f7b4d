//! The Kubernetes API from synchronous code: one tokio runtime for the whole lab, every request with a deadline.

use std::future::Future;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
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

/// A client with the identity of a kubeconfig file.
///
/// # Errors
/// When the file cannot be read.
pub fn connect(kubeconfig: &Path) -> Result<kube::Client> {
    let context = || format!("cannot use {}", kubeconfig.display());
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).with_context(context)?;
    block_on(async {
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
        kube::Client::try_from(config)
    })
    .with_context(context)
}
