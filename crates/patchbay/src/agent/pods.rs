//! The attachment pods of this node, as the API server has them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client};
use patchbay_api::attachment::{self, Claims};
use patchbay_api::keys;
use patchbay_core::controller::world::PodState;
use patchbay_core::importer::{Attachment, Source};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, NodeName, PodRef, Uid};
use patchbay_core::speed::PortName;
use patchbay_dra::{Record, Records as Journal};
use tokio::sync::Notify;

/// A store of the attachment pods, kept up to date by a task; `wake` is notified of every change.
pub(super) fn watch(client: Client, node: &NodeName, wake: Arc<Notify>) -> reflector::Store<Pod> {
    let (store, writer) = reflector::store();
    let selection = watcher::Config::default().labels(keys::ATTACHMENT).fields(&format!("spec.nodeName={node}"));
    let pods = reflector(writer, watcher(Api::<Pod>::all(client), selection).modify(lighten)).default_backoff();
    tokio::spawn(pods.for_each(move |event| {
        if let Err(error) = event {
            tracing::warn!(%error, "watch of attachment pods: the last state is kept");
        }
        wake.notify_one();
        std::future::ready(())
    }));
    store
}

/// Takes from a pod what is a good part of it and what nobody here reads: who has written which field.
pub(super) fn lighten(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
}

/// The uid of the pod that an attachment pod plugs its device into.
pub(super) fn vm_pod(pod: &Pod) -> Option<Uid> {
    attachment::read(pod).ok().map(|(_, seen)| seen.vm_pod.uid)
}

/// The attachments among `pods`, with what the kubelet has had prepared for them.
pub(super) fn attachments(
    node: &NodeName,
    pods: &[Arc<Pod>],
    journal: &Journal,
    overdue: impl Fn(&Uid) -> bool,
) -> BTreeMap<Uid, Attachment> {
    let read = |pod: &Arc<Pod>| {
        let ((namespace, name), seen) = attachment::read(pod).ok()?;
        let this = PodRef { namespace, name, uid: seen.uid };
        let claims = attachment::claims(pod).ok()?;
        let uid = this.uid.clone();
        let attachment = Attachment {
            wanted: attachment::wants_plugged(pod),
            started: seen.state == PodState::Running && !unfinished(&this, &claims, journal),
            source: source(node, &this, &claims, seen.hub.is_some(), journal),
            device: seen.device,
            vm_pod: seen.vm_pod,
            reported: seen.plugged,
            overdue: overdue(&uid),
            pod: this,
        };
        Some((uid, attachment))
    };
    pods.iter().filter_map(read).collect()
}

/// The claims of those attachments among `pods` that do not want their device any more, by namespace and name.
pub(super) fn unwanted_claims(pods: &[Arc<Pod>]) -> BTreeSet<(String, String)> {
    let of_pod = |pod: &Arc<Pod>| {
        let (namespace, claims) = (pod.metadata.namespace.clone()?, attachment::claims(pod).ok()?);
        let names = [Some(claims.device), claims.port].into_iter().flatten();
        Some(names.map(move |name| (namespace.clone(), name.to_string())))
    };
    pods.iter().filter(|pod| !attachment::wants_plugged(pod)).filter_map(of_pod).flatten().collect()
}

/// Where the device of an attachment comes from: known once its claims are prepared.
fn source(node: &NodeName, pod: &PodRef, claims: &Claims, remote: bool, journal: &Journal) -> Option<Source> {
    let (uid, record) = prepared(journal, pod, &claims.device)?;
    let allocated = record.prepared.first()?;
    let (home, device) = (NodeName::new(&allocated.pool), DeviceName::new(&allocated.device));
    if !remote {
        return (home == *node).then_some(Source::Local { device });
    }
    let (_, port) = prepared(journal, pod, claims.port.as_ref()?)?;
    let port: PortName = port.prepared.first()?.device.parse().ok()?;
    let claim = ClaimRef { namespace: pod.namespace.clone(), name: ClaimName::new(&record.name), uid: Uid::new(uid) };
    Some(Source::Remote { device, home, claim, port })
}

/// Whether a claim of a pod is to be prepared again. After a reboot the API server shows the pod as it was before for a while,
/// and the kubelet asks once more before it starts it again.
fn unfinished(pod: &PodRef, claims: &Claims, journal: &Journal) -> bool {
    let named = |claim: &ClaimName| {
        journal.unfinished().any(|(_, r)| r.namespace == pod.namespace.as_str() && r.name == claim.as_str())
    };
    named(&claims.device) || claims.port.as_ref().is_some_and(named)
}

/// The prepared record of a claim, by its name in the pod's namespace.
fn prepared<'j>(journal: &'j Journal, pod: &PodRef, claim: &ClaimName) -> Option<(&'j str, &'j Record)> {
    journal.prepared().find(|(_, r)| r.namespace == pod.namespace.as_str() && r.name == claim.as_str())
}
