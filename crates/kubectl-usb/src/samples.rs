//! Objects for the tests.

use patchbay_api::NodeUSBDevice;
use patchbay_api::device_status::Condition;
use serde_json::json;

/// Text as it is read where there is no terminal.
pub(crate) fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// A condition.
pub(crate) fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: "1970-01-01T00:00:00Z".to_owned(),
    }
}

/// A webcam in the n-th port of node-1.
pub(crate) fn node_device(name: &str, n: u16, namespace: Option<&str>) -> NodeUSBDevice {
    serde_json::from_value(json!({
        "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "NodeUSBDevice",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "resourceVersion": "7",
            "creationTimestamp": "1970-01-01T00:00:00Z",
        },
        "spec": {"assignedNamespace": namespace},
        "status": {
            "nodeName": "node-1",
            "attributes": {
                "vendorID": "046d", "productID": "082d", "bcd": "0011", "bus": "001", "deviceNumber": format!("{n:03}"),
                "manufacturer": "Logitech", "product": "Webcam C920", "name": "Webcam C920", "speed": "480",
                "portPath": format!("1-{n}"), "class": "ef",
            },
        },
    }))
    .unwrap()
}
