//! What nodes tell of themselves: `patchbay check`, run in the containers of their agents.
//!
//! An agent that has something to say is asked through the API server, as `kubectl exec` does it; whoever may not do that goes
//! without, and is told so. Nothing else of the doctor waits for it.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt, TryFutureExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use patchbay_api::installation::{AGENT, NAMESPACE};
use patchbay_core::doctor::seen::{Asked, Inside};
use patchbay_core::doctor::{Seen, to_ask};
use patchbay_core::names::{NodeName, PodName};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::connection::Cluster;
use crate::failure::Failure;
use crate::style::aside;

/// How many are asked at a time: each calls all others.
const AT_ONCE: usize = 8;

/// What takes longer is said to be under way.
const UNNOTICED: Duration = Duration::from_secs(2);

/// For one of them to look at its node and to call all others.
const DEADLINE: Duration = Duration::from_secs(60);

/// Longest answer, in bytes: some hundred for each other node.
const MOST: u64 = 4 << 20;

/// Asks those who are to be asked.
pub(crate) async fn ask(cluster: &Cluster, seen: &Seen) -> BTreeMap<NodeName, Asked<Inside>> {
    let agents = to_ask(seen);
    let address = |node: &NodeName| seen.hosts.iter().flatten().find(|(name, _)| *name == node)?.1.address.clone();
    let peers = agents.keys().filter_map(|node| Some(format!("--peer={node}={}", address(node)?)));
    let command: Vec<String> = ["/patchbay".to_owned(), "check".to_owned()].into_iter().chain(peers).collect();
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let (pods, command) = (&pods, &command);
    let asking = format!("asking the agents of {} nodes how these are, and whom they reach", agents.len());
    let answers = stream::iter(agents).map(|(node, pod)| async move {
        let answer = timeout(DEADLINE, run(cluster, pods, &pod, command));
        let late = |_| Err(format!("the agent has not told how its node is within {} s", DEADLINE.as_secs()));
        (node, answer.unwrap_or_else(late).await)
    });
    let mut answers = pin!(answers.buffer_unordered(AT_ONCE).collect());
    match timeout(UNNOTICED, &mut answers).await {
        Ok(answers) => answers,
        Err(_) => {
            aside(&format!("{asking} ..."));
            answers.await
        }
    }
}

/// Runs the check in the pod of an agent.
async fn run(cluster: &Cluster, pods: &Api<Pod>, pod: &PodName, command: &[String]) -> Asked<Inside> {
    let params = AttachParams::default().container(AGENT).stdin(false).stdout(true).stderr(true);
    let process = cluster.ask("ask the agent", pods.exec(pod.as_str(), command, &params)).await;
    let mut process = process.map_err(|failure| refusal(&failure))?;
    let (said, errors) = (process.stdout(), process.stderr());
    let read = |stream: Option<_>| async move {
        let mut text = String::new();
        if let Some(stream) = stream {
            // What has come before a connection broke is all there is.
            let _ = AsyncReadExt::take(stream, MOST).read_to_string(&mut text).await;
        }
        text
    };
    let (said, errors) = futures::join!(read(said), read(errors));
    serde_json::from_str(&said).map_err(|_| nonsense(&errors))
}

/// Why nothing was run.
fn refusal(failure: &Failure) -> String {
    if failure.is_forbidden() {
        return format!("cannot ask the agent, which takes the right to create pods/exec in namespace {NAMESPACE}");
    }
    failure.to_string()
}

/// Why what was run has not told what was asked.
fn nonsense(errors: &str) -> String {
    let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it has said nothing that can be read");
    format!("the agent does not tell how its node is; its version may be an older one: {last}")
}
