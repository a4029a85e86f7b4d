//! Objects for the tests.

use patchbay_api::device_status::Condition;
use patchbay_api::{NodeUSBDevice, node_device as api};
use patchbay_core::conditions::{GuestPort, PluggedState};
use patchbay_core::controller::world::{Attachment, Node, Placement, PodState, Pool, Want, World};
use patchbay_core::names::PodRef;
use patchbay_core::speed::Hub;
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

/// Three nodes: a webcam of the first is in a machine on the second, a token waits for its port there, a disk was pulled out.
pub(crate) fn world() -> World {
    let mut world = World::default();
    for (name, n, namespace, reason) in [
        ("webcam", 10, Some("blue"), "AttachedToVirtualMachine"),
        ("token", 2, Some("blue"), "Available"),
        ("disk", 3, None, "Available"),
    ] {
        let mut object = node_device(name, n, namespace);
        let truth = if reason == "Available" { "False" } else { "True" };
        object.status.get_or_insert_default().conditions = Some(vec![
            match name {
                "disk" => condition("Ready", "False", "NotFound", "absent"),
                _ => condition("Ready", "True", "Ready", "Device is ready to use"),
            },
            condition("Attached", truth, reason, "Device is available for attachment"),
        ]);
        let (key, device) = api::read(&object).unwrap();
        world.node_devices.insert(key, device);
    }
    for name in ["node-1", "node-2", "node-3"] {
        world.nodes.insert(name.into(), Node { ready: true, since: 0, cordoned: false });
    }
    world.pools.insert("node-1".into(), Pool::default());
    let ports = ["usb2-0", "usb2-1", "usb3-0"].map(|p| p.parse().unwrap()).to_vec();
    world.pools.insert("node-2".into(), Pool { ports, ..Pool::default() });
    world.ports_used.insert(("node-2".into(), Hub::Usb2), 1);
    let attachment = Attachment {
        uid: "a".into(),
        created: 0,
        deleting: false,
        device: "webcam".into(),
        vm_pod: PodRef { namespace: "blue".into(), name: "vm-linux-vm".into(), uid: "p".into() },
        vm: "linux-vm".into(),
        node: "node-2".into(),
        hub: Some(Hub::Usb2),
        want: Want::Plugged,
        port_claim: None,
        placement: Placement::Placed(0),
        reminders: 0,
        state: PodState::Running,
        plugged: Some(PluggedState::Plugged(GuestPort { bus: 0, port: "9".to_owned() })),
    };
    let waits = Attachment {
        device: "token".into(),
        placement: Placement::NoPlace,
        state: PodState::Pending,
        plugged: None,
        ..attachment.clone()
    };
    world.attachments.insert(("blue".into(), "usb-webcam-1".into()), attachment);
    world.attachments.insert(("blue".into(), "usb-token-1".into()), waits);
    world
}
