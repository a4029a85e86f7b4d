//! What the page shows at the moment. Watches say when to look; what is shown is what is read then.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, StreamExt, future};
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use kube::{Api, Resource};
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine, keys};
use patchbay_core::DRIVER;
use patchbay_core::controller::World;
use patchbay_core::names::Namespace;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::act::Said;
use super::picture::{Picture, picture};
use crate::connection::Cluster;
use crate::failure::Failure;
use crate::look;

/// After something has changed: what changes together is looked at together.
const GATHER: Duration = Duration::from_millis(150);

/// The time between two looks where no watch says anything.
const NET: Duration = Duration::from_secs(10);

/// The same where it could not be read.
const AGAIN: Duration = Duration::from_secs(2);

/// What is shown.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    /// The cluster.
    Cluster,
    /// What one namespace shows: it was asked for, or there is no right to see more.
    Namespace(Namespace),
}

/// What may be seen.
///
/// # Errors
/// What the API server says, where not even the namespace may be.
pub(crate) async fn scope(cluster: &Cluster) -> Result<Scope, Failure> {
    let scope = Scope::Namespace(Namespace::new(&cluster.namespace));
    if !cluster.chosen {
        match look::for_picture(cluster).await {
            Ok(_) => return Ok(Scope::Cluster),
            Err(failure) if failure.is_forbidden() => {}
            Err(failure) => return Err(failure),
        }
    }
    read(cluster, &scope).await.map(|_| scope)
}

async fn read(cluster: &Cluster, scope: &Scope) -> Result<World, Failure> {
    match scope {
        Scope::Cluster => look::for_picture(cluster).await,
        Scope::Namespace(namespace) => look::for_namespace(cluster, namespace).await,
    }
}

/// What a page gets.
#[derive(Serialize)]
struct View<'a> {
    /// None before the first look.
    picture: Option<&'a Picture>,
    /// Why the picture is an old one.
    trouble: Option<Said>,
}

impl View<'_> {
    fn json(&self) -> Arc<str> {
        // There is nothing in it that cannot be written.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

/// The view of one who has not looked yet.
pub(crate) fn blank() -> Arc<str> {
    View { picture: None, trouble: None }.json()
}

/// Looks whenever something may have changed, and shows what has. Ends with whoever waits for it.
pub(crate) async fn follow(cluster: &Cluster, scope: &Scope, views: &watch::Sender<Arc<str>>) {
    let mut wakes = wakes(cluster, scope);
    let mut last = None;
    loop {
        let trouble = match read(cluster, scope).await {
            Ok(world) => {
                last = Some(picture(&world, scope));
                None
            }
            Err(failure) => Some(Said::new(Err(failure))),
        };
        let pause = if trouble.is_some() { AGAIN } else { NET };
        let view = View { picture: last.as_ref(), trouble }.json();
        views.send_if_modified(|shown| {
            let changed = *shown != view;
            *shown = view;
            changed
        });
        // Nobody has to look again for what was not wanted to wake.
        let _ = tokio::time::timeout(pause, wakes.next()).await;
        tokio::time::sleep(GATHER).await;
        while let Some(Some(())) = wakes.next().now_or_never() {}
    }
}

/// Something for each change of what matters. What cannot be watched is looked at now and then all the same.
fn wakes(cluster: &Cluster, scope: &Scope) -> SelectAll<BoxStream<'static, ()>> {
    let (client, all) = (cluster.client(), Config::default);
    let streams = match scope {
        Scope::Namespace(namespace) => vec![
            of(Api::<PartialObjectMeta<USBDevice>>::namespaced(client.clone(), namespace.as_str()), all()),
            of(Api::<PartialObjectMeta<VirtualMachine>>::namespaced(client, namespace.as_str()), all()),
        ],
        Scope::Cluster => vec![
            of(Api::<PartialObjectMeta<NodeUSBDevice>>::all(client.clone()), all()),
            of(Api::<PartialObjectMeta<USBDevice>>::all(client.clone()), all()),
            of(Api::<PartialObjectMeta<VirtualMachine>>::all(client.clone()), all()),
            of(Api::<PartialObjectMeta<CoreNamespace>>::all(client.clone()), all()),
            of(Api::<PartialObjectMeta<Pod>>::all(client.clone()), all().labels(keys::ATTACHMENT)),
            of(Api::<PartialObjectMeta<Pod>>::all(client.clone()), all().labels(keys::VM_NAME)),
            of(Api::<PartialObjectMeta<ResourceClaim>>::all(client.clone()), all()),
            of(Api::<PartialObjectMeta<ResourceSlice>>::all(client), all().fields(&format!("spec.driver={DRIVER}"))),
        ],
    };
    streams.into_iter().collect()
}

fn of<K>(api: Api<K>, config: Config) -> BoxStream<'static, ()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    events.filter_map(|event| future::ready(event.ok().map(drop))).boxed()
}
