//! `list`, `assign` and `unassign`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt};
use patchbay_api::{NodeUSBDevice, USBDevice};
use serde::Serialize;
use serde_json::{Value, json};

use super::{edit, unknown};
use crate::Answer;
use crate::args::Output;
use crate::connection::Cluster;
use crate::edit;
use crate::failure::Failure;
use crate::list::{Row, nothing, table};

/// All devices, or those of a namespace.
pub(super) async fn list(cluster: &Cluster, all: bool, output: Output) -> Result<Answer, Failure> {
    let mut note = String::new();
    if !cluster.chosen {
        match cluster.list_all::<NodeUSBDevice>(&ListParams::default()).await {
            Ok(devices) => return print(devices, None, output, note),
            Err(failure) if failure.is_forbidden() && !all => {
                note = format!(
                    "You may not see all devices of the cluster: these are of namespace {}.\n",
                    cluster.namespace
                );
            }
            Err(failure) => return Err(failure),
        }
    }
    let devices = cluster.list::<USBDevice>(Some(&cluster.namespace), &ListParams::default()).await?;
    print(devices, Some(&cluster.namespace), output, note)
}

fn print<K>(mut devices: Vec<K>, namespace: Option<&str>, output: Output, note: String) -> Result<Answer, Failure>
where
    K: Resource + Serialize,
    for<'a> Row: From<&'a K>,
{
    let text = match output {
        Output::Table | Output::Wide => {
            let rows: Vec<Row> = devices.iter().map(Row::from).collect();
            table(&rows, output == Output::Wide, Timestamp::now())
        }
        Output::Yaml => serde_saphyr::to_string(&objects(&mut devices)).map_err(|e| unwritable(&e.to_string()))?,
        Output::Json => format!("{:#}\n", objects(&mut devices)),
    };
    let empty = if text.is_empty() { nothing(namespace) } else { String::new() };
    Ok(Answer { text, note: note + &empty, code: 0 })
}

/// The objects as kubectl prints them: without the record of who has written what.
fn objects<K: Resource + Serialize>(devices: &mut [K]) -> Value {
    for device in devices.iter_mut() {
        device.meta_mut().managed_fields = None;
    }
    json!({"apiVersion": "v1", "kind": "List", "items": devices, "metadata": {}})
}

fn unwritable(why: &str) -> Failure {
    Failure::Output(std::io::Error::other(why.to_owned()))
}

fn no_such(device: &str) -> impl Fn(Failure) -> Failure {
    let (message, advice) =
        (format!("there is no USB device {device}"), "Those that there are:\n  kubectl usb list -A");
    move |failure| unknown(failure, message.clone(), advice.to_owned())
}

/// Gives a device to a namespace.
pub(super) async fn assign(cluster: &Cluster, device: &str, to: &str, overwrite: bool) -> Result<Answer, Failure> {
    let api: Api<NodeUSBDevice> = Api::all(cluster.client());
    let decide = |object: &NodeUSBDevice| edit::assign(object, to, overwrite);
    let edited = edit(cluster, &api, ("USB device", device), decide).await;
    let (_, before) = edited.map_err(no_such(device))?;
    let text = match before.as_ref().map(edit::namespace_of) {
        None => format!("{device} is assigned to namespace {to} already\n"),
        Some(None) => format!("{device} is assigned to namespace {to}\n"),
        Some(Some(former)) => {
            format!("{device} goes from namespace {former} to namespace {to}, once nobody there has it\n")
        }
    };
    // Who may not look is not told.
    let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(cluster.client());
    let missing = matches!(cluster.ask("get namespaces", namespaces.get_opt(to)).await, Ok(None));
    let note = format!(
        "Namespace {to} does not exist yet: the device is there when it does.\n  kubectl create namespace {to}\n"
    );
    Ok(Answer { text, note: Some(note).filter(|_| missing).unwrap_or_default(), code: 0 })
}

/// Takes a device from its namespace.
pub(super) async fn unassign(cluster: &Cluster, device: &str) -> Result<Answer, Failure> {
    let api: Api<NodeUSBDevice> = Api::all(cluster.client());
    let edited = edit(cluster, &api, ("USB device", device), edit::unassign).await;
    let (object, before) = edited.map_err(no_such(device))?;
    let former = before.as_ref().and_then(edit::namespace_of);
    let text = match (former, object.status.as_ref().and_then(|s| s.virtual_machine.as_ref())) {
        (None, _) => format!("{} is not assigned to a namespace\n", object.name_any()),
        (Some(former), None) => format!("{device} is taken from namespace {former}\n"),
        (Some(former), Some(vm)) => {
            format!("{device} is taken from namespace {former}, and out of virtual machine {vm} there\n")
        }
    };
    Ok(Answer { text, ..Answer::default() })
}
