//! A node that the control plane does not reach any more, while its machines run on.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{BOOT, Case, SOON};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

use super::dead::{OUT_OF_SERVICE, wait_not_ready, wait_runs_on};
use super::kubelet::{RECONCILED, USED_PORTS};
use super::limits::SMALL;
use super::reading;

/// A machine writes its disk without end. Its node loses the way to the control plane and nothing else: machine and device go
/// on. The administrator gives the node up, though it is not off, and the machine is started on another node: its device is
/// taken from the old one before the new one has it. From then on nobody but the new machine writes it, neither while the old
/// one runs on nor when its node is back.
pub(super) fn machine_that_is_cut_off_loses_its_device(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "partition")?;
    let home = product::controller_node(lab)?;
    let others: Vec<&str> = lab.nodes().iter().map(|node| node.name()).filter(|name| *name != home).collect();
    let [lost, away] = others.as_slice() else { anyhow::bail!("there are no two nodes without the controller") };
    let ledger = Stick::new("ledger").strings(Some("Patchbay"), Some("Ledger Disk")).size(SMALL);
    let (device, _) = case.plug(&home, &ledger)?;
    case.assign(&device, "partition")?;
    let mut first = case.vm("writer", lost, &[&device])?;
    reading::goes_on(&mut first)?;

    let cut_off = lab.node(lost)?;
    cut_off.cut_from_plane();
    lab.kubectl(&["delete", "pod", "vm-writer", "-n", "partition", "--wait=false"])?;
    case.change_vm("writer", json!({"nodeSelector": {"kubernetes.io/hostname": away}}))?;
    wait_not_ready(lab, &[lost])?;
    reading::goes_on_in_log(cut_off, "partition").context("a machine that is cut off from the control plane only")?;

    lab.kubectl(&["taint", "node", lost, &format!("{OUT_OF_SERVICE}=nodeshutdown:NoExecute")])?;
    wait_runs_on(&case, "writer", away)?;
    let mut second = lab.guest("partition", "writer");
    second.wait_line("the whole disk to be read", BOOT, |line| line.text.contains(" sha256=").then_some(()))?;
    case.wait_status("writer", &device, true)?;
    reading::ends_in_log(cut_off, "partition").context("the machine that is cut off has the device still")?;
    // Its agent asks the home node again and again; it is told why it gets nothing.
    reading::goes_on(&mut second)?;

    cut_off.heal();
    lab.kubectl(&["taint", "node", lost, &format!("{OUT_OF_SERVICE}-")])?;
    product::wait_running(lab)?;
    reading::has_gone_on(&second, SOON)?;
    let used = cut_off.run(USED_PORTS)?;
    ensure!(used.is_empty(), "the node that was cut off has taken a device: {used}");
    case.set_devices("writer", &[])?;
    lab.assert_no_leaks(RECONCILED)?;
    case.end()
}
