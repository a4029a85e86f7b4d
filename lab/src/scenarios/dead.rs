//! Nodes that lose their power and stay off, until Kubernetes gives them up.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

use super::kubelet::{RECONCILED, USED_PORTS};
use super::limits::SMALL;
use super::outages::NOTICED;
use super::reading;

/// Kubernetes calls a node not ready when it has heard nothing of it for 50 s, and looks every 5 s.
const GIVEN_UP: Duration = Duration::from_secs(90);
/// Kubernetes looks every 20 s for pods that nobody will end, and what is left has to go away.
const COLLECTED: Duration = Duration::from_secs(90);
/// What an administrator puts on a node that is off for sure: its pods need not be waited for.
pub(super) const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The node of one machine and the node of another machine's device lose their power at once. The device is said to be not
/// ready within a minute, and in the guest again by itself when its node is back. The machine starts on another node when the
/// administrator has given up the first, with its device, which its home node has had to take from the dead one. When that one
/// is back it does not touch the device.
pub(super) fn machine_and_device_of_dead_nodes(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "dead")?;
    // Somebody has to do the controller's work.
    let alive = product::controller_node(lab)?;
    let others: Vec<&str> = lab.nodes().iter().map(|node| node.name()).filter(|name| *name != alive).collect();
    let [lost, away] = others.as_slice() else { anyhow::bail!("there are no two nodes without the controller") };
    let (taken, returning) = (Stick::new("taken").size(SMALL), Stick::new("returning").size(SMALL));
    let plugged = case.plug_all(&[(&alive, taken.clone()), (away, returning.clone())])?;
    let [taken_device, returning_device] = plugged.as_slice() else { anyhow::bail!("there are {plugged:?}") };
    case.assign_all(&[taken_device, returning_device], "dead")?;
    let mut witness = case.vm("witness", &alive, &[returning_device])?;
    case.vm("mover", lost, &[taken_device])?.reads(&taken, BOOT)?;
    witness.reads(&returning, BOOT)?;
    case.wait_status("mover", taken_device, true)?;
    case.wait_status("witness", returning_device, true)?;

    witness.forget();
    lab.power_off(lost)?;
    lab.power_off(away)?;
    // It does not end: nobody on its node can say that it has.
    lab.kubectl(&["delete", "pod", "vm-mover", "-n", "dead", "--wait=false"])?;
    case.change_vm("mover", json!({"nodeSelector": {"kubernetes.io/hostname": away}}))?;
    witness.loses_disk(NOTICED)?;
    wait_not_ready(lab, &others)?;
    case.wait_away("witness", returning_device, "NotReady")?;
    case.explained("witness", returning_device, &[&format!("node {away}"), "kubectl describe node"])?;
    let words = [&format!("node {lost} is not ready"), OUT_OF_SERVICE];
    case.wait_refused("mover", taken_device, "Available", &words)?;

    lab.kubectl(&["taint", "node", lost, &format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute")])?;
    lab.boot(away)?;
    witness.reads(&returning, BOOT)?;
    case.wait_status("witness", returning_device, true)?;
    wait_runs_on(&case, "mover", away)?;
    // The log of the first pod is on a node that does not answer.
    let mut mover = lab.guest("dead", "mover");
    mover.reads(&taken, BOOT)?;
    case.wait_status("mover", taken_device, true)?;
    let message = case.wait_condition(taken_device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(message.contains(&format!("on node {away}")), "the device is said to be elsewhere: {message}");

    mover.forget();
    lab.kubectl(&["taint", "node", lost, &format!("{OUT_OF_SERVICE}-")])?;
    lab.boot(lost)?;
    product::wait_running(lab)?;
    reading::has_gone_on(&mover, SOON)?;
    let used = lab.node(lost)?.run(USED_PORTS)?;
    ensure!(used.is_empty(), "the lost node has taken a device: {used}");
    case.set_devices("mover", &[])?;
    case.set_devices("witness", &[])?;
    lab.assert_no_leaks(RECONCILED)?;
    case.end()
}

/// Waits until Kubernetes has noticed that nodes are off.
pub(super) fn wait_not_ready(lab: &Lab, nodes: &[&str]) -> Result<()> {
    let path = r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}"#;
    lab.wait_for(&format!("{nodes:?} to be not ready"), GIVEN_UP, || {
        let told = lab.kubectl(&["get", "nodes", "-o", path]).map_err(|error| format!("{error:#}"))?;
        let ready = nodes.iter().any(|node| told.split_whitespace().any(|word| word == format!("{node}=True")));
        if ready { Err(told) } else { Ok(()) }
    })
}

/// Waits until a machine's pod runs on a node.
pub(super) fn wait_runs_on(case: &Case<'_>, vm: &str, node: &str) -> Result<()> {
    case.lab.wait_for(&format!("{vm} to run on {node}"), COLLECTED, || {
        let place = "jsonpath={.status.phase} {.spec.nodeName}";
        let pod = ["get", "pod", &format!("vm-{vm}"), "-n", &case.namespace, "--ignore-not-found", "-o", place];
        let seen = case.lab.kubectl(&pod).map_err(|error| format!("{error:#}"))?;
        if seen == format!("Running {node}") { Ok(()) } else { Err(seen) }
    })
}
