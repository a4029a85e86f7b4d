//! Devices that misbehave.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::case::{BOOT, Case, SOON, VM};
use crate::cluster::Lab;
use crate::published;
use crate::stick::Stick;

use super::reading;

const HOME: &str = "node-1";
/// How often a device drops off its bus.
const TIMES: usize = 40;
/// Microseconds in which it comes up again each time, so that there is something to tell.
const UP: u32 = 400_000;
/// For how long.
const STORM: Duration = Duration::from_secs(120);
/// What an agent writes at once, and one more for each second (`patchbay_dra::Patience`).
const BURST: i64 = 20;

/// A device drops off its bus and comes up again all the time. Its node's agent does not tell the API server each time; a guest
/// reads another device of that node without a break, and gets a further one. When the storm is over the device can be used.
pub(super) fn a_storm_disturbs_nobody(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "storm")?;
    let [calm, late, loose] = ["calm", "late", "loose"].map(Stick::new);
    let (calm_device, mut guest) = case.reading(&calm, HOME, "node-2")?;
    let disk = guest.disk(calm.serial.as_deref().unwrap_or_default()).context("the guest has lost its disk")?;
    let (loose_device, _) = case.plug(HOME, &loose)?;
    case.assign(&loose_device, "storm")?;
    guest.forget();

    let node = lab.node(HOME)?;
    let (begin, before) = (Instant::now(), written(lab)?);
    let storm =
        format!("for n in $(seq {TIMES}); do (\n{}\n); usleep {UP}; done; echo over >/run/storm", loose.falter());
    node.run(&format!("rm -f /run/storm; {{ {storm}; }} </dev/null >/dev/null 2>&1 &"))?;
    let (late_device, _) = case.plug(HOME, &late)?;
    case.assign(&late_device, "storm")?;
    case.set_devices(VM, &[&calm_device, &late_device])?;
    guest.reads(&late, SOON)?;
    lab.wait_for("the storm to be over", STORM, || {
        node.run("cat /run/storm 2>/dev/null; true")
            .map_err(|error| format!("{error:#}"))
            .and_then(|said| if said == "over" { Ok(()) } else { Err("it is not".to_owned()) })
    })?;
    case.wait_node_condition(&loose_device, "Ready", "Ready")?;
    let (writes, seconds) = (written(lab)? - before, begin.elapsed().as_secs());
    let allowed = BURST.saturating_add_unsigned(seconds).saturating_add(1);
    ensure!((BURST..=allowed).contains(&writes), "{HOME} has written its slice {writes} times in {seconds} s");
    reading::is_undisturbed(&guest, &disk)?;

    case.set_devices(VM, &[&calm_device, &late_device, &loose_device])?;
    guest.reads(&loose, BOOT)?;
    reading::is_undisturbed(&guest, &disk)?;
    case.end()
}

/// How often the slices of the home node's devices were written.
fn written(lab: &Lab) -> Result<i64> {
    let pools = published::pools(lab)?;
    Ok(pools.get(HOME).with_context(|| format!("there is no pool {HOME}"))?.generations)
}
