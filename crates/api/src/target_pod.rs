//! The pod to which a virtual machine moves: like the one it runs in, on another node.
//!
//! Processors, memory and image are those of the running machine and not those of its `spec`, which may have changed since;
//! where it may run is what the `spec` says now.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use patchbay_core::migration::{Decision, Destination};
use patchbay_core::names::{PodName, Uid};
use serde_json::{Value, json};

use crate::keys;
use crate::meta::{self, Unreadable};
use crate::migration::{INCOMING, migrate_to};

/// The pod `name` for the machine that runs in the pod `source`, on a node with the labels of `selector`.
///
/// # Errors
/// `source` is not the pod of a machine, or has no node.
pub fn build(source: &Pod, name: &PodName, selector: &BTreeMap<String, String>) -> Result<Pod, Unreadable> {
    let (meta, spec) = (&source.metadata, source.spec.as_ref().ok_or(Unreadable::Missing("spec"))?);
    let node = spec.node_name.clone().ok_or(Unreadable::Missing("spec.nodeName"))?;
    let uid = meta::uid(meta)?;
    let annotations = [(keys::VM_UID, meta::annotation(meta, keys::VM_UID)?), (keys::MIGRATE_FROM, uid.as_str())];
    Ok(Pod {
        metadata: ObjectMeta {
            namespace: meta.namespace.clone(),
            name: Some(name.to_string()),
            labels: Some(meta::map([(keys::VM_NAME, meta::label(meta, keys::VM_NAME)?)])),
            annotations: Some(meta::map(annotations)),
            owner_references: meta.owner_references.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            affinity: Some(not_on(node)),
            containers: spec.containers.iter().cloned().map(incoming).collect(),
            node_selector: Some(selector.clone()).filter(|s| !s.is_empty()),
            // What the API server has filled in, and fills in again.
            node_name: None,
            priority: None,
            preemption_policy: None,
            ..spec.clone()
        }),
        status: None,
    })
}

fn not_on(node: String) -> Affinity {
    let other_node = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "NotIn".to_owned(),
        values: Some(vec![node]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![other_node]), match_expressions: None };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(required),
        preferred_during_scheduling_ignored_during_execution: None,
    };
    Affinity { node_affinity: Some(node), ..Affinity::default() }
}

/// A container that waits for a machine.
fn incoming(mut container: k8s_openapi::api::core::v1::Container) -> k8s_openapi::api::core::v1::Container {
    let variables = container.env.get_or_insert_default();
    variables.retain(|variable| variable.name != INCOMING);
    variables.push(EnvVar { name: INCOMING.to_owned(), value: Some("true".to_owned()), ..EnvVar::default() });
    container
}

/// The merge patch that asks the agents to move the machine in this pod; None when they are asked already.
pub fn ask_patch(pod: &Pod, to: &Destination) -> Option<Value> {
    let wanted = migrate_to(to);
    let same = meta::annotation(&pod.metadata, keys::MIGRATE_TO) == Ok(wanted.as_str());
    (!same).then(|| annotations(pod, &json!({keys::MIGRATE_TO: wanted, keys::MOVE: null})))
}

/// The merge patch that decides where the machine in this pod runs; None when that is decided, or when it is not to move to
/// the pod `target`.
pub fn decide_patch(pod: &Pod, target: &Uid, decision: Decision) -> Option<Value> {
    let to = meta::annotation(&pod.metadata, keys::MIGRATE_TO).ok()?;
    let asked = to.split_once('/').is_some_and(|(_, uid)| uid == target.as_str());
    let open = meta::annotation(&pod.metadata, keys::MOVE).is_err();
    (asked && open).then(|| annotations(pod, &json!({keys::MOVE: decision.as_str()})))
}

/// The merge patch that says that the machine has moved here; None when it is said.
pub fn arrived_patch(pod: &Pod) -> Option<Value> {
    let said = meta::annotation(&pod.metadata, keys::ARRIVED).is_ok();
    (!said).then(|| annotations(pod, &json!({keys::ARRIVED: "true"})))
}

/// Applies to this very version of the pod.
fn annotations(pod: &Pod, annotations: &Value) -> Value {
    let (uid, version) = (&pod.metadata.uid, &pod.metadata.resource_version);
    json!({"metadata": {"uid": uid, "resourceVersion": version, "annotations": annotations}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use crate::{migration, vm_pod};

    /// The pod of a running machine, as the API server has it.
    fn source() -> Pod {
        let mut pod = samples::created(&samples::running_vm_pod(), "u1");
        pod.metadata.resource_version = Some("41".to_owned());
        pod
    }

    fn target() -> Pod {
        let selector = [("disk".to_owned(), "slow".to_owned())].into();
        samples::created(&build(&source(), &"vm-linux-vm-k3f9a".into(), &selector).unwrap(), "u2")
    }

    fn patched(pod: &Pod, patch: &Value) -> Pod {
        let mut json = serde_json::to_value(pod).unwrap();
        for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            match value {
                Value::Null => drop(json["metadata"]["annotations"].as_object_mut().unwrap().remove(key)),
                value => json["metadata"]["annotations"][key] = value.clone(),
            }
        }
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_target_is_like_its_source_on_another_node() {
        insta::assert_json_snapshot!("target_pod", target());
    }

    #[test]
    fn a_target_of_a_target_waits_for_its_own_source() {
        let mut first = target();
        first.spec.as_mut().unwrap().node_name = Some("node-3".to_owned());
        let second = build(&first, &"vm-linux-vm-a1b2c".into(), &BTreeMap::new()).unwrap();
        assert_eq!(meta::annotation(&second.metadata, keys::MIGRATE_FROM), Ok("u2"));
        let spec = second.spec.unwrap();
        let incoming = spec.containers[0].env.as_ref().unwrap().iter().filter(|v| v.name == INCOMING).count();
        assert_eq!((incoming, spec.node_selector), (1, None));
        let fields = &spec.affinity.unwrap().node_affinity.unwrap();
        let required = fields.required_during_scheduling_ignored_during_execution.as_ref().unwrap();
        let field = &required.node_selector_terms[0].match_fields.as_ref().unwrap()[0];
        assert_eq!(field.values.as_ref().unwrap(), &["node-3"]);
    }

    #[test]
    fn a_pod_without_a_node_has_no_target() {
        let mut pod = source();
        pod.spec.as_mut().unwrap().node_name = None;
        assert_eq!(build(&pod, &"t".into(), &BTreeMap::new()), Err(Unreadable::Missing("spec.nodeName")));
    }

    #[test]
    fn what_is_written_on_the_pods_is_read_back() {
        let (_, read) = vm_pod::read(&target()).unwrap();
        assert_eq!((read.moving.from, read.moving.arrived), (Some("u1".into()), false));
        let arrived = patched(&target(), &arrived_patch(&target()).unwrap());
        assert!(vm_pod::read(&arrived).unwrap().1.moving.arrived && arrived_patch(&arrived).is_none());

        let to = Destination { name: "vm-linux-vm-k3f9a".into(), uid: "u2".into() };
        let asked = patched(&source(), &ask_patch(&source(), &to).unwrap());
        assert_eq!(vm_pod::read(&asked).unwrap().1.moving.to, Some(to.clone()));
        assert_eq!(ask_patch(&asked, &to), None, "once");
        assert_eq!(migration::read(&asked).unwrap().decision, None);
    }

    #[test]
    fn a_move_is_decided_once_and_the_next_one_anew() {
        let to = |uid: &str| Destination { name: "t".into(), uid: uid.into() };
        let asked = patched(&source(), &ask_patch(&source(), &to("u2")).unwrap());
        assert_eq!(decide_patch(&source(), &"u2".into(), Decision::Source), None, "nothing was asked");
        assert_eq!(decide_patch(&asked, &"u3".into(), Decision::Target), None, "another move was asked");
        let patch = decide_patch(&asked, &"u2".into(), Decision::Source).unwrap();
        assert_eq!((&patch["metadata"]["uid"], &patch["metadata"]["resourceVersion"]), (&json!("u1"), &json!("41")));
        let decided = patched(&asked, &patch);
        assert_eq!(vm_pod::read(&decided).unwrap().1.moving.decision, Some(Decision::Source));
        assert_eq!(decide_patch(&decided, &"u2".into(), Decision::Target), None);
        let again = patched(&decided, &ask_patch(&decided, &to("u3")).unwrap());
        assert_eq!(vm_pod::read(&again).unwrap().1.moving.decision, None);
    }
}
