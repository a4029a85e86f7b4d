//! Requests to the API, each with its deadline, and what their failures mean.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::time::timeout;

use crate::driver::chain;
use crate::slices::Publishing;

/// For every single request to the API.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);

/// Writes slices and reads the Node object.
pub(super) struct Writer {
    slices: Api<ResourceSlice>,
    nodes: Api<Node>,
    publishing: Publishing,
}

/// Why a write failed.
pub(super) struct Failure {
    pub(super) problem: String,
    pub(super) kind: Kind,
}

/// What a failure tells of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The API has something else than was observed.
    Outdated,
    /// A slice that was not observed has the name.
    Taken,
    /// Nothing.
    Other,
}

impl Failure {
    fn new(verb: &str, slice: &str, error: &kube::Error) -> Self {
        let kind = match error {
            kube::Error::Api(status) if status.is_already_exists() => Kind::Taken,
            kube::Error::Api(status) if matches!(status.code, 404 | 409 | 410) => Kind::Outdated,
            _ => Kind::Other,
        };
        Self { problem: format!("{verb} slice {slice}: {}", chain(error)), kind }
    }

    fn timeout(verb: &str, slice: &str) -> Self {
        Self { problem: format!("{verb} slice {slice}: the API server did not answer in time"), kind: Kind::Other }
    }
}

impl Writer {
    pub(super) fn new(client: Client, publishing: Publishing) -> Self {
        Self { slices: Api::all(client.clone()), nodes: Api::all(client), publishing }
    }

    /// Where slices are watched.
    pub(super) fn slices(&self) -> Api<ResourceSlice> {
        self.slices.clone()
    }

    /// The slice of this name, whatever its label.
    pub(super) async fn named(&self, name: &str) -> Result<Option<ResourceSlice>, Failure> {
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        match timeout(REQUEST_DEADLINE, self.slices.list(&only)).await {
            Ok(Ok(found)) => Ok(found.items.into_iter().next()),
            Ok(Err(error)) => Err(Failure::new("find", name, &error)),
            Err(_) => Err(Failure::timeout("find", name)),
        }
    }

    /// Creates a slice and returns what the server has made of it.
    pub(super) async fn create(&self, slice: &ResourceSlice) -> Result<ResourceSlice, Failure> {
        request("create", slice, self.slices.create(&self.params(), slice)).await
    }

    /// Replaces a slice and returns what the server has made of it.
    pub(super) async fn update(&self, slice: &ResourceSlice) -> Result<ResourceSlice, Failure> {
        request("update", slice, self.slices.replace(&slice.name_any(), &self.params(), slice)).await
    }

    /// Deletes the slice with this uid; one that does not exist is fine.
    pub(super) async fn delete(&self, name: &str, uid: Option<&str>) -> Result<(), Failure> {
        let params = DeleteParams {
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        match timeout(REQUEST_DEADLINE, self.slices.delete(name, &params)).await {
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {}
            Ok(Err(error)) => return Err(Failure::new("delete", name, &error)),
            Err(_) => return Err(Failure::timeout("delete", name)),
            Ok(Ok(_)) => {}
        }
        tracing::info!(slice = name, "slice deleted");
        Ok(())
    }

    fn params(&self) -> PostParams {
        PostParams { field_manager: Some(self.publishing.driver.clone()), ..PostParams::default() }
    }

    /// The Node object as an owner.
    pub(super) async fn find_owner(&self) -> Result<OwnerReference, String> {
        let name = &self.publishing.node;
        let node = timeout(REQUEST_DEADLINE, self.nodes.get_opt(name))
            .await
            .map_err(|_| format!("node {name}: the API server did not answer in time"))?
            .map_err(|error| format!("node {name} could not be read: {}", chain(&error)))?
            .ok_or_else(|| format!("node {name} does not exist in the API (yet)"))?;
        Ok(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid: node.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        })
    }
}

/// A write of a slice with its deadline.
async fn request(
    verb: &str,
    slice: &ResourceSlice,
    write: impl Future<Output = kube::Result<ResourceSlice>>,
) -> Result<ResourceSlice, Failure> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    match timeout(REQUEST_DEADLINE, write).await {
        Ok(Ok(got)) => {
            let pool = &slice.spec.pool;
            tracing::info!(slice = name, pool = pool.name, generation = pool.generation, "slice written");
            Ok(got)
        }
        Ok(Err(error)) => Err(Failure::new(verb, name, &error)),
        Err(_) => Err(Failure::timeout(verb, name)),
    }
}
