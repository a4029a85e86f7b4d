//! `ResourceClaim` of a device: asks for exactly one device of one node.
//!
//! All attachments of a device share its claim. What was allocated is read here too, for these claims and for any other
//! claim of our driver.

use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceRequest, DeviceSelector, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use patchbay_core::DRIVER;
use patchbay_core::controller::world::Claim;
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, PodName, Uid};
use patchbay_core::speed::PortName;

use crate::keys;
use crate::meta::{self, Unreadable};
use crate::slice;
use crate::usb_device::USBDevice;

/// The name of the request for a device, in claims and in pods.
pub const DEVICE_REQUEST: &str = "device";

/// A device's claim to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewClaim<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// Its name.
    pub name: &'a ClaimName,
    /// The device's object.
    pub device: &'a DeviceName,
    /// The name the device is published by.
    pub dra_name: &'a DeviceName,
    /// The node that publishes it.
    pub node: &'a NodeName,
    /// The uid of the `USBDevice`.
    pub owner: &'a Uid,
}

/// A device's claim. It goes when its `USBDevice` goes.
pub fn build(new: NewClaim<'_>) -> ResourceClaim {
    let id = cel_string(new.dra_name.as_str());
    let node = cel_string(&slice::node_attribute(new.node));
    let attributes = format!("device.attributes[{}]", cel_string(DRIVER));
    let expression =
        format!("device.driver == {} && {attributes}.id == {id} && {attributes}.node == {node}", cel_string(DRIVER));
    let owner = meta::owner(keys::API_VERSION, &USBDevice::kind(&()), new.device.as_str(), new.owner);
    ResourceClaim {
        metadata: ObjectMeta {
            namespace: Some(new.namespace.to_string()),
            name: Some(new.name.to_string()),
            labels: Some(meta::map([(keys::DEVICE, new.device.as_str())])),
            annotations: Some(meta::map([(keys::NODE, new.node.as_str())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: request(DEVICE_REQUEST, keys::DEVICE_CLASS, expression),
        status: None,
    }
}

/// A claim with one request for exactly one device.
pub(crate) fn request(name: &str, class: &str, expression: String) -> ResourceClaimSpec {
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(1),
        selectors: Some(vec![DeviceSelector { cel: Some(CELDeviceSelector { expression }) }]),
        ..ExactDeviceRequest::default()
    };
    let request = DeviceRequest { name: name.to_owned(), exactly: Some(exactly), ..DeviceRequest::default() };
    let devices = DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() };
    ResourceClaimSpec { devices: Some(devices) }
}

/// Text as a string literal of CEL, which escapes as JSON does.
pub(crate) fn cel_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Reads a device's claim.
pub fn read(claim: &ResourceClaim) -> Result<((Namespace, ClaimName), Claim), Unreadable> {
    let meta = &claim.metadata;
    let key = (Namespace::new(meta::namespace(meta)?), ClaimName::new(meta::name(meta)?));
    let read = Claim {
        uid: meta::uid(meta)?,
        deleting: meta.deletion_timestamp.is_some(),
        device: DeviceName::new(meta::label(meta, keys::DEVICE)?),
        node: NodeName::new(meta::annotation(meta, keys::NODE)?),
    };
    Ok((key, read))
}

/// Which claim it is.
pub fn reference(claim: &ResourceClaim) -> Result<ClaimRef, Unreadable> {
    Ok(ClaimRef {
        namespace: Namespace::new(meta::namespace(&claim.metadata)?),
        name: ClaimName::new(meta::name(&claim.metadata)?),
        uid: meta::uid(&claim.metadata)?,
    })
}

/// Something of our driver that is allocated to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// The request it fulfils, without the part after `/` that names one of several alternatives.
    pub request: String,
    /// What it is.
    pub target: Target,
}

/// What may be allocated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A device.
    Device {
        /// The node it is plugged into.
        node: NodeName,
        /// The name it is published by.
        device: DeviceName,
    },
    /// A vhci port.
    Port {
        /// The node that has it.
        node: NodeName,
        /// The port.
        port: PortName,
    },
}

/// What is allocated to a claim, of our driver; nothing before the scheduler has decided.
pub fn allocated(claim: &ResourceClaim) -> Vec<Allocated> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.results.as_ref());
    let ours = results.into_iter().flatten().filter(|r| r.driver == DRIVER);
    ours.map(|result| {
        let request = result.request.split('/').next().unwrap_or_default().to_owned();
        let port = slice::node_of_port_pool(&result.pool).zip(result.device.parse::<PortName>().ok());
        let target = match port {
            Some((node, port)) => Target::Port { node, port },
            None => Target::Device { node: NodeName::new(&result.pool), device: DeviceName::new(&result.device) },
        };
        Allocated { request, target }
    })
    .collect()
}

/// The pods a claim is reserved for.
pub fn consumers(claim: &ResourceClaim) -> Vec<(PodName, Uid)> {
    let reserved = claim.status.as_ref().and_then(|s| s.reserved_for.as_ref());
    let pods = reserved.into_iter().flatten().filter(|r| r.resource == "pods");
    pods.map(|r| (PodName::new(&r.name), Uid::new(&r.uid))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn claim() -> ResourceClaim {
        build(NewClaim {
            namespace: &"my-project".into(),
            name: &"usb-logitech-webcam-c920-k3f9a".into(),
            device: &"logitech-webcam-c920-k3f9a".into(),
            dra_name: &"logitech-webcam-c920-x7y8z".into(),
            node: &"node-1".into(),
            owner: &"owner-uid".into(),
        })
    }

    #[test]
    fn a_claim_asks_for_exactly_its_device() {
        insta::assert_json_snapshot!("claim", claim());
    }

    #[test]
    fn a_claim_is_read_back_as_it_was_built() {
        let (key, read) = read(&samples::created(&claim(), "u1")).unwrap();
        assert_eq!(key, ("my-project".into(), "usb-logitech-webcam-c920-k3f9a".into()));
        let expected = Claim {
            uid: "u1".into(),
            deleting: false,
            device: "logitech-webcam-c920-k3f9a".into(),
            node: "node-1".into(),
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn allocations_of_devices_and_ports_are_told_apart_and_other_drivers_ignored() {
        let mut json = serde_json::to_value(claim()).unwrap();
        let result = |request: &str, driver: &str, pool: &str, device: &str| {
            json!({
                "request": request, "driver": driver, "pool": pool, "device": device,
            })
        };
        json["status"] = json!({
            "allocation": {"devices": {"results": [
                result("device", DRIVER, "node-1", "webcam"),
                result("port/usb2", DRIVER, "node-2-ports", "usb2-3"),
                result("gpu", "gpu.example.com", "node-2", "gpu-0"),
            ]}},
            "reservedFor": [
                {"resource": "pods", "name": "usb-webcam-a1b2c3", "uid": "p1"},
                {"apiGroup": "example.com", "resource": "jobs", "name": "j", "uid": "j1"},
            ],
        });
        let claim: ResourceClaim = serde_json::from_value(json).unwrap();
        let device = Target::Device { node: "node-1".into(), device: "webcam".into() };
        let port = Target::Port { node: "node-2".into(), port: "usb2-3".parse().unwrap() };
        assert_eq!(
            allocated(&claim),
            [
                Allocated { request: "device".to_owned(), target: device },
                Allocated { request: "port".to_owned(), target: port },
            ]
        );
        assert_eq!(consumers(&claim), [("usb-webcam-a1b2c3".into(), "p1".into())]);
    }

    #[test]
    fn a_foreign_claim_with_our_label_is_not_read() {
        let mut claim = samples::created(&claim(), "u1");
        claim.metadata.annotations = None;
        assert_eq!(read(&claim), Err(Unreadable::Missing(keys::NODE)));
    }
}
