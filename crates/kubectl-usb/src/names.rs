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
    if kind == Names::Reasons {
        return explain::reasons();
    }
    let Ok(cluster) = Cluster::open(connection).await else { return Vec::new() };
    match kind {
        Names::Devices => devices(&cluster).await,
        Names::Machines => machines(&cluster).await,
        Names::DevicesAndMachines => {
            let (mut names, machines) = futures::join!(devices(&cluster), machines(&cluster));
            names.extend(machines.into_iter().map(|name| format!("vm/{name}")));
            names
        }
        Names::Namespaces => named(cluster.list_all::<Namespace>(&everything()).await.unwrap_or_default()),
        Names::Reasons => Vec::new(),
    }
}

/// Those of the cluster; who may not see them gets those of the namespace.
async fn devices(cluster: &Cluster) -> Vec<String> {
    match cluster.list_all::<NodeUSBDevice>(&everything()).await {
        Ok(devices) => named(devices),
        Err(_) => named(cluster.list::<USBDevice>(Some(&cluster.namespace), &everything()).await.unwrap_or_default()),
    }
}

async fn machines(cluster: &Cluster) -> Vec<String> {
    named(cluster.list::<VirtualMachine>(Some(&cluster.namespace), &everything()).await.unwrap_or_default())
}

fn named<K: ResourceExt>(objects: Vec<K>) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}
