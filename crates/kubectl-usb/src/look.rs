//! What is read from the API server, as a world in the core's words: only what the question is about.
//!
//! Objects that cannot be read as ours are left out, as the controller leaves them out.

use std::collections::BTreeSet;
use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Resource};
use patchbay_api::claim::Role;
use patchbay_api::slice::Pools;
use patchbay_api::{
    NodeUSBDevice, USBDevice, VirtualMachine, VirtualMachineOperation, attachment, claim, keys, namespace, node,
    node_device, operation, slice, usb_device, virtual_machine, vm_pod,
};
use patchbay_core::DRIVER;
use patchbay_core::controller::World;
use patchbay_core::names::{DeviceName, Namespace, NodeName};
use serde::de::DeserializeOwned;

use crate::connection::Cluster;
use crate::failure::Failure;

impl Cluster {
    /// All objects of a kind that a selection chooses; in one namespace, or in all.
    pub(crate) async fn list<K>(&self, namespace: Option<&str>, params: &ListParams) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client(), namespace),
            None => Api::all(self.client()),
        };
        Ok(self.ask(&listing::<K>(), api.list(params)).await?.items)
    }

    /// The same of a kind that is in no namespace.
    pub(crate) async fn list_all<K>(&self, params: &ListParams) -> Result<Vec<K>, Failure>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let api: Api<K> = Api::all(self.client());
        Ok(self.ask(&listing::<K>(), api.list(params)).await?.items)
    }
}

fn listing<K: Resource<DynamicType = ()>>() -> String {
    format!("list {}", K::plural(&()))
}

/// All objects.
pub(crate) fn everything() -> ListParams {
    ListParams::default()
}

/// What `tree` shows: all devices, and who has them and the ports.
///
/// # Errors
/// What the API server says.
pub(crate) async fn for_tree(cluster: &Cluster) -> Result<World, Failure> {
    let mut world = now();
    world.node_devices = read(cluster.list_all::<NodeUSBDevice>(&everything()).await?, node_device::read);
    slices(cluster, &mut world).await?;
    world.nodes = read(cluster.list_all::<Node>(&everything()).await?, node::read);
    let attachments = cluster.list::<Pod>(None, &everything().labels(keys::ATTACHMENT)).await?;
    world.attachments = read(attachments, attachment::read);
    claims(cluster, None, &mut world).await?;
    Ok(world)
}

/// What `ui` shows: all that matters to any device, of the whole cluster.
///
/// # Errors
/// What the API server says; for many people, that they may not see so much.
pub(crate) async fn for_picture(cluster: &Cluster) -> Result<World, Failure> {
    let mut world = now();
    world.node_devices = read(cluster.list_all::<NodeUSBDevice>(&everything()).await?, node_device::read);
    slices(cluster, &mut world).await?;
    world.nodes = read(cluster.list_all::<Node>(&everything()).await?, node::read);
    world.devices = read(cluster.list::<USBDevice>(None, &everything()).await?, usb_device::read);
    let api: Api<core_v1::Namespace> = Api::all(cluster.client());
    let namespaces = cluster.ask("list namespaces", api.list_metadata(&everything())).await?;
    world.namespaces = namespaces.iter().filter_map(|found| namespace::read(&found.metadata).ok()).collect();
    machines(cluster, None, &mut world).await?;
    claims(cluster, None, &mut world).await?;
    Ok(world)
}

/// What `why` needs to judge devices by itself: all that matters to these, of the whole cluster. `namespace` is where their
/// machine is, if there is one.
///
/// # Errors
/// What the API server says; for many people, that they may not see so much.
pub(crate) async fn for_chain(
    cluster: &Cluster,
    names: &[DeviceName],
    namespace: Option<&Namespace>,
) -> Result<World, Failure> {
    let mut world = now();
    world.node_devices = read(cluster.list_all::<NodeUSBDevice>(&everything()).await?, node_device::read);
    slices(cluster, &mut world).await?;
    world.devices = read(cluster.list::<USBDevice>(None, &everything()).await?, usb_device::read);
    let assigned = names.iter().filter_map(|name| world.node_devices.get(name)?.assigned.clone());
    let present = world.devices.keys().filter(|(_, name)| names.contains(name)).map(|(namespace, _)| namespace.clone());
    let namespaces: BTreeSet<Namespace> = assigned.chain(present).chain(namespace.cloned()).collect();
    for namespace in &namespaces {
        within(cluster, namespace, &mut world).await?;
        claims(cluster, Some(namespace), &mut world).await?;
    }
    // How many ports are in use takes the claims of all namespaces; it matters to none but those who have found none.
    if world.attachments.values().any(|a| a.is_unschedulable() && a.hub.is_some()) {
        (world.ports_used, world.claims, world.pod_claims) = Default::default();
        claims(cluster, None, &mut world).await?;
    }
    let homes = names.iter().filter_map(|name| world.node_devices.get(name)?.status.node.clone());
    let publishers = world.pools.iter().filter(|(_, pool)| pool.devices.iter().any(|d| names.contains(&d.name)));
    let machines = world.vm_pods.values().filter_map(|pod| pod.node.clone());
    let nodes: BTreeSet<NodeName> = homes.chain(publishers.map(|(node, _)| node.clone())).chain(machines).collect();
    for name in nodes {
        let api: Api<Node> = Api::all(cluster.client());
        if let Some(found) = cluster.ask("get nodes", api.get_opt(name.as_str())).await? {
            world.nodes.extend(node::read(&found));
        }
    }
    Ok(world)
}

/// What `why` can go by where only one namespace may be seen.
///
/// # Errors
/// What the API server says.
pub(crate) async fn for_namespace(cluster: &Cluster, namespace: &Namespace) -> Result<World, Failure> {
    let mut world = now();
    let name = Some(namespace.as_str());
    world.devices = read(cluster.list::<USBDevice>(name, &everything()).await?, usb_device::read);
    let machines = cluster.list::<VirtualMachine>(name, &everything()).await?;
    world.vms = machines.iter().filter_map(|vm| virtual_machine::read(vm).ok()).map(|(key, vm, _)| (key, vm)).collect();
    Ok(world)
}

fn now() -> World {
    World { now: Timestamp::now().as_second(), ..World::default() }
}

/// Those that can be read.
pub(crate) fn read<K, T, E, C: FromIterator<T>>(objects: Vec<K>, read: fn(&K) -> Result<T, E>) -> C {
    objects.iter().filter_map(|object| read(object).ok()).collect()
}

async fn slices(cluster: &Cluster, world: &mut World) -> Result<(), Failure> {
    let params = everything().fields(&format!("spec.driver={DRIVER}"));
    let slices: Vec<slice::Slice> = read(cluster.list_all::<ResourceSlice>(&params).await?, slice::read);
    world.pools = Pools::default().update(&slices);
    Ok(())
}

/// What is in a namespace, its claims left out.
async fn within(cluster: &Cluster, namespace: &Namespace, world: &mut World) -> Result<(), Failure> {
    let api: Api<PartialObjectMeta<core_v1::Namespace>> = Api::all(cluster.client());
    if let Some(found) = cluster.ask("get namespaces", api.get_opt(namespace.as_str())).await? {
        world.namespaces.extend(namespace::read(&found.metadata));
    }
    machines(cluster, Some(namespace.as_str()), world).await
}

/// Machines of a namespace, or of all, with the pods and operations that belong to them.
async fn machines(cluster: &Cluster, name: Option<&str>, world: &mut World) -> Result<(), Failure> {
    for vm in cluster.list::<VirtualMachine>(name, &everything()).await? {
        world.vms.extend(virtual_machine::read(&vm).map(|(key, vm, _)| (key, vm)));
    }
    for pod in cluster.list::<Pod>(name, &everything().labels(keys::VM_NAME)).await? {
        world.vm_pods.extend(vm_pod::read(&pod));
    }
    for pod in cluster.list::<Pod>(name, &everything().labels(keys::ATTACHMENT)).await? {
        world.attachments.extend(attachment::read(&pod));
    }
    for object in cluster.list::<VirtualMachineOperation>(name, &everything()).await? {
        world.operations.extend(operation::read(&object));
    }
    Ok(())
}

/// The claims of a namespace, or of all.
async fn claims(cluster: &Cluster, namespace: Option<&Namespace>, world: &mut World) -> Result<(), Failure> {
    take_claims(&cluster.list(namespace.map(Namespace::as_str), &everything()).await?, world);
    Ok(())
}

/// Takes claims into the world, and the ports that they hold.
pub(crate) fn take_claims(claims: &[ResourceClaim], world: &mut World) {
    for (key, seen) in claims.iter().filter_map(|object| claim::read(object).ok()) {
        if !seen.ports.is_empty() {
            world.port_claims.insert(key.clone());
        }
        for port in seen.ports {
            *world.ports_used.entry(port).or_default() += 1;
        }
        match seen.role {
            Role::Device(claim) => drop(world.claims.insert(key, claim)),
            Role::Pod(claim) => drop(world.pod_claims.insert(key, claim)),
            Role::Other => {}
        }
    }
}
