//! The kubelets and the agents of all nodes, played: what is in the API is answered as they would answer it.
//!
//! | pod | kubelet | agent |
//! |---|---|---|
//! | has a node | it runs | an attachment's device is plugged |
//! | is being deleted | it is gone, an attachment only when its device is out | the device is unplugged |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use patchbay_api::{attachment, keys};
use patchbay_core::conditions::{GuestPort, PluggedState};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How soon they notice.
const REACTION: Duration = Duration::from_millis(50);

/// Who is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Awake {
    /// The kubelets.
    pub(crate) kubelets: bool,
    /// The agents.
    pub(crate) agents: bool,
}

/// Everybody.
pub(crate) const ALL: Awake = Awake { kubelets: true, agents: true };

/// The clients of the agents, by node: each has the rights of an agent of its node.
#[derive(Clone, Default)]
pub(crate) struct Agents(Arc<Mutex<BTreeMap<String, Client>>>);

impl Agents {
    /// From now on the node has an agent.
    pub(crate) fn hire(&self, node: &str, client: Client) {
        self.0.lock().unwrap().insert(node.to_owned(), client);
    }

    fn of(&self, node: &str) -> Option<Client> {
        self.0.lock().unwrap().get(node).cloned()
    }
}

/// Plays for as long as somebody holds the other end of `awake`.
pub(crate) async fn play(kubelet: Client, agents: Agents, mut awake: watch::Receiver<Awake>) {
    let mut clock = tokio::time::interval(REACTION);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let pods: Api<Pod> = Api::all(kubelet.clone());
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            changed = awake.changed() => if changed.is_err() { return },
        }
        let now = *awake.borrow_and_update();
        // What fails is done at the next look.
        let Ok(found) = pods.list(&ListParams::default().match_any()).await else { continue };
        for pod in &found {
            let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) else { continue };
            if now.agents
                && let Some(agent) = agents.of(node)
            {
                let _ = answer_as_agent(&agent, pod).await;
            }
            if now.kubelets {
                let _ = answer_as_kubelet(&kubelet, pod).await;
            }
        }
    }
}

fn is_plugged(pod: &Pod) -> bool {
    matches!(attachment::plugged(pod), Some((PluggedState::Plugged(_), _)))
}

async fn answer_as_agent(client: &Client, pod: &Pod) -> kube::Result<()> {
    if !pod.labels().contains_key(keys::ATTACHMENT) || attachment::wants_plugged(pod) == is_plugged(pod) {
        return Ok(());
    }
    let this = attachment::pod_ref(pod).expect("the API server has named it");
    let state = match attachment::wants_plugged(pod) {
        true => PluggedState::Plugged(guest_port(pod)),
        false => PluggedState::Unplugged,
    };
    let patch = Patch::Apply(attachment::plugged_patch(&this, &state, Timestamp::now().as_second()));
    let pods: Api<Pod> = Api::namespaced(client.clone(), this.namespace.as_str());
    pods.patch_status(this.name.as_str(), &PatchParams::apply(keys::AGENT).force(), &patch).await.map(drop)
}

/// One for each device, as far as it matters here.
fn guest_port(pod: &Pod) -> GuestPort {
    let sum: u32 = pod.name_any().bytes().map(u32::from).sum();
    GuestPort { bus: 0, port: (sum % 15 + 1).to_string() }
}

async fn answer_as_kubelet(client: &Client, pod: &Pod) -> kube::Result<()> {
    let (name, uid) = (pod.name_any(), pod.uid());
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    if pod.metadata.deletion_timestamp.is_some() {
        if is_plugged(pod) {
            return Ok(());
        }
        let gone = DeleteParams::default().grace_period(0).preconditions(Preconditions { uid, resource_version: None });
        return pods.delete(&name, &gone).await.map(drop);
    }
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running") {
        return Ok(());
    }
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": Timestamp::now()});
    let status = json!({
        "metadata": {"uid": uid},
        "status": {"phase": "Running", "conditions": [condition("Initialized"), condition("ContainersReady")]},
    });
    pods.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await.map(drop)
}
