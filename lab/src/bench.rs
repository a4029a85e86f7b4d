//! The measurements: what an attachment costs, beside what the kernel and QEMU need by themselves.
//!
//! One run, one lab of three nodes, one virtual machine on node-2 and one stick in node-1:
//!
//! 1. [`attach`]: the list of the machine's devices is changed, and the guest says when it sees the device;
//! 2. [`cable`]: a stick is plugged in, and a watch says when its `NodeUSBDevice` is ready;
//! 3. [`together`]: sixteen devices are listed at once;
//! 4. [`processes`]: what our processes use and write while nothing happens;
//! 5. [`replug`]: the cable is pulled and put back, and the guest says when it sees the device again;
//! 6. [`data`]: a guest says how fast it reads a disk of another node and one of its own;
//! 7. [`moves`]: the machine goes around the nodes, and the guest says for how long it is without the device;
//! 8. [`byhand`]: our processes are removed, and the same stick and disk go into the same guest with the stock tools.
//!
//! All times are in the time of one clock, the lab's: those of the nodes are compared with it ([`probe::skew`]).
//! [`steps`] takes an attachment apart with what the API server's audit log, the agents' logs and the kernels say.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::case::Case;
use crate::cluster::Lab;
use crate::install::repository;
use crate::progress::{say, step};
use crate::scenarios::Needs;
use crate::stick::Stick;

pub mod agent;
mod attach;
mod audit;
mod byhand;
mod cable;
mod clock;
mod data;
pub(crate) mod figures;
pub mod fleet;
mod http;
mod made_up;
mod markdown;
mod moves;
pub mod plot;
mod pressure;
mod probe;
mod processes;
mod replug;
mod shares;
mod stage;
mod steps;
mod together;
mod usage;

use clock::Clock;
use figures::{Row, Times, table};
use steps::Records;

/// The lab that they need.
pub const NEEDS: Needs = Needs { nodes: 3, usb_ports: 18, ..Needs::ORDINARY };
/// How often each thing is done. One time more is not counted: the first finds cold caches and modules not loaded.
const ROUNDS: usize = 30;
const NAMESPACE: &str = "bench";
const VM: &str = "linux-vm";
const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// Runs them, prints the table and stores it as JSON in `target/bench`.
///
/// # Errors
/// At the first step that does not work; the logs are collected then.
pub fn run(lab: &Lab) -> Result<()> {
    measure(lab).inspect_err(|_| lab.collect_logs())
}

fn measure(lab: &Lab) -> Result<()> {
    let clock = Clock::now();
    probe::start(lab)?;
    let skews_before = skews(lab, &clock)?;
    let case = Case::begin(lab, NAMESPACE)?;
    let mut guest = step("starting a virtual machine on node-2", || case.vm(VM, IMPORTER, &[]))?;
    let stick = Stick::new("bench");
    let (device, _) = case.plug(HOME, &stick)?;
    case.assign(&device, NAMESPACE)?;
    let (ours, busy) =
        step("attaching and detaching", || pressure::during(|| attach::rounds(&case, &mut guest, &device, &clock)))?;
    // Read while the agents whose logs these are still run.
    let records = Records::read(lab, &clock)?;
    let cable = step("plugging sticks in", || cable::rounds(lab, &clock))?;
    let together = step("attaching sixteen devices at once", || together::rounds(&case, &mut guest, &clock))?;
    let (processes, idle_writes) = step("watching our processes do nothing", || processes::idle(lab))?;
    let replug =
        step("pulling the cable and putting it back", || replug::rounds(&case, &mut guest, &stick, &device, &clock))?;
    let (data, disk) = step("reading a disk", || data::paths(&case, &mut guest))?;
    let moves = step("moving the machine", || moves::rounds(&case, &mut guest, &device, &clock))?;
    let (place, place_of_disk) = (device_place(lab, &device)?, device_place(lab, &disk)?);
    let (hand, busy_by_hand) = step("removing our processes and doing the same by hand", || {
        pressure::during(|| byhand::rounds(&case, &mut guest, (&place, &place_of_disk), &clock))
    })?;

    let (breakdown, by_step) = steps::breakdown(&records, &ours);
    let cycle = audit::per_cycle(&records.writes, &ours);
    let times = |of: fn(&attach::Round) -> Duration| -> Times { ours.iter().map(of).collect() };
    let (attach, detach) = (times(attach::Round::attach), times(attach::Round::detach));
    // A person at the nodes' own keyboards would not wait for the lab to bring two commands to them.
    let by_hand = hand.attach.median() - 2.0 * hand.command.median();
    let added = attach.median() - by_hand;
    let mut rows = vec![
        Row::times("attach: list changed -> guest sees the device", &attach),
        Row::times("  the same by hand: bind, usbip attach, QMP", &hand.attach),
        Row::times("  of that, for each of its two commands: getting it to the node", &hand.command),
        Row::figure("  added by our control path (medians, without those)", added, "ms").at_most(300.0),
        Row::times("detach: list changed -> guest sees it go", &detach).at_most(150.0),
        Row::times("  the same by hand: device_del", &hand.detach),
        Row::times("  of that QEMU, which resets the device before it lets the guest go on", &hand.closed),
        Row::times("cable in -> NodeUSBDevice ready", &cable.total).at_most(100.0),
        Row::times("  the kernel alone: until its uevent", &cable.kernel),
        Row::times("  ours: from the uevent on", &cable.ours).at_most(100.0),
        Row::times("cable put back -> guest sees the device again", &replug),
        Row::figure(
            "  more than the kernel takes, and an attach by hand",
            replug.median() - cable.kernel.median() - by_hand,
            "ms",
        )
        .at_most(200.0),
        Row::figure("API writes of one attach and detach", cycle.writes, "").at_most(12.0),
        Row::figure("  Events told besides", cycle.told, ""),
        Row::figure("API writes in five minutes in which nothing happens, besides the leader's lease", idle_writes, "")
            .at_most(0.0),
    ];
    rows.extend(together.rows((&hand.together, &hand.shares)));
    rows.extend(moves.iter().flat_map(moves::Moves::rows));
    rows.extend(data.rows(&hand.disk));
    rows.extend(processes.iter().flat_map(processes::Process::rows));
    println!("\n{}", table(&format!("Patchbay on this machine, {ROUNDS} rounds each"), &rows));
    println!("{}", table("Where an attach spends its time (each step from the end of the one before)", &breakdown));
    println!("{}", table("Where the attach by hand does", &hand.steps()));
    println!("API writes of our accounts in one cycle (all {ROUNDS} cycles, divided; without leases):");
    for (what, count) in &cycle.by {
        println!("  {count:>5.1}  {what}");
    }
    let percent = |busy: Option<f64>| busy.map_or("?".to_owned(), |busy| format!("{busy:.0} %"));
    println!(
        "\nSomething on this machine had to wait for a processor during {} of the time of attaching and {} of that by hand:\n\
         the two compare when these are alike, and all is faster when they are small.",
        percent(busy),
        percent(busy_by_hand)
    );
    let drift = skews(lab, &clock)?.into_iter().zip(skews_before).map(|(after, before)| after.abs_diff(before)).max();
    let drift = drift.unwrap_or_default().as_secs_f64() * 1000.0;
    println!(
        "The nodes' clocks are compared with ours and corrected for; during the run they drifted by {drift:.1} ms."
    );
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    store(
        &unix.to_string(),
        "latest",
        &json!({
            "unix": unix,
            "kubernetes": lab.parts().kubernetes,
            "rounds": ROUNDS,
            "waiting_for_processors_percent": {"attaching": busy, "by_hand": busy_by_hand},
            "rows": rows,
            "attach_ms": attach, "detach_ms": detach, "attach_steps_ms": by_step,
            "by_hand": hand, "cable": cable, "api_writes_per_cycle": cycle.by,
            "replug_ms": replug, "data": data, "migrations": moves, "processes": processes, "together": together, "clock_drift_ms": drift,
        }),
    )
}

/// How far the clocks of the nodes are off.
fn skews(lab: &Lab, clock: &Clock) -> Result<Vec<Duration>> {
    lab.nodes().iter().map(|node| Ok(probe::skew(node, clock)?.size())).collect()
}

/// The device's place on its home node, like `2-1`.
fn device_place(lab: &Lab, device: &str) -> Result<String> {
    lab.kubectl(&["get", "nodeusbdevice", device, "-o", "jsonpath={.status.attributes.portPath}"])
}

/// Stores what was measured in `target/bench`, under a name of its own and under that of the latest of its kind.
pub(crate) fn store(name: &str, latest: &str, result: &Value) -> Result<()> {
    let folder = repository().join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let text = serde_json::to_string_pretty(result)?;
    for name in [name, latest] {
        let path = folder.join(format!("{name}.json"));
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&format!("stored in target/bench/{name}.json and target/bench/{latest}.json"));
    Ok(())
}
