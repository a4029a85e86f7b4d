//! What runs on a node besides pods: containerd and the kubelet, started through the command channel.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node as NodeObject;

use crate::api;
use crate::node::Node;
use crate::plane::Plane;
use crate::wait::wait_for;

/// Time for containerd and the kubelet to come up; a few seconds on a quiet machine.
const START: Duration = Duration::from_secs(120);

/// Looks at the API between two looks at the kubelet itself.
const CHECK: u32 = 50;

/// Starts containerd and waits until it answers.
///
/// # Errors
/// When it does not come up; the error quotes its log.
pub fn start_containerd(node: &Node) -> Result<()> {
    let output = node.sh("containerd-up", START)?;
    anyhow::ensure!(output.code == 0, "containerd did not start on {}; it said:\n{}", node.name(), output.text());
    Ok(())
}

/// Starts the kubelet. It registers its node by itself.
///
/// # Errors
/// When the node does not answer.
pub fn start(node: &Node, plane: &Plane) -> Result<()> {
    let kubeconfig = plane.sign_client(&format!("system:node:{}", node.name()), Some("system:nodes"))?;
    node.put(kubeconfig.as_bytes(), "/etc/kubernetes/kubeconfig")?;
    node.put(plane.ca().as_bytes(), "/etc/kubernetes/ca.crt")?;
    // The kubelet makes itself a serving certificate and does not sync it: after a power cut it may be an empty file.
    node.run("rm -rf /var/lib/kubelet/pki; kubelet-up --v=1").map(drop)
}

/// Kills the kubelet, as a crash would. Containers run on.
///
/// # Errors
/// When none runs, or it does not end.
pub fn kill(node: &Node) -> Result<()> {
    node.run(
        "p=$(pidof kubelet) || { echo no kubelet runs; exit 1; }\nkill -9 $p; while pidof kubelet >/dev/null; do usleep 10000; done",
    )
    .map(drop)
}

/// Starts the kubelet again after [`kill`], and waits until the node's agent is registered with it.
///
/// # Errors
/// When one runs, or does not find the agent in time.
pub fn start_again(node: &Node, plane: &Plane) -> Result<()> {
    let before = registrations(node)?;
    start(node, plane)?;
    wait_for(&format!("the kubelet of {} to register the agent", node.name()), START, || {
        let now = registrations(node).map_err(|error| format!("{error:#}"))?;
        if now != before && !now.ends_with(" 0") { Ok(()) } else { Err(now) }
    })
}

/// The log of the agent that runs, and how often it says there that a kubelet has registered it.
fn registrations(node: &Node) -> Result<String> {
    node.run("f=$(ls -t /var/log/pods/patchbay_agent-*/agent/*.log | head -n 1); echo $f $(grep -c 'registered with the kubelet' $f)")
}

/// Waits until the API says that the node, as it was booted last, is ready for pods.
///
/// # Errors
/// When it is not in time; the error says what its condition was.
pub fn wait_ready(node: &Node, client: &kube::Client) -> Result<()> {
    let boot = node.run("cat /proc/sys/kernel/random/boot_id")?;
    let nodes: kube::Api<NodeObject> = kube::Api::all(client.clone());
    let mut looks = 0_u32;
    wait_for(&format!("{} to be Ready", node.name()), START, || {
        looks += 1;
        if looks.is_multiple_of(CHECK)
            && let Err(error) = node.run("pidof kubelet >/dev/null || { tail -n 5 /var/log/kubelet.log; exit 1; }")
        {
            return Ok(Err(error.context("the kubelet has ended")));
        }
        let object = api::request("get the node", nodes.get_opt(node.name())).map_err(|error| format!("{error:#}"))?;
        let object = object.ok_or("the kubelet has not registered it")?;
        let taints: Vec<_> =
            object.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).map(|taint| taint.key.clone()).collect();
        let status = object.status.unwrap_or_default();
        if status.node_info.is_none_or(|info| info.boot_id != boot) {
            return Err("what the API says is from before its last boot".to_owned());
        }
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        match ready {
            Some(condition) if condition.status == "True" && taints.is_empty() => Ok(Ok(())),
            Some(condition) if condition.status == "True" => Err(format!("it has the taints {}", taints.join(", "))),
            Some(condition) => Err(condition.message.clone().unwrap_or_default()),
            None => Err("it has no condition Ready".to_owned()),
        }
    })
    .and_then(|ended| ended)
    .with_context(|| format!("the log is /var/log/kubelet.log on {}", node.name()))
}
