//! The call between two agents.
//!
//! The importer's agent calls the home agent, both prove by certificate which node they are, the importer says which claim and
//! device it is about, and the home agent lets it wait, refuses, or grants. After a grant both ends give the keys of the
//! TLS connection to the kernel and the socket to USB/IP: from then on no byte passes through a process of ours.
//!
//! ```text
//!  importer: call()                                home: Listener, Incoming
//!     | TCP, TLS 1.3, both certificates  ------->  |  Listener::accept()
//!     | Import{claim, pool, device}      ------->  |
//!     |  <------- Wait(reason), as often as needed |  Incoming::wait(), ::hung_up()
//!     |  <------- Granted{devid, speed, bus id}    |  Incoming::grant()  -> Session
//!     v                                            v
//!  kernel TLS, vhci_hcd                         kernel TLS, usbip-host  (Session::into_kernel())
//! ```
//!
//! The same call moves a virtual machine: the agent of the node it runs on calls the agent of the node it shall run on with
//! `Migrate{source, target}`, is answered `Accepted`, and each gives its end, in TLS by the kernel, to its QEMU
//! ([`migrate`], [`Incoming::accept`]).
//!
//! Whoever looks for what is wrong has an agent call another for nothing but an answer ([`greet`]).
//!
//! Who a node is, is what a certificate says that the cluster's controller has signed: the agent makes a [`PrivateKey`] and a request
//! for it, the controller reads it ([`pkcs10`]), and its [`Authority`] signs. An [`Identity`] may be changed for another one at
//! any time ([`Credentials`]).
//!
//! Invariants:
//! * nobody is talked to before both certificates are verified; the peer's node name comes from its certificate only;
//! * every step has a deadline, every buffer and the number of unfinished calls a limit;
//! * the importer says nothing after its request, so anything that arrives while it waits means it is gone;
//! * no byte of the session is read before the hand-over, and no TLS record other than data is ever sent after it: the
//!   kernel's USB/IP would end the session.

mod authority;
mod call;
pub mod certificate;
mod credentials;
mod der;
mod error;
mod exchange;
mod identity;
mod incoming;
mod key;
mod ktls;
mod listener;
pub mod pkcs10;
mod records;
mod session;
mod tcp;
mod watch;

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod pki;
#[cfg(test)]
mod scenarios;

pub use authority::{Authority, AuthorityError};
pub use call::{Greeted, call, greet, migrate};
pub use credentials::{Credentials, Standing};
pub use error::LinkError;
pub use exchange::{Answer, Claim, FrameError, Granted, Import, Migrate, Pod, Request};
pub use identity::{Identity, IdentityError};
pub use incoming::Incoming;
pub use key::{KeyError, PrivateKey};
pub use ktls::{KernelTlsError, probe};
pub use listener::Listener;
pub use session::Session;
pub use watch::{HangUp, WatchError};

use std::time::Duration;

/// How long the steps of a call may take. Other values than the default are for tests.
#[derive(Debug, Clone, Copy)]
struct Timing {
    /// TCP and TLS together.
    handshake: Duration,
    /// From the handshake to the whole request, and the sending of any one frame.
    request: Duration,
    /// A waiting importer hears something at least this often.
    keep_alive: Duration,
    /// An importer that has heard nothing for so long gives up.
    silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { handshake: seconds(5), request: seconds(5), keep_alive: seconds(10), silence: seconds(30) }
    }
}
