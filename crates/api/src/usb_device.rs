//! `USBDevice`: a device that its namespace may use.

#![expect(unreachable_pub, reason = "the derived schema repeats the struct inside a function")]
#![expect(clippy::duplicated_attributes, reason = "columns of a table have the same type")]

use kube::{CustomResource, KubeSchema, Resource};
use patchbay_core::controller::world::{DeviceStatus as CoreStatus, UsbDevice};
use patchbay_core::names::{DeviceName, Namespace, Uid};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device_status::DeviceStatus;
use crate::keys;
use crate::meta::{self, Unreadable};
use crate::node_device::NodeUSBDevice;

/// There is nothing to decide about a `USBDevice`: it follows from the assignment of its `NodeUSBDevice`.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "USBDevice",
    plural = "usbdevices",
    singular = "usbdevice",
    shortname = "usb",
    category = "virtualization",
    namespaced,
    no_spec,
    doc = "A USB device that virtual machines of this namespace may use.",
    status = "DeviceStatus",
    derive = "PartialEq",
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "Manufacturer", type_ = "string", json_path = ".status.attributes.manufacturer"),
    printcolumn(name = "Product", type_ = "string", json_path = ".status.attributes.product"),
    printcolumn(name = "Serial", type_ = "string", json_path = ".status.attributes.serial"),
    printcolumn(
        name = "Attached",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Attached")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "VendorID", type_ = "string", json_path = ".status.attributes.vendorID", priority = "1"),
    printcolumn(name = "ProductID", type_ = "string", json_path = ".status.attributes.productID", priority = "1"),
    printcolumn(name = "Bus", type_ = "string", json_path = ".status.attributes.bus", priority = "1"),
    printcolumn(
        name = "DeviceNumber",
        type_ = "string",
        json_path = ".status.attributes.deviceNumber",
        priority = "1"
    ),
    printcolumn(name = "VM", type_ = "string", json_path = ".status.virtualMachine", priority = "1")
)]
pub struct USBDeviceFields {}

/// A new object, without status. It goes when its `NodeUSBDevice` goes.
pub fn build(namespace: &Namespace, name: &DeviceName, owner: &Uid) -> USBDevice {
    let mut object = USBDevice::new(name.as_str(), USBDeviceFields {});
    let kind = NodeUSBDevice::kind(&());
    object.metadata.namespace = Some(namespace.to_string());
    object.metadata.owner_references = Some(vec![meta::owner(keys::API_VERSION, &kind, name.as_str(), owner)]);
    object
}

/// The apply patch that publishes a status.
pub fn status_patch(namespace: &Namespace, name: &DeviceName, uid: Option<&Uid>, status: &CoreStatus) -> Value {
    json!({
        "apiVersion": keys::API_VERSION,
        "kind": USBDevice::kind(&()),
        "metadata": meta::patch_meta(Some(namespace.as_str()), name.as_str(), uid),
        "status": DeviceStatus::from(status),
    })
}

/// Reads an object.
pub fn read(object: &USBDevice) -> Result<((Namespace, DeviceName), UsbDevice), Unreadable> {
    let key = (Namespace::new(meta::namespace(&object.metadata)?), DeviceName::new(meta::name(&object.metadata)?));
    let device = UsbDevice {
        uid: meta::uid(&object.metadata)?,
        generation: object.metadata.generation.unwrap_or(0),
        deleting: object.metadata.deletion_timestamp.is_some(),
        status: object.status.as_ref().map(CoreStatus::from).unwrap_or_default(),
    };
    Ok((key, device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;

    #[test]
    fn a_new_object_has_no_spec_and_is_owned_by_its_node_device() {
        let object = build(&"my-project".into(), &"webcam".into(), &"owner-uid".into());
        insta::assert_json_snapshot!("usb_device", object);
    }

    #[test]
    fn a_published_status_is_read_back() {
        let object = build(&"my-project".into(), &"webcam".into(), &"owner-uid".into());
        let patch = status_patch(&"my-project".into(), &"webcam".into(), None, &samples::status());
        let mut object = samples::created(&object, "u1");
        object.status = serde_json::from_value(patch["status"].clone()).unwrap();
        let (key, device) = read(&object).unwrap();
        assert_eq!(key, ("my-project".into(), "webcam".into()));
        assert_eq!(device.status, samples::status());
    }
}
