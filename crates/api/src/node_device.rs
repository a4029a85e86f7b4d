//! `NodeUSBDevice`: a USB device of the cluster, which an administrator may give to a namespace.

#![expect(unreachable_pub, reason = "the derived schema repeats the struct inside a function")]

use kube::{CustomResource, KubeSchema, Resource};
use patchbay_core::controller::world::{DeviceStatus as CoreStatus, NodeDevice};
use patchbay_core::names::{DeviceName, Namespace, Uid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device_status::DeviceStatus;
use crate::meta::{self, Unreadable};
use crate::{keys, rules};

/// What an administrator decides about the device.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "NodeUSBDevice",
    plural = "nodeusbdevices",
    singular = "nodeusbdevice",
    shortname = "nusb",
    category = "virtualization",
    doc = "A USB device that is, or was, plugged into a node of the cluster.",
    status = "DeviceStatus",
    derive = "PartialEq",
    selectable = ".status.nodeName",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name has at most 63 characters, because it becomes a label"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Assigned", type_ = "string", json_path = r#".status.conditions[?(@.type=="Assigned")].status"#),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.assignedNamespace"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Attached",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Attached")].status"#,
        priority = "1"
    ),
    printcolumn(name = "VendorID", type_ = "string", json_path = ".status.attributes.vendorID", priority = "1"),
    printcolumn(name = "ProductID", type_ = "string", json_path = ".status.attributes.productID", priority = "1"),
    printcolumn(name = "Serial", type_ = "string", json_path = ".status.attributes.serial", priority = "1"),
    printcolumn(name = "Speed", type_ = "string", json_path = ".status.attributes.speed", priority = "1")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeUSBDeviceSpec {
    /// The namespace that may use the device. Empty or absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(max = 253))]
    #[x_kube(validation = rules::namespace())]
    pub assigned_namespace: Option<String>,
}

/// A new object, without status.
pub fn build(name: &DeviceName) -> NodeUSBDevice {
    NodeUSBDevice::new(name.as_str(), NodeUSBDeviceSpec::default())
}

/// The apply patch that publishes a status.
pub fn status_patch(name: &DeviceName, uid: Option<&Uid>, status: &CoreStatus) -> Value {
    json!({
        "apiVersion": keys::API_VERSION,
        "kind": NodeUSBDevice::kind(&()),
        "metadata": meta::patch_meta(None, name.as_str(), uid),
        "status": DeviceStatus::from(status),
    })
}

/// Reads an object.
pub fn read(object: &NodeUSBDevice) -> Result<(DeviceName, NodeDevice), Unreadable> {
    let assigned = object.spec.assigned_namespace.as_deref().filter(|n| !n.is_empty());
    let device = NodeDevice {
        uid: meta::uid(&object.metadata)?,
        generation: object.metadata.generation.unwrap_or(0),
        deleting: object.metadata.deletion_timestamp.is_some(),
        assigned: assigned.map(Namespace::new),
        status: object.status.as_ref().map(CoreStatus::from).unwrap_or_default(),
    };
    Ok((DeviceName::new(meta::name(&object.metadata)?), device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn the_manifest_of_an_assignment_is_read() {
        let manifest = serde_json::json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "NodeUSBDevice",
            "metadata": {"name": "logitech-webcam"},
            "spec": {"assignedNamespace": "my-project"},
        });
        let object: NodeUSBDevice = serde_json::from_value(manifest).unwrap();
        let (name, device) = read(&samples::created(&object, "u1")).unwrap();
        assert_eq!((name.as_str(), device.assigned), ("logitech-webcam", Some("my-project".into())));
    }

    #[test]
    fn an_empty_namespace_is_no_assignment() {
        let mut object = samples::created(&build(&"webcam".into()), "u1");
        object.spec.assigned_namespace = Some(String::new());
        assert_eq!(read(&object).unwrap().1.assigned, None);
    }

    #[test]
    fn a_published_status_is_read_back() {
        let patch = status_patch(&"webcam".into(), Some(&"u1".into()), &samples::status());
        insta::assert_json_snapshot!("node_device_status", patch);
        let mut object = samples::created(&build(&"webcam".into()), "u1");
        object.status = serde_json::from_value(patch["status"].clone()).unwrap();
        let (_, device) = read(&object).unwrap();
        assert_eq!((device.uid, device.generation, device.status), ("u1".into(), 1, samples::status()));
    }

    #[test]
    fn a_new_object_has_an_empty_spec() {
        let json = serde_json::to_value(build(&"webcam".into())).unwrap();
        assert_eq!(json["spec"], serde_json::json!({}));
    }
}
