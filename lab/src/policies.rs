//! When the admission policies of the chart are in force: an API server takes up to a second to notice them.

use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use patchbay_api::{NodeUSBDevice, certificate_request, keys};
use patchbay_core::DRIVER;
use rcgen::{CertificateParams, KeyPair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{connect, connect_as, request};
use crate::wait::wait_for;

/// The longest it may take.
const SOON: Duration = Duration::from_secs(30);

/// Whom the policy of agents is about.
const AGENT: &str = "system:serviceaccount:patchbay:agent";

/// Waits until each policy refuses what it is there to refuse. Nothing is written: all tries are dry runs. `admin` is the
/// kubeconfig of somebody whom nothing else stops.
///
/// # Errors
/// When one does not in time; the error says what the API server has answered instead.
pub fn wait_in_force(admin: &Path) -> Result<()> {
    let (people, agent) = (connect(admin)?, connect_as(admin, Some(AGENT))?);
    let foreign = foreign_request()?;
    wait_for("the admission policies to be in force", SOON, || {
        let claim = json!({"metadata": {"name": "probe", "labels": {keys::DEVICE: "probe"}}, "spec": {}});
        let pod = json!({
            "metadata": {"name": "probe", "labels": {keys::ATTACHMENT: "probe"}},
            "spec": {"containers": [{"name": "probe", "image": "none"}]},
        });
        let pool = json!({"name": "probe", "generation": 1, "resourceSliceCount": 1});
        let slice = json!({"metadata": {"name": "probe"}, "spec": {"driver": DRIVER, "allNodes": true, "pool": pool}});
        let device = json!({
            "apiVersion": keys::API_VERSION, "kind": "NodeUSBDevice", "metadata": {"name": "probe"}, "spec": {},
        });
        refuses("patchbay-agents", &Api::<ResourceSlice>::all(agent.clone()), slice)?;
        refuses("patchbay-requests", &Api::<CertificateSigningRequest>::all(agent.clone()), foreign.clone())?;
        refuses("patchbay-devices", &Api::<NodeUSBDevice>::all(people.clone()), device)?;
        refuses("patchbay-pods", &default::<Pod>(&people), pod)?;
        refuses("patchbay-claims", &default::<ResourceClaim>(&people), claim)
    })
}

/// A request for a certificate of another signer than ours. What is no request at all is refused before any policy is asked.
fn foreign_request() -> Result<Value> {
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.pem()?;
    let mut object = certificate_request::build("probe", &request);
    object.spec.signer_name = "example.org/probe".to_owned();
    Ok(serde_json::to_value(object)?)
}

fn default<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), "default")
}

fn refuses<K>(policy: &str, objects: &Api<K>, object: Value) -> Result<(), String>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let object: K = serde_json::from_value(object).map_err(|error| error.to_string())?;
    let try_it = PostParams { dry_run: true, ..PostParams::default() };
    match request("try it", objects.create(&try_it, &object)) {
        Err(error) if format!("{error:#}").contains(&format!("'{policy}'")) => Ok(()),
        Err(error) => Err(format!("{policy}: {error:#}")),
        Ok(_) => Err(format!("{policy} does not refuse yet")),
    }
}
