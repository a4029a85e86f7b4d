//! `attach` and `detach`.

use std::io::Write;
use std::time::Duration;

use futures::TryStreamExt;
use kube::Api;
use kube::api::ApiResource;
use kube::core::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Error, watch_object};
use patchbay_api::{USBDevice, VirtualMachine};

use super::{edit, unknown};
use crate::Answer;
use crate::args::Attachment;
use crate::connection::Cluster;
use crate::edit;
use crate::failure::{Failure, innermost};
use crate::progress::{Progress, Wanted, progress};

/// Puts a device on a machine's list, or takes it off, and waits if that is asked for.
pub(super) async fn change(cluster: &Cluster, it: &Attachment, wanted: Wanted) -> Result<Answer, Failure> {
    let (device, vm, namespace) = (it.device.as_str(), it.vm.as_str(), cluster.namespace.as_str());
    // As it is, and not as our type has it: what others have added to the list must stay.
    let kind = ApiResource::erase::<VirtualMachine>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), namespace, &kind);
    let decide = |object: &DynamicObject| match wanted {
        Wanted::In => edit::attach(object, device),
        Wanted::Out => edit::detach(object, device),
    };
    let edited = edit(cluster, &api, ("virtual machine", vm), decide).await.map_err(|failure| {
        let message = format!("there is no virtual machine {vm} in namespace {namespace}");
        unknown(failure, message, format!("Those that there are:\n  kubectl get virtualmachines -n {namespace}"))
    });
    let (object, before) = edited?;
    let mut text = match (wanted, before) {
        (Wanted::In, Some(_)) => format!("{device} is on the list of virtual machine {vm}\n"),
        (Wanted::In, None) => format!("{device} is on the list of virtual machine {vm} already\n"),
        (Wanted::Out, Some(_)) => format!("{device} is off the list of virtual machine {vm}\n"),
        (Wanted::Out, None) => format!("{device} is not on the list of virtual machine {vm}{}\n", others(&object)),
    };
    let note = if wanted == Wanted::In { unassigned(cluster, device).await } else { String::new() };
    if it.wait {
        show(&note);
        let place = wait(cluster, it, object.metadata.generation.unwrap_or(0), wanted).await?;
        text = match wanted {
            Wanted::In => format!("{device} is in virtual machine {vm}: {place}\n"),
            Wanted::Out => format!("{device} is out of virtual machine {vm}\n"),
        };
        return Ok(Answer { text, ..Answer::default() });
    }
    Ok(Answer { text, note, code: 0 })
}

fn others(object: &DynamicObject) -> String {
    match edit::listed(object).as_slice() {
        [] => ", which lists no USB devices".to_owned(),
        some => format!(", which lists {}", some.join(", ")),
    }
}

/// What is said where a name is listed that means nothing yet: it may come, or it may be a slip.
async fn unassigned(cluster: &Cluster, device: &str) -> String {
    let namespace = cluster.namespace.as_str();
    let api: Api<USBDevice> = Api::namespaced(cluster.client(), namespace);
    match cluster.ask("get USB devices", api.get_opt(device)).await {
        Ok(None) => format!(
            "There is no USB device {device} in namespace {namespace} yet: an administrator assigns it.\n  \
             kubectl usb assign {device} {namespace}\n"
        ),
        // Who may not look is not told.
        Ok(Some(_)) | Err(_) => String::new(),
    }
}

/// What is said while somebody waits. Nobody has to hear it.
fn show(text: &str) {
    let _ = anstream::stderr().write_all(text.as_bytes());
}

/// Waits until it is so, and says each thing that is waited for once.
async fn wait(cluster: &Cluster, it: &Attachment, generation: i64, wanted: Wanted) -> Result<String, Failure> {
    let mut last = "nothing is known of the virtual machine".to_owned();
    let watching = watch(cluster, it, generation, wanted, &mut last);
    let ended = tokio::time::timeout(it.timeout, watching).await;
    ended.unwrap_or_else(|_| Err(late(cluster, it, wanted, last)))
}

async fn watch(
    cluster: &Cluster,
    it: &Attachment,
    generation: i64,
    wanted: Wanted,
    last: &mut String,
) -> Result<String, Failure> {
    let api: Api<VirtualMachine> = Api::namespaced(cluster.client(), &cluster.namespace);
    // What fails is tried again until the time is over; it is said, as what is waited for.
    let seen = watch_object(api, &it.vm).default_backoff();
    let mut seen = std::pin::pin!(seen);
    loop {
        let now = match seen.try_next().await {
            Ok(Some(vm)) => progress(vm.as_ref(), &it.device, generation, wanted),
            Ok(None) => Progress::Waits("waiting for the API server".to_owned()),
            Err(
                Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)),
            ) if status.code == 403 => {
                return Err(Failure::Refused { what: format!("watch virtual machine {}", it.vm), status });
            }
            Err(error) => Progress::Waits(innermost(&error)),
        };
        match now {
            Progress::Done(place) => return Ok(place),
            Progress::Never(why) => {
                return Err(Failure::Unfit(format!("{} is not waited for: {why}", it.device), String::new()));
            }
            Progress::Waits(why) if why != *last => {
                show(&format!("{}: {why}\n", it.device));
                *last = why;
            }
            Progress::Waits(_) => {}
        }
    }
}

fn late(cluster: &Cluster, it: &Attachment, wanted: Wanted, last: String) -> Failure {
    let (device, vm, namespace) = (&it.device, &it.vm, &cluster.namespace);
    let after: Duration = it.timeout;
    let what = match wanted {
        Wanted::In => format!("{device} is not in virtual machine {vm}"),
        Wanted::Out => format!("{device} is not out of virtual machine {vm}"),
    };
    Failure::Late { what, after, last, advice: format!("What holds it up:\n  kubectl usb why vm/{vm} -n {namespace}") }
}
