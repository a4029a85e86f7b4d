//! The watches: one for each kind of object, all in one stream.
//!
//! Pods are chosen by label and slices by driver, so that what others run in the cluster costs nothing here. Claims are all
//! watched, because anybody may write one for a device of ours; of other drivers' claims nothing but the name is kept.

use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate, ResourceSlice};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use patchbay_api::virtual_machine::Machine;
use patchbay_api::{
    NodeUSBDevice, USBDevice, Unreadable, VirtualMachine, VirtualMachineOperation, attachment, budget, claim, keys,
    namespace, node, node_device, operation, port, slice, template, usb_device, virtual_machine, vm_pod,
};
use patchbay_core::DRIVER;
use patchbay_core::controller::world;
use patchbay_core::names::{self, ClaimName, DeviceName, NodeName, OperationName, PodName, VmName};
use patchbay_core::speed::Hub;
use serde::de::DeserializeOwned;

use super::cache::Delta;
use super::report;

/// How long a watch lasts before it is begun anew where it was. A connection that has died without a word is noticed then.
pub(super) const LASTS: Duration = Duration::from_secs(30);

/// HTTP 410: the version a watch would go on from is no longer there.
const GONE: u16 = 410;

/// A virtual machine: its key, what the planner needs, what its pod is made from.
pub(super) type VmValue = ((names::Namespace, VmName), world::Vm, Machine);

/// News of one kind of object.
#[derive(Debug)]
pub(super) enum Seen {
    Node(Delta<(NodeName, world::Node)>),
    Namespace(Delta<(names::Namespace, bool)>),
    Slice(Delta<slice::Slice>),
    NodeDevice(Delta<(DeviceName, world::NodeDevice)>),
    Device(Delta<((names::Namespace, DeviceName), world::UsbDevice)>),
    Vm(Delta<VmValue>),
    Budget(Delta<(names::Namespace, VmName)>),
    Operation(Delta<((names::Namespace, OperationName), world::Operation)>),
    VmPod(Delta<((names::Namespace, PodName), world::VmPod)>),
    Attachment(Delta<((names::Namespace, PodName), world::Attachment)>),
    Claim(Delta<((names::Namespace, ClaimName), claim::Seen)>),
    PortTemplate(Delta<(names::Namespace, Hub)>),
    Template(Delta<((names::Namespace, DeviceName), world::Template)>),
}

/// All watches. They never end: what fails is tried again with growing pauses.
pub(super) fn all(client: &Client) -> SelectAll<BoxStream<'static, Seen>> {
    let every = || watcher::Config { timeout: u32::try_from(LASTS.as_secs()).ok(), ..watcher::Config::default() };
    let labelled = |key: &str| every().labels(key);
    select_all([
        stream(Api::<Node>::all(client.clone()), every(), node::read, Seen::Node),
        // Only the metadata is fetched.
        stream(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), every(), read_namespace, Seen::Namespace),
        stream(
            Api::<ResourceSlice>::all(client.clone()),
            every().fields(&format!("spec.driver={DRIVER}")),
            read_slice,
            Seen::Slice,
        ),
        stream(Api::<NodeUSBDevice>::all(client.clone()), every(), node_device::read, Seen::NodeDevice),
        stream(Api::<USBDevice>::all(client.clone()), every(), usb_device::read, Seen::Device),
        stream(Api::<VirtualMachine>::all(client.clone()), every(), virtual_machine::read, Seen::Vm),
        stream(Api::<PodDisruptionBudget>::all(client.clone()), labelled(keys::VM_NAME), budget::read, Seen::Budget),
        stream(Api::<VirtualMachineOperation>::all(client.clone()), every(), operation::read, Seen::Operation),
        stream(Api::<Pod>::all(client.clone()), labelled(keys::VM_NAME), vm_pod::read, Seen::VmPod),
        stream(Api::<Pod>::all(client.clone()), labelled(keys::ATTACHMENT), attachment::read, Seen::Attachment),
        stream(Api::<ResourceClaim>::all(client.clone()), every(), claim::read, Seen::Claim),
        stream(
            Api::<ResourceClaimTemplate>::all(client.clone()),
            labelled(keys::PORT),
            port::read_template,
            Seen::PortTemplate,
        ),
        stream(
            Api::<ResourceClaimTemplate>::all(client.clone()),
            labelled(keys::TEMPLATE),
            template::read,
            Seen::Template,
        ),
    ])
}

fn stream<K, V>(
    api: Api<K>,
    config: watcher::Config,
    read: fn(&K) -> Result<V, Unreadable>,
    wrap: fn(Delta<V>) -> Seen,
) -> BoxStream<'static, Seen>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    V: 'static,
{
    let events = watcher(api, config).default_backoff();
    events.filter_map(move |event| std::future::ready(note(event).map(|e| wrap(Delta::new(&e, read))))).boxed()
}

/// Says what is wrong with a watch.
pub(super) fn note<K: Resource<DynamicType = ()>>(event: watcher::Result<Event<K>>) -> Option<Event<K>> {
    let (kind, error) = match event {
        Ok(event) => return Some(event),
        Err(error) => (K::kind(&()), error),
    };
    match error {
        // Nothing is wrong: the API server forgets old versions, most of all of kinds that are new to it.
        watcher::Error::WatchError(status) if status.code == GONE => {
            tracing::debug!(%kind, why = status.message, "listed anew");
        }
        error => tracing::warn!(%kind, error = report::say(&error), "watch failed and is tried again"),
    }
    None
}

/// Reads a slice, and says which of its entries are ignored.
fn read_slice(object: &ResourceSlice) -> Result<slice::Slice, Unreadable> {
    let slice = slice::read(object)?;
    for (device, error) in &slice.skipped {
        tracing::warn!(node = %slice.node, device, %error, "published device is ignored");
    }
    Ok(slice)
}

fn read_namespace(object: &PartialObjectMeta<Namespace>) -> Result<(names::Namespace, bool), Unreadable> {
    namespace::read(&object.metadata)
}
