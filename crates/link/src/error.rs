//! What can go wrong in a call.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::ktls::KernelTlsError;

/// A call, or the listening for calls, that failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The listener cannot have its address.
    #[error("cannot listen on {address}; is another agent running on this node?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A name that no node can have.
    #[error("{node:?} cannot be the name of a node")]
    BadNode {
        /// The name.
        node: String,
    },
    /// The network, or the peer's machine, says no.
    #[error("the connection with {peer} failed while {step}")]
    Broken {
        /// The other end.
        peer: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The peer took too long.
    #[error("{peer} took longer than {limit:?} while {step}")]
    Slow {
        /// The other end.
        peer: SocketAddr,
        /// What was being done.
        step: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The peer's certificate is missing or not good for the node it should be.
    #[error("{peer} did not prove to be {node}: {why}")]
    Untrusted {
        /// The other end.
        peer: SocketAddr,
        /// Whom it should have been.
        node: String,
        /// What is wrong with its certificate.
        why: String,
    },
    /// The peer did not take our certificate, or speaks another TLS.
    #[error("{peer} ended the handshake ({alert}); its log says why it does not take our certificate")]
    Rejected {
        /// The other end.
        peer: SocketAddr,
        /// The TLS alert it sent.
        alert: String,
    },
    /// The peer speaks TLS in a way that cannot be continued.
    #[error("no common TLS with {peer}: {why}")]
    Tls {
        /// The other end.
        peer: SocketAddr,
        /// What is wrong.
        why: String,
    },
    /// The peer does not keep to the exchange.
    #[error("{peer} does not keep to the protocol: {what}")]
    Protocol {
        /// The other end.
        peer: SocketAddr,
        /// What it did.
        what: String,
    },
    /// The peer is gone, in order or not.
    #[error("{peer} hung up")]
    HungUp {
        /// The other end.
        peer: SocketAddr,
    },
    /// The home agent says no, and why.
    #[error("{node} refused: {reason}")]
    Denied {
        /// The home node.
        node: String,
        /// Its reason.
        reason: String,
    },
    /// The kernel did not take over.
    #[error(transparent)]
    Kernel(#[from] KernelTlsError),
}

impl LinkError {
    /// Gives a failure of a TLS stream its meaning. `node` is whom the peer should be.
    pub(crate) fn of_tls(peer: SocketAddr, node: &str, step: &'static str, source: io::Error) -> Self {
        let Some(tls) = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Self::HungUp { peer }
                }
                _ => Self::Broken { peer, step, source },
            };
        };
        let node = node.to_owned();
        match tls {
            rustls::Error::InvalidCertificate(error) => Self::Untrusted { peer, node, why: error.to_string() },
            rustls::Error::NoCertificatesPresented => {
                Self::Untrusted { peer, node, why: "it sent no certificate".into() }
            }
            rustls::Error::AlertReceived(alert) => Self::Rejected { peer, alert: format!("{alert:?}") },
            other => Self::Tls { peer, why: other.to_string() },
        }
    }
}
