//! Doing one action: one or two writes to the API server, with a deadline.
//!
//! Creating what exists and deleting what is gone count as done. Writes carry uids, so that they never hit a new object of
//! an old name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use patchbay_api::claim::NewClaim;
use patchbay_api::{
    NodeUSBDevice, USBDevice, Unreadable, VirtualMachine, VirtualMachineOperation, attachment, budget, claim, keys,
    node_device, operation, port, target_pod, template, usb_device, virtual_machine, vm_pod,
};
use patchbay_core::controller::Action;
use patchbay_core::names::{Namespace, PodName, Uid};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cache::version;
use super::ledger::Effect;
use super::snapshot::Caches;
use super::target::Target;

/// The longest an action may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    /// The API server refused, or could not be reached.
    #[error("the API server has not taken it")]
    Api(#[from] kube::Error),
    /// The API server did not answer in time.
    #[error("no answer from the API server within {DEADLINE:?}")]
    Late,
    /// A pod to which a machine is to move cannot be made like the one it runs in.
    #[error("the pod of the virtual machine cannot be read")]
    NoSource(#[from] Unreadable),
    /// A pod cannot be made of a machine that cannot be read.
    #[error("the VirtualMachine cannot be read any more")]
    NoMachine,
}

/// What an action has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// How the caches will show it.
    pub(super) effect: Effect,
    /// The uid of the object, if it was written now.
    pub(super) written: Option<Uid>,
}

impl Done {
    fn written<K: Resource>(object: &K) -> Self {
        let written = object.meta().uid.as_deref().map(Uid::new);
        Self { effect: Effect::Version(version(object)), written }
    }
}

impl From<Effect> for Done {
    fn from(effect: Effect) -> Self {
        Self { effect, written: None }
    }
}

/// Writes for the controller.
#[derive(Clone)]
pub(super) struct Actor {
    client: Client,
    image: String,
}

impl Actor {
    /// Attachment pods run `image`.
    pub(super) fn new(client: Client, image: String) -> Self {
        Self { client, image }
    }

    /// Prepares `action`, whose objects are as `caches` show them.
    pub(super) fn act(&self, action: &Action, caches: &Caches) -> BoxFuture<'static, Result<Done, ActError>> {
        let writing = self.prepare(action, caches);
        async move { tokio::time::timeout(DEADLINE, writing).await.unwrap_or(Err(ActError::Late)) }.boxed()
    }

    fn prepare(&self, action: &Action, caches: &Caches) -> BoxFuture<'static, Result<Done, ActError>> {
        let uid = caches.look(&Target::of(action)).object.map(|(uid, _)| uid);
        match action {
            Action::CreateNodeDevice { name, status } => {
                let patch = node_device::status_patch(name, None, status);
                create_with_status(self.all::<NodeUSBDevice>(), node_device::build(name), patch).boxed()
            }
            Action::PublishNodeDevice { name, status } => {
                let patch = node_device::status_patch(name, uid.as_ref(), status);
                publish(self.all::<NodeUSBDevice>(), name.to_string(), patch).boxed()
            }
            Action::ForgetNodeDevice { name, uid } => {
                delete(self.all::<NodeUSBDevice>(), name.to_string(), Some(uid.clone())).boxed()
            }
            Action::CreateDevice { namespace, name, owner, status } => {
                let patch = usb_device::status_patch(namespace, name, None, status);
                create_with_status(
                    self.within::<USBDevice>(namespace),
                    usb_device::build(namespace, name, owner),
                    patch,
                )
                .boxed()
            }
            Action::PublishDevice { namespace, name, status } => {
                let patch = usb_device::status_patch(namespace, name, uid.as_ref(), status);
                publish(self.within::<USBDevice>(namespace), name.to_string(), patch).boxed()
            }
            Action::DeleteDevice { namespace, name, uid } => {
                delete(self.within::<USBDevice>(namespace), name.to_string(), Some(uid.clone())).boxed()
            }
            Action::CreateClaim { namespace, name, device, dra_name, node, owner } => {
                let claim = claim::build(NewClaim { namespace, name, device, dra_name, node, owner });
                create(self.within::<ResourceClaim>(namespace), claim).boxed()
            }
            Action::DeleteClaim { namespace, name, uid } => {
                delete(self.within::<ResourceClaim>(namespace), name.to_string(), Some(uid.clone())).boxed()
            }
            Action::CreatePortTemplate { namespace, hub } => {
                create(self.within::<ResourceClaimTemplate>(namespace), port::template(namespace, *hub)).boxed()
            }
            Action::CreateTemplate { namespace, device, content, owner } => {
                let template = template::build(namespace, device, content, owner);
                create(self.within::<ResourceClaimTemplate>(namespace), template).boxed()
            }
            Action::DeleteTemplate { namespace, device, uid } => {
                delete(self.within::<ResourceClaimTemplate>(namespace), device.to_string(), Some(uid.clone())).boxed()
            }
            Action::PublishClaim { namespace, claim, device: (home, device), report } => {
                let patch = claim::report_patch((namespace, claim), uid.as_ref(), (home, device), report);
                publish(self.within::<ResourceClaim>(namespace), claim.to_string(), patch).boxed()
            }
            Action::CreateAttachment(new) => {
                create(self.within::<Pod>(&new.vm_pod.namespace), attachment::build(new, &self.image)).boxed()
            }
            Action::CreateVmPod { namespace, vm, pod } => match caches.machine(namespace, vm) {
                Some(machine) => {
                    create(self.within::<Pod>(namespace), vm_pod::build(namespace, vm, pod, &machine)).boxed()
                }
                None => std::future::ready(Err(ActError::NoMachine)).boxed(),
            },
            Action::CreateTargetPod { namespace, vm, pod, source, source_uid } => {
                let Some(machine) = caches.machine(namespace, vm) else {
                    return std::future::ready(Err(ActError::NoMachine)).boxed();
                };
                let source = (source.to_string(), source_uid.clone());
                create_target(self.within::<Pod>(namespace), source, pod.clone(), machine.node_selector).boxed()
            }
            Action::AskToMove { namespace, name, uid, to } => {
                let to = to.clone();
                amend(self.within::<Pod>(namespace), name, uid, move |pod| target_pod::ask_patch(pod, &to)).boxed()
            }
            Action::Decide { namespace, name, uid, target, decision } => {
                let (target, decision) = (target.clone(), *decision);
                let patch = move |pod: &Pod| target_pod::decide_patch(pod, &target, decision);
                amend(self.within::<Pod>(namespace), name, uid, patch).boxed()
            }
            Action::MarkArrived { namespace, name, uid } => {
                amend(self.within::<Pod>(namespace), name, uid, target_pod::arrived_patch).boxed()
            }
            Action::Plug { namespace, name, uid } => {
                amend(self.within::<Pod>(namespace), name, uid, attachment::plug_patch).boxed()
            }
            Action::Remind { namespace, name, uid, times } => {
                let times = *times;
                let patch = move |pod: &Pod| attachment::remind_patch(pod, times);
                amend(self.within::<Pod>(namespace), name, uid, patch).boxed()
            }
            Action::CreateBudget { namespace, vm } => match caches.machine(namespace, vm) {
                Some(machine) => {
                    let budget = budget::build(namespace, vm, &machine.uid);
                    create(self.within::<PodDisruptionBudget>(namespace), budget).boxed()
                }
                None => std::future::ready(Err(ActError::NoMachine)).boxed(),
            },
            Action::CreateOperation { namespace, name, kind, vm, owner } => {
                let operation = operation::build(namespace, name, *kind, vm, owner);
                create(self.within::<VirtualMachineOperation>(namespace), operation).boxed()
            }
            Action::HoldOperation { namespace, name, uid } => {
                let operations = self.within::<VirtualMachineOperation>(namespace);
                amend(operations, name, uid, |object| operation::hold_patch(object, true)).boxed()
            }
            Action::ReleaseOperation { namespace, name, uid } => {
                let operations = self.within::<VirtualMachineOperation>(namespace);
                amend(operations, name, uid, |object| operation::hold_patch(object, false)).boxed()
            }
            Action::DeleteAttachment { namespace, name, uid } | Action::DeleteVmPod { namespace, name, uid } => {
                delete(self.within::<Pod>(namespace), name.to_string(), Some(uid.clone())).boxed()
            }
            Action::PublishVm { namespace, name, status } => {
                let patch = virtual_machine::status_patch(namespace, name, uid.as_ref(), status);
                publish(self.within::<VirtualMachine>(namespace), name.to_string(), patch).boxed()
            }
            Action::PublishOperation { namespace, name, status } => {
                let patch = operation::status_patch(namespace, name, uid.as_ref(), status);
                publish(self.within::<VirtualMachineOperation>(namespace), name.to_string(), patch).boxed()
            }
            Action::DeleteSlice { name } => delete(self.all::<ResourceSlice>(), name.clone(), uid).boxed(),
        }
    }

    fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    fn within<K>(&self, namespace: &Namespace) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace.as_str())
    }
}

async fn create<K>(api: Api<K>, object: K) -> Result<Done, ActError>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let params = PostParams { field_manager: Some(keys::CONTROLLER.to_owned()), ..PostParams::default() };
    match api.create(&params, &object).await {
        Ok(created) => Ok(Done::written(&created)),
        Err(error) if is(&error, "AlreadyExists") => Ok(Effect::Present.into()),
        Err(error) => Err(error.into()),
    }
}

/// A status cannot be written together with the rest of a new object.
async fn create_with_status<K>(api: Api<K>, object: K, patch: Value) -> Result<Done, ActError>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let name = object.meta().name.clone().unwrap_or_default();
    match create(api.clone(), object).await? {
        Done { effect: Effect::Version(_), .. } => publish(api, name, patch).await,
        there => Ok(there),
    }
}

async fn publish<K>(api: Api<K>, name: String, patch: Value) -> Result<Done, ActError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let params = PatchParams::apply(keys::CONTROLLER).force();
    match api.patch_status(&name, &params, &Patch::Apply(&patch)).await {
        Ok(written) => Ok(Done::written(&written)),
        // Gone, or another one of its name: the watch will tell.
        Err(error) if is(&error, "NotFound") || is(&error, "Conflict") => Ok(Effect::Unknown.into()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a pod like the one that a machine runs in, as that is now.
async fn create_target(
    pods: Api<Pod>,
    (source, uid): (String, Uid),
    name: PodName,
    selector: BTreeMap<String, String>,
) -> Result<Done, ActError> {
    match pods.get_opt(&source).await? {
        Some(source) if source.metadata.uid.as_deref() == Some(uid.as_str()) => {
            create(pods, target_pod::build(&source, &name, &selector)?).await
        }
        // The watch will tell.
        _ => Ok(Effect::Unknown.into()),
    }
}

/// Changes an object as it is now: nobody else has changed it in between. `patch` gives None when there is nothing to change.
fn amend<K>(
    api: Api<K>,
    name: impl ToString,
    uid: &Uid,
    patch: impl FnOnce(&K) -> Option<Value> + Send + 'static,
) -> impl Future<Output = Result<Done, ActError>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (name, uid) = (name.to_string(), uid.clone());
    async move {
        let Some(object) = api.get_opt(&name).await? else { return Ok(Effect::Unknown.into()) };
        if object.meta().uid.as_deref() != Some(uid.as_str()) {
            return Ok(Effect::Unknown.into());
        }
        let Some(patch) = patch(&object) else { return Ok(Effect::Version(version(&object)).into()) };
        let params = PatchParams { field_manager: Some(keys::CONTROLLER.to_owned()), ..PatchParams::default() };
        match api.patch(&name, &params, &Patch::Merge(patch)).await {
            Ok(written) => Ok(Done::written(&written)),
            // Gone, or changed meanwhile: the watch will tell.
            Err(error) if is(&error, "NotFound") || is(&error, "Conflict") => Ok(Effect::Unknown.into()),
            Err(error) => Err(error.into()),
        }
    }
}

async fn delete<K>(api: Api<K>, name: String, uid: Option<Uid>) -> Result<Done, ActError>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let only = Preconditions { uid: uid.as_ref().map(ToString::to_string), resource_version: None };
    match api.delete(&name, &DeleteParams::default().preconditions(only)).await {
        Ok(_) => Ok(Effect::Gone(uid).into()),
        Err(error) if is(&error, "NotFound") || is(&error, "Conflict") => Ok(Effect::Gone(uid).into()),
        Err(error) => Err(error.into()),
    }
}

fn is(error: &kube::Error, reason: &str) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == reason)
}
