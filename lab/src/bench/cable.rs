//! From the cable to the `NodeUSBDevice`: each time a stick nobody has seen before, in one node after the other. An agent holds back
//! with what changes all the time (`crates/dra/src/pace.rs`), and so many sticks in one node would be that.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use anyhow::{Context, Result};
use kube::api::{Api, WatchParams};
use patchbay_api::NodeUSBDevice;
use serde::Serialize;
use serde_json::json;

use super::clock::Clock;
use super::figures::Times;
use super::{ROUNDS, probe};
use crate::api;
use crate::case::SOON;
use crate::cluster::Lab;
use crate::stick::{Function, Stick};

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cable {
    /// From the cable to an object that says Ready.
    pub(super) total: Times,
    /// From the cable to the kernel's uevent.
    pub(super) kernel: Times,
    /// The rest.
    pub(super) ours: Times,
}

/// The rounds, the first one not counted.
///
/// # Errors
/// When an object does not appear.
pub(super) fn rounds(lab: &Lab, clock: &Clock) -> Result<Cable> {
    let objects = api::watch(Api::all(lab.api()), WatchParams::default());
    let mut cable = Cable::default();
    for (number, node) in (0..=ROUNDS).zip(lab.nodes().iter().cycle()) {
        let stick = Stick::new(&format!("cable-{number}")).function(Function::Storage { bytes: 1 << 20, seed: 1 });
        let plugged = node.plug(&stick)?;
        let ready = wait(&objects, &stick, "Ready")?;
        let (plugged, ready) = (clock.unix(plugged), clock.unix(ready));
        let heard = probe::uevents(node, clock)?;
        let uevent = heard.iter().find(|e| e.add && e.at >= plugged).context("the kernel told of no device")?.at;
        if number > 0 {
            cable.total.push(ready.saturating_sub(plugged));
            cable.kernel.push(uevent.saturating_sub(plugged));
            cable.ours.push(ready.saturating_sub(uevent));
        }
        node.unplug(&stick)?;
        wait(&objects, &stick, "NotFound")?;
    }
    Ok(cable)
}

/// Waits until the object of a stick has this reason for its readiness.
fn wait(objects: &Receiver<(Instant, NodeUSBDevice)>, stick: &Stick, reason: &str) -> Result<Instant> {
    let serial = stick.serial.as_deref().unwrap_or_default();
    let end = Instant::now() + SOON;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let (at, object) = objects
            .recv_timeout(left)
            .with_context(|| format!("no NodeUSBDevice with serial {serial} became {reason}"))?;
        let status = json!(object.status);
        let ready = status.get("conditions").and_then(|c| c.as_array()?.iter().find(|c| c["type"] == "Ready"));
        if status.pointer("/attributes/serial").is_some_and(|s| s == serial)
            && ready.is_some_and(|c| c["reason"] == reason)
        {
            return Ok(at);
        }
    }
}
