//! The product in the lab: installed with the repository's own chart.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cluster::Lab;
use crate::progress::step;
use crate::rights;

const NAMESPACE: &str = "patchbay";
/// How the API server's names of our accounts begin.
pub const ACCOUNTS: &str = "system:serviceaccount:patchbay:";
/// Time for the images, which are on the nodes already, to become running processes.
const START: Duration = Duration::from_secs(90);

/// Installs it and waits until the controller and every agent run.
///
/// # Errors
/// When the chart is refused or something does not start in time.
pub fn install(lab: &Lab) -> Result<()> {
    step("installing Patchbay", || {
        lab.install()?;
        rights::note(lab)?;
        wait_running(lab)
    })
}

/// Waits until the controller and every agent run.
///
/// # Errors
/// When one does not in time.
pub fn wait_running(lab: &Lab) -> Result<()> {
    lab.wait_for("the controller and every agent to run", START, || running(lab))
}

/// The node on which the controller runs.
///
/// # Errors
/// When there is none.
pub fn controller_node(lab: &Lab) -> Result<String> {
    let selector = "app.kubernetes.io/component=controller";
    let node =
        lab.kubectl(&["get", "pod", "-n", NAMESPACE, "-l", selector, "-o", "jsonpath={.items[0].spec.nodeName}"])?;
    ensure!(!node.is_empty(), "no node has the controller");
    Ok(node)
}

/// Sees to it that the controller runs on another node than this one, which is going to be switched off: Kubernetes starts it
/// elsewhere only after minutes.
///
/// # Errors
/// When it does not run elsewhere in time.
pub fn keep_controller_off(lab: &Lab, node: &str) -> Result<()> {
    if controller_node(lab)? != node {
        return Ok(());
    }
    lab.kubectl(&["cordon", node])?;
    lab.kubectl(&["delete", "pod", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller"])?;
    lab.wait_for(&format!("the controller to run, and not on {node}"), START, || {
        let there = controller_node(lab).map_err(|error| format!("{error:#}"))?;
        if there == node { Err(there) } else { running(lab) }
    })?;
    lab.kubectl(&["uncordon", node]).map(drop)
}

/// Whether controller and agents run, and every node's devices are published.
fn running(lab: &Lab) -> Result<(), String> {
    let read = |arguments: &[&str]| -> Result<Value, String> {
        let text = lab.kubectl(arguments).map_err(|e| format!("{e:#}"))?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    };
    let controller = read(&["get", "deployment", "-n", NAMESPACE, "-o", "json"])?;
    let agents = read(&["get", "daemonset", "-n", NAMESPACE, "-o", "json"])?;
    let slices = read(&["get", "resourceslices", "-o", "json"])?;
    let number = |list: &Value, field: &str| -> u64 {
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        items.iter().filter_map(|i| i.pointer(field).and_then(Value::as_u64)).sum()
    };
    let pools = slices.get("items").and_then(Value::as_array).map_or(0, Vec::len);
    let (controllers, ready) = (number(&controller, "/status/readyReplicas"), number(&agents, "/status/numberReady"));
    let nodes = lab.nodes().len();
    // Two pools for each node: its devices and its ports.
    if controllers >= 1 && usize::try_from(ready) == Ok(nodes) && pools >= 2 * nodes {
        Ok(())
    } else {
        Err(format!("{controllers} controllers and {ready} of {nodes} agents are ready, {pools} slices are published"))
    }
}

/// Shell for a node: does this for each agent and controller there. Its command is `$2`, its folder in `/proc` is `$d`.
pub(crate) fn for_each_process(body: &str) -> String {
    format!(
        "for f in /proc/[0-9]*/cmdline; do\n  d=${{f%/cmdline}}\n  set -- $(tr '\\0' ' ' <$f 2>/dev/null)\n  \
         [ \"$1\" = /patchbay ] || continue\n  case $2 in agent | controller) ;; *) continue ;; esac\n  {body}\ndone\n"
    )
}
