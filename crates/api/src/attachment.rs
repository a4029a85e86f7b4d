//! The attachment pod: that a device be in a virtual machine.
//!
//! Its metadata is what the controller wants, its `Plugged` condition what the importer's agent has seen. The pod itself
//! does nothing; it makes the scheduler allocate the device and a port, and the kubelet prepare them on the node of the
//! virtual machine.

use k8s_openapi::api::core::v1::{
    Affinity, Container, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodCondition,
    PodReadinessGate, PodResourceClaim, PodSpec, ResourceClaim as ContainerClaim, ResourceRequirements, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::conditions::{PluggedState, Seconds};
use patchbay_core::controller::NewAttachment;
use patchbay_core::controller::world::{Attachment, Placement, PodState, Want};
use patchbay_core::names::{ClaimName, DeviceName, Namespace, NodeName, PodName, PodRef, Uid, VmName};
use patchbay_core::speed::Hub;
use serde_json::{Value, json};

use crate::claim::DEVICE_REQUEST;
use crate::meta::{self, Unreadable};
use crate::port::{self, PORT_REQUEST};
use crate::{keys, restricted};

/// An attachment pod that runs `image`.
pub fn build(new: &NewAttachment, image: &str) -> Pod {
    let mut annotations = meta::map([
        (keys::WANT, want(new.want)),
        (keys::VM, new.vm.as_str()),
        (keys::VM_POD, new.vm_pod.name.as_str()),
        (keys::VM_POD_UID, new.vm_pod.uid.as_str()),
    ]);
    annotations.extend(new.hub.map(|hub| (keys::HUB.to_owned(), hub.to_string())));
    Pod {
        metadata: ObjectMeta {
            namespace: Some(new.vm_pod.namespace.to_string()),
            name: Some(new.name.to_string()),
            labels: Some(meta::map([(keys::ATTACHMENT, new.device.as_str())])),
            annotations: Some(annotations),
            owner_references: Some(vec![meta::owner("v1", "Pod", new.vm_pod.name.as_str(), &new.vm_pod.uid)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec(new, image)),
        status: None,
    }
}

const fn want(want: Want) -> &'static str {
    match want {
        Want::Plugged => keys::WANT_PLUGGED,
        Want::Reserved => keys::WANT_RESERVED,
    }
}

/// The merge patch that asks for the device to be in the guest now; None when that is asked for. It applies to this very
/// version of the pod.
pub fn plug_patch(pod: &Pod) -> Option<Value> {
    let asked = meta::annotation(&pod.metadata, keys::WANT) == Ok(keys::WANT_PLUGGED);
    let (uid, version) = (&pod.metadata.uid, &pod.metadata.resource_version);
    let annotations = json!({keys::WANT: keys::WANT_PLUGGED});
    (!asked).then(|| json!({"metadata": {"uid": uid, "resourceVersion": version, "annotations": annotations}}))
}

/// The merge patch that has the kubelet look at the pod again; None when that was done so often before.
pub fn remind_patch(pod: &Pod, times: usize) -> Option<Value> {
    let annotations = json!({keys::REMINDERS: times.to_string()});
    (reminders(pod) < times).then(|| json!({"metadata": {"uid": &pod.metadata.uid, "annotations": annotations}}))
}

/// What makes no sense counts as often: a kubelet needs no help of ours.
fn reminders(pod: &Pod) -> usize {
    meta::annotation(&pod.metadata, keys::REMINDERS).map_or(0, |times| times.parse().unwrap_or(usize::MAX))
}

fn spec(new: &NewAttachment, image: &str) -> PodSpec {
    let device = PodResourceClaim {
        name: DEVICE_REQUEST.to_owned(),
        resource_claim_name: Some(new.claim.to_string()),
        resource_claim_template_name: None,
    };
    let port = new.hub.map(|hub| PodResourceClaim {
        name: PORT_REQUEST.to_owned(),
        resource_claim_name: None,
        resource_claim_template_name: Some(port::template_name(hub)),
    });
    let claims: Vec<_> = [Some(device), port].into_iter().flatten().collect();
    PodSpec {
        affinity: Some(only_on(&new.node)),
        automount_service_account_token: Some(false),
        containers: vec![hold(&claims, image)],
        enable_service_links: Some(false),
        readiness_gates: Some(vec![PodReadinessGate { condition_type: keys::PLUGGED.to_owned() }]),
        resource_claims: Some(claims),
        restart_policy: Some("Always".to_owned()),
        security_context: Some(restricted::pod()),
        termination_grace_period_seconds: Some(5),
        // It goes wherever its virtual machine is.
        tolerations: Some(vec![Toleration { operator: Some("Exists".to_owned()), ..Toleration::default() }]),
        ..PodSpec::default()
    }
}

/// By affinity and not by `nodeName`, because it is the scheduler that allocates.
fn only_on(node: &NodeName) -> Affinity {
    let this_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_string()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![this_node]), match_expressions: None };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(required),
        preferred_during_scheduling_ignored_during_execution: None,
    };
    Affinity { node_affinity: Some(node), ..Affinity::default() }
}

fn hold(claims: &[PodResourceClaim], image: &str) -> Container {
    let quantity = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
    };
    let claim = |c: &PodResourceClaim| ContainerClaim { name: c.name.clone(), request: None };
    Container {
        name: "hold".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/patchbay".to_owned(), "hold".to_owned()]),
        resources: Some(ResourceRequirements {
            claims: Some(claims.iter().map(claim).collect()),
            requests: quantity(&[("cpu", "1m"), ("memory", "4Mi")]),
            // The process needs 1 MiB; runc, while it starts it, has a copy of itself in the same account.
            limits: quantity(&[("memory", "32Mi")]),
        }),
        security_context: Some(restricted::container()),
        ..Container::default()
    }
}

/// Reads an attachment pod.
pub fn read(pod: &Pod) -> Result<((Namespace, PodName), Attachment), Unreadable> {
    let meta = &pod.metadata;
    let this = pod_ref(pod)?;
    let attachment = Attachment {
        uid: this.uid,
        created: meta.creation_timestamp.as_ref().map_or(0, meta::seconds),
        deleting: meta.deletion_timestamp.is_some(),
        device: DeviceName::new(meta::label(meta, keys::ATTACHMENT)?),
        vm_pod: PodRef {
            namespace: this.namespace.clone(),
            name: PodName::new(meta::annotation(meta, keys::VM_POD)?),
            uid: Uid::new(meta::annotation(meta, keys::VM_POD_UID)?),
        },
        vm: VmName::new(meta::annotation(meta, keys::VM)?),
        node: node(pod).ok_or(Unreadable::Missing("spec.affinity"))?,
        hub: meta::annotation(meta, keys::HUB).ok().map(hub).transpose()?,
        want: if says_plugged(pod) { Want::Plugged } else { Want::Reserved },
        port_claim: claims(pod)?.port,
        placement: placement(pod),
        reminders: reminders(pod),
        state: state(pod),
        plugged: plugged(pod).map(|(state, _)| state),
    };
    Ok(((this.namespace, this.name), attachment))
}

fn hub(text: &str) -> Result<Hub, Unreadable> {
    let found = Hub::ALL.into_iter().find(|h| h.as_str() == text);
    found.ok_or_else(|| Unreadable::bad(keys::HUB, format!("{text:?} is neither usb2 nor usb3")))
}

/// The node the pod is made for.
fn node(pod: &Pod) -> Option<NodeName> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let field = required.node_selector_terms.first()?.match_fields.as_ref()?.first()?;
    (field.key == "metadata.name").then(|| field.values.as_ref()?.first().map(NodeName::new)).flatten()
}

/// A condition of a pod.
pub(crate) fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// By the condition and the reasons of `PodScheduled` (k8s.io/api/core/v1).
fn placement(pod: &Pod) -> Placement {
    let Some(said) = condition(pod, "PodScheduled") else { return Placement::Awaited };
    let since = said.last_transition_time.as_ref().map_or(0, meta::seconds);
    match (said.status.as_str(), said.reason.as_deref()) {
        ("True", _) => Placement::Placed(since),
        ("False", Some("Unschedulable")) => Placement::NoPlace,
        ("False", Some("SchedulerError")) => Placement::Failed(since),
        _ => Placement::Awaited,
    }
}

/// What a pod's phase says.
pub(crate) fn state(pod: &Pod) -> PodState {
    match pod.status.as_ref().and_then(|s| s.phase.as_deref()) {
        Some("Running") => PodState::Running,
        Some("Succeeded" | "Failed") => PodState::Ended,
        _ => PodState::Pending,
    }
}

/// Which pod it is.
pub fn pod_ref(pod: &Pod) -> Result<PodRef, Unreadable> {
    Ok(PodRef {
        namespace: Namespace::new(meta::namespace(&pod.metadata)?),
        name: PodName::new(meta::name(&pod.metadata)?),
        uid: meta::uid(&pod.metadata)?,
    })
}

/// Whether the pod asks for its device to be in the guest now: it says so, and it is not being deleted.
pub fn wants_plugged(pod: &Pod) -> bool {
    says_plugged(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn says_plugged(pod: &Pod) -> bool {
    meta::annotation(&pod.metadata, keys::WANT) == Ok(keys::WANT_PLUGGED)
}

/// The claims of an attachment pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The device's.
    pub device: ClaimName,
    /// The port's; None when the device is local, or when the claim has not been made yet.
    pub port: Option<ClaimName>,
}

/// The claims of an attachment pod.
pub fn claims(pod: &Pod) -> Result<Claims, Unreadable> {
    let wanted = pod.spec.as_ref().and_then(|s| s.resource_claims.as_ref());
    let device = wanted.into_iter().flatten().find(|c| c.name == DEVICE_REQUEST);
    let device = device.and_then(|c| c.resource_claim_name.as_deref());
    let made = pod.status.as_ref().and_then(|s| s.resource_claim_statuses.as_ref());
    let port = made.into_iter().flatten().find(|c| c.name == PORT_REQUEST);
    Ok(Claims {
        device: device.map(ClaimName::new).ok_or(Unreadable::Missing("spec.resourceClaims"))?,
        port: port.and_then(|c| c.resource_claim_name.as_deref()).map(ClaimName::new),
    })
}

/// What the agent has reported, and since when it is true or false; None before the first report.
pub fn plugged(pod: &Pod) -> Option<(PluggedState, Seconds)> {
    let condition = condition(pod, keys::PLUGGED)?;
    let since = condition.last_transition_time.as_ref().map_or(0, meta::seconds);
    let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
    Some((PluggedState::parse(reason.unwrap_or_default(), message.unwrap_or_default()), since))
}

/// The apply patch, for the pod's status and with the field manager [`keys::AGENT`], that reports `state`.
///
/// `since` is when the state became true or false: keep it while reports of the same truth follow each other.
pub fn plugged_patch(pod: &PodRef, state: &PluggedState, since: Seconds) -> Value {
    let truth = matches!(state, PluggedState::Plugged(_));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta::patch_meta(Some(pod.namespace.as_str()), pod.name.as_str(), Some(&pod.uid)),
        "status": {"conditions": [{
            "type": keys::PLUGGED,
            "status": if truth { "True" } else { "False" },
            "reason": state.reason(),
            "message": state.message(),
            "lastTransitionTime": meta::timestamp(since),
        }]},
    })
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::GuestPort;

    use super::*;
    use crate::samples;

    fn pod(hub: Option<Hub>) -> Pod {
        samples::created(&build(&samples::new_attachment(hub), "example/patchbay:1"), "u1")
    }

    fn with_status(status: Value) -> Pod {
        let mut json = serde_json::to_value(pod(Some(Hub::Usb2))).unwrap();
        json["status"] = status;
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_remote_attachment_claims_its_device_and_a_port() {
        insta::assert_json_snapshot!("attachment", pod(Some(Hub::Usb2)));
    }

    #[test]
    fn a_local_attachment_claims_no_port() {
        let spec = pod(None).spec.unwrap();
        assert_eq!(spec.resource_claims.unwrap().len(), 1);
        assert_eq!(spec.containers[0].resources.as_ref().unwrap().claims.as_ref().unwrap().len(), 1);
    }

    #[test]
    fn a_pod_is_read_back_as_it_was_built() {
        for hub in [None, Some(Hub::Usb2), Some(Hub::Usb3)] {
            let new = samples::new_attachment(hub);
            let (key, attachment) = read(&pod(hub)).unwrap();
            assert_eq!(key, (new.vm_pod.namespace.clone(), new.name));
            let expected = Attachment {
                uid: "u1".into(),
                created: 1_700_000_000,
                deleting: false,
                device: new.device,
                vm_pod: new.vm_pod,
                vm: new.vm,
                node: new.node,
                hub,
                want: Want::Plugged,
                port_claim: None,
                placement: Placement::Awaited,
                reminders: 0,
                state: PodState::Pending,
                plugged: None,
            };
            assert_eq!(attachment, expected);
        }
    }

    #[test]
    fn a_report_of_the_agent_is_read_back() {
        let port = GuestPort { bus: 0, port: "3".to_owned() };
        for state in
            [PluggedState::Plugged(port), PluggedState::Waiting("for node-1".to_owned()), PluggedState::Unplugged]
        {
            let pod = pod(None);
            let patch = plugged_patch(&pod_ref(&pod).unwrap(), &state, 1_700_000_123);
            assert_eq!(patch["metadata"]["uid"], "u1");
            let reported = with_status(patch["status"].clone());
            assert_eq!(plugged(&reported), Some((state.clone(), 1_700_000_123)));
            assert_eq!(read(&reported).unwrap().1.plugged, Some(state));
        }
    }

    #[test]
    fn what_the_scheduler_says_is_understood() {
        let said = |status: &str, reason: &str| {
            let at = "2023-11-14T22:13:20Z";
            let condition =
                json!({"type": "PodScheduled", "status": status, "reason": reason, "lastTransitionTime": at});
            read(&with_status(json!({"phase": "Pending", "conditions": [condition]}))).unwrap().1.placement
        };
        let at = 1_700_000_000;
        assert_eq!(said("False", "Unschedulable"), Placement::NoPlace);
        assert_eq!(said("False", "SchedulingGated"), Placement::Awaited);
        assert_eq!(said("False", "SchedulerError"), Placement::Failed(at));
        assert_eq!(said("True", ""), Placement::Placed(at));
    }

    #[test]
    fn a_kubelet_is_reminded_by_a_count_that_grows() {
        let mut pod = pod(None);
        let seen = |pod: &Pod| read(pod).unwrap().1.reminders;
        assert_eq!(seen(&pod), 0);
        let patch = remind_patch(&pod, 1).unwrap();
        assert_eq!(patch["metadata"]["uid"], "u1");
        let mut write = |text: &str| {
            pod.metadata.annotations.get_or_insert_default().insert(keys::REMINDERS.to_owned(), text.to_owned());
            (seen(&pod), remind_patch(&pod, 1).is_none(), remind_patch(&pod, 2).is_none())
        };
        assert_eq!(write(patch["metadata"]["annotations"][keys::REMINDERS].as_str().unwrap()), (1, true, false));
        assert_eq!(write("often"), (usize::MAX, true, true));
    }

    #[test]
    fn the_ports_claim_is_known_once_it_is_made() {
        let claims_of = |pod: &Pod| claims(pod).unwrap();
        let device = ClaimName::new("usb-logitech-webcam-c920-k3f9a");
        assert_eq!(claims_of(&pod(Some(Hub::Usb2))), Claims { device: device.clone(), port: None });
        let made = with_status(json!({"resourceClaimStatuses": [{"name": "port", "resourceClaimName": "p-x1"}]}));
        assert_eq!(claims_of(&made), Claims { device, port: Some("p-x1".into()) });
    }

    #[test]
    fn what_was_reserved_is_plugged_when_that_is_asked_for() {
        let reserved = NewAttachment { want: Want::Reserved, ..samples::new_attachment(None) };
        let mut pod = samples::created(&build(&reserved, "example/patchbay:1"), "u1");
        assert!(!wants_plugged(&pod) && read(&pod).unwrap().1.want == Want::Reserved);
        let patch = plug_patch(&pod).unwrap();
        let (key, value) = (keys::WANT, &patch["metadata"]["annotations"][keys::WANT]);
        pod.metadata.annotations.as_mut().unwrap().insert(key.to_owned(), value.as_str().unwrap().to_owned());
        assert!(wants_plugged(&pod) && read(&pod).unwrap().1.want == Want::Plugged && plug_patch(&pod).is_none());
    }

    #[test]
    fn a_pod_that_is_being_deleted_wants_nothing() {
        let mut pod = pod(None);
        assert!(wants_plugged(&pod));
        pod.metadata.deletion_timestamp = pod.metadata.creation_timestamp.clone();
        assert!(!wants_plugged(&pod));
    }

    #[test]
    fn a_pod_with_our_label_and_nothing_else_is_not_read() {
        let mut foreign = pod(Some(Hub::Usb2));
        foreign.spec.as_mut().unwrap().affinity = None;
        assert_eq!(read(&foreign), Err(Unreadable::Missing("spec.affinity")));
        foreign.metadata.annotations.as_mut().unwrap().insert(keys::HUB.to_owned(), "usb9".to_owned());
        assert!(read(&foreign).is_err());
    }
}
