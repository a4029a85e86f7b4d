//! Devices that nothing tells apart but the port they are in: two of a kind without serial numbers, and two with the same.

use anyhow::{Context, Result, ensure};

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::Stick;

use super::limits::give_back;

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// Two sticks that say the same of themselves, and hold different things.
fn pair(serial: Option<&str>) -> [Stick; 2] {
    ["left", "right"]
        .map(|name| Stick::new(name).strings(Some("Patchbay"), Some("Twin")).serial(serial).size(super::limits::SMALL))
}

/// The guest reads what a stick holds, whatever that calls itself.
fn reads(guest: &Guest, stick: &Stick) -> Result<String> {
    let sum = format!("sha256={} ", stick.sha256());
    guest.wait_line(&format!("what {} holds", stick.name), BOOT, |line| {
        let text = line.text.split_once("guest: disk ")?.1;
        text.contains(&sum).then(|| text.split_whitespace().next().unwrap_or_default().to_owned())
    })
}

/// Both twins, each under a name of its own, in one guest: first one, then the other beside it.
fn both_in_one_guest(case: &Case<'_>, names: [&str; 2], sticks: &[Stick; 2]) -> Result<Guest> {
    let ([left, right], [left_stick, right_stick]) = (names, sticks);
    ensure!(left != right, "both are called {left}");
    case.assign_all(&names, &case.namespace)?;
    let mut guest = case.vm(VM, IMPORTER, &[right])?;
    let disk = reads(&guest, right_stick)?;
    let others = guest.lines().iter().filter(|line| line.text.contains(&left_stick.sha256())).count();
    ensure!(others == 0, "the guest has read the twin that its machine does not list");
    guest.forget();
    case.set_devices(VM, &names)?;
    reads(&guest, left_stick)?;
    case.wait_attached(VM, &names)?;
    super::reading::is_undisturbed(&guest, &disk)?;
    Ok(guest)
}

/// Without serial numbers each is known by its port. Both are in one guest at once; one is pulled out, and the other does not
/// notice. Put into each other's ports they have changed names.
pub(super) fn without_serial(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "twins")?;
    let sticks = pair(None);
    let [left, right] = &sticks;
    let names = case.plug_all(&[(HOME, left.clone()), (HOME, right.clone())])?;
    let [left_name, right_name] = names.as_slice() else { anyhow::bail!("there are not two: {names:?}") };
    let mut guest = both_in_one_guest(&case, [left_name, right_name], &sticks)?;

    guest.forget();
    let kept = case.conditions(&[right_name])?;
    case.unplug(HOME, left)?;
    case.wait_away(VM, left_name, "NotFound")?;
    case.wait_usb(VM, "1/2")?;
    guest.wait_line("that a disk is gone", SOON, |line| line.text.contains("guest: disk remove").then_some(()))?;
    ensure!(case.conditions(&[right_name])? == kept, "what is said of the other twin has changed");
    case.unplug(HOME, right)?;
    case.wait_away(VM, right_name, "NotFound")?;

    // The first free port is the one that was the left one's.
    guest.forget();
    case.insert(HOME, right)?;
    ensure!(case.in_port(HOME, right)? == *left_name, "the name is not that of the port");
    reads(&guest, right)?;
    case.wait_status(VM, left_name, true)?;
    case.wait_status(VM, right_name, false)?;
    case.insert(HOME, left)?;
    ensure!(case.in_port(HOME, left)? == *right_name, "the name is not that of the port");
    reads(&guest, left)?;
    case.wait_attached(VM, &[left_name, right_name])?;
    give_back(&case, &[VM])?;
    case.end()
}

/// Waits until a device warns of another one of its serial number, in these words.
fn warned(case: &Case<'_>, name: &str, words: &[&str]) -> Result<()> {
    case.lab.wait_for(&format!("{name} to warn of a device with its serial number"), SOON, || {
        let said = case.wait_node_condition(name, "Ready", "Ready").map_err(|e| format!("{e:#}"))?;
        let warns = said.contains("same serial number") && words.iter().all(|word| said.contains(word));
        if warns { Ok(()) } else { Err(said) }
    })
}

/// Of two with one serial number the first keeps the name that was made from it, in whatever port; the second one is known by
/// its port, on the same node, and by its node, on another. Both warn of each other for as long as they are there.
pub(super) fn of_one_serial(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "clones")?;
    let sticks = pair(Some("CLONED42"));
    let [first, second] = &sticks;
    let (first_name, _) = case.plug(HOME, first)?;
    case.insert(HOME, second)?;
    let second_name = case.in_port(HOME, second)?;
    ensure!(case.in_port(HOME, first)? == first_name, "the second one has taken the name of the first");
    warned(&case, &first_name, &[&second_name, HOME])?;
    warned(&case, &second_name, &[&first_name, HOME])?;
    let mut guest = both_in_one_guest(&case, [&first_name, &second_name], &sticks)?;

    // The first one moves to the other node: its name goes with it, and the twin that stays has its own still.
    let attached = |name: &str| case.wait_node_condition(name, "Attached", "AttachedToVirtualMachine");
    let kept = attached(&second_name)?;
    guest.forget();
    case.unplug(HOME, first)?;
    case.wait_away(VM, &first_name, "NotFound")?;
    lab.wait_for("the warning about the first one to end when it is gone", SOON, || {
        let said = case.wait_node_condition(&second_name, "Ready", "Ready").map_err(|e| format!("{e:#}"))?;
        if said.contains("warning") { Err(said) } else { Ok(()) }
    })?;
    case.insert(IMPORTER, first)?;
    ensure!(case.in_port(IMPORTER, first)? == first_name, "the first one has lost its name");
    reads(&guest, first)?;
    case.wait_attached(VM, &[&first_name, &second_name])?;
    ensure!(attached(&second_name)? == kept, "what is said of the second one has changed");
    warned(&case, &first_name, &[&second_name, HOME])?;
    warned(&case, &second_name, &[&first_name, IMPORTER])?;

    // A third one comes to the node that the first one has left, when the second one is not there.
    case.set_devices(VM, &[&first_name])?;
    case.wait_condition(&second_name, "Attached", "Available")?;
    case.unplug(HOME, second)?;
    case.wait_node_condition(&second_name, "Ready", "NotFound")?;
    let third = Stick { name: "third".into(), ..first.clone() };
    case.insert(HOME, &third)?;
    let third_name = case.in_port(HOME, &third)?;
    ensure!(third_name != first_name, "the third one has taken the name of the first, which is on {IMPORTER}");
    warned(&case, &first_name, &[&third_name, HOME])?;
    warned(&case, &third_name, &[&first_name, IMPORTER])?;
    let attached = attached(&first_name)?;
    ensure!(attached.contains(VM), "the first one is not in its machine: {attached}");
    give_back(&case, &[VM]).context("at the end")?;
    case.end()
}
