//! The home agent's ear: accepts connections, verifies who calls, reads the request.
//!
//! Whoever calls and says nothing holds up nobody else: there are so many places for such callers, and when all are taken the
//! crowd makes room for the next one ([`patchbay_core::crowd`]).

use std::io::BufRead as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use patchbay_core::crowd::makes_room;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::credentials::Credentials;
use crate::exchange::{Answer, FrameError, Request};
use crate::identity::node_of;
use crate::incoming::Incoming;
use crate::records::Records;
use crate::{LinkError, Timing, tcp};

/// Connections that have not said yet what they want. For the next one another makes room ([`makes_room`]).
const UNFINISHED: usize = 64;
/// Requests that the agent has not picked up yet.
const READY: usize = 64;
/// What whoever calls beyond that is told.
const BUSY: &str = "more calls than this node can answer at a time are waiting: it has to be called again";
/// Pause after the system refused to accept, for example for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a rejected caller may take to hear why.
const LINGER: Duration = Duration::from_secs(1);

/// Listens for calls. Dropping it stops that, and leaves those that were accepted alone.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    ready: mpsc::Receiver<Incoming>,
    /// Ends with the listener.
    _task: JoinSet<()>,
}

impl Listener {
    /// Listens on `address`. Each caller is answered with the identity of that moment; while there is none, callers wait.
    ///
    /// # Errors
    /// [`LinkError::Bind`].
    pub async fn bind(address: SocketAddr, credentials: &Credentials) -> Result<Self, LinkError> {
        Self::bind_timed(address, credentials, Timing::default()).await
    }

    pub(crate) async fn bind_timed(
        address: SocketAddr,
        credentials: &Credentials,
        timing: Timing,
    ) -> Result<Self, LinkError> {
        let bind = |source| LinkError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (sender, ready) = mpsc::channel(READY);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, credentials.clone(), sender, timing));
        Ok(Self { address, ready, _task: task })
    }

    /// The address it listens on, with the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next verified caller with its request. Those that fail before are logged.
    pub async fn accept(&mut self) -> Incoming {
        match self.ready.recv().await {
            Some(incoming) => incoming,
            // The task ends only with the runtime.
            None => std::future::pending().await,
        }
    }
}

async fn accept(listener: TcpListener, credentials: Credentials, ready: mpsc::Sender<Incoming>, timing: Timing) {
    let mut unfinished = Unfinished::default();
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        // Until then callers are in the kernel's queue.
        credentials.get(|why| tracing::debug!(why, "nobody is answered")).await;
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a call");
                sleep(PAUSE).await;
                continue;
            }
        };
        // It may have expired since; whoever has called does so again.
        let Ok(identity) = credentials.now() else { continue };
        unfinished.make_room();
        let (acceptor, ready) = (TlsAcceptor::from(identity.server.clone()), ready.clone());
        let task = tasks.spawn(async move {
            match hear(tcp, peer, &acceptor, timing).await {
                Ok(incoming) => match ready.try_send(incoming) {
                    // The agent may be gone by now.
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                    Err(mpsc::error::TrySendError::Full(incoming)) => {
                        tracing::warn!(%peer, limit = READY, "too many calls wait for the agent");
                        // Best effort: whoever does not listen calls again, too.
                        drop(incoming.deny(BUSY).await);
                    }
                },
                Err(error @ (LinkError::HungUp { .. } | LinkError::Broken { .. })) => {
                    tracing::debug!(%peer, %error, "a call ended before it began");
                }
                Err(error) => tracing::warn!(%peer, %error, "a call was rejected"),
            }
        });
        unfinished.add(peer.ip(), task);
    }
}

/// Callers that have not said yet what they want: where they call from, and who hears them; those that came first, first.
#[derive(Default)]
struct Unfinished {
    callers: Vec<(IpAddr, AbortHandle)>,
    /// It has been said that there are too many.
    full: bool,
}

impl Unfinished {
    fn add(&mut self, from: IpAddr, task: AbortHandle) {
        self.callers.push((from, task));
    }

    /// Hangs up on one of them if there are too many.
    fn make_room(&mut self) {
        self.callers.retain(|(_, task)| !task.is_finished());
        if self.callers.len() < UNFINISHED {
            self.full = false;
            return;
        }
        let from: Vec<IpAddr> = self.callers.iter().map(|(from, _)| *from).collect();
        if let Some(number) = makes_room(&from) {
            let (from, task) = self.callers.remove(number);
            task.abort();
            // Once for each flood: what a stranger can do a thousand times a second is not written as often.
            if !self.full {
                tracing::warn!(limit = UNFINISHED, most_from = %from, "too many unfinished calls, the oldest of these are dropped");
            }
            self.full = true;
        }
    }
}

/// From a fresh connection to a request.
async fn hear(tcp: TcpStream, peer: SocketAddr, acceptor: &TlsAcceptor, timing: Timing) -> Result<Incoming, LinkError> {
    const ANYBODY: &str = "a node of this cluster";
    tcp::tune(&tcp).map_err(|source| LinkError::Broken { peer, step: "setting TCP options", source })?;
    let step = "shaking hands";
    let mut stream = match timeout(timing.handshake, acceptor.accept(Records::new(tcp)).into_fallible()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err((source, records))) => {
            linger(records).await;
            return Err(LinkError::of_tls(peer, ANYBODY, step, source));
        }
        Err(_) => return Err(LinkError::Slow { peer, step, limit: timing.handshake }),
    };
    let peer_node = node_of_peer(stream.get_ref().1.peer_certificates()).map_err(|why| LinkError::Untrusted {
        peer,
        node: ANYBODY.into(),
        why,
    })?;

    let step = "sending its request";
    let request = match timeout(timing.request, Request::read(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(FrameError::Stream(source))) => return Err(LinkError::of_tls(peer, &peer_node, step, source)),
        Ok(Err(error)) => {
            let what = error.to_string();
            // Best effort: the caller is told, and if it does not listen, it was wrong anyway.
            if let Ok(answer) = Answer::denied(&what).frame() {
                let tell = async { stream.write_all(&answer).await.is_ok() && stream.flush().await.is_ok() };
                if timeout(timing.request, tell).await.is_ok() {
                    linger(stream.into_inner().0).await;
                }
            }
            return Err(LinkError::Protocol { peer, what });
        }
        Err(_) => return Err(LinkError::Slow { peer, step, limit: timing.request }),
    };
    // The importer waits now. What else it sent in other records is found in the socket.
    let more = stream.get_mut().1.reader().fill_buf().is_ok();
    if more {
        return Err(LinkError::Protocol { peer, what: "it sent more than a request".into() });
    }
    Ok(Incoming::new(stream, peer, peer_node, request, timing))
}

/// The node of a verified peer.
pub(crate) fn node_of_peer(certificates: Option<&[CertificateDer<'_>]>) -> Result<String, String> {
    node_of(certificates.and_then(<[_]>::first).ok_or("it sent no certificate")?)
}

/// Closes in a way that lets the peer read what was sent last: closing with unread data would reset the connection.
async fn linger(mut records: Records) {
    let drain = async {
        records.shutdown().await?;
        let mut rest = [0; 1024];
        let mut left = 16 * 1024_usize;
        while left > 0 {
            match records.read(&mut rest).await? {
                0 => break,
                n => left = left.saturating_sub(n),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // Whatever happens here, the connection is closed next.
    drop(timeout(LINGER, drain).await);
}
