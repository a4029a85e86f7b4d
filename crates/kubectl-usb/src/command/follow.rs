//! `watch`.

use std::fmt::Debug;
use std::io::Write;

use futures::TryStreamExt;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Error, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use patchbay_api::{NodeUSBDevice, USBDevice};
use serde::de::DeserializeOwned;

use crate::Answer;
use crate::connection::Cluster;
use crate::failure::{Failure, innermost};
use crate::follow::Follow;
use crate::list::Row;
use crate::style::aside;

/// Follows one device, or all, until somebody ends it.
pub(super) async fn watch(cluster: &Cluster, device: Option<&str>) -> Result<Answer, Failure> {
    tokio::select! {
        ended = follow(cluster, device) => ended,
        _ = tokio::signal::ctrl_c() => Ok(Answer::default()),
    }
}

async fn follow(cluster: &Cluster, device: Option<&str>) -> Result<Answer, Failure> {
    let namespace = cluster.namespace.as_str();
    if !cluster.chosen {
        // The smallest question that tells whether this person may see all devices.
        match cluster.list_all::<NodeUSBDevice>(&ListParams::default().limit(1)).await {
            Ok(_) => return changes(Api::<NodeUSBDevice>::all(cluster.client()), device).await,
            Err(failure) if failure.is_forbidden() => {
                aside(&format!("You may not see all devices of the cluster: these are of namespace {namespace}."));
            }
            Err(failure) => return Err(failure),
        }
    }
    cluster.list::<USBDevice>(Some(namespace), &ListParams::default().limit(1)).await?;
    changes(Api::<USBDevice>::namespaced(cluster.client(), namespace), device).await
}

async fn changes<K>(api: Api<K>, device: Option<&str>) -> Result<Answer, Failure>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    for<'a> Row: From<&'a K>,
{
    let config = match device {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    // What fails is tried again for ever; it is said once.
    let events = watcher(api, config).default_backoff();
    let mut events = std::pin::pin!(events);
    let (mut follow, mut trouble, mut begun) = (Follow::default(), String::new(), false);
    loop {
        let text = match events.try_next().await {
            Ok(None) => return Ok(Answer::default()),
            Ok(Some(event)) => {
                trouble.clear();
                match event {
                    Event::Init => {
                        follow.begin();
                        String::new()
                    }
                    Event::InitApply(object) | Event::Apply(object) => follow.is(&Row::from(&object), Timestamp::now()),
                    Event::Delete(object) => follow.gone(&object.name_any(), Timestamp::now()),
                    Event::InitDone => {
                        if !begun && follow.is_empty() {
                            aside(&nothing(device));
                        }
                        begun = true;
                        follow.end(Timestamp::now())
                    }
                }
            }
            Err(
                Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)),
            ) if status.code == 403 => {
                return Err(Failure::Refused { what: format!("watch {}", K::plural(&())), status });
            }
            Err(error) => {
                let why = innermost(&error);
                if why != trouble {
                    aside(&format!("Nothing can be seen at the moment: {why}; trying again."));
                    trouble = why;
                }
                String::new()
            }
        };
        if !print(&text)? {
            return Ok(Answer::default());
        }
    }
}

fn nothing(device: Option<&str>) -> String {
    match device {
        Some(name) => format!("There is no USB device {name} yet: waiting for it."),
        None => "No USB devices yet: waiting for one.".to_owned(),
    }
}

/// Prints lines at once; false when nobody reads them any more.
fn print(text: &str) -> Result<bool, Failure> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Output(error)),
    }
}
