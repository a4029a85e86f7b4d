//! `sysdump`: what belongs into the archive, and what its first page says.

use jiff::Timestamp;
use kube::ResourceExt;
use kube::core::DynamicObject;
use patchbay_api::keys;
use serde_json::{Value, json};

use crate::scrub::{Containers, scrub};

/// The first page.
pub(crate) const README: &str = "\
What Kubernetes tells of Patchbay in a cluster, as `kubectl usb sysdump` has read it.

doctor.txt            kubectl usb doctor
tree.txt              kubectl usb tree
versions.yaml         of Kubernetes and of kubectl usb
objects/KIND.yaml     objects; of kinds that are not ours only those that have to do with USB devices
events.yaml           Events about them
logs/POD/...          what controllers and agents have written, and what the containers before the present ones had
problems.txt          what could not be fetched, and why; empty when all could

Secrets and ConfigMaps were not read. Left out are the values of environment variables and of annotations that others have
written, commands, arguments and probes of pods that are not Patchbay's, and the consoles of virtual machines. Names of nodes,
namespaces, pods and machines, addresses of nodes, and serial numbers of USB devices are in it.
";

/// The name of an archive that is made now, without its ending.
pub(crate) fn name(now: Timestamp) -> String {
    now.strftime("patchbay-sysdump-%Y%m%dT%H%M%SZ").to_string()
}

/// Whether an object of a kind that is not ours has to do with us: it names our API group, or a driver or class of it.
pub(crate) fn is_ours(object: &DynamicObject) -> bool {
    let labels = object.labels().keys().chain(object.annotations().keys()).any(|key| key.contains(keys::GROUP));
    labels || object.data.to_string().contains(keys::GROUP)
}

/// Objects as a list, without what does not belong into a dump.
pub(crate) fn list(objects: &[DynamicObject], containers: Containers) -> Vec<Value> {
    let value = |object: &DynamicObject| {
        let mut value = serde_json::to_value(object).ok()?;
        scrub(&mut value, containers);
        Some(value)
    };
    objects.iter().filter_map(value).collect()
}

/// The file that has them.
pub(crate) fn file(items: &[Value]) -> String {
    let all = json!({"apiVersion": "v1", "kind": "List", "items": items});
    // Whatever cannot be YAML can be JSON.
    serde_saphyr::to_string(&all).unwrap_or_else(|_| format!("{all:#}\n"))
}

/// Whether an Event is about one of these: kind and name, and its namespace where it has one.
pub(crate) fn is_about(event: &DynamicObject, subjects: &[(String, Option<String>, String)]) -> bool {
    let about = event.data.get("involvedObject");
    let text = |key: &str| about.and_then(|about| about.get(key)?.as_str());
    let (kind, namespace, name) = (text("kind"), text("namespace"), text("name"));
    subjects.iter().any(|(k, ns, n)| {
        kind == Some(k) && name == Some(n) && (ns.is_none() || namespace.is_none() || namespace == ns.as_deref())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_names_our_group_is_ours() {
        let claim = |class: &str, labels: Value| {
            object(
                json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "a", "labels": labels},
                "spec": {"devices": {"requests": [{"name": "device", "exactly": {"deviceClassName": class}}]}}}),
            )
        };
        assert!(is_ours(&claim("usb-devices.virtualization.deckhouse.io", json!({}))));
        assert!(is_ours(&claim("x", json!({keys::TEMPLATE: "webcam"}))));
        assert!(!is_ours(&claim("gpu.example.com", json!({"app": "x"}))));
    }

    #[test]
    fn events_about_others_are_left_out() {
        let event = |kind: &str, name: &str| {
            object(json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "blue"},
                "involvedObject": {"kind": kind, "name": name, "namespace": "blue"}}))
        };
        let subjects = [("Pod".to_owned(), Some("blue".to_owned()), "vm-a".to_owned())];
        assert!(is_about(&event("Pod", "vm-a"), &subjects));
        assert!(!is_about(&event("Pod", "vm-b"), &subjects) && !is_about(&event("Job", "vm-a"), &subjects));
    }

    #[test]
    fn the_name_tells_when_it_was_made() {
        let time = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(name(time), "patchbay-sysdump-20231114T221320Z");
    }
}
