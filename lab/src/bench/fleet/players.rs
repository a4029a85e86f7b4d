//! The kubelets and agents of all nodes of the fleet: they answer for pods, each as it would.
//!
//! | pod | kubelet | agent |
//! |---|---|---|
//! | is on a node | it runs | |
//! | is an attachment and runs | | its device is plugged |
//! | runs, and its device is plugged | it is ready | |
//! | is being deleted | | its device is unplugged |
//! | is being deleted, and no device is in the guest | it is gone | |
//!
//! Real ones need some time for that; these answer at once. So what is measured is ours, the API server's and kube-scheduler's.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use patchbay_api::{attachment, keys};
use patchbay_core::conditions::{GuestPort, PluggedState};
use patchbay_core::names::NodeName;
use serde_json::json;
use tokio::sync::Semaphore;

use super::cluster::{AT_ONCE, Cluster, Word};
use crate::api;
use crate::bench::figures::Times;
use crate::progress::say;

/// How often an answer is tried, and the pause before another try.
const TRIES: usize = 10;
const AGAIN: Duration = Duration::from_secs(1);

/// All of them.
pub(super) struct Players(Arc<Mutex<Notes>>);

/// What they know.
#[derive(Default)]
struct Notes {
    /// Answers that were given: a pod changes also for other reasons.
    given: BTreeSet<(String, Answer)>,
    /// Attachments without a node, since when.
    waiting: BTreeMap<String, Instant>,
    /// How long it was until kube-scheduler had given one a node.
    scheduled: Times,
}

/// What is done about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Run,
    Plug,
    BeReady,
    Unplug,
    Forget,
}

impl Players {
    /// They play on these nodes until this process ends.
    pub(super) fn start(cluster: &Cluster, nodes: BTreeSet<String>) -> Self {
        let notes = Arc::<Mutex<Notes>>::default();
        api::spawn(play(cluster.clone(), nodes, Arc::clone(&notes)));
        Self(notes)
    }

    /// How long attachments have waited for kube-scheduler since this was asked last.
    pub(super) fn scheduled(&self) -> Times {
        std::mem::take(&mut lock(&self.0).scheduled)
    }
}

async fn play(cluster: Cluster, nodes: BTreeSet<String>, notes: Arc<Mutex<Notes>>) {
    let turns = Semaphore::new(AT_ONCE);
    let pods = watcher(cluster.all::<Pod>(), Config::default()).default_backoff();
    let news = pods.filter_map(|event| ready(seen(event, &nodes, &notes)));
    news.for_each_concurrent(None, |(pod, node, answer)| {
        let (cluster, turns, notes) = (&cluster, &turns, &notes);
        async move {
            // It is never closed.
            let Ok(_turn) = turns.acquire().await else { return };
            if let Err(error) = give(cluster, &pod, &node, answer).await {
                say(&format!("{answer:?} was not done for pod {}: {error:#}", pod.name_any()));
                lock(notes).given.remove(&(pod.uid().unwrap_or_default(), answer));
            }
        }
    })
    .await;
}

/// Takes note of what is new about a pod; what has to be done about it, if anything.
fn seen(
    event: Result<Event<Pod>, kube::runtime::watcher::Error>,
    nodes: &BTreeSet<String>,
    notes: &Mutex<Notes>,
) -> Option<(Pod, NodeName, Answer)> {
    let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { return None };
    let uid = pod.uid()?;
    let mut notes = lock(notes);
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else {
        if pod.labels().contains_key(keys::ATTACHMENT) {
            notes.waiting.entry(uid).or_insert_with(Instant::now);
        }
        return None;
    };
    if let Some(since) = notes.waiting.remove(&uid) {
        notes.scheduled.push(since.elapsed());
    }
    let answer = answer(&pod)?;
    let is_new = nodes.contains(node) && notes.given.insert((uid, answer));
    let node = NodeName::new(node);
    is_new.then_some((pod, node, answer))
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(pod: &Pod) -> Option<Answer> {
    let status = pod.status.as_ref();
    let is = |kind: &str| {
        let mut conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let is_plugged = matches!(attachment::plugged(pod), Some((PluggedState::Plugged(_), _)));
    let lacks_device = pod.labels().contains_key(keys::ATTACHMENT) && !is_plugged;
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(if is_plugged { Answer::Unplug } else { Answer::Forget });
    }
    if status.and_then(|status| status.phase.as_deref()) != Some("Running") {
        return Some(Answer::Run);
    }
    if lacks_device {
        return attachment::wants_plugged(pod).then_some(Answer::Plug);
    }
    (!is("Ready")).then_some(Answer::BeReady)
}

/// Gives an answer, with patience: what an API server has not taken it may take a moment later.
async fn give(cluster: &Cluster, pod: &Pod, node: &NodeName, answer: Answer) -> Result<()> {
    for _ in 1..TRIES {
        match try_to_give(cluster, pod, node, answer).await {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    try_to_give(cluster, pod, node, answer).await
}

/// There is no such pod any more, or another one of its name.
fn is_gone(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
}

async fn try_to_give(cluster: &Cluster, pod: &Pod, node: &NodeName, answer: Answer) -> Result<()> {
    let pods = cluster.within::<Pod>(&pod.namespace().unwrap_or_default());
    let (name, uid) = (pod.name_any(), pod.uid());
    let report = async |state: PluggedState| -> Result<()> {
        let this = attachment::pod_ref(pod)?;
        cluster.as_agent::<Pod>(node, Word::Report(&this, &state)).await.map(drop)
    };
    let status = async |phase: &str, conditions: &[&str]| -> Result<()> {
        let condition = |kind: &&str| json!({"type": kind, "status": "True", "lastTransitionTime": Timestamp::now()});
        let conditions: Vec<_> = conditions.iter().map(condition).collect();
        let patch = json!({"metadata": {"uid": &uid}, "status": {"phase": phase, "conditions": conditions}});
        pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)?;
        Ok(())
    };
    match answer {
        Answer::Run if pod.labels().contains_key(keys::ATTACHMENT) => {
            status("Running", &["Initialized", "ContainersReady"]).await
        }
        Answer::Run => status("Running", &["Initialized", "ContainersReady", "Ready"]).await,
        Answer::BeReady => status("Running", &["Ready"]).await,
        Answer::Plug => report(PluggedState::Plugged(guest_port(&name))).await,
        Answer::Unplug => report(PluggedState::Unplugged).await,
        Answer::Forget => {
            let only = Preconditions { uid: uid.clone(), resource_version: None };
            pods.delete(&name, &DeleteParams::default().grace_period(0).preconditions(only)).await.context("delete")?;
            Ok(())
        }
    }
}

/// Some port; the same for the same pod.
fn guest_port(name: &str) -> GuestPort {
    let sum: u32 = name.bytes().map(u32::from).sum();
    GuestPort { bus: 0, port: (sum % 15 + 1).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pod(attachment: bool, deleted: bool, phase: &str, conditions: &[(&str, &str)]) -> Pod {
        let condition = |(kind, reason): &(&str, &str)| {
            let status = if *reason == "Unplugged" { "False" } else { "True" };
            json!({"type": kind, "status": status, "reason": reason, "message": "guest bus 0 port 3"})
        };
        let conditions: Vec<Value> = conditions.iter().map(condition).collect();
        let mut pod = json!({
            "metadata": {
                "name": "p", "namespace": "n", "uid": "u", "labels": {}, "annotations": {keys::WANT: keys::WANT_PLUGGED},
            },
            "status": {"phase": phase, "conditions": conditions},
        });
        if attachment {
            pod["metadata"]["labels"][keys::ATTACHMENT] = "device".into();
        }
        if deleted {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_pod_goes_from_its_node_into_the_guest_and_out_again_step_by_step() {
        let plugged = (keys::PLUGGED, "Plugged");
        assert_eq!(answer(&pod(true, false, "Pending", &[])), Some(Answer::Run));
        assert_eq!(answer(&pod(true, false, "Running", &[])), Some(Answer::Plug));
        assert_eq!(answer(&pod(true, false, "Running", &[plugged])), Some(Answer::BeReady));
        assert_eq!(answer(&pod(true, false, "Running", &[plugged, ("Ready", "")])), None);
        assert_eq!(answer(&pod(true, true, "Running", &[plugged, ("Ready", "")])), Some(Answer::Unplug));
        assert_eq!(answer(&pod(true, true, "Running", &[(keys::PLUGGED, "Unplugged")])), Some(Answer::Forget));
    }

    #[test]
    fn the_pod_of_a_machine_runs_and_is_ready_without_a_device() {
        assert_eq!(answer(&pod(false, false, "Pending", &[])), Some(Answer::Run));
        assert_eq!(answer(&pod(false, false, "Running", &[("Ready", "")])), None);
        assert_eq!(answer(&pod(false, true, "Running", &[("Ready", "")])), Some(Answer::Forget));
    }

    #[test]
    fn a_pod_that_changes_for_another_reason_is_answered_once() {
        let nodes = BTreeSet::from(["node-0001".to_owned()]);
        let notes = Mutex::new(Notes::default());
        let see = |node: Option<&str>| {
            let mut pod = pod(true, false, "Pending", &[]);
            pod.spec = serde_json::from_value(json!({"nodeName": node, "containers": []})).unwrap();
            seen(Ok(Event::Apply(pod)), &nodes, &notes).map(|(_, _, answer)| answer)
        };
        assert_eq!(see(None), None);
        assert_eq!(see(Some("node-0001")), Some(Answer::Run));
        assert_eq!(see(Some("node-0001")), None);
        assert_eq!(see(Some("elsewhere")), None);
        assert_eq!(lock(&notes).scheduled.each().len(), 1);
    }
}
