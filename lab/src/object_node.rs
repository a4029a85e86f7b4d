//! A node that is an object and no more: the API server and its controllers take it for one, because somebody beats its heart.
//! Programs of ours that think they run there get the token of a pod that is an object, too.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use patchbay_api::installation;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::api;
use crate::plane::Plane;
use crate::wait::wait_for;

/// How often a kubelet says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// For the controllers to notice a node.
const SOON: Duration = Duration::from_secs(15);

/// The heart of a node beats for as long as this is held.
pub struct Heart {
    _held: watch::Sender<()>,
}

impl Heart {
    /// Begins to say that a node lives.
    pub fn start(client: Client, name: &str) -> Self {
        let (held, beats) = watch::channel(());
        api::spawn(beat(Api::namespaced(client, "kube-node-lease"), name.to_owned(), beats));
        Self { _held: held }
    }
}

/// Makes the object of a ready node, and waits until pods may be scheduled to it.
///
/// # Errors
/// When the API server refuses it, or it is not taken for ready in time.
pub fn create(nodes: &Api<Node>, name: &str) -> Result<()> {
    api::request("make the node", nodes.create(&PostParams::default(), &object(name)?))?;
    wait_for(&format!("node {name} to be taken for ready"), SOON, || {
        let node = api::request("look at the node", nodes.get(name)).map_err(|error| format!("{error:#}"))?;
        let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        if taints.is_empty() { Ok(()) } else { Err(format!("{taints:?}")) }
    })
}

/// The object of a ready node, as its kubelet makes it.
///
/// # Errors
/// When it is none.
pub fn object(name: &str) -> Result<Node> {
    let resources = json!({"cpu": "32", "memory": "64Gi", "pods": "110"});
    // Names may be longer than labels and host names.
    let hostname = name.get(..63).unwrap_or(name);
    let node = serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": hostname}},
        "status": {
            "capacity": resources, "allocatable": resources,
            "conditions": [condition(true, Timestamp::now())],
        },
    }))?;
    Ok(node)
}

/// What a kubelet, or somebody on its behalf, says of whether its node is ready.
pub fn condition(ready: bool, since: Timestamp) -> Value {
    json!({
        "type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "Played", "message": "as the test says",
        "lastTransitionTime": since, "lastHeartbeatTime": Timestamp::now(),
    })
}

/// A kubeconfig with the token that the kubelet of a node mounts into the pod of one of our accounts there. The pod is made.
///
/// # Errors
/// When the API server refuses the pod or the token.
pub fn account_on(plane: &Plane, client: Client, account: &str, node: &str) -> Result<String> {
    let name = format!("{account}-{node}");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": installation::NAMESPACE},
        "spec": {
            "nodeName": node, "serviceAccountName": account, "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "only", "image": "none"}],
        },
    }))?;
    let pods: Api<Pod> = Api::namespaced(client, installation::NAMESPACE);
    api::request("make the pod", pods.create(&PostParams::default(), &pod))?;
    plane.account_of_pod(installation::NAMESPACE, account, &name)
}

/// Keeps the node's lease fresh for as long as somebody holds the other end.
async fn beat(leases: Api<Lease>, name: String, mut held: watch::Receiver<()>) {
    let mut heart = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            _ = heart.tick() => {}
            Err(_) = held.changed() => return,
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {
                "holderIdentity": name, "leaseDurationSeconds": 40,
                "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
            },
        });
        // A beat that is lost is made up for by the next.
        let _ = leases.patch(&name, &PatchParams::apply("kubelet").force(), &Patch::Apply(lease)).await;
    }
}
