//! What the API server says, asked at the moment of a decision: nothing here comes from a cache.

use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::Client;
use kube::api::{Api, ListParams};
use patchbay_api::{NodeUSBDevice, attachment};
use patchbay_core::DRIVER;
use patchbay_core::home::{self, Evidence, Request};
use patchbay_core::names::{ClaimName, ClaimRef, DeviceName, Namespace, NodeName, PodName, PodRef, Uid};
use tokio::time::timeout;

/// One answer of the API server.
const DEADLINE: Duration = Duration::from_secs(5);

/// All that a decision about `request` needs.
///
/// # Errors
/// The API server does not answer; in words.
pub(super) async fn of(client: &Client, home: &NodeName, request: &Request) -> Result<Evidence, String> {
    let namespace = request.claim.namespace.as_str();
    let claims = Api::<ResourceClaim>::namespaced(client.clone(), namespace);
    let assigned = assigned(client, home, &request.device);
    let claim = answer(claims.get_opt(request.claim.name.as_str()));
    let (claim, assigned) = tokio::try_join!(claim, assigned)?;
    let Some(claim) = claim else { return Ok(Evidence { claim: None, pods: Vec::new(), assigned }) };
    let status = claim.status.as_ref();
    let consumers = status.and_then(|s| s.reserved_for.as_deref()).unwrap_or_default();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let found =
        try_join_all(consumers.iter().filter(|c| c.resource == "pods").map(|c| answer(pods.get_opt(&c.name)))).await?;
    let reserved = consumers.iter().map(|c| c.uid.as_str()).collect::<Vec<_>>();
    let pods = found.iter().flatten().filter_map(pod).filter(|p| reserved.contains(&p.pod.uid.as_str())).collect();
    let results = status.and_then(|s| s.allocation.as_ref()?.devices.as_ref()?.results.as_deref()).unwrap_or_default();
    let allocated = results
        .iter()
        .filter(|r| r.driver == DRIVER)
        .map(|r| (NodeName::new(&r.pool), DeviceName::new(&r.device)))
        .collect();
    let claim = home::Claim {
        claim: ClaimRef {
            namespace: Namespace::new(namespace),
            name: ClaimName::new(claim.metadata.name.unwrap_or_default()),
            uid: Uid::new(claim.metadata.uid.unwrap_or_default()),
        },
        allocated,
    };
    Ok(Evidence { claim: Some(claim), pods, assigned })
}

/// The namespace that a device of a node is assigned to.
///
/// # Errors
/// The API server does not answer; in words.
pub(super) async fn assigned(
    client: &Client,
    home: &NodeName,
    device: &DeviceName,
) -> Result<Option<Namespace>, String> {
    let devices = Api::<NodeUSBDevice>::all(client.clone());
    let of_node = ListParams::default().fields(&format!("status.nodeName={home}"));
    let found = answer(devices.list(&of_node)).await?;
    let published = |d: &NodeUSBDevice| {
        let name = d.status.as_ref().and_then(|s| s.device_name.as_deref()).or(d.metadata.name.as_deref());
        name == Some(device.as_str())
    };
    let object = found.items.into_iter().find(published);
    Ok(object.and_then(|d| d.spec.assigned_namespace).map(Namespace::new))
}

fn pod(pod: &Pod) -> Option<home::Pod> {
    let meta = &pod.metadata;
    let reference = PodRef {
        namespace: Namespace::new(meta.namespace.as_deref()?),
        name: PodName::new(meta.name.as_deref()?),
        uid: Uid::new(meta.uid.as_deref()?),
    };
    // A pod that is no attachment wants its device for as long as it lives.
    let is_attachment = attachment::read(pod).is_ok();
    let wants = if is_attachment { attachment::wants_plugged(pod) } else { meta.deletion_timestamp.is_none() };
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).map(NodeName::new);
    Some(home::Pod { pod: reference, node, wants })
}

async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(DEADLINE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("the API server cannot be asked: {error}")),
        Err(_) => Err("the API server does not answer".to_owned()),
    }
}
