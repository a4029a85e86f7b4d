//! `ResourceClaim`s that have to do with us.
//!
//! | claim | made by | for |
//! |---|---|---|
//! | of a device | controller, here | all attachments of the device to virtual machines |
//! | of a port | kube-controller-manager, from [`crate::port`] | one attachment |
//! | of a pod | kube-controller-manager, from [`crate::template`], or people | an ordinary pod |

use k8s_openapi::api::resource::v1::{
    CELDeviceSelector, DeviceClaim, DeviceRequest, DeviceSelector, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use patchbay_core::DRIVER;
use patchbay_core::conditions::Reason;
use patchbay_core::controller::world::{self, Claim, ClaimReport, PodClaim};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, PodName, Uid};
use patchbay_core::speed::{Hub, PortName};
use serde_json::{Value, json};

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
        spec: request(DEVICE_REQUEST, keys::DEVICE_CLASS, this_device(new.dra_name, new.node)),
        status: None,
    }
}

/// The expression that is true of one device alone.
pub(crate) fn this_device(dra_name: &DeviceName, node: &NodeName) -> String {
    let (id, node) = (cel_string(dra_name.as_str()), cel_string(&slice::node_attribute(node)));
    with_attributes(&[("id", &id), ("node", &node)])
}

/// The expression that asks for attributes of our driver's devices, given as literals of CEL.
pub(crate) fn with_attributes(wanted: &[(&str, &str)]) -> String {
    let driver = cel_string(DRIVER);
    let equal = wanted.iter().map(|(key, literal)| format!("device.attributes[{driver}].{key} == {literal}"));
    std::iter::once(format!("device.driver == {driver}")).chain(equal).collect::<Vec<_>>().join(" && ")
}

/// A claim with one request for exactly one device.
pub(crate) fn request(name: &str, class: &str, expression: String) -> ResourceClaimSpec {
    let request = exactly(name, class, expression);
    let devices = DeviceClaim { requests: Some(vec![request]), ..DeviceClaim::default() };
    ResourceClaimSpec { devices: Some(devices) }
}

/// A request for exactly one device.
pub(crate) fn exactly(name: &str, class: &str, expression: String) -> DeviceRequest {
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(1),
        selectors: Some(selectors(expression)),
        ..ExactDeviceRequest::default()
    };
    DeviceRequest { name: name.to_owned(), exactly: Some(exactly), ..DeviceRequest::default() }
}

pub(crate) fn selectors(expression: String) -> Vec<DeviceSelector> {
    vec![DeviceSelector { cel: Some(CELDeviceSelector { expression }) }]
}

/// Text as a string literal of CEL, which escapes as JSON does.
pub(crate) fn cel_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What a claim is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose it is.
    pub role: Role,
    /// The ports it holds.
    pub ports: Vec<(NodeName, Hub)>,
}

/// Whose claim it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controller's, for attachments of a device.
    Device(Claim),
    /// An ordinary pod's.
    Pod(PodClaim),
    /// An attachment's for a port, or nothing of ours.
    Other,
}

/// Reads any claim of the cluster.
pub fn read(claim: &ResourceClaim) -> Result<((Namespace, ClaimName), Seen), Unreadable> {
    let meta = &claim.metadata;
    let key = (Namespace::new(meta::namespace(meta)?), ClaimName::new(meta::name(meta)?));
    let targets: Vec<Target> = allocated(claim).into_iter().map(|a| a.target).collect();
    let ports = targets.iter().filter_map(|target| match target {
        Target::Port { node, port } => Some((node.clone(), port.hub)),
        Target::Device { .. } | Target::Token { .. } => None,
    });
    let made_for = meta::label(meta, keys::TEMPLATE).ok();
    let has_device = targets.iter().any(|t| matches!(t, Target::Device { .. }));
    let role = if meta::label(meta, keys::DEVICE).is_ok() {
        Role::Device(Claim {
            uid: meta::uid(meta)?,
            deleting: meta.deletion_timestamp.is_some(),
            device: DeviceName::new(meta::label(meta, keys::DEVICE)?),
            node: NodeName::new(meta::annotation(meta, keys::NODE)?),
        })
    } else if made_for.is_some() || has_device {
        Role::Pod(pod_claim(claim, made_for, &targets)?)
    } else {
        Role::Other
    };
    Ok((key, Seen { role, ports: ports.collect() }))
}

fn pod_claim(claim: &ResourceClaim, made_for: Option<&str>, targets: &[Target]) -> Result<PodClaim, Unreadable> {
    let meta = &claim.metadata;
    let reserved: Vec<PodName> = consumers(claim).into_iter().map(|(pod, _)| pod).collect();
    let owners = meta.owner_references.iter().flatten().filter(|o| o.kind == "Pod").map(|o| PodName::new(&o.name));
    let device = targets.iter().find_map(|target| match target {
        Target::Device { node, device } => Some((node.clone(), device.clone())),
        Target::Port { .. } | Target::Token { .. } => None,
    });
    let place = targets.iter().find_map(|target| match target {
        Target::Port { node, port } => Some((node.clone(), Some(*port))),
        Target::Token { node } => Some((node.clone(), None)),
        Target::Device { .. } => None,
    });
    let (node, port) = place.map_or((None, None), |(node, port)| (Some(node), port));
    Ok(PodClaim {
        uid: meta::uid(meta)?,
        created: meta.creation_timestamp.as_ref().map_or(0, meta::seconds),
        made_for: made_for.map(DeviceName::new),
        pods: if reserved.is_empty() { owners.collect() } else { reserved },
        told: device.as_ref().and_then(|(home, device)| told(claim, home, device)),
        allocated: device.map(|(home, device)| world::Allocated { home, device, node, port }),
    })
}

/// The type of the condition that a claim's status has for its device.
const ATTACHED: &str = "Attached";

/// What a claim's status says of a device.
fn told(claim: &ResourceClaim, home: &NodeName, device: &DeviceName) -> Option<ClaimReport> {
    let mut devices = claim.status.as_ref()?.devices.iter().flatten();
    let ours = devices.find(|d| d.driver == DRIVER && d.pool == home.as_str() && d.device == device.as_str())?;
    let condition = ours.conditions.iter().flatten().find(|c| c.type_ == ATTACHED)?;
    Some(ClaimReport {
        attached: condition.status == "True",
        message: condition.message.clone(),
        since: meta::seconds(&condition.last_transition_time),
    })
}

/// The apply patch, for the claim's status, that says what becomes of its device. Agents must not write it: it is the same
/// for all nodes, and from 1.36 on the API server wants a special right for that (`resourceclaims/driver`).
pub fn report_patch(
    (namespace, name): (&Namespace, &ClaimName),
    uid: Option<&Uid>,
    (home, device): (&NodeName, &DeviceName),
    report: &ClaimReport,
) -> Value {
    let reason = if report.attached { Reason::AttachedToPod } else { Reason::Available };
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": meta::patch_meta(Some(namespace.as_str()), name.as_str(), uid),
        "status": {"devices": [{
            "driver": DRIVER,
            "pool": slice::device_pool(home),
            "device": device.as_str(),
            "conditions": [{
                "type": ATTACHED,
                "status": if report.attached { "True" } else { "False" },
                "reason": reason.as_str(),
                "message": report.message,
                "lastTransitionTime": meta::timestamp(report.since),
            }],
        }]},
    })
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
    /// The token of a device that is used on its own node.
    Token {
        /// That node.
        node: NodeName,
    },
}

/// What is allocated to a claim, of our driver; nothing before the scheduler has decided.
pub fn allocated(claim: &ResourceClaim) -> Vec<Allocated> {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    let results = allocation.and_then(|a| a.devices.as_ref()).and_then(|d| d.results.as_ref());
    let ours = results.into_iter().flatten().filter(|r| r.driver == DRIVER);
    ours.map(|result| {
        let request = result.request.split('/').next().unwrap_or_default().to_owned();
        let port = result.device.parse::<PortName>().ok();
        let target = match (slice::node_of_port_pool(&result.pool), port) {
            (Some(node), Some(port)) => Target::Port { node, port },
            (Some(node), None) if slice::is_token(&result.device) => Target::Token { node },
            _ => Target::Device { node: NodeName::new(&result.pool), device: DeviceName::new(&result.device) },
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
        let (key, seen) = read(&samples::created(&claim(), "u1")).unwrap();
        assert_eq!(key, ("my-project".into(), "usb-logitech-webcam-c920-k3f9a".into()));
        let expected = Role::Device(Claim {
            uid: "u1".into(),
            deleting: false,
            device: "logitech-webcam-c920-k3f9a".into(),
            node: "node-1".into(),
        });
        assert_eq!(seen, Seen { role: expected, ports: vec![] });
    }

    /// A claim that a pod made from a template, with what the scheduler wrote into its status.
    fn of_pod(status: Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "my-project", "name": "reader-device-x1", "uid": "c1",
                "creationTimestamp": "2023-11-14T22:13:20Z",
                "labels": {keys::TEMPLATE: "webcam"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "reader", "uid": "p1"}],
            },
            "spec": {},
            "status": status,
        }))
        .unwrap()
    }

    fn result(request: &str, pool: &str, device: &str) -> Value {
        json!({"request": request, "driver": DRIVER, "pool": pool, "device": device})
    }

    fn pod_role(claim: &ResourceClaim) -> PodClaim {
        match read(claim).unwrap().1.role {
            Role::Pod(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_claim_of_a_pod_is_read_before_and_after_it_is_allocated() {
        let waiting = pod_role(&of_pod(json!(null)));
        assert_eq!((waiting.made_for, waiting.pods), (Some("webcam".into()), vec!["reader".into()]));
        assert_eq!((waiting.created, waiting.allocated), (1_700_000_000, None));
        let results = [result("device", "node-1", "webcam-x"), result("port/usb2", "node-2-ports", "usb2-3")];
        let claim = of_pod(json!({
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": "reader", "uid": "p1"}],
        }));
        let allocated = world::Allocated {
            home: "node-1".into(),
            device: "webcam-x".into(),
            node: Some("node-2".into()),
            port: Some("usb2-3".parse().unwrap()),
        };
        assert_eq!(pod_role(&claim).allocated, Some(allocated));
        assert_eq!(read(&claim).unwrap().1.ports, [("node-2".into(), Hub::Usb2)]);
    }

    #[test]
    fn a_claim_with_the_token_of_its_device_uses_no_port() {
        let results = [result("device", "node-1", "webcam-x"), result("port/local", "node-1-ports", "local-webcam-x")];
        let claim = of_pod(json!({"allocation": {"devices": {"results": results}}}));
        let allocated = pod_role(&claim).allocated.unwrap();
        assert_eq!((allocated.node, allocated.port), (Some("node-1".into()), None));
        assert_eq!(read(&claim).unwrap().1.ports, []);
    }

    #[test]
    fn a_claim_that_a_person_wrote_counts_once_it_has_a_device() {
        let mut claim = of_pod(json!(null));
        claim.metadata.labels = None;
        assert_eq!(read(&claim).unwrap().1.role, Role::Other);
        let results = [result("mine", "node-1", "webcam-x")];
        let mut claim = of_pod(json!({"allocation": {"devices": {"results": results}}}));
        claim.metadata.labels = None;
        assert_eq!(pod_role(&claim).made_for, None);
    }

    #[test]
    fn what_was_published_of_a_device_is_read_back() {
        let report = ClaimReport { attached: true, message: "Attached to pod a/b".to_owned(), since: 1_700_000_000 };
        let key = ("my-project".into(), "reader-device-x1".into());
        let patch = report_patch((&key.0, &key.1), Some(&"c1".into()), (&"node-1".into(), &"webcam-x".into()), &report);
        insta::assert_json_snapshot!("claim_report", patch);
        let mut status = patch["status"].clone();
        status["allocation"] = json!({"devices": {"results": [result("device", "node-1", "webcam-x")]}});
        assert_eq!(pod_role(&of_pod(status)).told, Some(report));
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
