//! All that a measurement works with: control plane, fleet, and whoever watches.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node, ServiceAccount};
use kube::api::{ListParams, PostParams};
use patchbay_api::{NodeUSBDevice, VirtualMachine};
use patchbay_core::names;
use patchbay_sim::fleet::Fleet;
use serde_json::json;

use super::books::Books;
use super::cluster::{Cluster, each, patience};
use super::homes::Home;
use super::options::Options;
use super::players::Players;
use super::seen::{DeviceState, MachineState, Seen, takes_pods};
use crate::api;
use crate::bench::stage::{Controller, Stage};
use crate::progress::step;
use crate::wait::wait_for;

/// For the cluster's own controllers to do what they do by themselves.
const SOON: Duration = Duration::from_secs(30);

/// The scene.
pub(super) struct Scene {
    pub(super) options: Options,
    pub(super) fleet: Fleet,
    /// The one that runs.
    pub(super) controller: Option<Controller>,
    pub(super) cluster: Cluster,
    /// By the numbers of their nodes.
    pub(super) homes: Vec<Home>,
    pub(super) players: Players,
    pub(super) books: Books,
    devices: Seen<DeviceState>,
    machines: Seen<MachineState>,
    pub(super) stage: Stage,
}

impl Scene {
    /// Makes nodes and namespaces, and publishes all devices. No controller runs yet.
    ///
    /// # Errors
    /// When the API server refuses something, or a node is not taken for ready in time.
    pub(super) fn set(stage: Stage, options: &Options) -> Result<Self> {
        let (fleet, cluster) = (options.fleet(), Cluster::new(stage.client()));
        let names: BTreeSet<_> = (0..fleet.nodes).map(|node| fleet.node(node).to_string()).collect();
        step("making namespaces", || namespaces(&cluster, fleet))?;
        let mut homes = step(&format!("making {} nodes", fleet.nodes), || {
            let nodes = Seen::of(cluster.all::<Node>(), takes_pods);
            let homes = each(patience(fleet.nodes), 0..fleet.nodes, |node| Home::make(&cluster, fleet.node(node)))?;
            nodes.until(
                "every node to be taken for ready",
                patience(fleet.nodes),
                &names,
                |takes| *takes,
                || Ok(()),
            )?;
            anyhow::Ok(homes)
        })?;
        step(&format!("publishing {} devices", options.all_devices()), || {
            each(patience(fleet.nodes), homes.iter_mut().enumerate(), |(node, home)| {
                let (cluster, devices) = (&cluster, fleet.devices_of(node).collect::<Vec<_>>());
                async move { home.publish(cluster, &devices).await }
            })
        })?;
        Ok(Self {
            options: *options,
            fleet,
            controller: None,
            players: Players::start(&cluster, names),
            books: Books::open(&stage.audit_log())?,
            devices: Seen::of(cluster.all::<NodeUSBDevice>(), DeviceState::of),
            machines: Seen::of(cluster.all::<VirtualMachine>(), MachineState::of),
            homes,
            cluster,
            stage,
        })
    }

    /// The controller that runs.
    ///
    /// # Errors
    /// When none does.
    pub(super) fn controller(&self) -> Result<&Controller> {
        self.controller.as_ref().context("no controller runs")
    }

    /// Waits until these devices are as they should be; says when the last of them became so.
    ///
    /// # Errors
    /// When they are not in time, or a program has ended.
    pub(super) fn devices_are(
        &mut self,
        what: &str,
        deadline: Duration,
        names: &BTreeSet<String>,
        good: impl Fn(&DeviceState) -> bool,
    ) -> Result<Instant> {
        let Self { devices, stage, controller, .. } = self;
        devices.until(what, deadline, names, good, || alive(stage, controller))
    }

    /// Waits until all machines run, and have the devices that they list; says when the last of them did.
    ///
    /// # Errors
    /// When they do not in time, or a program has ended.
    pub(super) fn machines_are_complete(&mut self) -> Result<Instant> {
        let (fleet, Self { machines, stage, controller, .. }) = (self.fleet, self);
        let key = |machine| {
            let (namespace, name) = fleet.machine(machine);
            format!("{namespace}/{name}")
        };
        let (names, deadline) = ((0..fleet.machines).map(key).collect(), patience(fleet.machines + fleet.attachments));
        let good = MachineState::is_complete;
        machines.until("every machine to have its devices", deadline, &names, good, || alive(stage, controller))
    }

    /// The names of all devices of some nodes.
    pub(super) fn devices_of(&self, nodes: usize) -> BTreeSet<String> {
        let fleet = self.fleet;
        let of_node = |node| (0..fleet.devices).map(move |device| fleet.device_name(node, device).to_string());
        (0..nodes).flat_map(of_node).collect()
    }

    /// The names of the devices of the first attachments.
    pub(super) fn attached(&self, attachments: usize) -> BTreeSet<String> {
        let device = |attachment| {
            let (_, (node, device)) = self.fleet.attachment(attachment);
            self.fleet.device_name(node, device).to_string()
        };
        (0..attachments).map(device).collect()
    }
}

/// Fails when one of the programs has ended.
fn alive(stage: &mut Stage, controller: &mut Option<Controller>) -> Result<()> {
    stage.check()?;
    controller.as_mut().map_or(Ok(()), Controller::check)
}

/// Makes them, and waits until pods can be made in them.
fn namespaces(cluster: &Cluster, fleet: Fleet) -> Result<()> {
    let wanted: Vec<_> = fleet.namespaces().collect();
    each(SOON, &wanted, async |name| {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        cluster.all().create(&PostParams::default(), &object).await?;
        Ok(())
    })?;
    let accounts = cluster.all::<ServiceAccount>();
    wait_for("every namespace to have its account", SOON, || {
        let named = ListParams::default().fields("metadata.name=default");
        let found = api::request("list the accounts", accounts.list(&named)).map_err(|error| format!("{error:#}"))?;
        let lacks = |name: &&names::Namespace| {
            !found.items.iter().any(|account| account.metadata.namespace.as_deref() == Some(name.as_str()))
        };
        wanted.iter().find(lacks).map_or(Ok(()), |name| Err(format!("{name} has none")))
    })
}
