//! What does not belong into a dump: what may be a secret, and what nobody reads.
//!
//! | of | is left out |
//! |---|---|
//! | any object | the record of who has written what; the values of annotations that are not Kubernetes' own about workloads or ours |
//! | any container | the values of environment variables; where they come from stays |
//! | containers that are not ours | command, arguments, probes and lifecycle hooks |
//! | containers that have ended | their last words, but for the lines that our programs write: in the pod of a machine the rest is the guest's console |
//! | definitions | schemas, which are those of the version |
//!
//! Secrets and ConfigMaps are not even read.

use serde_json::{Map, Value};

/// What stands in their place.
pub(crate) const LEFT_OUT: &str = "(left out)";

/// How our own last words begin.
const OURS: &str = "patchbay: ";

/// Annotations that say nothing but what Kubernetes, or we, have decided.
const HARMLESS: &[&str] = &[
    "deployment.kubernetes.io/",
    "deprecated.daemonset.template.generation",
    "node.alpha.kubernetes.io/",
    "pod.kubernetes.io/",
    "resource.kubernetes.io/",
    "usb.virtualization.deckhouse.io/",
    "vm.virtualization.deckhouse.io/",
];

/// What people write into containers of their own.
const THEIRS: &[&str] = &["command", "args", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];

/// Whose containers an object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Containers {
    /// Our programs', with the arguments that the installation or the controller gives them.
    Ours,
    /// Somebody's.
    Theirs,
}

/// Leaves out of an object what does not belong into a dump.
pub(crate) fn scrub(object: &mut Value, containers: Containers) {
    match object {
        Value::Array(items) => items.iter_mut().for_each(|item| scrub(item, containers)),
        Value::Object(fields) => {
            fields.remove("managedFields");
            for (key, value) in fields.iter_mut() {
                match (key.as_str(), value) {
                    ("annotations", Value::Object(all)) => annotations(all),
                    ("env", Value::Array(all)) => all.iter_mut().for_each(variable),
                    ("terminated", Value::Object(ended)) => last_words(ended),
                    ("openAPIV3Schema", schema) => *schema = LEFT_OUT.into(),
                    ("containers" | "initContainers" | "ephemeralContainers", value) => {
                        if containers == Containers::Theirs {
                            value.as_array_mut().into_iter().flatten().for_each(strip);
                        }
                        scrub(value, containers);
                    }
                    (_, value) => scrub(value, containers),
                }
            }
        }
        _ => {}
    }
}

fn annotations(all: &mut Map<String, Value>) {
    for (key, value) in all {
        if !HARMLESS.iter().any(|harmless| key.starts_with(harmless)) {
            *value = LEFT_OUT.into();
        }
    }
}

fn variable(variable: &mut Value) {
    if let Some(value) = variable.get_mut("value") {
        *value = LEFT_OUT.into();
    }
}

fn last_words(ended: &mut Map<String, Value>) {
    if let Some(Value::String(message)) = ended.get_mut("message") {
        *message = message.lines().filter(|line| line.trim().starts_with(OURS)).collect::<Vec<_>>().join("\n");
    }
}

fn strip(container: &mut Value) {
    for key in THEIRS {
        if let Some(value) = container.get_mut(key) {
            *value = LEFT_OUT.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scrubbed(mut object: Value, containers: Containers) -> Value {
        scrub(&mut object, containers);
        object
    }

    #[test]
    fn what_may_be_a_secret_is_left_out_wherever_it_is() {
        let pod = |value: &str, argument: &str, applied: &str| {
            json!({
                "metadata": {"name": "reader", "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": applied,
                    "usb.virtualization.deckhouse.io/want": "plugged",
                }},
                "spec": {"template": {"spec": {"containers": [{
                    "name": "reader", "image": "reader:1", "args": [argument],
                    "env": [
                        {"name": "PASSWORD", "value": value},
                        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "token"}}},
                    ],
                }]}}},
            })
        };
        let secret = pod("hunter2", "--key=hunter2", "{\"env\": \"hunter2\"}");
        assert_eq!(scrubbed(secret.clone(), Containers::Ours), pod(LEFT_OUT, "--key=hunter2", LEFT_OUT));
        let theirs = scrubbed(secret, Containers::Theirs);
        assert!(!theirs.to_string().contains("hunter2"), "{theirs}");
        let container = &theirs["spec"]["template"]["spec"]["containers"][0];
        assert_eq!((&container["image"], &container["args"]), (&json!("reader:1"), &json!(LEFT_OUT)));
        assert_eq!(container["env"][1]["valueFrom"]["secretKeyRef"]["name"], "token");
    }

    #[test]
    fn of_the_last_words_of_a_machine_the_guests_console_is_left_out() {
        let ended = |message: &str| json!({"lastState": {"terminated": {"exitCode": 1, "message": message}}});
        let console = "login: root\nPassword is hunter2\npatchbay: QEMU has ended";
        assert_eq!(scrubbed(ended(console), Containers::Ours), ended("patchbay: QEMU has ended"));
    }

    #[test]
    fn what_nobody_reads_is_left_out() {
        let object = json!({"metadata": {"name": "a", "managedFields": [{}]}, "schema": {"openAPIV3Schema": {"type": "object"}}});
        let expected = json!({"metadata": {"name": "a"}, "schema": {"openAPIV3Schema": LEFT_OUT}});
        assert_eq!(scrubbed(object, Containers::Ours), expected);
    }
}
