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
//! How much of what there is, [`crate::metrics`] tell.
//!
//! Who the node is to other agents is asked of the cluster ([`credentials`]); nothing waits for that but calls.
//!
//! It decides nothing that needs another node's state: the planners of [`patchbay_core::importer`] and
//! [`patchbay_core::home`] hold every `if`, the API server every right.

mod containers;
pub(crate) mod credentials;
mod custody;
mod driver;
mod enumeration;
mod evidence;
mod exports;
mod importer;
mod inventory;
mod machines;
mod moves;
mod offer;
mod pod_use;
mod pods;
mod records;
mod sight;
mod steps;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use patchbay_core::DRIVER;
use patchbay_core::custody::Returned;
use patchbay_core::host_use::Keyboards;
use patchbay_core::names::NodeName;
use patchbay_dra::{Journal, Patience, Plugin, Publishing, SlicePublisher, liveness};
use patchbay_link::{Credentials, HangUp, Listener};
use patchbay_usb::{hints, root::SysRoot};
use patchbay_usbip::modules::{self, Module};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use crate::connection;
use crate::metrics::{AgentMetrics, Scrape};
use containers::Containers;
use custody::{Custody, Parts, Policy};
use exports::Exports;
use inventory::Inventory;
use machines::Machines;
use moves::Moves;
use records::Records;
use steps::Steps;
pub(crate) use steps::chain;
use upkeep::{InReach, Upkeep};

/// Where an agent is called, which `patchbay check` wants to know, too.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Ports {
    /// The TCP port on which agents call each other
    #[arg(long, env = "PATCHBAY_PORT", default_value_t = 3241)]
    pub(crate) port: u16,
    /// The TCP port of the loopback interface on which the kubelet's liveness probe asks for /healthz
    #[arg(long, env = "PATCHBAY_HEALTH_PORT", default_value_t = 3242)]
    pub(crate) health_port: u16,
}

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
    #[command(flatten)]
    ports: Ports,
    /// Give a device that was used on another node back to the drivers of its own node at once, also while it is assigned to a
    /// namespace: for clusters whose nodes use such devices themselves
    #[arg(long)]
    return_to_host: bool,
    /// Keyboards that are the consoles' of the nodes and nobody else's: none, all, or vendor and product ids such as
    /// 046d:c31c,04d9:a1cd
    #[arg(long, default_value = "none")]
    console_keyboards: Keyboards,
    /// The folder with sys, proc and dev: a made-up node in tests
    #[arg(long, default_value = "/", hide = true)]
    root: PathBuf,
    #[command(flatten)]
    scrape: Scrape,
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

    let returned = if args.return_to_host { Returned::AtOnce } else { Returned::Unassigned };
    let policy = Policy { returned, consoles: args.console_keyboards };

    let (inventory_writer, inventory) = watch::channel(Arc::new(Inventory::default()));
    let sight = sight::Sight {
        node: node.clone(),
        root: root.clone(),
        records: records.clone(),
        inventory: inventory.clone(),
        journal: journal.watch(),
        credentials: credentials.clone(),
    };
    let (metrics, registry) = AgentMetrics::new(node.as_str(), move || sight.look());
    args.scrape.serve(registry).await;
    let rescan = Arc::new(Notify::new());
    let scanning = inventory::run(
        root.clone(),
        node.clone(),
        policy.consoles.clone(),
        records.clone(),
        hints::watch().context("kernel uevents")?,
        rescan.clone(),
        inventory_writer,
    );
    let (in_reach_writer, in_reach) = watch::channel(InReach::new());
    let (pools, wanted) = watch::channel(None);
    tokio::spawn(offer::publish(node.clone(), records.clone(), journal.watch(), inventory.clone(), in_reach, pools));
    tokio::spawn(scanning);
    let publishing = Publishing { driver: DRIVER.to_owned(), node: args.node.clone() };
    let _publisher = SlicePublisher::start(client.clone(), publishing, wanted, Patience::default());

    let wake = Arc::new(Notify::new());
    let (used_writer, used) = watch::channel(None);
    let changed = watch::channel(0).0;
    let parts = Parts {
        node: node.clone(),
        root: root.clone(),
        records: records.clone(),
        policy,
        used,
        rescan: rescan.clone(),
    };
    let assignments = changed.clone();
    let custody =
        Custody::watch(client.clone(), parts, move || assignments.send_modify(|n: &mut u64| *n = n.wrapping_add(1)));
    let containers = Containers::new(root.clone(), custody.clone(), &args.cdi);
    containers.clean_up(&journal).await;
    let (reach_writer, reach) = watch::channel(BTreeMap::new());
    let (looked_writer, looked) = watch::channel(None);
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
        looked,
        held,
        journal: journal.clone(),
    };
    let plugin = Plugin::builder(DRIVER, &args.kubelet, client.clone(), journal.clone());
    let mut plugin = plugin.health(health).serve(Arc::new(usb)).await?;
    let probed = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.ports.health_port);
    let listener = TcpListener::bind(probed).await.with_context(|| format!("the liveness probe's address {probed}"))?;
    tokio::spawn(liveness::serve(listener, plugin.probe()));

    let pods_folder = args.kubelet.join("pods");
    let moves = Moves::new(node.clone(), client.clone(), credentials.clone(), args.ports.port, pods_folder.clone());
    let (moving_writer, moving) = watch::channel(None);
    let (hang_up, ended) = HangUp::start()?;
    let exports = Arc::new(Exports {
        node: node.clone(),
        client: client.clone(),
        root: root.clone(),
        records: records.clone(),
        custody: custody.clone(),
        inventory: inventory.clone(),
        moves: moves.clone(),
        hang_up,
        metrics: metrics.clone(),
        changed,
        held: Mutex::new(BTreeSet::new()),
        contenders: Mutex::new(BTreeMap::new()),
        withdrawn: Mutex::new(BTreeMap::new()),
    });
    serve_exports(exports, ended, &credentials, &rescan, args.ports.port).await?;
    tokio::spawn(moves::run(moves, moving_writer));

    let steps = Arc::new(Steps {
        client: client.clone(),
        root,
        credentials,
        port: args.ports.port,
        records: records.clone(),
        custody,
        inventory: inventory.clone(),
        rescan,
        wake: wake.clone(),
        metrics,
        calls: Mutex::new(BTreeMap::new()),
        reports: Mutex::new(BTreeMap::new()),
    });
    let eyes = importer::Eyes {
        pods: pods::watch(client, &node, wake.clone()),
        journal: journal.watch(),
        machines: Machines::new(pods_folder, wake.clone()),
        moving,
        reach: reach_writer,
        looked: looked_writer,
        held: held_writer,
        used: used_writer,
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

/// Answers other agents, and looks after what is lent and what is not.
async fn serve_exports(
    exports: Arc<Exports>,
    ended: mpsc::UnboundedReceiver<u64>,
    credentials: &Credentials,
    rescan: &Arc<Notify>,
    port: u16,
) -> anyhow::Result<()> {
    let listener = Listener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), credentials).await?;
    tokio::spawn(exports::serve(exports.clone(), listener));
    tokio::spawn(exports::keep::run(exports.clone()));
    tokio::spawn(exports::keep::hang_ups(exports.clone(), ended, rescan.clone()));
    tokio::spawn(exports::idle::run(exports.clone()));

    // The devices of this node, only as a reason to look.
    let mut inventory = exports.inventory.clone();
    tokio::spawn(async move {
        while inventory.changed().await.is_ok() {
            exports.wake();
        }
    });
    Ok(())
}
