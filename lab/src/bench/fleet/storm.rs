//! Much happens at once: a rack loses its power, hundreds of devices leave their machines.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams};
use patchbay_api::VirtualMachine;
use serde_json::json;

use super::books::Asked;
use super::cluster::{each, patience};
use super::numbers::Numbers;
use super::rise::{all_attached, listed};
use super::scene::Scene;
use super::spectator::Spectator;
use crate::bench::figures::Times;
use crate::progress::step;

/// Nodes have to be back by then: after a minute the controller deletes what their agents have published.
const LOST: Duration = Duration::from_secs(50);

/// Nodes were lost, and back.
pub(super) struct Nodes {
    /// Until all their devices said that they cannot be used.
    pub(super) lost: Duration,
    /// Until all said that they can.
    pub(super) back: Duration,
    /// How many devices that are.
    pub(super) devices: usize,
    pub(super) asked: Asked,
    /// Bytes that an agent has received.
    pub(super) received: u64,
}

/// Attachments ended, and were made.
pub(super) struct Burst {
    /// Until all devices were free.
    pub(super) detached: Duration,
    /// Until all were in their machines.
    pub(super) attached: Duration,
    /// How long kube-scheduler needed for one.
    pub(super) scheduled: Times,
    pub(super) asked: Asked,
    /// The mean time of a plan, in milliseconds.
    pub(super) plan_ms: f64,
    /// Bytes that an agent has received.
    pub(super) received: u64,
}

/// Loses nodes.
///
/// # Errors
/// When their devices do not say so in time.
pub(super) fn nodes(scene: &mut Scene, agent: &Spectator) -> Result<Nodes> {
    let lost = scene.options.lost;
    let (names, received) = (scene.devices_of(lost), agent.received());
    scene.books.settle()?;
    let mut are = |there: bool, deadline: Duration, what: &str| {
        let begin = Instant::now();
        each(deadline, scene.homes.iter().take(lost), |home| home.is_there(&scene.cluster, there))?;
        let last = scene.devices_are(what, deadline, &names, |device| device.ready == Some(there))?;
        anyhow::Ok(last.saturating_duration_since(begin))
    };
    let away = step(&format!("losing {lost} nodes"), || are(false, LOST, "all devices of lost nodes to say so"))?;
    let back = step(&format!("{lost} nodes are back"), || {
        are(true, patience(names.len()), "all devices of nodes that are back to say so")
    })?;
    let asked = scene.books.settle()?;
    Ok(Nodes { lost: away, back, devices: names.len(), asked, received: agent.received() - received })
}

/// Ends attachments, and makes them again.
///
/// # Errors
/// When that takes too long.
pub(super) fn attachments(scene: &mut Scene, agent: &Spectator) -> Result<Burst> {
    let burst = scene.options.burst;
    let (names, deadline, received) = (scene.attached(burst), patience(burst), agent.received());
    scene.books.settle()?;
    let metrics = scene.controller()?.metrics;
    let before = Numbers::of(metrics)?;
    let detached = step(&format!("detaching {burst} devices"), || {
        let begin = Instant::now();
        list(scene, burst)?;
        let last =
            scene.devices_are("devices to be free", deadline, &names, |device| device.attached == Some(false))?;
        anyhow::Ok(last.max(scene.machines_are_complete()?).saturating_duration_since(begin))
    })?;
    scene.books.rest()?;
    drop(scene.players.scheduled());
    let attached = step(&format!("attaching {burst} devices"), || {
        let begin = Instant::now();
        list(scene, 0)?;
        all_attached(scene, &names).map(|last| last.saturating_duration_since(begin))
    })?;
    let plan_ms = Numbers::of(metrics)?.plan_since(&before);
    let scheduled = scene.players.scheduled();
    let asked = scene.books.settle()?;
    Ok(Burst { detached, attached, scheduled, asked, plan_ms, received: agent.received() - received })
}

/// The machines that list one of the attachments of the burst list from now on those from `first` on.
fn list(scene: &Scene, first: usize) -> Result<()> {
    let (fleet, cluster) = (scene.fleet, &scene.cluster);
    let changed = scene.options.burst.min(fleet.machines);
    each(patience(changed), 0..changed, async |machine| {
        let (namespace, name) = fleet.machine(machine);
        let patch = Patch::Merge(json!({"spec": {"usbDevices": listed(scene, machine, first)}}));
        let machines = cluster.within::<VirtualMachine>(namespace.as_str());
        machines.patch(name.as_str(), &PatchParams::default(), &patch).await.context("change a list").map(drop)
    })
    .map(drop)
}
