//! `patchbay uninstall`: what the chart has done before it is uninstalled. [`patchbay_core::uninstall`] says what that is.

use std::cell::RefCell;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{DeleteParams, ListParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use patchbay_api::installation::{AGENT, COMPONENT, CONTROLLER, LEASE};
use patchbay_api::{NodeUSBDevice, authorities, claim, keys};
use patchbay_core::DRIVER;
use patchbay_core::names::{Namespace, VmName};
use patchbay_core::uninstall::{Seen, Step, next};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::connection;

/// The longest it may take: programs get 30 s to end, and Helm waits for 5 minutes.
const DEADLINE: Duration = Duration::from_secs(120);

/// The cluster is looked at so often even if nothing seems to have changed.
const NET: Duration = Duration::from_secs(2);

/// Options of `patchbay uninstall`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Namespace of the installation; that of the service account or kubeconfig if not given
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
}

/// Does it all, or refuses to.
///
/// # Errors
/// Somebody uses Patchbay, the API server refuses something, or programs do not end in time.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let awaited = RefCell::new("the API server".to_owned());
    let all = async { timeout(DEADLINE, uninstall(args, &awaited)).await };
    let ended = runtime.context("cannot start the runtime")?.block_on(all);
    let late = || {
        format!(
            "after {} s it still waits for {}: see to that, and uninstall again",
            DEADLINE.as_secs(),
            awaited.borrow()
        )
    };
    ended.with_context(late)?
}

/// What it waits for is in `awaited`, for whoever loses patience.
async fn uninstall(args: Args, awaited: &RefCell<String>) -> anyhow::Result<()> {
    let client = connection::open(connection::WATCH).await?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let cluster = Cluster { client, namespace };
    let ours = watcher(cluster.within::<Pod>(), watcher::Config::default().labels(&programs()));
    let mut changes = pin!(ours.default_backoff().touched_objects());
    loop {
        match next(&cluster.look().await?) {
            Step::Refuse(why) => bail!(why),
            Step::Await(what) => {
                tracing::info!(what, "waiting");
                *awaited.borrow_mut() = what;
                // Whether it was a change or the net: what is done follows from the next look.
                let _ = timeout(NET, changes.next()).await;
            }
            Step::Stop => cluster.stop().await?,
            Step::Sweep => return cluster.sweep().await,
        }
    }
}

/// The label selector of our programs' pods.
fn programs() -> String {
    format!("{COMPONENT} in ({CONTROLLER}, {AGENT})")
}

struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    fn within<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    async fn look(&self) -> anyhow::Result<Seen> {
        let everything = ListParams::default();
        let labelled = |key: &str| everything.clone().labels(key);
        let machines = list(&self.all::<Pod>(), &labelled(keys::VM_NAME)).await?;
        let attachments = list(&self.all::<Pod>(), &labelled(keys::ATTACHMENT)).await?;
        let claims = list(&self.all::<ResourceClaim>(), &everything).await?;
        let running = list(&self.within::<Pod>(), &labelled(&programs())).await?;
        let (deployment, agents) = (self.within::<Deployment>(), self.within::<DaemonSet>());
        let is_there =
            deployment.get_metadata_opt(CONTROLLER).await.context("cannot look for the Deployment")?.is_some()
                || agents.get_metadata_opt(AGENT).await.context("cannot look for the DaemonSet")?.is_some();

        let named = |pod: &Pod| Some((Namespace::new(pod.namespace()?), VmName::new(pod.labels().get(keys::VM_NAME)?)));
        let used = claims.iter().filter(|claim| !claim::allocated(claim).is_empty());
        let users = used.flat_map(|claim| {
            let namespace = Namespace::new(claim.namespace().unwrap_or_default());
            claim::consumers(claim).into_iter().map(move |(pod, uid)| (namespace.clone(), pod, uid))
        });
        let is_ours = |uid: &str| attachments.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid));
        Ok(Seen {
            machines: machines.iter().filter_map(named).collect(),
            pods: users
                .filter(|(.., uid)| !is_ours(uid.as_str()))
                .map(|(namespace, pod, _)| (namespace, pod))
                .collect(),
            attachments: attachments.len(),
            installed: is_there,
            running: running.len(),
        })
    }

    /// The controller goes, too: it would make anew what is deleted after this.
    async fn stop(&self) -> anyhow::Result<()> {
        delete(&self.within::<Deployment>(), CONTROLLER).await?;
        delete(&self.within::<DaemonSet>(), AGENT).await
    }

    async fn sweep(&self) -> anyhow::Result<()> {
        let everything = ListParams::default();
        let (slices, devices) = (self.all::<ResourceSlice>(), self.all::<NodeUSBDevice>());
        for slice in list(&slices, &everything).await?.iter().filter(|slice| slice.spec.driver == DRIVER) {
            delete(&slices, &slice.name_any()).await?;
        }
        let free = |device: &NodeUSBDevice| device.spec.assigned_namespace.as_deref().unwrap_or_default().is_empty();
        let (unassigned, assigned): (Vec<_>, Vec<_>) = list(&devices, &everything).await?.into_iter().partition(free);
        for device in &unassigned {
            delete(&devices, &device.name_any()).await?;
        }
        delete(&self.within::<Lease>(), LEASE).await?;
        delete(&self.within::<Secret>(), authorities::NAME).await?;
        delete(&self.within::<ConfigMap>(), authorities::NAME).await?;
        let kept = assigned.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(" ");
        tracing::info!(kept, "all is gone but the devices that are assigned");
        Ok(())
    }
}

async fn list<K>(objects: &Api<K>, which: &ListParams) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let listed = objects.list(which).await;
    Ok(listed.with_context(|| format!("cannot list {}", K::plural(&())))?.items)
}

/// Deletes an object, which may be gone already.
async fn delete<K>(objects: &Api<K>, name: &str) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    match objects.delete(name, &DeleteParams::background()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.reason == "NotFound" => {}
        Err(error) => return Err(error).with_context(|| format!("cannot delete {name} of {}", K::plural(&()))),
    }
    tracing::info!(name, kind = %K::kind(&()), "deleted");
    Ok(())
}
