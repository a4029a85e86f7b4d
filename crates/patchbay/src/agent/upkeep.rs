//! Looks after the devices that containers were given: says which are in their reach, and makes the best of those that are not.
//!
//! A container has the device nodes it was started with. When a device was away and is back, the kernel has given it another
//! number and those nodes are dead. So its CDI file is written anew at once: the container has the device again as soon as it
//! is restarted, which most programs do by ending when their device vanishes. Until then the kubelet is told that the device
//! is unhealthy, and why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use patchbay_api::claim;
use patchbay_core::containers::{self, Nodes};
use patchbay_core::importer::{Reach, Source};
use patchbay_core::names::{NodeName, Uid};
use patchbay_dra::{DeviceHealth, HealthState, Journal, Record, Records as JournalRecords};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::containers::{Containers, Given, Reaches};
use super::pod_use::PodUse;
use super::steps::publish;

/// One answer of the API server.
const API: Duration = Duration::from_secs(5);
/// How often it is looked whether containers with dead nodes were restarted. Nobody tells.
const RESTARTED: Duration = Duration::from_secs(10);

/// Devices in reach of containers, by the uid of the claim.
pub(super) type InReach = BTreeMap<Uid, Source>;

/// What it works with.
pub(super) struct Upkeep {
    /// This node.
    pub(super) node: NodeName,
    /// To the API server.
    pub(super) client: Client,
    /// Writes CDI files.
    pub(super) containers: Containers,
    /// Which claims are prepared.
    pub(super) journal: Journal,
    /// How far their devices are.
    pub(super) reach: Reaches,
    /// Told what is in reach.
    pub(super) in_reach: watch::Sender<InReach>,
    /// Told how the devices are.
    pub(super) health: watch::Sender<Vec<DeviceHealth>>,
}

/// A device that came back under another number: the file for its containers, and since when it is so.
struct Renewed {
    given: Given,
    since: jiff::Timestamp,
}

/// Runs for ever.
pub(super) async fn run(mut upkeep: Upkeep) {
    let mut journal = upkeep.journal.watch();
    let mut renewed: BTreeMap<String, Renewed> = BTreeMap::new();
    loop {
        let records: Arc<JournalRecords> = journal.borrow_and_update().clone();
        let reach = upkeep.reach.borrow_and_update().clone();
        renewed.retain(|uid, _| records.get(uid).is_some());
        let mut in_reach = InReach::new();
        let mut health = Vec::new();
        for (uid, record) in records.prepared() {
            let Some(pod) = PodUse::of_record(&upkeep.node, uid, record) else { continue };
            let nodes = upkeep.look(uid, record, &pod, reach.get(&Uid::new(uid)), &mut renewed).await;
            health.extend(report(record, &pod, &nodes));
            if nodes == Nodes::InReach {
                in_reach.insert(Uid::new(uid), pod.source);
            }
        }
        publish(&upkeep.in_reach, in_reach);
        publish(&upkeep.health, health);
        tokio::select! {
            changed = journal.changed() => if changed.is_err() { return },
            changed = upkeep.reach.changed() => if changed.is_err() { return },
            () = sleep(RESTARTED), if !renewed.is_empty() => {}
        }
    }
}

impl Upkeep {
    /// How one device is; what can be done about it is done.
    async fn look(
        &self,
        uid: &str,
        record: &Record,
        pod: &PodUse,
        reach: Option<&Reach>,
        renewed: &mut BTreeMap<String, Renewed>,
    ) -> Nodes {
        let given = serde_json::from_value::<Given>(record.data.clone()).ok().map(|given| given.address);
        let known = renewed.get(uid);
        let nodes = containers::nodes(reach, given, known.map(|known| known.given.address));
        match (&nodes, known) {
            (Nodes::InReach, _) => drop(renewed.remove(uid)),
            (Nodes::Written, Some(known)) if restarted(&self.client, record, known.since).await == Some(true) => {
                let data = serde_json::to_value(&known.given).unwrap_or_default();
                if self.journal.set_data(uid, data).await.is_ok() {
                    tracing::info!(device = %pod.device(), claim = record.name, "its container was restarted and has the device again");
                    renewed.remove(uid);
                    return Nodes::InReach;
                }
            }
            (Nodes::Outdated(address), _) => match self.containers.write(uid, pod, *address).await {
                Ok((_, given)) => {
                    tracing::info!(device = %pod.device(), claim = record.name, %address, "back under another number: its container has to be restarted");
                    renewed.insert(uid.to_owned(), Renewed { given, since: jiff::Timestamp::now() });
                }
                Err(error) => {
                    tracing::warn!(device = %pod.device(), claim = record.name, %error, "CDI file not renewed")
                }
            },
            (Nodes::Written | Nodes::Away(_), _) => {}
        }
        nodes
    }
}

/// What the kubelet is told.
fn report(record: &Record, pod: &PodUse, nodes: &Nodes) -> Option<DeviceHealth> {
    let device = record.allocated.iter().find(|d| d.device == pod.device().as_str())?;
    let (state, message) = match nodes {
        Nodes::InReach => (HealthState::Healthy, String::new()),
        Nodes::Outdated(_) | Nodes::Written => {
            (HealthState::Unhealthy, "it was away and is back: restart the container to give it the device".to_owned())
        }
        Nodes::Away(why) => (HealthState::Unhealthy, why.clone()),
    };
    Some(DeviceHealth { pool: device.pool.clone(), device: device.device.clone(), state, message })
}

/// Whether every container that uses a claim was started since `since`. None when that cannot be told now.
async fn restarted(client: &Client, record: &Record, since: jiff::Timestamp) -> Option<bool> {
    let claims = Api::<ResourceClaim>::namespaced(client.clone(), &record.namespace);
    let claim = timeout(API, claims.get(&record.name)).await.ok()?.ok()?;
    let pods = Api::<Pod>::namespaced(client.clone(), &record.namespace);
    for (name, _) in claim::consumers(&claim) {
        let pod = timeout(API, pods.get(name.as_str())).await.ok()?.ok()?;
        // Kubernetes has times in whole seconds: one that was started in that very second may have the new nodes. If it has
        // not, it ends once more.
        if started(&pod, &record.name)?.as_second() < since.as_second() {
            return Some(false);
        }
    }
    Some(true)
}

/// When the oldest of the running containers that use a claim was started. None when one of them does not run.
fn started(pod: &Pod, claim: &str) -> Option<jiff::Timestamp> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let made = status.resource_claim_statuses.iter().flatten();
    let named = spec.resource_claims.iter().flatten().map(|c| (&c.name, c.resource_claim_name.as_deref()));
    let all = named.chain(made.map(|c| (&c.name, c.resource_claim_name.as_deref())));
    let name = all.filter(|(_, found)| *found == Some(claim)).map(|(name, _)| name).next()?;
    let uses = |c: &&k8s_openapi::api::core::v1::Container| {
        c.resources.as_ref().is_some_and(|r| r.claims.iter().flatten().any(|c| c.name == *name))
    };
    let mut oldest = None;
    for container in spec.containers.iter().filter(uses) {
        let state = status.container_statuses.iter().flatten().find(|s| s.name == container.name)?.state.as_ref()?;
        let at = state.running.as_ref()?.started_at.as_ref()?.0;
        oldest = Some(oldest.map_or(at, |o: jiff::Timestamp| o.min(at)));
    }
    oldest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(running: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "reader"},
            "spec": {
                "resourceClaims": [{"name": "serial", "resourceClaimTemplateName": "modem"}],
                "containers": [
                    {"name": "user", "resources": {"claims": [{"name": "serial"}]}},
                    {"name": "sidecar"},
                ],
            },
            "status": {
                "resourceClaimStatuses": [{"name": "serial", "resourceClaimName": "reader-serial-x"}],
                "containerStatuses": [
                    {"name": "sidecar", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                     "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}},
                    {"name": "user", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": running},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn only_the_containers_that_use_the_claim_count() {
        let started_at = |pod: &Pod, claim| started(pod, claim).map(|t| t.to_string());
        let up = pod(json!({"running": {"startedAt": "2026-01-02T00:00:00Z"}}));
        assert_eq!(started_at(&up, "reader-serial-x").as_deref(), Some("2026-01-02T00:00:00Z"));
        assert_eq!(started_at(&up, "another"), None);
        assert_eq!(started_at(&pod(json!({"waiting": {"reason": "CrashLoopBackOff"}})), "reader-serial-x"), None);
    }
}
