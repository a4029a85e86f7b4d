//! A fleet comes to be: its devices get their objects, are assigned, and go into machines. Then the controller starts anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{Patch, PatchParams, PostParams};
use patchbay_api::{NodeUSBDevice, VirtualMachine, keys};
use serde_json::{Value, json};

use super::books::Asked;
use super::cluster::{each, patience};
use super::numbers::Numbers;
use super::scene::Scene;
use crate::bench::figures::Times;
use crate::bench::usage::Memory;
use crate::progress::step;
use crate::wait::wait_for;

/// The controller has started, and there was nothing but slices.
pub(super) struct Cold {
    /// Until every device had its object.
    pub(super) took: Duration,
    pub(super) asked: Asked,
    /// The controller's resident memory then, in MiB.
    pub(super) memory: f64,
}

/// Devices were assigned, and machines made that list them.
pub(super) struct Filled {
    /// Until all were assigned.
    pub(super) assigned: Duration,
    /// From then until all were in their machines.
    pub(super) attached: Duration,
    /// How long kube-scheduler needed for an attachment.
    pub(super) scheduled: Times,
    pub(super) asked: Asked,
}

/// The controller has started, and everything was there.
pub(super) struct Anew {
    /// Until its first plan.
    pub(super) took: Duration,
    pub(super) asked: Asked,
    /// Its resident memory then, in MiB.
    pub(super) memory: f64,
    /// The most that the controller before it ever had.
    pub(super) most_before: f64,
}

/// Starts the first controller.
///
/// # Errors
/// When a device has no object in time.
pub(super) fn cold(scene: &mut Scene) -> Result<Cold> {
    let names = scene.devices_of(scene.fleet.nodes);
    step(&format!("starting the controller: it makes {} objects", names.len()), || {
        let controller = scene.stage.controller("controller-1")?;
        let started = controller.started;
        scene.controller = Some(controller);
        let deadline = patience(names.len());
        let last = scene.devices_are("every device to have its object", deadline, &names, |d| d.ready == Some(true))?;
        let asked = scene.books.settle()?;
        let memory = Memory::of(scene.controller()?.pid())?.resident;
        Ok(Cold { took: last.saturating_duration_since(started), asked, memory })
    })
}

/// Assigns devices and makes machines.
///
/// # Errors
/// When an attachment is not there in time.
pub(super) fn fill(scene: &mut Scene) -> Result<Filled> {
    let (fleet, cluster) = (scene.fleet, scene.cluster.clone());
    let (names, deadline) = (scene.attached(fleet.attachments), patience(fleet.machines + fleet.attachments));
    scene.books.settle()?;
    let assigned = step(&format!("assigning {} devices", names.len()), || {
        let begin = Instant::now();
        let devices = cluster.all::<NodeUSBDevice>();
        each(deadline, fleet.assignments(), async |(device, namespace)| {
            let patch = Patch::Merge(json!({"spec": {"assignedNamespace": namespace}}));
            devices.patch(device.as_str(), &PatchParams::default(), &patch).await.context("assign a device").map(drop)
        })?;
        let last = scene.devices_are("every device to be assigned", deadline, &names, |d| d.assigned)?;
        anyhow::Ok(last.saturating_duration_since(begin))
    })?;
    let what = format!("making {} machines: {} attachments", fleet.machines, fleet.attachments);
    let attached = step(&what, || {
        let begin = Instant::now();
        each(deadline, 0..fleet.machines, async |machine| {
            let (namespace, name) = fleet.machine(machine);
            let object: VirtualMachine = serde_json::from_value(json!({
                "apiVersion": keys::API_VERSION, "kind": "VirtualMachine",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "image": "none", "usbDevices": listed(scene, machine, 0),
                    "nodeSelector": {"kubernetes.io/hostname": fleet.node(fleet.node_of(machine))},
                },
            }))?;
            let machines = cluster.within::<VirtualMachine>(namespace.as_str());
            machines.create(&PostParams::default(), &object).await.context("make a machine").map(drop)
        })?;
        all_attached(scene, &names).map(|last| last.saturating_duration_since(begin))
    })?;
    Ok(Filled { assigned, attached, scheduled: scene.players.scheduled(), asked: scene.books.settle()? })
}

/// Waits until these devices are attached and every machine is complete; says when the last of them was.
///
/// # Errors
/// When they are not in time.
pub(super) fn all_attached(scene: &mut Scene, names: &BTreeSet<String>) -> Result<Instant> {
    let deadline = patience(scene.fleet.machines + scene.fleet.attachments);
    let last = scene.devices_are("every device to be in its machine", deadline, names, |d| d.attached == Some(true))?;
    Ok(last.max(scene.machines_are_complete()?))
}

/// What a machine lists, in its spec, when all attachments before this one have ended.
pub(super) fn listed(scene: &Scene, machine: usize, first: usize) -> Vec<Value> {
    let fleet = scene.fleet;
    let of_machine = (first..fleet.attachments).map(|attachment| fleet.attachment(attachment));
    let own = of_machine.filter(|(listing, _)| *listing == machine);
    own.map(|(_, (node, device))| json!({"name": fleet.device_name(node, device)})).collect()
}

/// Ends the controller and starts another.
///
/// # Errors
/// When it does not end, or does not plan in time.
pub(super) fn anew(scene: &mut Scene) -> Result<Anew> {
    step("starting the controller anew", || {
        let before = scene.controller.take().context("no controller runs")?;
        let most_before = Memory::peak(before.pid())?;
        before.stop()?;
        scene.books.settle()?;
        let controller = scene.stage.controller("controller-2")?;
        let (metrics, started, pid) = (controller.metrics, controller.started, controller.pid());
        scene.controller = Some(controller);
        wait_for("the controller's first plan", patience(scene.options.all_devices()), || {
            let numbers = Numbers::of(metrics).map_err(|error| format!("{error:#}"))?;
            if numbers.has_planned() { Ok(()) } else { Err("none yet".to_owned()) }
        })?;
        let took = started.elapsed();
        Ok(Anew { took, asked: scene.books.settle()?, memory: Memory::of(pid)?.resident, most_before })
    })
}
