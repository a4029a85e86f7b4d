//! What is said of a move in the metadata and the status of a virtual machine's pods.
//!
//! The controller's words are annotations, the agents' the condition [`keys::MIGRATED`]. On the pod that the machine leaves, the
//! condition's message begins with the pod it was said of (`to pod <name>: ...`), because there may have been moves before.

use k8s_openapi::api::core::v1::Pod;
use patchbay_core::conditions::Seconds;
use patchbay_core::controller::world::PodState;
use patchbay_core::migration::{self, Decision, Destination, Report};
use patchbay_core::names::{NodeName, PodName, PodRef, Uid, VmName};
use serde_json::{Value, json};

use crate::attachment;
use crate::meta::{self, Unreadable};
use crate::{keys, vm_pod};

/// The environment variable that makes the engine wait for a machine instead of booting one.
pub const INCOMING: &str = "PATCHBAY_VM_INCOMING";

/// The folder of a pod's volume `run`, in the kubelet's folder of that pod.
pub fn run_folder() -> String {
    format!("volumes/kubernetes.io~empty-dir/{}", vm_pod::RUN_VOLUME)
}

/// Reads the pod of a machine.
///
/// # Errors
/// It is none, or an annotation is not one that we would have written.
pub fn read(pod: &Pod) -> Result<migration::Pod, Unreadable> {
    let meta = &pod.metadata;
    let this = attachment::pod_ref(pod)?;
    let given = |key| meta::annotation(meta, key).ok();
    Ok(migration::Pod {
        vm: VmName::new(meta::label(meta, keys::VM_NAME)?),
        node: pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).map(NodeName::new),
        running: attachment::state(pod) == PodState::Running,
        deleting: meta.deletion_timestamp.is_some(),
        from: given(keys::MIGRATE_FROM).map(Uid::new),
        to: given(keys::MIGRATE_TO).map(destination).transpose()?,
        decision: given(keys::MOVE).map(decision).transpose()?,
        reported: reported(pod, &this.name),
        pod: this,
    })
}

/// The value of [`keys::MIGRATE_TO`].
pub fn migrate_to(to: &Destination) -> String {
    format!("{}/{}", to.name, to.uid)
}

fn destination(text: &str) -> Result<Destination, Unreadable> {
    let parts = text.split_once('/').filter(|(name, uid)| !name.is_empty() && !uid.is_empty());
    let (name, uid) =
        parts.ok_or_else(|| Unreadable::bad(keys::MIGRATE_TO, format!("{text:?} is not a pod's name and uid")))?;
    Ok(Destination { name: PodName::new(name), uid: Uid::new(uid) })
}

fn decision(text: &str) -> Result<Decision, Unreadable> {
    let known = Decision::parse(text);
    known.ok_or_else(|| Unreadable::bad(keys::MOVE, format!("{text:?} is neither target nor source")))
}

const TO: &str = "to pod ";

/// What a pod's agent has said, and of a move to which pod.
fn reported(pod: &Pod, this: &PodName) -> Option<(PodName, Report)> {
    let condition = attachment::condition(pod, keys::MIGRATED)?;
    let (reason, message) = (condition.reason.as_deref()?, condition.message.as_deref().unwrap_or_default());
    let (to, words) = match message.strip_prefix(TO).and_then(|rest| rest.split_once(": ")) {
        Some((to, words)) => (PodName::new(to), words),
        None => (this.clone(), message),
    };
    Some((to, Report::parse(reason, words)?))
}

/// The apply patch, for the pod's status and with the field manager [`keys::AGENT`], that says how far the move of a machine to
/// the pod `to` is: `pod` itself, or another one.
///
/// `since` is when the report's reason was first given.
pub fn patch(pod: &PodRef, to: &PodName, report: &Report, since: Seconds) -> Value {
    let words = report.message();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta::patch_meta(Some(pod.namespace.as_str()), pod.name.as_str(), Some(&pod.uid)),
        "status": {"conditions": [{
            "type": keys::MIGRATED,
            "status": if *report == Report::Running { "True" } else { "False" },
            "reason": report.reason(),
            "message": if *to == pod.name { words } else { format!("{TO}{to}: {words}") },
            "lastTransitionTime": meta::timestamp(since),
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(annotations: Value, status: Value) -> Pod {
        let labels = json!({keys::VM_NAME: "linux-vm"});
        let metadata = json!({
            "namespace": "my-project", "name": "vm-linux-vm", "uid": "u1", "labels": labels, "annotations": annotations,
        });
        let spec = json!({"containers": [], "nodeName": "node-2"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn an_ordinary_pod_of_a_machine_moves_nowhere() {
        let read = read(&pod(json!({}), json!({"phase": "Running"}))).unwrap();
        assert!(read.running && !read.deleting && !read.is_moving());
        assert_eq!((read.vm.as_str(), read.node), ("linux-vm", Some("node-2".into())));
        assert_eq!((read.from, read.to, read.decision, read.reported), (None, None, None, None));
    }

    #[test]
    fn what_the_controller_wants_is_read_back() {
        let to = Destination { name: "vm-linux-vm-k3f9a".into(), uid: "u2".into() };
        let wish = json!({keys::MIGRATE_TO: migrate_to(&to), keys::MIGRATE_FROM: "u0"});
        let moving = read(&pod(wish, json!({}))).unwrap();
        assert!(moving.is_moving());
        assert_eq!((moving.to.as_ref(), moving.from), (Some(&to), Some("u0".into())));
        let decided = json!({keys::MIGRATE_TO: migrate_to(&to), keys::MOVE: "target"});
        assert_eq!(read(&pod(decided, json!({}))).unwrap().decision, Some(Decision::Target));
    }

    #[test]
    fn words_that_are_not_ours_are_not_read() {
        for (key, text) in
            [(keys::MIGRATE_TO, "vm-a"), (keys::MIGRATE_TO, "/u"), (keys::MOVE, "both"), (keys::MOVE, "")]
        {
            assert!(read(&pod(json!({key: text}), json!({}))).is_err(), "{key}: {text}");
        }
    }

    #[test]
    fn a_report_is_read_back_with_the_pod_it_is_about() {
        let this = attachment::pod_ref(&pod(json!({}), json!({}))).unwrap();
        for to in ["vm-linux-vm", "vm-linux-vm-k3f9a"] {
            for report in [
                Report::Moving(Some(43)),
                Report::Paused,
                Report::Loaded,
                Report::Running,
                Report::Failed("a: b".into()),
            ] {
                let patch = patch(&this, &to.into(), &report, 1_700_000_000);
                assert_eq!(patch["metadata"]["uid"], "u1");
                let read = read(&pod(json!({}), patch["status"].clone())).unwrap();
                assert_eq!(read.reported, Some((to.into(), report)));
            }
        }
        let patch = patch(&this, &"vm-linux-vm-k3f9a".into(), &Report::Moving(Some(43)), 0);
        assert_eq!(patch["status"]["conditions"][0]["message"], "to pod vm-linux-vm-k3f9a: 43 % sent");
    }
}
