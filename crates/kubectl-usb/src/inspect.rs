//! What the doctor reads. What one may not read, or what does not answer, costs the checks that go by it, and no others.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SubjectAccessReview};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt};
use patchbay_api::claim::{self, Target};
use patchbay_api::installation::{self, NAMESPACE};
use patchbay_api::rights::{self, Need};
use patchbay_api::slice::{self, Pools, Slice};
use patchbay_api::{NodeUSBDevice, attachment, crds, keys, node_device};
use patchbay_core::DRIVER;
use patchbay_core::controller::World;
use patchbay_core::doctor::seen::{Asked, Leaving, Policy, ProgramPod, Right, Version};
use patchbay_core::doctor::{Seen, stuck};
use patchbay_core::names::{Namespace, NodeName};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::Cluster;
use crate::failure::Failure;
use crate::inside;
use crate::look::{everything, read, take_claims};

/// How many questions about rights are on their way at once.
const AT_ONCE: usize = 8;

/// Of so many that wait Kubernetes is asked what it says of them.
const MOST_WARNINGS: usize = 20;

/// Reads everything that can be read.
///
/// # Errors
/// When the API server does not even tell its version.
pub(crate) async fn seen(cluster: &Cluster) -> Result<Seen, Failure> {
    let client = cluster.client();
    let info = cluster.ask("ask for the version", client.apiserver_version()).await?;
    let version = installation::version(&info).ok_or_else(|| format!("{} is no version", info.git_version));
    let minor = version.as_ref().map_or(u32::MAX, |Version { minor, .. }| *minor);
    let mut seen = Seen {
        now: Timestamp::now().as_second(),
        version,
        api_version: keys::VERSION.to_owned(),
        resources: resources(cluster).await,
        definitions: definitions(cluster).await,
        classes: classes(cluster).await,
        policies: policies(cluster).await,
        deployment: one::<Deployment, _>(cluster, installation::CONTROLLER, installation::deployment).await,
        lease: one::<Lease, _>(cluster, installation::LEASE, installation::lease).await,
        daemon_set: one::<DaemonSet, _>(cluster, installation::AGENT, installation::daemon_set).await,
        controllers: pods(cluster, installation::CONTROLLER).await,
        agents: pods(cluster, installation::AGENT).await,
        controller_rights: rights_of(cluster, installation::CONTROLLER, rights::needs(rights::CONTROLLER, minor)).await,
        agent_rights: rights_of(cluster, installation::AGENT, rights::needs(rights::AGENT, minor)).await,
        own_rights: own_rights(cluster).await,
        hosts: said(cluster.list_all::<Node>(&everything()).await).map(|nodes| read(nodes, installation::host)),
        ..Seen::default()
    };
    seen.world.now = seen.now;
    seen.inside = inside::ask(cluster, &seen).await;
    fill(cluster, &mut seen).await;
    Ok(seen)
}

/// An answer, or why there is none.
fn said<T>(answer: Result<T, Failure>) -> Asked<T> {
    answer.map_err(|failure| failure.to_string())
}

/// The same of a list of a kind that may not be installed: then there is nothing of it.
fn if_installed<T>(answer: Result<Vec<T>, Failure>) -> Asked<Vec<T>> {
    match answer {
        Err(failure) if failure.is_unknown_kind() => Ok(Vec::new()),
        answer => said(answer),
    }
}

/// Devices, ports, claims and attachments.
async fn fill(cluster: &Cluster, seen: &mut Seen) {
    let world: &mut World = &mut seen.world;
    let params = everything().fields(&format!("spec.driver={DRIVER}"));
    seen.published = if_installed(cluster.list_all::<ResourceSlice>(&params).await).map(|slices| {
        let slices: Vec<Slice> = read(slices, slice::read);
        world.pools = Pools::default().update(&slices);
        installation::published(&slices)
    });
    seen.devices = if_installed(cluster.list_all::<NodeUSBDevice>(&everything()).await)
        .map(|devices| world.node_devices = read(devices, node_device::read));
    seen.claims = if_installed(cluster.list::<ResourceClaim>(None, &everything()).await).map(|claims| {
        seen.leaving.extend(claims.iter().filter_map(leaving_claim));
        take_claims(&claims, world);
    });
    seen.attachments = said(cluster.list::<Pod>(None, &everything().labels(keys::ATTACHMENT)).await).map(|pods| {
        seen.leaving.extend(pods.iter().filter_map(leaving_pod));
        world.attachments = read(pods, attachment::read);
    });
    // Machines' pods are only looked at for what does not go; who may not see them has been told so above.
    if let Ok(pods) = cluster.list::<Pod>(None, &everything().labels(keys::VM_NAME)).await {
        seen.leaving.extend(pods.iter().filter_map(leaving_pod));
    }
    for waits in stuck(&seen.world).into_iter().take(MOST_WARNINGS) {
        let about = format!("involvedObject.name={},type=Warning", waits.pod);
        let events = cluster.list::<Event>(Some(waits.namespace.as_str()), &everything().fields(&about)).await;
        let last = events.into_iter().flatten().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        if let Some(text) = last.and_then(|event| event.message) {
            seen.warnings.insert((waits.namespace, waits.pod), text);
        }
    }
}

fn leaving_pod(pod: &Pod) -> Option<Leaving> {
    leaving("pod", &pod.metadata, NodeName::new(pod.spec.as_ref()?.node_name.as_deref()?))
}

/// A claim of ours that is being deleted, on the node that has its port, else on that of its device.
fn leaving_claim(object: &ResourceClaim) -> Option<Leaving> {
    let targets = claim::allocated(object).into_iter().map(|allocated| match allocated.target {
        Target::Port { node, .. } | Target::Token { node } => (0, node),
        Target::Device { node, .. } => (1, node),
    });
    leaving("resourceclaim", &object.metadata, targets.min()?.1)
}

fn leaving(kind: &'static str, meta: &ObjectMeta, node: NodeName) -> Option<Leaving> {
    Some(Leaving {
        kind,
        namespace: Namespace::new(meta.namespace.as_deref()?),
        name: meta.name.clone()?,
        node,
        since: meta.deletion_timestamp.as_ref()?.0.as_second(),
    })
}

async fn resources(cluster: &Cluster) -> Asked<BTreeMap<String, bool>> {
    let client = cluster.client();
    let asked =
        cluster.ask("ask what resource.k8s.io/v1 serves", client.list_api_group_resources("resource.k8s.io/v1"));
    let served: Vec<String> = match asked.await {
        Ok(list) => list.resources.into_iter().map(|resource| resource.name).collect(),
        Err(Failure::Refused { status, .. }) if status.code == 404 => Vec::new(),
        Err(failure) => return Err(failure.to_string()),
    };
    Ok(installation::DRA.iter().map(|name| ((*name).to_owned(), served.iter().any(|s| s == name))).collect())
}

async fn definitions(cluster: &Cluster) -> Asked<BTreeMap<String, Option<patchbay_core::doctor::seen::Definition>>> {
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client());
    let mut found = BTreeMap::new();
    for name in crds::all().iter().map(ResourceExt::name_any) {
        let definition = said(cluster.ask("get definitions", api.get_opt(&name)).await)?;
        found.insert(name, definition.as_ref().map(installation::definition));
    }
    Ok(found)
}

async fn classes(cluster: &Cluster) -> Asked<BTreeMap<String, bool>> {
    let there = if_installed(cluster.list_all::<DeviceClass>(&everything()).await)?;
    let is = |name: &str| there.iter().any(|class| class.metadata.name.as_deref() == Some(name));
    Ok([keys::DEVICE_CLASS, keys::PORT_CLASS].into_iter().map(|name| (name.to_owned(), is(name))).collect())
}

async fn policies(cluster: &Cluster) -> Asked<BTreeMap<String, Policy>> {
    let api: Api<PartialObjectMeta<ValidatingAdmissionPolicy>> = Api::all(cluster.client());
    let params = everything();
    let there = said(cluster.ask("list validatingadmissionpolicies", api.list_metadata(&params)).await)?;
    let bindings = said(cluster.list_all::<ValidatingAdmissionPolicyBinding>(&params).await)?;
    let bindings: Vec<_> = bindings.iter().filter_map(installation::binding).collect();
    let policy = |name: &&str| Policy {
        exists: there.iter().any(|policy| policy.metadata.name.as_deref() == Some(name)),
        bindings: bindings.iter().filter(|(policy, ..)| policy == name).map(|(_, b, d)| (b.clone(), *d)).collect(),
    };
    Ok(installation::POLICIES.iter().map(|name| ((*name).to_owned(), policy(name))).collect())
}

/// An object of the installation.
async fn one<K, T>(cluster: &Cluster, name: &str, read: fn(&K) -> T) -> Asked<Option<T>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(cluster.client(), NAMESPACE);
    let what = format!("get {} {name}", K::plural(&()));
    Ok(said(cluster.ask(&what, api.get_opt(name)).await)?.as_ref().map(read))
}

async fn pods(cluster: &Cluster, component: &str) -> Asked<Vec<ProgramPod>> {
    let params = ListParams::default().labels(&format!("{}={component}", installation::COMPONENT));
    let pods = said(cluster.list::<Pod>(Some(NAMESPACE), &params).await)?;
    Ok(read(pods, installation::program_pod))
}

async fn rights_of(cluster: &Cluster, account: &str, needs: Vec<Need>) -> Asked<Vec<Right>> {
    let needs = needs.into_iter().map(|need| (account.to_owned(), need)).collect();
    let allowed = |answer: &SubjectAccessReview| answer.status.as_ref().is_some_and(|status| status.allowed);
    ask(cluster, needs, |need| need.of_account(account), allowed).await
}

/// What the commands need to do.
async fn own_rights(cluster: &Cluster) -> Asked<Vec<Right>> {
    const DRA: &str = "resource.k8s.io";
    let namespace = Some(cluster.namespace.as_str());
    let all = [
        ("list", &["list"][..], keys::GROUP, "nodeusbdevices", None),
        ("tree, why", &["list"], "", "nodes", None),
        ("tree, why", &["list"], "", "pods", None),
        ("tree, why", &["list"], DRA, "resourceslices", None),
        ("tree, why", &["list"], DRA, "resourceclaims", None),
        ("assign", &["get", "patch"], keys::GROUP, "nodeusbdevices", None),
        ("attach", &["get", "patch"], keys::GROUP, "virtualmachines", namespace),
        ("doctor", &["get", "create"], "", "pods/exec", Some(NAMESPACE)),
    ];
    let needs = all.into_iter().flat_map(|(purpose, verbs, group, resource, namespace)| {
        verbs.iter().map(move |verb| (purpose.to_owned(), Need::new(verb, group, resource, namespace)))
    });
    let allowed = |answer: &SelfSubjectAccessReview| answer.status.as_ref().is_some_and(|status| status.allowed);
    ask(cluster, needs.collect(), Need::of_mine, allowed).await
}

async fn ask<K>(
    cluster: &Cluster,
    needs: Vec<(String, Need)>,
    review: impl Fn(&Need) -> K,
    allowed: impl Fn(&K) -> bool,
) -> Asked<Vec<Right>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Serialize,
{
    let api: Api<K> = Api::all(cluster.client());
    let (api, review, allowed, params) = (&api, &review, &allowed, &PostParams::default());
    let answers = stream::iter(needs).map(|(purpose, need)| async move {
        let question = review(&need);
        let answer = cluster.ask("ask who may do what", api.create(params, &question)).await?;
        Ok::<_, Failure>(Right { purpose, what: need.title(), allowed: allowed(&answer) })
    });
    said(answers.buffered(AT_ONCE).try_collect().await)
}
