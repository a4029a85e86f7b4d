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
//! ```
//!
//! It decides nothing that needs another node's state: the planners of [`patchbay_core::importer`] and
//! [`patchbay_core::home`] hold every `if`, the API server every right.

mod driver;
mod evidence;
mod exports;
mod importer;
mod inventory;
mod machines;
mod pods;
mod records;
mod steps;

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
use patchbay_core::names::NodeName;
use patchbay_dra::{Journal, NodeScope, Patience, Plugin, Pool, Publishing, SlicePublisher};
use patchbay_link::{HangUp, Identity, Listener};
use patchbay_usb::{hints, root::SysRoot};
use patchbay_usbip::modules::{self, Module};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use exports::Exports;
use inventory::Inventory;
use machines::Machines;
use records::Records;
use steps::Steps;

/// Options of `patchbay agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This node's name, as Kubernetes knows it
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// The kubelet's folder
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet: PathBuf,
    /// Where the journal and the records are kept
    #[arg(long, default_value = "/var/lib/patchbay")]
    state: PathBuf,
    /// The folder with ca.crt, tls.crt and tls.key of this node
    #[arg(long, default_value = "/etc/patchbay/tls")]
    certificates: PathBuf,
    /// The TCP port on which agents call each other
    #[arg(long, default_value_t = 3241)]
    port: u16,
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
    let node = NodeName::new(&args.node);
    let root = SysRoot::new("/");
    let modules_root = root.clone();
    let missing = tokio::task::spawn_blocking(move || {
        modules::load(&modules_root, &[Module::UsbipHost, Module::VhciHcd, Module::Tls])
    });
    for module in missing.await? {
        tracing::warn!(%module, "this node cannot do all: without usbip-host and tls it lends nothing, without vhci-hcd and tls it imports nothing");
    }
    std::fs::create_dir_all(&args.state).with_context(|| format!("state folder {}", args.state.display()))?;
    let records = Records::open(args.state.join("records.json")).context("records of the former agent")?;
    let identity = Arc::new(Identity::load(&args.certificates).context("this node's certificate")?);
    anyhow::ensure!(
        identity.node() == args.node,
        "the certificate in {} is for node {}, but this is node {}",
        args.certificates.display(),
        identity.node(),
        args.node
    );
    let client = Client::try_default().await.context("configuration for the API server")?;

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
    let (pools, wanted) = watch::channel(None);
    tokio::spawn(publish(node.clone(), records.clone(), inventory.clone(), pools));
    tokio::spawn(scanning);
    let publishing = Publishing { driver: DRIVER.to_owned(), node: args.node.clone() };
    let _publisher = SlicePublisher::start(client.clone(), publishing, wanted, Patience::default());

    let wake = Arc::new(Notify::new());
    let journal = Journal::open(args.state.join("journal.json")).await;
    let usb = driver::UsbDriver {
        node: node.clone(),
        client: client.clone(),
        inventory: inventory.clone(),
        records: records.clone(),
    };
    let mut plugin =
        Plugin::builder(DRIVER, &args.kubelet, client.clone(), journal.clone()).serve(Arc::new(usb)).await?;

    serve_exports(&node, &client, &root, &records, &inventory, &identity, &rescan, args.port).await?;

    let steps = Arc::new(Steps {
        client: client.clone(),
        root,
        identity,
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
        machines: Machines::new(args.kubelet.join("pods"), wake.clone()),
        node,
        inventory,
        records,
    };
    let importing = tokio::spawn(importer::run(eyes, steps, wake));
    tracing::info!(node = args.node, "agent runs");

    let mut term = signal(SignalKind::terminate())?;
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
    identity: &Identity,
    rescan: &Arc<Notify>,
    port: u16,
) -> anyhow::Result<()> {
    let (hang_up, ended) = HangUp::start()?;
    let exports = Arc::new(Exports {
        node: node.clone(),
        client: client.clone(),
        root: root.clone(),
        records: records.clone(),
        inventory: inventory.clone(),
        hang_up,
        changed: watch::channel(0).0,
        granting: Mutex::new(BTreeSet::new()),
        contenders: Mutex::new(BTreeMap::new()),
    });
    let listener = Listener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), identity).await?;
    tokio::spawn(exports::serve(exports.clone(), listener));
    tokio::spawn(exports::keep(exports.clone()));
    tokio::spawn(exports::hang_ups(exports.clone(), ended, rescan.clone()));

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
    mut inventory: watch::Receiver<Arc<Inventory>>,
    pools: watch::Sender<Option<Vec<Pool>>>,
) {
    while inventory.changed().await.is_ok() {
        let now = inventory.borrow_and_update().clone();
        let devices = now.published();
        let devices = Pool::new(
            slice::device_pool(&node),
            NodeScope::AllNodes,
            devices.iter().map(|device| slice::device(device, &node)),
        );
        let facts = records.facts();
        let ports = Pool::new(
            slice::port_pool(&node),
            NodeScope::NodeName(node.to_string()),
            now.offered(&facts).into_iter().map(|port| slice::port(&port.name)),
        );
        for problem in devices.1.iter().chain(&ports.1) {
            tracing::error!(%problem, "a device of ours is not one the API takes");
        }
        let wanted = Some(vec![devices.0, ports.0]);
        pools.send_if_modified(|published| {
            let changed = *published != wanted;
            *published = wanted;
            changed
        });
    }
}
