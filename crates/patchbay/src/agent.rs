//! The agent: what Patchbay does on a node.
//!
//! ```text
//!  uevents --> inventory --+--> publisher --> ResourceSlices
//!                          |
//!   kubelet --> driver --> journal --> importer --> calls to home agents, vhci, QEMU
//!                          |              ^
//!                          |       attachment pods of this node
//!                          v
//!   other agents --> exports --> usbip-host
//!         |
//!         +--------> moves of virtual machines <--> QEMU
//! ```
//!
//! Who the node is to other agents is asked of the cluster ([`credentials`]); nothing waits for that but calls.
//!
//! It decides nothing that needs another node's state: the planners of [`patchbay_core::importer`] and
//! [`patchbay_core::home`] hold every `if`, the API server every right.

mod containers;
mod credentials;
mod driver;
mod enumeration;
mod evidence;
mod exports;
mod importer;
mod inventory;
mod machines;
mod moves;
mod pod_use;
mod pods;
mod records;
mod steps;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use patchbay_api::{NodeUSBDevice, slice};
use patchbay_core::DRIVER;
use patchbay_core::importer::Source;
use patchbay_core::names::{NodeName, Uid};
use patchbay_dra::{
    Journal, NodeScope, Patience, Plugin, Pool, Publishing, Records as JournalRecords, SlicePublisher, liveness,
};
use patchbay_link::{Credentials, HangUp, Listener};
use patchbay_usb::{hints, root::SysRoot};
use patchbay_usbip::modules::{self, Module};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::connection;
use containers::{Containers, given_here};
use exports::Exports;
use inventory::Inventory;
use machines::Machines;
use moves::Moves;
use records::Records;
use steps::Steps;
use upkeep::{InReach, Upkeep};

/// Options of `patchbay agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This node's name, as Kubernetes knows it
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The kubelet's folder
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet: PathBuf,
    /// Where the container runtime looks for what containers get of devices (CDI)
    #[arg(long, default_value = "/var/run/cdi")]
    cdi: PathBuf,
    /// Where the journal, the records and the node's key are kept
    #[arg(long, default_value = "/var/lib/patchbay")]
    state: PathBuf,
    /// Namespace of the installation; that of the service account or kubeconfig if not given
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// The TCP port on which agents call each other
    #[arg(long, default_value_t = 3241)]
    port: u16,
    /// The TCP port of the loopback interface on which the kubelet's liveness probe asks for /healthz
    #[arg(long, default_value_t = 3242)]
    health_port: u16,
    /// The folder with sys, proc and dev: a made-up node in tests
    #[arg(long, default_value = "/", hide = true)]
    root: PathBuf,
}

/// Runs until a signal ends it.
///
/// # Errors
/// What keeps it from starting, or a part that has ended.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    // Everything that blocks runs on the blocking pool, which is kept small because each thread has its own memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    runtime.block_on(start(args))
}

async fn start(args: Args) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    // Before anything else: a former agent may still be alive, and what is on the node has one owner.
    let journal = tokio::select! {
        journal = Journal::open(args.state.join("journal.json")) => journal?,
        _ = term.recv() => return Ok(()),
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    let node = NodeName::new(&args.node);
    let root = SysRoot::new(&args.root);
    let modules_root = root.clone();
    let missing = tokio::task::spawn_blocking(move || {
        modules::load(&modules_root, &[Module::UsbipHost, Module::VhciHcd, Module::Tls])
    });
    for module in missing.await? {
        tracing::warn!(%module, "this node cannot do all: without usbip-host and tls it lends nothing, without vhci-hcd and tls it imports nothing");
    }
    let records = Records::open(args.state.join("records.json")).context("records of the former agent")?;
    let client = connection::open(connection::WATCH).await?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let credentials = credentials::keep(&node, &client, &namespace, &args.state);

    let (inventory_writer, inventory) = watch::channel(Arc::new(Inventory::default()));
    let rescan = Arc::new(Notify::new());
    let scanning = inventory::run(
        root.clone(),
        node.clone(),
        records.clone(),
        hints::watch().context("kernel uevents")?,
        rescan.clone(),
        inventory_writer,
    );
    let (in_reach_writer, in_reach) = watch::channel(InReach::new());
    let (pools, wanted) = watch::channel(None);
    tokio::spawn(publish(node.clone(), records.clone(), journal.watch(), inventory.clone(), in_reach, pools));
    tokio::spawn(scanning);
    let publishing = Publishing { driver: DRIVER.to_owned(), node: args.node.clone() };
    let _publisher = SlicePublisher::start(client.clone(), publishing, wanted, Patience::default());

    let wake = Arc::new(Notify::new());
    let containers = Containers::new(node.clone(), root.clone(), &args.cdi);
    containers.clean_up(&journal).await;
    let (reach_writer, reach) = watch::channel(BTreeMap::new());
    let (held_writer, held) = watch::channel(None);
    let (health_writer, health) = watch::channel(Vec::new());
    let upkeep = Upkeep {
        node: node.clone(),
        client: client.clone(),
        containers: containers.clone(),
        journal: journal.clone(),
        reach: reach.clone(),
        in_reach: in_reach_writer,
        health: health_writer,
    };
    tokio::spawn(upkeep::run(upkeep));
    let usb = driver::UsbDriver {
        node: node.clone(),
        client: client.clone(),
        inventory: inventory.clone(),
        records: records.clone(),
        containers,
        reach,
        held,
        journal: journal.clone(),
    };
    let plugin = Plugin::builder(DRIVER, &args.kubelet, client.clone(), journal.clone());
    let mut plugin = plugin.health(health).serve(Arc::new(usb)).await?;
    let probed = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.health_port);
    let listener = TcpListener::bind(probed).await.with_context(|| format!("the liveness probe's address {probed}"))?;
    tokio::spawn(liveness::serve(listener, plugin.probe()));

    let pods_folder = args.kubelet.join("pods");
    let moves = Moves::new(node.clone(), client.clone(), credentials.clone(), args.port, pods_folder.clone());
    let (moving_writer, moving) = watch::channel(None);
    serve_exports(&node, &client, &root, &records, &inventory, &credentials, &rescan, &moves, args.port).await?;
    tokio::spawn(moves::run(moves, moving_writer));

    let steps = Arc::new(Steps {
        node: node.clone(),
        client: client.clone(),
        root,
        credentials,
        port: args.port,
        records: records.clone(),
        inventory: inventory.clone(),
        rescan,
        wake: wake.clone(),
        calls: Mutex::new(BTreeMap::new()),
        reports: Mutex::new(BTreeMap::new()),
    });
    let eyes = importer::Eyes {
        pods: pods::watch(client, &node, wake.clone()),
        journal: journal.watch(),
        machines: Machines::new(pods_folder, wake.clone()),
        moving,
        reach: reach_writer,
        held: held_writer,
        node,
        inventory,
        records,
    };
    let importing = tokio::spawn(importer::run(eyes, steps, wake));
    tracing::info!(node = args.node, "agent runs");

    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
        error = plugin.failed() => return Err(error.into()),
        ended = importing => anyhow::bail!("the importer has ended: {ended:?}"),
    }
    // Sessions are the kernel's and go on; the next agent takes over what it finds.
    plugin.stop().await;
    Ok(())
}

/// Answers other agents.
#[expect(clippy::too_many_arguments, reason = "each is a part of the agent, named once where all are wired")]
async fn serve_exports(
    node: &NodeName,
    client: &Client,
    root: &SysRoot,
    records: &Records,
    inventory: &watch::Receiver<Arc<Inventory>>,
    credentials: &Credentials,
    rescan: &Arc<Notify>,
    moves: &Arc<Moves>,
    port: u16,
) -> anyhow::Result<()> {
    let (hang_up, ended) = HangUp::start()?;
    let exports = Arc::new(Exports {
        node: node.clone(),
        client: client.clone(),
        root: root.clone(),
        records: records.clone(),
        inventory: inventory.clone(),
        moves: moves.clone(),
        hang_up,
        changed: watch::channel(0).0,
        held: Mutex::new(BTreeSet::new()),
        contenders: Mutex::new(BTreeMap::new()),
    });
    let listener = Listener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), credentials).await?;
    tokio::spawn(exports::serve(exports.clone(), listener));
    tokio::spawn(exports::keep::run(exports.clone()));
    tokio::spawn(exports::keep::hang_ups(exports.clone(), ended, rescan.clone()));

    // Assignments and attachments of this node's devices, only as a reason to look; and so are its own devices.
    let of_node = watcher::Config::default().fields(&format!("status.nodeName={node}"));
    let changes = watcher(Api::<NodeUSBDevice>::all(client.clone()), of_node).default_backoff().touched_objects();
    let woken = exports.clone();
    tokio::spawn(changes.for_each(move |_| {
        woken.wake();
        std::future::ready(())
    }));
    let mut inventory = inventory.clone();
    tokio::spawn(async move {
        while inventory.changed().await.is_ok() {
            exports.wake();
        }
    });
    Ok(())
}

/// Turns what the node has into what is published. Nothing is published before the first look.
async fn publish(
    node: NodeName,
    records: Records,
    mut journal: watch::Receiver<Arc<JournalRecords>>,
    mut inventory: watch::Receiver<Arc<Inventory>>,
    mut in_reach: watch::Receiver<InReach>,
    pools: watch::Sender<Option<Vec<Pool>>>,
) {
    if inventory.changed().await.is_err() {
        return;
    }
    loop {
        let (now, used) = (inventory.borrow_and_update().clone(), in_reach.borrow_and_update().clone());
        let published = now.published(&given_here(&node, &journal.borrow_and_update()));
        let devices = Pool::new(
            slice::device_pool(&node),
            NodeScope::AllNodes,
            published.iter().map(|device| slice::device(device, &node)),
        );
        let facts = records.facts();
        let ports = Pool::new(
            slice::port_pool(&node),
            NodeScope::NodeName(node.to_string()),
            now.offered(&facts)
                .into_iter()
                .map(|port| {
                    slice::port(
                        &port.name,
                        user(&used, |s| matches!(s, Source::Remote { port: p, .. } if *p == port.name)),
                    )
                })
                .chain(published.iter().map(|device| {
                    let local = |s: &Source| matches!(s, Source::Local { device: d } if *d == device.name);
                    slice::token(&device.name, &node, user(&used, local))
                })),
        );
        for problem in devices.1.iter().chain(&ports.1) {
            tracing::error!(%problem, "a device of ours is not one the API takes");
        }
        let wanted = Some(vec![devices.0, ports.0]);
        pools.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
        tokio::select! {
            changed = inventory.changed() => if changed.is_err() { return },
            changed = journal.changed() => if changed.is_err() { return },
            changed = in_reach.changed() => if changed.is_err() { return },
        }
    }
}

/// The claim that uses what `is` describes.
fn user(used: &InReach, is: impl Fn(&Source) -> bool) -> Option<&Uid> {
    used.iter().find(|(_, source)| is(source)).map(|(uid, _)| uid)
}
