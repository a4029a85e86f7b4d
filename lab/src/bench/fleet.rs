//! The control plane of a large cluster: what the controller costs there, and how fast it is.
//!
//! etcd, kube-apiserver, kube-scheduler, kube-controller-manager, the controller and the agent of one node are the programs that run
//! anywhere. All other nodes are objects, and this process plays their kubelets and agents ([`homes`], [`players`]): it
//! publishes slices as agents do, and answers for pods. Which nodes, devices and machines there are says `patchbay_sim::fleet`.
//!
//! | step | module | measures |
//! |---|---|---|
//! | 1 | [`rise`] | the controller starts with nothing but slices there, and makes all `NodeUSBDevice`s |
//! | 2 | [`spectator`] | one real agent joins: what it receives from the API server, from now on |
//! | 3 | [`rise`] | devices are assigned, machines made, until all attachments are in their machines |
//! | 4 | [`rise`] | the controller starts anew |
//! | 5 | [`idle`] | nothing happens |
//! | 6 | [`change`] | a device goes and comes back, many times |
//! | 7 | [`storm`] | many nodes are lost, and back |
//! | 8 | [`storm`] | many attachments end at once, and are made at once |
//!
//! What is seen is seen in watches ([`seen`]), and noted with the moment; what the controller has asked is read from
//! the API server's audit log ([`books`]), and how long it plans from its own metrics ([`numbers`]).

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::stage::Stage;
use super::store;
use super::usage::Memory;
use crate::parts::Parts;
use crate::progress::step;

mod books;
mod change;
mod cluster;
mod homes;
mod idle;
mod numbers;
mod options;
mod players;
mod report;
mod rise;
mod scene;
mod seen;
mod spectator;
mod storm;

pub use options::Options;
use report::Measured;
pub(super) use report::{Point, Report};
use scene::Scene;
use spectator::Spectator;

/// Nobody beats the hearts of so many nodes here: each is as this process says it is, and is not taken for lost meanwhile.
const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Measures, prints the table and stores it as JSON in `target/bench`. What it needs meanwhile is in `folder`, its logs in `logs`.
///
/// # Errors
/// At the first step that does not work.
pub fn run(parts: &Parts, folder: &Path, logs: &Path, options: &Options) -> Result<()> {
    options.check()?;
    let stage = step("starting a control plane", || Stage::open(parts, folder, logs, Some(GRACE)))?;
    let mut scene = Scene::set(stage, options)?;
    let measured = measure(&mut scene)?;
    let report = Report {
        unix: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
        kubernetes: parts.kubernetes.clone(),
        size: *options,
        rows: measured.rows(options),
        point: measured.point(options),
        asked: measured.asked(),
    };
    println!("\n{}", report.table());
    store(&format!("fleet-{}", report.unix), "fleet-latest", &serde_json::to_value(&report)?)?;
    // It has a line for every write, and nobody needs to find out what went wrong.
    let _ = fs::remove_file(scene.stage.audit_log());
    Ok(())
}

fn measure(scene: &mut Scene) -> Result<Measured> {
    let cold = rise::cold(scene)?;
    let agent = Spectator::join(scene)?;
    let filled = rise::fill(scene)?;
    let anew = rise::anew(scene)?;
    let idle = idle::watch(scene, &agent)?;
    let changes = change::rounds(scene, &agent)?;
    let nodes = storm::nodes(scene, &agent)?;
    let burst = storm::attachments(scene, &agent)?;
    let joining = agent.joining;
    agent.leave()?;
    let controller = scene.controller.take().context("no controller runs")?;
    let (memory, most) = (Memory::of(controller.pid())?.resident, Memory::peak(controller.pid())?);
    controller.stop()?;
    Ok(Measured { cold, filled, idle, changes, nodes, burst, joining, memory, most: most.max(anew.most_before), anew })
}
