//! Moves of machines that something else breaks into: the target dies or is cut off, or somebody pulls the device out.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

use super::limits::SMALL;
use super::migration::{MOVED, ask, goes_on_at_node_2, has_run_on, hold, is_where_it_was, moves_at_last, uptime};
use super::reading;

/// For Kubernetes to see that a node is off, or for a pod whose QEMU does not answer to be gone.
const LOST: Duration = Duration::from_secs(120);

/// The target's QEMU is killed, its node is cut off from the source's, and its node loses its power, each while the machine is
/// being sent. Each time machine and device go on where they were, and that is said; at last the machine moves there.
pub(super) fn by_the_end_of_the_target(lab: &Lab) -> Result<()> {
    product::keep_controller_off(lab, "node-3")?;
    let case = Case::begin(lab, "interrupted")?;
    let stick = Stick::new("interrupted").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let (source, target) = (lab.node("node-2")?, lab.node("node-3")?);
    let begin = uptime(&guest)?;
    let kill = || target.run("kill -KILL $(pidof qemu-system-x86_64)").map(drop);
    let cut = || {
        target.cut_from(source);
        Ok(())
    };
    let off = || lab.power_off("node-3");
    let ways: [(&str, &dyn Fn() -> Result<()>); 3] = [("qemu-killed", &kill), ("cut-off", &cut), ("node-off", &off)];
    for (way, happens) in ways {
        guest.forget();
        ask(&case, way, "node-3")?;
        hold(&case)?;
        happens()?;
        let message = case.fails(way, "Failed", LOST).context(way)?;
        ensure!(message.contains("stays on node node-2"), "{way} says: {message}");
        goes_on_at_node_2(&case, &device).context(way)?;
        has_run_on(&guest, begin).context(way)?;
        reading::settles(&mut guest).context(way)?;
        target.heal_from(source);
        if !target.is_on() {
            lab.boot("node-3")?;
        }
        guest.forget();
        is_where_it_was(&case, &guest, &device, 0).context(way)?;
    }

    moves_at_last(&case, &mut guest, &stick, begin)?;
    case.end()
}

/// The device is pulled out while its machine is being sent: that is said at once, the machine moves without it, and has it again
/// on its new node when it is put back.
pub(super) fn by_the_cable(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "cable")?;
    let stick = Stick::new("cable").size(SMALL);
    let (device, mut guest) = case.reading(&stick, "node-1", "node-2")?;
    let begin = uptime(&guest)?;
    guest.forget();
    ask(&case, "move", "node-3")?;
    hold(&case)?;
    case.unplug("node-1", &stick)?;
    case.wait_node_condition(&device, "Ready", "NotFound")?;
    guest.loses_disk(SOON)?;
    lab.node("node-3")?.run("kill -CONT $(pidof qemu-system-x86_64)")?;
    case.completes("move", MOVED)?;
    case.wait_away(VM, &device, "NotFound")?;
    has_run_on(&guest, begin)?;

    guest.forget();
    case.insert("node-1", &stick)?;
    guest.reads(&stick, SOON)?;
    case.wait_status(VM, &device, true)?;
    let told = case.wait_condition(&device, "Attached", "AttachedToVirtualMachine")?;
    ensure!(told.contains("on node node-3"), "the device says: {told}");
    has_run_on(&guest, begin)?;
    case.end()
}
