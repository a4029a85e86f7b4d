//! Values for tests.

use k8s_openapi::api::core::v1::Pod;
use patchbay_core::conditions::{Condition, ConditionType, Reason};
use patchbay_core::controller::NewAttachment;
use patchbay_core::controller::world::{DeviceStatus, Want};
use patchbay_core::device::{Attributes, BusAddress, Device, HexId};
use patchbay_core::names::{Namespace, PodName, PodRef};
use patchbay_core::speed::{Hub, Speed};

use crate::virtual_machine::Machine;
use crate::vm_pod;

pub(crate) fn attributes() -> Attributes {
    Attributes {
        vendor_id: HexId(0x046d),
        product_id: HexId(0x082d),
        bcd: HexId(0x0011),
        address: BusAddress { bus: 1, device: 2 },
        serial: Some("ABC123456".to_owned()),
        manufacturer: Some("Logitech".to_owned()),
        product: Some("Webcam C920".to_owned()),
        name: "Webcam C920".to_owned(),
        speed: Speed::High,
        port_path: "2-1.4".parse().unwrap(),
        class: 0xef,
    }
}

pub(crate) fn device() -> Device {
    Device { name: "logitech-webcam-c920-k3f9a".into(), attributes: attributes(), not_ready: None }
}

pub(crate) fn status() -> DeviceStatus {
    let condition = |kind, reason, since| Condition { kind, reason, message: "so it is".to_owned(), since };
    DeviceStatus {
        node: Some("node-1".into()),
        device_name: Some("logitech-webcam-c920-x7y8z".into()),
        attributes: Some(attributes()),
        conditions: vec![
            condition(ConditionType::Ready, Reason::Ready, 1_700_000_000),
            condition(ConditionType::Assigned, Reason::InProgress, 1_700_000_001),
            condition(ConditionType::Attached, Reason::NoFreeUSBIPPort, 1_700_000_002),
        ],
        observed_generation: 3,
        vm: Some("linux-vm".into()),
    }
}

pub(crate) fn vm_pod() -> PodRef {
    PodRef { namespace: Namespace::new("my-project"), name: PodName::new("vm-linux-vm"), uid: "vm-pod-uid".into() }
}

pub(crate) fn new_attachment(hub: Option<Hub>) -> NewAttachment {
    NewAttachment {
        name: "usb-logitech-webcam-c920-k3f9a-a1b2c3".into(),
        device: "logitech-webcam-c920-k3f9a".into(),
        claim: "usb-logitech-webcam-c920-k3f9a".into(),
        vm_pod: vm_pod(),
        vm: "linux-vm".into(),
        node: "node-2".into(),
        hub,
        want: Want::Plugged,
    }
}

/// The pod of a machine, on a node.
pub(crate) fn running_vm_pod() -> Pod {
    let machine = Machine {
        uid: "vm-uid".into(),
        image: "example/guest:1".to_owned(),
        cpus: 2,
        core_percent: 20,
        memory: 512 << 20,
        node_selector: [("disk".to_owned(), "fast".to_owned())].into(),
    };
    let mut pod = vm_pod::build(&"my-project".into(), &"linux-vm".into(), &"vm-linux-vm".into(), &machine);
    let spec = pod.spec.as_mut().unwrap();
    (spec.node_name, spec.priority) = (Some("node-2".to_owned()), Some(0));
    pod
}

/// What the API server does to an object that is created.
pub(crate) fn created<K: serde::Serialize + serde::de::DeserializeOwned>(object: &K, uid: &str) -> K {
    let mut json = serde_json::to_value(object).unwrap();
    json["metadata"]["uid"] = uid.into();
    json["metadata"]["generation"] = 1.into();
    json["metadata"]["creationTimestamp"] = "2023-11-14T22:13:20Z".into();
    serde_json::from_value(json).unwrap()
}
