//! The way to the API server. No request waits for an answer for ever.

use std::future::Future;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::args::Connection;
use crate::failure::Failure;

/// A cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    deadline: Duration,
    /// The namespace that was asked for, or that of the context.
    pub(crate) namespace: String,
    /// It was asked for.
    pub(crate) chosen: bool,
}

impl Cluster {
    /// Reads the kubeconfig. Nothing is sent yet.
    ///
    /// # Errors
    /// When there is none, or when it cannot be used.
    pub(crate) async fn open(args: &Connection) -> Result<Self, Failure> {
        let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&args.kubeconfig, &args.context) {
            (Some(path), _) => {
                let found = Kubeconfig::read_from(path).map_err(|e| Failure::Config(e.to_string()))?;
                Config::from_custom_kubeconfig(found, &options).await.map_err(|e| Failure::Config(e.to_string()))?
            }
            // In a pod, and only there, its account will do.
            (None, None) if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() => {
                Config::infer().await.map_err(|e| Failure::Config(e.to_string()))?
            }
            (None, _) => Config::from_kubeconfig(&options).await.map_err(|e| Failure::Config(e.to_string()))?,
        };
        config.connect_timeout = Some(args.request_timeout);
        let client = Client::try_from(config).map_err(|e| Failure::Config(e.to_string()))?;
        Ok(Self {
            namespace: args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned()),
            chosen: args.namespace.is_some(),
            deadline: args.request_timeout,
            client,
        })
    }

    /// A cluster that nobody answers for.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let client = Client::try_from(Config::new(hyper::Uri::from_static("http://127.0.0.1:1"))).unwrap();
        Self { client, deadline: Duration::from_secs(5), namespace: "default".to_owned(), chosen: false }
    }

    /// The same cluster, and a namespace that was asked for.
    pub(crate) fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), chosen: true, ..self.clone() }
    }

    /// The client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Makes one request: `what` is what it does, for the sentence "cannot ...".
    ///
    /// # Errors
    /// What the API server says, or that it says nothing in time.
    pub(crate) async fn ask<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.deadline, request).await {
            Ok(answer) => answer.map_err(|error| Failure::new(what, error)),
            Err(_) => Err(Failure::Silent { what: what.to_owned(), after: self.deadline }),
        }
    }
}
