//! `patchbay check`: what only a node itself can tell, for `kubectl usb doctor`, which runs it in the agents' containers and judges
//! what it says ([`patchbay_core::doctor`]).
//!
//! It looks with the eyes of the agent: the same folders, the same certificate, the same network. It changes nothing, but that
//! what a kernel loads when it is asked for it is loaded afterwards.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use futures::{StreamExt, stream};
use patchbay_core::doctor::seen::{Asked, Inside};
use patchbay_core::names::NodeName;
use patchbay_dra::liveness;
use patchbay_link::{Identity, KernelTlsError};
use patchbay_usb::root::SysRoot;
use patchbay_usbip::modules::{self, Module};

use crate::agent::{Ports, chain, credentials};

/// How many agents are called at a time: each waits 5 s at most.
const AT_ONCE: usize = 64;

/// Options of `patchbay check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// This node's name, as Kubernetes knows it
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Where the agent keeps the node's key
    #[arg(long, default_value = "/var/lib/patchbay")]
    state: PathBuf,
    #[command(flatten)]
    ports: Ports,
    /// An agent to call: the name of its node, and its address there, like node-2=10.0.0.2
    #[arg(long = "peer", value_name = "NODE=ADDRESS")]
    peers: Vec<Peer>,
}

/// An agent to call.
#[derive(Clone, Debug)]
struct Peer {
    node: NodeName,
    address: IpAddr,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (node, address) = text.split_once('=').ok_or("it has to be like node-2=10.0.0.2")?;
        let address = address.parse().map_err(|_| format!("{address:?} is no address"))?;
        Ok(Self { node: NodeName::new(node), address })
    }
}

/// Looks, and prints what it has seen.
///
/// # Errors
/// What keeps it from looking at all: what is wrong with the node is in what it prints.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = SysRoot::new("/");
    let missing = modules::load(&root, &[Module::UsbipHost, Module::VhciHcd, Module::Tls]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let node = NodeName::new(&args.node);
    let identity = credentials::on(&node, &args.state);
    let (kubelet, calls) = runtime.block_on(async {
        futures::join!(
            liveness::ask(args.ports.health_port),
            call(identity.as_ref().ok(), &args.peers, args.ports.port)
        )
    });
    let inside = Inside {
        now: jiff::Timestamp::now().as_second(),
        kernel: kernel(),
        missing: missing.into_iter().map(|missing| (missing.module.name().to_owned(), missing.reason)).collect(),
        encrypts: calls.encrypts.or_else(|| patchbay_link::probe().err().map(|why| why.to_string())),
        kubelet: kubelet.err(),
        certificate: identity.map(|identity| identity.validity()),
        peers: calls.peers,
    };
    println!("{}", serde_json::to_string(&inside)?);
    Ok(())
}

fn kernel() -> String {
    let uname = rustix::system::uname();
    format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy())
}

/// What calls have shown.
#[derive(Default)]
struct Calls {
    peers: BTreeMap<NodeName, Asked<u64>>,
    /// Why this node's kernel did not take over a connection.
    encrypts: Option<String>,
}

/// Calls agents, unless this node cannot call anybody.
async fn call(identity: Option<&Identity>, peers: &[Peer], port: u16) -> Calls {
    let mut calls = Calls::default();
    let Some(identity) = identity else { return calls };
    let answers = stream::iter(peers).map(|peer| greet(identity, peer, port)).buffer_unordered(AT_ONCE);
    let answers: Vec<_> = answers.collect().await;
    for (node, answer, kernel) in answers {
        calls.peers.insert(node, answer);
        calls.encrypts = calls.encrypts.or_else(|| kernel.map(|why| why.to_string()));
    }
    calls
}

async fn greet(identity: &Identity, peer: &Peer, port: u16) -> (NodeName, Asked<u64>, Option<KernelTlsError>) {
    let address = SocketAddr::new(peer.address, port);
    match patchbay_link::greet(address, peer.node.as_str(), identity).await {
        Ok(greeted) => {
            let micros = u64::try_from(greeted.round_trip.as_micros()).unwrap_or(u64::MAX);
            // One that the other end has closed meanwhile says nothing of the kernel.
            let kernel = greeted.kernel.err().filter(|why| !matches!(why, KernelTlsError::NotConnected));
            (peer.node.clone(), Ok(micros), kernel)
        }
        Err(error) => (peer.node.clone(), Err(chain(&error)), None),
    }
}
