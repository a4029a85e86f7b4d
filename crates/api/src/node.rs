//! `Node`: whether it is ready, and since when; whether it shall get pods.

use k8s_openapi::api::core::v1 as core_v1;
use patchbay_core::controller::world::Node;
use patchbay_core::names::NodeName;

use crate::meta::{self, Unreadable};

/// Reads a node. One that has never said whether it is ready is not.
pub fn read(node: &core_v1::Node) -> Result<(NodeName, Node), Unreadable> {
    let name = NodeName::new(meta::name(&node.metadata)?);
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().find(|c| c.type_ == "Ready");
    let born = node.metadata.creation_timestamp.as_ref();
    let since = ready.and_then(|c| c.last_transition_time.as_ref()).or(born).map_or(0, meta::seconds);
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
    Ok((name, Node { ready: ready.is_some_and(|c| c.status == "True"), since, cordoned }))
}

/// Its address in the cluster, where its kubelet has told one: pods in the node's own network have it, too.
pub fn address(node: &core_v1::Node) -> Option<&str> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP").map(|address| address.address.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: serde_json::Value) -> Node {
        let meta = serde_json::json!({"name": "node-1", "creationTimestamp": "1970-01-01T00:01:00Z"});
        read(&serde_json::from_value(serde_json::json!({"metadata": meta, "status": status})).unwrap()).unwrap().1
    }

    #[test]
    fn a_node_that_cannot_be_reached_is_not_ready() {
        let condition = |status: &str| {
            serde_json::json!({"conditions": [
                {"type": "DiskPressure", "status": "True"},
                {"type": "Ready", "status": status, "lastTransitionTime": "1970-01-01T00:02:00Z"},
            ]})
        };
        assert_eq!(node(condition("True")), Node { ready: true, since: 120, cordoned: false });
        assert_eq!(node(condition("Unknown")), Node { ready: false, since: 120, cordoned: false });
        assert_eq!(node(serde_json::json!({})), Node { ready: false, since: 60, cordoned: false });
    }

    #[test]
    fn a_node_that_is_drained_is_cordoned() {
        let node = |spec| serde_json::json!({"metadata": {"name": "node-1"}, "spec": spec});
        let cordoned = |spec| read(&serde_json::from_value(node(spec)).unwrap()).unwrap().1.cordoned;
        assert!(cordoned(serde_json::json!({"unschedulable": true})) && !cordoned(serde_json::json!({})));
    }
}
