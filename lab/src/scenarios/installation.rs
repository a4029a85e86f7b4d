//! The chart, as an administrator uses it: upgraded under a guest that reads, uninstalled, and installed again.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::command::Command;
use crate::helm::{RELEASE, chart};
use crate::install::{TAG, repository};
use crate::product;
use crate::stick::Stick;

use super::limits::SMALL;
use super::reading;

/// The tag under which nodes have the same image a second time, so that an upgrade changes every pod.
const FORMER: &str = "former";
/// What has to be gone when the chart is: kinds, and what is in the lines of our objects.
const OURS: &[(&str, &str)] = &[
    ("clusterroles,clusterrolebindings", "patchbay-"),
    ("validatingadmissionpolicies,validatingadmissionpolicybindings", "patchbay-"),
    ("deviceclasses", "virtualization.deckhouse.io"),
    ("resourceslices", "usb.virtualization.deckhouse.io"),
    ("configmaps", "patchbay-ca"),
];
/// And all of these kinds in the namespace, which stays.
const WITHIN: &str = "deployments,daemonsets,jobs,pods,leases,secrets,poddisruptionbudgets,roles,rolebindings";

/// From the chart of the commit before this one to this one while a guest reads: it notices nothing, and the new agents can take
/// the device out. Uninstalling is refused while the machine is there. Without it everything goes but the definitions, the
/// assigned device and what people have made; installed again, the device is where it was, and in a guest as before.
pub(super) fn upgraded_uninstalled_and_installed_again(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "installation")?;
    install_former(lab)?;
    let (stick, idle) = (Stick::new("installation").size(SMALL), Stick::new("idle").size(SMALL));
    case.plug("node-1", &idle)?;
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;

    guest.forget();
    lab.helm().install(&chart(), TAG, &[]).context("the upgrade")?;
    rolled_out(lab)?;
    reading::has_gone_on(&guest, SOON).context("while everything was upgraded")?;
    case.wait_status(VM, &device, true)?;

    let refusal = match lab.helm().run(&["uninstall", RELEASE]) {
        Ok(said) => said,
        Err(error) => format!("{error:#}"),
    };
    ensure!(refusal.contains("virtual machine installation/linux-vm"), "uninstalling should be refused: {refusal}");
    reading::goes_on(&mut guest)?;
    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;

    case.delete_vm(VM)?;
    lab.kubectl(&["wait", "--for=delete", "pod/vm-linux-vm", "-n", "installation", "--timeout=50s"])?;
    lab.helm().run(&["uninstall", RELEASE]).context("nothing uses it")?;
    lab.wait_for("nothing but the assigned device to be left", SOON, || nothing_is_left(lab, &device))?;

    lab.install()?;
    product::wait_running(lab)?;
    let guest = case.vm(VM, "node-2", &[&device])?;
    guest.reads(&stick, BOOT)?;
    case.end()
}

/// Installs the chart of the commit before this one over what is there, with an image under another tag.
pub(super) fn install_former(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        let image = "localhost/patchbay/patchbay";
        node.run(&format!("ctr -n k8s.io images tag --force {image}:{TAG} {image}:{FORMER}"))?;
    }
    lab.helm().install(&former_chart(lab)?, FORMER, &[]).context("the former chart")?;
    rolled_out(lab)
}

/// The chart of the commit before this one; this one's where there is no other.
fn former_chart(lab: &Lab) -> Result<PathBuf> {
    let (folder, log) = (lab.logs().join("former"), lab.logs().join("git.log"));
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join("chart.tar");
    let git = Command::new("git", &log).args(["-C"]).args([repository()]);
    if git.args(["archive", "HEAD^", "charts/patchbay"]).output_to(&archive).is_err() {
        return Ok(chart());
    }
    Command::new("tar", &log).args(["-xf"]).args([&archive]).folder(&folder).run()?;
    Ok(folder.join("charts/patchbay"))
}

fn rolled_out(lab: &Lab) -> Result<()> {
    for workload in ["daemonset/agent", "deployment/controller"] {
        lab.kubectl(&["rollout", "status", "-n", RELEASE, workload, "--timeout=55s"])?;
    }
    product::wait_running(lab)
}

fn nothing_is_left(lab: &Lab, assigned: &str) -> Result<(), String> {
    let get = |arguments: &[&str]| lab.kubectl(&[&["get"], arguments].concat()).map_err(|error| format!("{error:#}"));
    for (kinds, words) in OURS {
        let there = get(&[kinds, "-A", "--no-headers"])?;
        if let Some(left) = there.lines().find(|line| line.contains(words)) {
            return Err(left.to_owned());
        }
    }
    let left = get(&[WITHIN, "-n", RELEASE, "-o", "name"])?;
    let places = "jsonpath={range .items[*]}{.metadata.name}={.spec.assignedNamespace} {end}";
    let devices = get(&["nodeusbdevices", "-o", places])?;
    if left.is_empty() && devices.trim() == format!("{assigned}=installation") {
        Ok(())
    } else {
        Err(format!("{left} {devices}"))
    }
}
