//! The nodes of the fleet: their objects, and what their agents publish.
//!
//! What is to be written is planned by the agents' own publisher (`patchbay_dra::slices`); only its loop is not run a thousand times.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use patchbay_api::slice;
use patchbay_core::DRIVER;
use patchbay_core::device::Device;
use patchbay_core::names::NodeName;
use patchbay_core::speed::{Hub, PortName};
use patchbay_dra::slices::{self, Action};
use patchbay_dra::{NodeScope, Pool, Publishing};
use serde_json::{Value, json};

use super::cluster::{Cluster, Word};
use crate::object_node;

/// vhci ports of each kind, as an agent offers them.
pub(super) const PORTS: u16 = 8;

/// A node.
pub(super) struct Home {
    name: NodeName,
    owner: OwnerReference,
    /// Its slices, as the API server has them.
    slices: BTreeMap<String, ResourceSlice>,
}

impl Home {
    /// Makes the node.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(super) async fn make(cluster: &Cluster, name: NodeName) -> Result<Self> {
        let object = object_node::object(name.as_str())?;
        let made = cluster.all::<Node>().create(&PostParams::default(), &object).await?;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.to_string(),
            uid: made.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        };
        Ok(Self { name, owner, slices: BTreeMap::new() })
    }

    /// Its agent publishes these devices, and its ports. Returns when the first write was answered.
    ///
    /// # Errors
    /// When the API server does not take it, or nothing has to be written.
    pub(super) async fn publish(&mut self, cluster: &Cluster, devices: &[Device]) -> Result<Instant> {
        let publishing = Publishing { driver: DRIVER.to_owned(), node: self.name.to_string() };
        let pools = pools(&self.name, devices);
        let plans = slices::plan(&publishing, &self.owner, &pools, &self.slices, &BTreeMap::new());
        let mut answered = None;
        for action in plans.into_iter().flat_map(|plan| plan.actions) {
            let word = match &action {
                Action::Create(slice) => Word::Create(slice),
                Action::Update(slice) => Word::Replace(slice),
                Action::Delete { name, .. } => bail!("node {} would delete its slice {name}", self.name),
            };
            let written: ResourceSlice =
                cluster.as_agent(&self.name, word).await.with_context(|| format!("publish as node {}", self.name))?;
            answered.get_or_insert_with(Instant::now);
            self.slices.insert(written.name_any(), written);
        }
        answered.with_context(|| format!("node {} has nothing new to publish", self.name))
    }

    /// Whether it can be reached: said by its kubelet, or by the node-lifecycle controller on its behalf.
    ///
    /// # Errors
    /// When the API server does not take it.
    pub(super) async fn is_there(&self, cluster: &Cluster, there: bool) -> Result<()> {
        let now = Timestamp::now();
        let condition = if there { object_node::condition(true, now) } else { lost(now) };
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let patched = cluster.all::<Node>().patch_status(self.name.as_str(), &PatchParams::default(), &patch).await;
        patched.map(drop).with_context(|| format!("say how node {} is", self.name))
    }
}

fn pools(node: &NodeName, devices: &[Device]) -> [Pool; 2] {
    let ports = Hub::ALL.into_iter().flat_map(|hub| (0..PORTS).map(move |index| PortName { hub, index }));
    let tokens = devices.iter().map(|device| slice::token(&device.name, node, None));
    let entries = ports.map(|port| slice::port(&port, None)).chain(tokens);
    let published = devices.iter().map(|device| slice::device(device, node));
    [
        Pool::new(slice::device_pool(node), NodeScope::AllNodes, published).0,
        Pool::new(slice::port_pool(node), NodeScope::NodeName(node.to_string()), entries).0,
    ]
}

/// As the node-lifecycle controller says it (`tryUpdateNodeHealth`).
fn lost(now: Timestamp) -> Value {
    json!({
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": now,
    })
}

#[cfg(test)]
mod tests {
    use patchbay_sim::fleet::Fleet;

    use super::*;

    #[test]
    fn a_node_has_a_pool_of_devices_and_one_of_ports_with_a_token_for_each_device() {
        let fleet = Fleet::of_devices(100);
        let devices: Vec<_> = fleet.devices_of(3).collect();
        let pools = pools(&fleet.node(3), &devices);
        let size = |pool: &Pool| (pool.name().to_owned(), pool.devices().len());
        assert_eq!(pools.each_ref().map(size), [("node-0003".to_owned(), 10), ("node-0003-ports".to_owned(), 26)]);
    }
}
