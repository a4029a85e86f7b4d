//! Machines that move to another node while their guests run and read: with their devices, from every kind of place to every
//! other; and moves that cannot be, or come to nothing.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::Stick;

use super::limits::{SMALL, VHCI, wait_offered};
use super::reading;

/// For a move: the second pod starts, the guest's memory is sent, and the first one ends.
pub(super) const MOVED: Duration = Duration::from_secs(120);
/// For a pod whose QEMU does not answer to be gone.
pub(super) const KILLED: Duration = Duration::from_secs(90);

/// A machine that is not on the node of its device moves to that, to another one, and from there to a third. Each time the
/// guest runs on, loses its device once and has it again, and never reads anything wrong.
pub(super) fn from_node_to_node(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "moving")?;
    let stick = Stick::new("moving").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let ways = [("remote-to-local", "node-1"), ("local-to-remote", "node-3"), ("remote-to-remote", "node-2")];
    for (way, node) in ways {
        let before = uptime(&guest)?;
        guest.forget();
        ask(&case, way, node)?;
        let said = case.completes(way, MOVED).context(way)?;
        ensure!(said == format!("virtual machine {VM} has moved to node {node}"), "{way} says: {said}");
        guest.reads(&stick, BOOT).context(way)?;
        case.wait_status(VM, &device, true)?;
        let told = case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
        ensure!(told.contains(&format!("on node {node}")), "{way}: the device says: {told}");
        has_run_on(&guest, before).context(way)?;
        lost(&guest, 1..=1).context(way)?;
        guest.forget();
        reading::goes_on(&mut guest).context(way)?;
        one_pod(&case).context(way)?;
    }

    // From its next start on, its pod has the ordinary name again.
    guest.forget();
    case.operate("restart", "Restart", VM)?;
    guest.reads(&stick, BOOT).context("the machine was restarted after its moves")?;
    case.completes("restart", SOON)?;
    ensure!(one_pod(&case)? == "pod/vm-linux-vm", "the restarted machine runs in a pod of another name");
    case.end()
}

/// How often a machine moves to show that it reads nothing wrong.
const OFTEN: usize = 10;

/// A machine moves to and fro between two nodes, many times in a row. Each time its guest loses the device once, and then reads
/// all of it anew; in between it reads on all the time, and never anything wrong.
pub(super) fn many_times(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "to-and-fro")?;
    let stick = Stick::new("to-and-fro").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    for (n, node) in (1..=OFTEN).zip(["node-3", "node-2"].iter().cycle()) {
        let (name, before) = (format!("move-{n}"), uptime(&guest)?);
        guest.forget();
        ask(&case, &name, node)?;
        case.completes(&name, MOVED).with_context(|| name.clone())?;
        guest.reads(&stick, BOOT).with_context(|| name.clone())?;
        case.wait_status(VM, &device, true)?;
        has_run_on(&guest, before).with_context(|| name.clone())?;
        lost(&guest, 1..=1).with_context(|| name.clone())?;
    }
    one_pod(&case)?;
    case.end()
}

/// A node without a free port takes no machine that needs one: that is said, and nothing is disturbed.
pub(super) fn without_a_free_port(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "no-port")?;
    let stick = Stick::new("no-port").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let node = lab.node("node-3")?;
    node.run(&format!("echo vhci_hcd.0 >{VHCI}/unbind"))?;
    wait_offered(lab, "node-3", 0..0, 0..0)?;

    let before = case.conditions(&[&device])?;
    guest.forget();
    ask(&case, "move", "node-3")?;
    let message = case.fails("move", "NoFreeUSBIPPort", MOVED)?;
    for words in [device.as_str(), "node-3 has no", "stays on node node-2"] {
        ensure!(message.contains(words), "the message does not say {words:?}: {message}");
    }
    is_where_it_was(&case, &guest, &device, 0)?;
    ensure!(before == case.conditions(&[&device])?, "what is said of the device has changed");
    reading::goes_on(&mut guest)?;

    node.run(&format!("echo vhci_hcd.0 >{VHCI}/bind"))?;
    wait_offered(lab, "node-3", 0..8, 0..8)?;
    case.end()
}

/// Moves that are stopped in the middle, when QEMU sends and the target does not take it: the target's pod is deleted, and the
/// operation is. The guest runs on all the time and has its device again, and the next move works.
pub(super) fn stopped_in_the_middle(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "stopped")?;
    let stick = Stick::new("stopped").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let begin = uptime(&guest)?;
    guest.forget();

    ask(&case, "target-deleted", "node-3")?;
    let target = hold(&case)?;
    lab.kubectl(&["delete", &target, "-n", &case.namespace, "--wait=false"])?;
    let message = case.fails("target-deleted", "Failed", KILLED)?;
    ensure!(message.contains("was deleted") && message.contains("stays on node node-2"), "it says: {message}");
    is_where_it_was(&case, &guest, &device, 1).context("the target's pod was deleted")?;
    has_run_on(&guest, begin)?;
    reading::goes_on(&mut guest)?;

    ask(&case, "called-off", "node-3")?;
    let target = hold(&case)?;
    case.cancel("called-off")?;
    case.lab.wait_for("the operation to be gone", KILLED, || {
        let left =
            lab.kubectl(&["get", "vmop", "called-off", "-n", &case.namespace, "--ignore-not-found", "-o", "yaml"]);
        let left = left.map_err(|error| format!("{error:#}"))?;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })?;
    case.wait_gone(&target)?;
    is_where_it_was(&case, &guest, &device, 1).context("the operation was deleted")?;
    has_run_on(&guest, begin)?;
    reading::goes_on(&mut guest)?;

    moves_at_last(&case, &mut guest, &stick, begin)?;
    case.end()
}

/// After moves that came to nothing the next one works: the machine moves to node-3, and its guest, whose clock was at `begin`
/// before, runs on.
pub(super) fn moves_at_last(case: &Case<'_>, guest: &mut Guest, stick: &Stick, begin: f64) -> Result<()> {
    guest.forget();
    ask(case, "at-last", "node-3")?;
    case.completes("at-last", MOVED)?;
    guest.reads(stick, BOOT)?;
    has_run_on(guest, begin)
}

/// Asks for a machine to be moved to a node.
pub(super) fn ask(case: &Case<'_>, operation: &str, node: &str) -> Result<()> {
    case.change_vm(VM, json!({"nodeSelector": {"kubernetes.io/hostname": node}}))?;
    case.operate(operation, "Migrate", VM)
}

/// Stops the QEMU of the target on node-3 as soon as it has the connection through which the machine comes: the pod.
pub(super) fn hold(case: &Case<'_>) -> Result<String> {
    let node = case.lab.node("node-3")?;
    case.lab.wait_for("the machine to be on its way to node-3", MOVED, || {
        node.run(STOP_WHEN_SENT).map_err(|error| format!("{error:#}"))
    })?;
    let annotation = r"jsonpath={.items[?(@.spec.nodeName=='node-3')].metadata.name}";
    let pods = ["get", "pods", "-n", &case.namespace, "-l", LABEL, "-o", annotation];
    Ok(format!("pod/{}", case.lab.kubectl(&pods)?.trim()))
}

/// Looks for a TCP connection among the descriptors of a node's QEMU: it has none of its own.
const STOP_WHEN_SENT: &str = r#"
pid=$(pidof qemu-system-x86_64) || exit 1
for look in $(seq 20); do
    for fd in /proc/$pid/fd/*; do
        link=$(readlink $fd)
        case $link in socket:*)
            inode=${link#socket:\[}
            grep -q " ${inode%\]} " /proc/net/tcp && kill -STOP $pid && exit 0
        esac
    done
done
exit 1
"#;

/// The label of machines' pods.
const LABEL: &str = "vm.virtualization.deckhouse.io/name";

/// The machine's only pod.
fn one_pod(case: &Case<'_>) -> Result<String> {
    let pods = ["get", "pods", "-n", &case.namespace, "-l", LABEL, "-o", "name"];
    case.lab.wait_for("the machine to have one pod", SOON, || {
        let names = case.lab.kubectl(&pods).map_err(|error| format!("{error:#}"))?;
        match names.split_whitespace().collect::<Vec<_>>().as_slice() {
            [one] => Ok((*one).to_owned()),
            _ => Err(names),
        }
    })
}

/// After moves that came to nothing: one pod, on node-2, with the device, which the guest has lost no more often.
pub(super) fn is_where_it_was(case: &Case<'_>, guest: &Guest, device: &str, times: usize) -> Result<()> {
    ensure!(one_pod(case)? == "pod/vm-linux-vm", "the machine is in another pod");
    goes_on_at_node_2(case, device)?;
    lost(guest, 0..=times)
}

/// The machine's status and its device's conditions say that both are on node-2.
pub(super) fn goes_on_at_node_2(case: &Case<'_>, device: &str) -> Result<()> {
    let told = case.wait_condition(device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(told.contains("on node node-2"), "the device says: {told}");
    case.wait_status(VM, device, true).map(drop)
}

/// How often the guest has lost its device since [`Guest::forget`].
fn lost(guest: &Guest, expected: RangeInclusive<usize>) -> Result<()> {
    let lines = guest.lines();
    let lost = lines.iter().filter(|line| line.text.contains("guest: usb remove")).count();
    ensure!(
        expected.contains(&lost),
        "the guest has lost its device {lost} times, where {expected:?} was to be expected"
    );
    Ok(())
}

/// The guest has not booted since [`Guest::forget`], its clock has gone on from `before`, and what it has read was right: it
/// may have failed to read, but never have read anything else.
pub(super) fn has_run_on(guest: &Guest, before: f64) -> Result<()> {
    let lines = guest.lines();
    for line in &lines {
        ensure!(!line.text.contains("guest: booted"), "the guest has booted: {}", line.text);
        ensure!(
            !line.text.contains(" reads ") || line.text.contains(" bad=0 "),
            "the guest has read something wrong: {}",
            line.text
        );
        let up = up(&line.text);
        ensure!(up.is_none_or(|up| up >= before), "the guest's clock was at {before} s before: {}", line.text);
    }
    ensure!(lines.iter().any(|line| up(&line.text).is_some()), "the guest has said nothing");
    Ok(())
}

/// How long the guest runs, by what it has said last.
pub(super) fn uptime(guest: &Guest) -> Result<f64> {
    guest.lines().iter().rev().find_map(|line| up(&line.text)).context("the guest has never said how long it runs")
}

fn up(line: &str) -> Option<f64> {
    line.split_once("guest: ")?.1.rsplit_once("up=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_line_is_the_guests() {
        assert_eq!(up("guest: disk sda reads ok=20 bad=0 errors=1 up=3.10\r"), Some(3.1));
        assert_eq!(up("QEMU up=3.10"), None);
    }
}
