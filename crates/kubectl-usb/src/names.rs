//! The names that a shell completes with.

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine};

use crate::args::Connection;
use crate::complete::Names;
use crate::connection::Cluster;
use crate::explain;
use crate::look::everything;

/// Those that there are. A cluster that does not answer, or does not let one look, has none: this is no place to complain.
pub(crate) async fn of(kind: Names, connection: &Connection) -> Vec<String> {
    match (kind, Cluster::open(connection).await) {
        (Names::Reasons, _) => explain::reasons(),
        (_, Err(_)) => Vec::new(),
        (Names::Devices, Ok(cluster)) => devices(&cluster).await,
        (Names::Machines, Ok(cluster)) => machines(&cluster).await,
        (Names::DevicesAndMachines, Ok(cluster)) => {
            let (mut names, machines) = futures::join!(devices(&cluster), machines(&cluster));
            names.extend(machines.into_iter().map(|name| format!("vm/{name}")));
            names
        }
        (Names::Namespaces, Ok(cluster)) => {
            named(cluster.list_all::<Namespace>(&everything()).await.unwrap_or_default())
        }
    }
}

/// Those of the cluster; who may not see them gets those of the namespace.
async fn devices(cluster: &Cluster) -> Vec<String> {
    match cluster.list_all::<NodeUSBDevice>(&everything()).await {
        Ok(devices) => named(devices),
        Err(failure) if !failure.is_forbidden() => Vec::new(),
        Err(_) => named(cluster.list::<USBDevice>(Some(&cluster.namespace), &everything()).await.unwrap_or_default()),
    }
}

async fn machines(cluster: &Cluster) -> Vec<String> {
    named(cluster.list::<VirtualMachine>(Some(&cluster.namespace), &everything()).await.unwrap_or_default())
}

fn named<K: ResourceExt>(objects: Vec<K>) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}
