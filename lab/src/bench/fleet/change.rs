//! One device goes and comes back, again and again, each time on another node: one change, one write.
//!
//! It is the last device of its node, which no machine lists and no namespace has.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::books::Asked;
use super::cluster::each;
use super::numbers::Numbers;
use super::scene::Scene;
use super::spectator::Spectator;
use crate::bench::figures::Times;
use crate::progress::step;

/// How often a device goes, and how often one comes back.
pub(super) const ROUNDS: usize = 20;
/// For one change.
const SOON: Duration = Duration::from_secs(30);

/// What changes cost.
pub(super) struct Changes {
    /// From the answer to the agent's write until the `NodeUSBDevice` said so.
    pub(super) times: Times,
    pub(super) asked: Asked,
    /// The mean time of a plan, in milliseconds.
    pub(super) plan_ms: f64,
    /// Bytes that an agent has received.
    pub(super) received: u64,
}

/// All rounds.
///
/// # Errors
/// When a change is not seen in time.
pub(super) fn rounds(scene: &mut Scene, agent: &Spectator) -> Result<Changes> {
    step(&format!("unplugging {ROUNDS} devices, and plugging them in again"), || {
        scene.books.settle()?;
        let (metrics, received) = (scene.controller()?.metrics, agent.received());
        let (before, mut times) = (Numbers::of(metrics)?, Times::default());
        for round in 0..ROUNDS {
            let node = round % scene.fleet.nodes;
            for there in [false, true] {
                times.push(once(scene, node, there)?);
            }
        }
        let plan_ms = Numbers::of(metrics)?.plan_since(&before);
        Ok(Changes { times, asked: scene.books.settle()?, plan_ms, received: agent.received() - received })
    })
}

fn once(scene: &mut Scene, node: usize, there: bool) -> Result<Duration> {
    let (fleet, cluster) = (scene.fleet, scene.cluster.clone());
    let mut devices: Vec<_> = fleet.devices_of(node).collect();
    let last = devices.last().context("the node has no devices")?.name.to_string();
    if !there {
        devices.pop();
    }
    let home = scene.homes.get_mut(node).context("there is no such node")?;
    let written = each(SOON, [home], |home| home.publish(&cluster, &devices))?;
    let written = written.first().copied().context("nothing was written")?;
    let names = BTreeSet::from([last]);
    let what = if there { "a device to be back" } else { "a device to be away" };
    let seen = scene.devices_are(what, SOON, &names, |device| device.ready == Some(there))?;
    Ok(seen.saturating_duration_since(written))
}
