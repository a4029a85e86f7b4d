//! The API server as those see it whom this process plays.
//!
//! Kubelets and people are played by the administrator. Agents are not: the administrator acts as one, with the node in its
//! token, so that the same rights and policies hold for it as for a real one.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use kube::{Api, Client, Resource};
use patchbay_api::{attachment, keys};
use patchbay_core::DRIVER;
use patchbay_core::conditions::PluggedState;
use patchbay_core::names::{NodeName, PodRef};
use serde::de::DeserializeOwned;

use crate::api;
use crate::product::ACCOUNTS;

/// So many requests at once.
pub(super) const AT_ONCE: usize = 32;

/// What the API server takes for what a token says of its bearer's node.
const NODE: &str = "impersonate-extra-authentication.kubernetes.io%2fnode-name";

/// The way to the API server.
#[derive(Clone)]
pub(super) struct Cluster(Client);

/// What agents write.
pub(super) enum Word<'a> {
    /// A slice that is new.
    Create(&'a ResourceSlice),
    /// One that is different now.
    Replace(&'a ResourceSlice),
    /// How an attachment is.
    Report(&'a PodRef, &'a PluggedState),
}

impl Cluster {
    /// For an administrator.
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// All objects of a kind.
    pub(super) fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.0.clone())
    }

    /// The objects of a kind in a namespace.
    pub(super) fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.0.clone(), namespace)
    }

    /// Writes as the agent of a node, with the parameters with which agents write.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(super) async fn as_agent<K: DeserializeOwned>(&self, node: &NodeName, word: Word<'_>) -> Result<K> {
        let publish = PostParams { field_manager: Some(DRIVER.to_owned()), ..PostParams::default() };
        let slices = Request::new(ResourceSlice::url_path(&(), None));
        let request = match word {
            Word::Create(slice) => slices.create(&publish, serde_json::to_vec(slice)?),
            Word::Replace(slice) => {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                slices.replace(name, &publish, serde_json::to_vec(slice)?)
            }
            Word::Report(pod, state) => {
                let patch = Patch::Apply(attachment::plugged_patch(pod, state, Timestamp::now().as_second()));
                let params = PatchParams::apply(keys::AGENT).force();
                let pods = Request::new(Pod::url_path(&(), Some(pod.namespace.as_str())));
                pods.patch_subresource("status", pod.name.as_str(), &params, &patch)
            }
        };
        let mut request = request.context("no request can be made of it")?;
        let headers = request.headers_mut();
        headers.insert("impersonate-user", format!("{ACCOUNTS}agent").parse()?);
        headers.insert(NODE, node.as_str().parse()?);
        Ok(self.0.request(request).await?)
    }
}

/// Does it to each of these, many at a time, and gives what came of it, in their order.
///
/// # Errors
/// The first there is, or that not all was done in time.
pub(super) fn each<T, R, F>(
    deadline: Duration,
    things: impl IntoIterator<Item = T>,
    work: impl FnMut(T) -> F,
) -> Result<Vec<R>>
where
    F: Future<Output = Result<R>>,
{
    let all = stream::iter(things).map(work).buffered(AT_ONCE).try_collect();
    let done = api::block_on(async { tokio::time::timeout(deadline, all).await });
    done.with_context(|| format!("the API server has not taken all within {} s", deadline.as_secs()))?
}

/// For so many things to be done: each takes some milliseconds, and kube-scheduler, which looks at all devices for each, takes
/// longer the more there are.
pub(super) fn patience(things: usize) -> Duration {
    Duration::from_secs(60).saturating_add(Duration::from_secs(u64::try_from(things).unwrap_or(u64::MAX)))
}
