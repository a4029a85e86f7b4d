//! Which devices of this node are assigned to a namespace, as the API server has it.
//!
//! Of a `NodeUSBDevice` no more is read than that: what the controller says of three hundred devices, and the list of who has
//! written which field, would be most of the agent's memory.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::reflector::Store;
use patchbay_api::NodeUSBDevice;
use patchbay_api::node_device::NodeUSBDeviceSpec;
use patchbay_core::names::DeviceName;
use serde::{Deserialize, Deserializer};

/// What is read of a `NodeUSBDevice`.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "NodeUSBDevice")]
pub(super) struct Assignment {
    #[serde(deserialize_with = "identity")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: NodeUSBDeviceSpec,
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    device_name: Option<String>,
}

/// Which object it is, and of which version.
fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Identity {
        name: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
    }
    let Identity { name, uid, resource_version } = Identity::deserialize(deserializer)?;
    Ok(ObjectMeta { name, uid, resource_version, ..ObjectMeta::default() })
}

impl Assignment {
    /// The device, by the name it is published by; None when it is assigned to no namespace.
    fn device(&self) -> Option<DeviceName> {
        self.spec.assigned_namespace.as_ref().filter(|namespace| !namespace.is_empty())?;
        let published = self.status.device_name.as_ref().or(self.metadata.name.as_ref())?;
        Some(DeviceName::new(published))
    }
}

/// The devices that are assigned.
pub(super) fn assigned(objects: &Store<Assignment>) -> BTreeSet<DeviceName> {
    objects.state().iter().filter_map(|object| object.device()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_device_is_assigned_by_the_name_it_is_published_by_and_nothing_else_is_kept() {
        let read = |namespace: Value, status: Value| {
            let object: Assignment = serde_json::from_value(json!({
                "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "NodeUSBDevice",
                "metadata": {
                    "name": "stick-k3f9a", "uid": "u1", "resourceVersion": "7",
                    "managedFields": [{"manager": "patchbay-controller", "fieldsV1": {"f:status": {}}}],
                },
                "spec": {"assignedNamespace": namespace},
                "status": status,
            }))
            .unwrap();
            assert_eq!((object.metadata.managed_fields.as_ref(), object.metadata.uid.as_deref()), (None, Some("u1")));
            object.device().map(|device| device.to_string())
        };
        let published = json!({"deviceName": "stick", "nodeName": "node-1", "conditions": []});
        for (namespace, status, device) in [
            (json!("blue"), json!({}), Some("stick-k3f9a")),
            (json!("blue"), published.clone(), Some("stick")),
            (json!(""), published.clone(), None),
            (Value::Null, published, None),
        ] {
            assert_eq!(read(namespace, status).as_deref(), device);
        }
    }
}
