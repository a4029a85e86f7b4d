//! The caller's side of a call.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::exchange::{Answer, FrameError, Granted, Import, Migrate, Request};
use crate::identity::{Identity, server_name};
use crate::ktls::KernelTlsError;
use crate::listener::node_of_peer;
use crate::records::Records;
use crate::session::Session;
use crate::{LinkError, Timing, tcp};

/// Calls the agent of the home node and asks for a device; returns when it is granted, however long that takes.
///
/// `on_wait` gets every reason for waiting, repetitions included. The socket that comes back is in TLS by the kernel and
/// blocks: give it to `vhci_hcd`. To give up, drop the future; the home agent notices at once.
///
/// # Errors
/// [`LinkError`]: the home agent cannot be reached, is not `expected_node`, refuses ([`LinkError::Denied`]), or goes silent for
/// 30 s; or this node's kernel has no TLS.
pub async fn call(
    address: SocketAddr,
    expected_node: &str,
    identity: &Identity,
    request: Import,
    on_wait: impl FnMut(String),
) -> Result<(Granted, OwnedFd), LinkError> {
    let request = Request::Import(request);
    let (answer, session) = dial(address, expected_node, identity, &request, on_wait, Timing::default()).await?;
    let granted = answer.ok_or_else(|| mixed_up(address))?;
    Ok((granted, session.into_kernel()?))
}

/// Calls the agent of another node and asks it to take a virtual machine; returns when it agrees.
///
/// The socket that comes back is in TLS by the kernel and blocks: give it to the QEMU that sends. Otherwise like [`call`].
///
/// # Errors
/// As for [`call`].
pub async fn migrate(
    address: SocketAddr,
    expected_node: &str,
    identity: &Identity,
    request: Migrate,
    on_wait: impl FnMut(String),
) -> Result<OwnedFd, LinkError> {
    let request = Request::Migrate(request);
    match dial(address, expected_node, identity, &request, on_wait, Timing::default()).await? {
        (None, session) => Ok(session.into_kernel()?),
        (Some(_), _) => Err(mixed_up(address)),
    }
}

/// What a greeting has shown.
#[derive(Debug)]
pub struct Greeted {
    /// From our request to its answer, on a connection that stood.
    pub round_trip: Duration,
    /// Whether the kernel of this node takes such a connection over.
    pub kernel: Result<(), KernelTlsError>,
}

/// Calls the agent of a node for nothing but an answer: all that a call goes through, up to the hand-over to this node's kernel.
///
/// # Errors
/// [`LinkError`]: as for [`call`], but for the kernel, which is told in [`Greeted`].
pub async fn greet(address: SocketAddr, expected_node: &str, identity: &Identity) -> Result<Greeted, LinkError> {
    let timing = Timing::default();
    let stream = connect(address, expected_node, identity, timing).await?;
    let asked = Instant::now();
    match ask(stream, address, expected_node, &Request::Greet, |_| {}, timing).await? {
        (None, session) => Ok(Greeted { round_trip: asked.elapsed(), kernel: session.into_kernel().map(drop) }),
        (Some(_), _) => Err(mixed_up(address)),
    }
}

fn mixed_up(peer: SocketAddr) -> LinkError {
    LinkError::Protocol { peer, what: "it answers another request than ours".into() }
}

/// A call up to the point where the kernel takes over.
pub(crate) async fn dial(
    peer: SocketAddr,
    node: &str,
    identity: &Identity,
    request: &Request,
    on_wait: impl FnMut(String),
    timing: Timing,
) -> Result<(Option<Granted>, Session), LinkError> {
    let stream = connect(peer, node, identity, timing).await?;
    ask(stream, peer, node, request, on_wait, timing).await
}

/// What is said on a connection that stands.
async fn ask(
    mut stream: TlsStream<Records>,
    peer: SocketAddr,
    node: &str,
    request: &Request,
    mut on_wait: impl FnMut(String),
    timing: Timing,
) -> Result<(Option<Granted>, Session), LinkError> {
    let request = request.frame().map_err(|error| LinkError::Protocol { peer, what: error.to_string() })?;
    send(&mut stream, &request, peer, node, timing).await?;
    loop {
        let answer = timeout(timing.silence, Answer::read(&mut stream)).await;
        let answer =
            answer.map_err(|_| LinkError::Slow { peer, step: "it should keep us waiting", limit: timing.silence })?;
        match answer.map_err(|error| of_frame(peer, node, error))? {
            Answer::Wait { reason } => on_wait(reason),
            Answer::Granted(granted) => return Ok((Some(granted), Session::new(stream.into()))),
            Answer::Accepted => return Ok((None, Session::new(stream.into()))),
            Answer::Denied { reason } => return Err(LinkError::Denied { node: node.to_owned(), reason }),
        }
    }
}

/// A verified connection to a node, within the time that a handshake may take.
async fn connect(
    peer: SocketAddr,
    node: &str,
    identity: &Identity,
    timing: Timing,
) -> Result<TlsStream<Records>, LinkError> {
    let limit = timing.handshake;
    let slow = LinkError::Slow { peer, step: "shaking hands", limit };
    timeout(limit, shake_hands(peer, node, identity)).await.unwrap_or(Err(slow))
}

async fn shake_hands(peer: SocketAddr, node: &str, identity: &Identity) -> Result<TlsStream<Records>, LinkError> {
    let name = server_name(node).ok_or_else(|| LinkError::BadNode { node: node.to_owned() })?;
    let broken = |step| move |source| LinkError::Broken { peer, step, source };
    let tcp =
        TcpStream::connect(peer).await.map_err(broken("connecting; does its agent run, and is the port open?"))?;
    tcp::tune(&tcp).map_err(broken("setting TCP options"))?;
    let stream = TlsConnector::from(Arc::clone(&identity.client))
        .connect(name, Records::new(tcp))
        .await
        .map_err(|source| LinkError::of_tls(peer, node, "shaking hands", source))?;
    // The name was verified; this also excludes certificates that are good for more than this node.
    match node_of_peer(stream.get_ref().1.peer_certificates()) {
        Ok(named) if named == node => Ok(stream),
        Ok(named) => Err(LinkError::Untrusted { peer, node: node.to_owned(), why: format!("it is {named}") }),
        Err(why) => Err(LinkError::Untrusted { peer, node: node.to_owned(), why }),
    }
}

/// Sends the request. In TLS 1.3 a server that does not like the client's certificate says so only after the handshake, so when
/// the sending fails, there may be an alert to read that tells why.
async fn send(
    stream: &mut TlsStream<Records>,
    request: &[u8],
    peer: SocketAddr,
    node: &str,
    timing: Timing,
) -> Result<(), LinkError> {
    let (step, limit) = ("taking our request", timing.request);
    let deadline = Instant::now() + limit;
    let write = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    let Ok(sent) = tokio::time::timeout_at(deadline, write).await else {
        return Err(LinkError::Slow { peer, step, limit });
    };
    let Err(source) = sent else { return Ok(()) };
    match tokio::time::timeout_at(deadline, Answer::read(stream)).await {
        Ok(Err(error @ FrameError::Stream(_))) => match of_frame(peer, node, error) {
            rejected @ LinkError::Rejected { .. } => Err(rejected),
            _ => Err(LinkError::of_tls(peer, node, step, source)),
        },
        _ => Err(LinkError::of_tls(peer, node, step, source)),
    }
}

fn of_frame(peer: SocketAddr, node: &str, error: FrameError) -> LinkError {
    match error {
        FrameError::Stream(source) => LinkError::of_tls(peer, node, "waiting for its answer", source),
        other => LinkError::Protocol { peer, what: other.to_string() },
    }
}
