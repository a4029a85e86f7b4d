//! What a kubelet does to the driver: it dies and comes back, wipes slices, and asks late or twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::leaks::ATTACHMENT;
use crate::node::Node;
use crate::published;
use crate::stick::Stick;

use super::reading;

/// A kubelet that comes back looks for claims of pods that are gone once a minute (`pkg/kubelet/cm/dra/manager.go`).
pub(super) const RECONCILED: Duration = Duration::from_secs(100);

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// Kubelets are killed and started again: the guest reads on, and the slices that each wipes when it starts are published
/// again. Then there is none for a while: a device is let go of without it, and comes back with it.
pub(super) fn restarted_with_attached_devices(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "kubelets")?;
    let stick = Stick::new("kubelets");
    let (device, mut guest) = case.reading(&stick, HOME, IMPORTER)?;
    let before = published::pools(lab)?;
    guest.forget();
    for node in [HOME, IMPORTER] {
        lab.kill_kubelet(node)?;
        lab.start_kubelet(node)?;
    }
    published::wait_anew(lab, &before, "-ports", SOON)?;
    reading::has_gone_on(&guest, SOON)?;
    case.wait_status(VM, &device, true)?;
    case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;

    lab.kill_kubelet(IMPORTER)?;
    guest.forget();
    case.set_devices(VM, &[])?;
    lab.wait_for("the port to be free without a kubelet", SOON, || {
        let used = lab.node(IMPORTER).and_then(|node| node.run(USED_PORTS)).map_err(|error| format!("{error:#}"))?;
        if used.is_empty() { Ok(()) } else { Err(used) }
    })?;
    case.set_devices(VM, &[&device])?;
    lab.start_kubelet(IMPORTER)?;
    guest.reads(&stick, BOOT)?;
    case.wait_status(VM, &device, true)?;
    guest.forget();
    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;
    case.end()
}

/// Prints the vhci ports that are in use.
pub(super) const USED_PORTS: &str = "grep -vhE ' 004 |sockfd' /sys/devices/platform/vhci_hcd.*/status*; true";

/// The agent is killed the moment its journal says that a pod's claims are prepared, before a container of it runs.
pub(super) fn agent_killed_between_prepare_and_start(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "ambush")?;
    let stick = Stick::new("ambush");
    let (device, _) = case.plug(HOME, &stick)?;
    case.assign(&device, "ambush")?;
    let mut guest = case.vm(VM, IMPORTER, &[])?;
    let node = lab.node(IMPORTER)?;
    node.put(AMBUSH.as_bytes(), "/run/ambush")?;
    node.run("rm -f /run/ambush.out; sh /run/ambush </dev/null >/run/ambush.out 2>&1 &")?;
    case.set_devices(VM, &[&device])?;
    guest.reads(&stick, BOOT)?;
    let caught = node.run("cat /run/ambush.out")?;
    ensure!(caught == "killed the agent, attachments that run: 0", "the moment was missed: {caught:?}");
    case.wait_status(VM, &device, true)?;
    guest.forget();
    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;
    case.end()
}

/// Waits for the journal, kills the agent, and tells how many attachment pods had a running container.
const AMBUSH: &str =
    "for f in $(grep -l '^/patchbay.agent' /proc/[0-9]*/cmdline 2>/dev/null); do p=${f%/cmdline} p=${p#/proc/}; done
until grep -q '\"Prepared\"' /var/lib/patchbay/journal.json; do usleep 2000; done
kill -9 $p && echo killed the agent, attachments that run: $(grep -l '^/patchbay.hold' /proc/[0-9]*/cmdline 2>/dev/null | wc -l)
";

/// The agent cannot prepare a claim, for a folder is in the way of its journal. When that is gone the device comes sooner than by
/// itself: a kubelet tries again only after a minute or more.
pub(super) fn reminded_of_what_it_could_not_prepare(lab: &Lab) -> Result<()> {
    const IN_THE_WAY: &str = "/var/lib/patchbay/.journal.json.new";
    const SOONER: Duration = Duration::from_secs(50);
    let case = Case::begin(lab, "reminded")?;
    let stick = Stick::new("reminded");
    let (device, _) = case.plug(HOME, &stick)?;
    case.assign(&device, "reminded")?;
    let guest = case.vm(VM, IMPORTER, &[])?;
    let node = lab.node(IMPORTER)?;
    node.run(&format!("mkdir {IN_THE_WAY}"))?;
    case.set_devices(VM, &[&device])?;
    let failures = "--field-selector=reason=FailedPrepareDynamicResources";
    lab.wait_for("the kubelet to say that the journal was not written", SOON, || {
        let told = lab.kubectl(&["get", "events", "-n", "reminded", failures, "-o", "jsonpath={.items[*].message}"]);
        let told = told.map_err(|error| format!("{error:#}"))?;
        if told.contains("journal.json could not be written") { Ok(()) } else { Err(told) }
    })?;
    node.run(&format!("rmdir {IN_THE_WAY}"))?;
    guest.reads(&stick, SOONER)?;
    case.wait_status(VM, &device, true)?;
    case.end()
}

/// Claims that are gone from the API before they are given back, by force and while there is no kubelet; and a kubelet whose
/// checkpoint is from before, as after a power cut, so that it asks once more for claims that were given back in order.
/// It gets an answer each time, nothing is left, and the device is attached again as soon as the kubelet has forgotten
/// the old claim.
pub(super) fn asks_for_claims_that_are_gone(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "late")?;
    let (first, second) = (Stick::new("late-1"), Stick::new("late-2"));
    let (orderly, mut guest) = case.reading(&first, HOME, IMPORTER)?;
    let (forced, _) = case.plug(HOME, &second)?;
    case.assign(&forced, "late")?;
    case.set_devices(VM, &[&orderly, &forced])?;
    guest.reads(&second, BOOT)?;
    case.wait_status(VM, &orderly, true)?;
    let node = lab.node(IMPORTER)?;
    node.run("cp /var/lib/kubelet/dra_manager_state /run/checkpoint")?;
    let before = unprepared(node, &format!("late/usb-{orderly}"))?;
    case.set_devices(VM, &[&forced])?;
    let claim = format!("late/usb-{orderly}");
    let answers =
        lab.wait_for(&format!("claim {claim} to be given back"), SOON, || match unprepared(node, &claim) {
            Ok(count) if count > before => Ok(count),
            Ok(count) => Err(format!("it was {count} times")),
            Err(error) => Err(format!("{error:#}")),
        })?;

    lab.kill_kubelet(IMPORTER)?;
    case.set_devices(VM, &[])?;
    lab.wait_for("the attachment to be on its way out", SOON, || {
        let times = "jsonpath={.items[*].metadata.deletionTimestamp}";
        let leaving = lab.kubectl(&["get", "pod", "-n", "late", "-l", ATTACHMENT, "-o", times]);
        leaving.map_err(|error| format!("{error:#}")).and_then(|t| if t.is_empty() { Err(t) } else { Ok(()) })
    })?;
    lab.kubectl(&["delete", "pod", "-n", "late", "-l", ATTACHMENT, "--force", "--grace-period=0"])?;
    lab.wait_for("the claims to be gone", SOON, || {
        let claims = lab.kubectl(&["get", "resourceclaims", "-n", "late", "-o", "name"]);
        claims.map_err(|error| format!("{error:#}")).and_then(|left| if left.is_empty() { Ok(()) } else { Err(left) })
    })?;
    node.run("cp /run/checkpoint /var/lib/kubelet/dra_manager_state")?;
    case.set_devices(VM, &[&forced])?;
    guest.forget();
    lab.start_kubelet(IMPORTER)?;
    guest.reads(&second, RECONCILED)?;
    ensure!(unprepared(node, &claim)? > answers, "the kubelet did not ask once more for {claim}");
    case.wait_status(VM, &forced, true)?;
    case.set_devices(VM, &[])?;
    lab.assert_no_leaks(RECONCILED)?;
    case.end()
}

/// Deletes an object, `resourceclaim.resource.k8s.io/name`, without waiting for those who protect it.
pub(super) fn remove_by_force(lab: &Lab, namespace: &str, object: &str) -> Result<()> {
    lab.kubectl(&["delete", "-n", namespace, object, "--wait=false"])?;
    let patch = r#"{"metadata":{"finalizers":null}}"#;
    lab.kubectl(&["patch", "-n", namespace, object, "--type=merge", "-p", patch]).map(drop)
}

/// How often a node's agent has answered that a claim is given back: each time is in its log.
fn unprepared(node: &Node, claim: &str) -> Result<u32> {
    let log = "cat /var/log/pods/patchbay_agent-*/agent/*.log";
    let lines = node.run(&format!("{log} | grep -c 'claim unprepared claim={claim} '; true"))?;
    lines.trim().parse().with_context(|| format!("{} says {lines:?}", node.name()))
}
