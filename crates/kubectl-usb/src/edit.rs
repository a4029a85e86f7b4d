//! What is written: merge patches that apply to nothing but the version of the object that was read.

use kube::ResourceExt;
use kube::core::DynamicObject;
use patchbay_api::NodeUSBDevice;
use patchbay_core::controller::MAX_DEVICES;
use serde_json::{Value, json};

use crate::failure::Failure;

/// The patch; None when all is as it should be already.
pub(crate) type Edit = Result<Option<Value>, Failure>;

fn patch(object: &impl ResourceExt, spec: &Value) -> Value {
    json!({"metadata": {"uid": object.uid(), "resourceVersion": object.resource_version()}, "spec": spec})
}

/// The namespace a device is assigned to.
pub(crate) fn namespace_of(device: &NodeUSBDevice) -> Option<&str> {
    device.spec.assigned_namespace.as_deref().filter(|n| !n.is_empty())
}

/// Gives a device to a namespace.
///
/// # Errors
/// When another namespace has it, and that was not to be overwritten.
pub(crate) fn assign(device: &NodeUSBDevice, namespace: &str, overwrite: bool) -> Edit {
    match namespace_of(device) {
        Some(same) if same == namespace => Ok(None),
        Some(other) if !overwrite => {
            let name = device.name_any();
            let user = device.status.as_ref().and_then(|s| s.virtual_machine.as_ref());
            let user = user.map(|vm| format!(", and is in virtual machine {vm} there")).unwrap_or_default();
            Err(Failure::Unfit(
                format!("{name} is assigned to namespace {other}{user}"),
                format!("To take it from there:\n  kubectl usb assign {name} {namespace} --overwrite"),
            ))
        }
        _ => Ok(Some(patch(device, &json!({"assignedNamespace": namespace})))),
    }
}

/// Takes a device from its namespace.
pub(crate) fn unassign(device: &NodeUSBDevice) -> Edit {
    Ok(namespace_of(device).map(|_| patch(device, &json!({"assignedNamespace": null}))))
}

/// The entries of a machine's list as they are, with whatever fields others have given them.
fn entries(vm: &DynamicObject) -> Vec<Value> {
    vm.data.pointer("/spec/usbDevices").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn is(entry: &Value, device: &str) -> bool {
    entry.get("name").and_then(Value::as_str) == Some(device)
}

/// The devices that a machine lists.
pub(crate) fn listed(vm: &DynamicObject) -> Vec<String> {
    entries(vm).iter().filter_map(|entry| entry.get("name")?.as_str().map(str::to_owned)).collect()
}

/// Puts a device on a machine's list.
///
/// # Errors
/// When the list is full.
pub(crate) fn attach(vm: &DynamicObject, device: &str) -> Edit {
    let mut list = entries(vm);
    if list.iter().any(|entry| is(entry, device)) {
        return Ok(None);
    }
    if list.len() >= MAX_DEVICES {
        let (name, namespace) = (vm.name_any(), vm.namespace().unwrap_or_default());
        return Err(Failure::Unfit(
            format!("virtual machine {name} lists {} USB devices, and can have no more", list.len()),
            format!("Detach one first:\n  kubectl usb detach DEVICE {name} -n {namespace}"),
        ));
    }
    list.push(json!({"name": device}));
    Ok(Some(patch(vm, &json!({"usbDevices": list}))))
}

/// Takes a device off a machine's list.
pub(crate) fn detach(vm: &DynamicObject, device: &str) -> Edit {
    let list = entries(vm);
    let rest: Vec<&Value> = list.iter().filter(|entry| !is(entry, device)).collect();
    Ok((rest.len() < list.len()).then(|| patch(vm, &json!({"usbDevices": rest}))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::node_device;

    fn vm(devices: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualMachine",
            "metadata": {"name": "linux-vm", "namespace": "blue", "uid": "u1", "resourceVersion": "7"},
            "spec": {"image": "none", "usbDevices": devices},
        }))
        .unwrap()
    }

    #[test]
    fn a_patch_applies_to_the_version_that_was_read_and_keeps_what_others_have_written() {
        let vm = vm(&json!([{"name": "token", "colour": "red"}]));
        assert_eq!(
            attach(&vm, "webcam").unwrap(),
            Some(json!({
                "metadata": {"uid": "u1", "resourceVersion": "7"},
                "spec": {"usbDevices": [{"name": "token", "colour": "red"}, {"name": "webcam"}]},
            }))
        );
        let patch = detach(&vm, "token").unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"usbDevices": []}));
        assert_eq!(listed(&vm), ["token"]);
    }

    #[test]
    fn what_is_so_already_is_not_written() {
        let vm = vm(&json!([{"name": "token"}]));
        assert_eq!(attach(&vm, "token").unwrap(), None);
        assert_eq!(detach(&vm, "webcam").unwrap(), None);
        assert_eq!(assign(&node_device("webcam", 1, Some("blue")), "blue", false).unwrap(), None);
        assert_eq!(unassign(&node_device("webcam", 1, None)).unwrap(), None);
        assert_eq!(unassign(&node_device("webcam", 1, Some(""))).unwrap(), None);
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let full: Vec<_> = (0..MAX_DEVICES).map(|n| json!({"name": format!("d{n}")})).collect();
        let failure = attach(&vm(&json!(full)), "webcam").unwrap_err();
        assert_eq!(failure.to_string(), "virtual machine linux-vm lists 16 USB devices, and can have no more");
        assert_eq!(failure.advice().unwrap(), "Detach one first:\n  kubectl usb detach DEVICE linux-vm -n blue");
    }

    #[test]
    fn nobody_takes_a_device_from_another_namespace_by_accident() {
        let mut device = node_device("webcam", 1, Some("blue"));
        device.status.get_or_insert_default().virtual_machine = Some("linux-vm".to_owned());
        let failure = assign(&device, "green", false).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "webcam is assigned to namespace blue, and is in virtual machine linux-vm there"
        );
        let patch = assign(&device, "green", true).unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"assignedNamespace": "green"}));
        assert_eq!(patch["metadata"], json!({"uid": "uid-webcam", "resourceVersion": "7"}));
        let patch = unassign(&device).unwrap().unwrap();
        assert_eq!(patch["spec"], json!({"assignedNamespace": null}));
    }
}
