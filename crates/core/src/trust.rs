//! Who is who: which certificates are signed, by which authority, and when agents ask for another one.
//!
//! | module | decides |
//! |---|---|
//! | [`request`] | what the controller does with a request for a certificate |
//! | [`authority`] | when an authority is made, signs, and is forgotten |
//! | [`renewal`] | what an agent does about its certificate |
//!
//! ```text
//!  agent of node-1                       API server                        controller (leader)
//!    key, made on the node                                                   Secret patchbay-ca: authorities
//!    request ----------------> CertificateSigningRequest ------------------> judged: approved and signed, or denied
//!    certificate <------------ CertificateSigningRequest <------------------
//!    whom to believe <-------- ConfigMap patchbay-ca <---------------------- their certificates
//! ```
//!
//! A node is believed to be what its certificate says, so a certificate names the node that the API server has seen the
//! request come from, and nothing that somebody has only written into it.

pub mod authority;
pub mod renewal;
pub mod request;

use serde::{Deserialize, Serialize};

use crate::conditions::Seconds;
use crate::names::NodeName;

/// The signer's name in a `CertificateSigningRequest`.
pub const SIGNER: &str = "usb.virtualization.deckhouse.io/agent";

/// What follows a node's name in the DNS name of its certificate.
pub const NODE_SUFFIX: &str = ".node.usb.virtualization.deckhouse.io";

/// How long an agent's certificate is valid, in seconds: revoked are none, so it is short.
pub const LIFETIME: Seconds = 24 * 3_600;

/// Certificates begin so much earlier than now, in seconds, because clocks differ.
pub const BACKDATE: Seconds = 300;

/// The user that agents are to the API server, when Patchbay is installed in `namespace`.
pub fn account(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:agent")
}

/// The DNS name of a node's certificate.
pub fn dns_name(node: &NodeName) -> String {
    format!("{node}{NODE_SUFFIX}")
}

/// When a certificate is valid: from the first to the last second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Validity {
    /// The first second.
    pub not_before: Seconds,
    /// The last one.
    pub not_after: Seconds,
}

impl Validity {
    /// From a little before now on, for a time.
    pub fn from_now(now: Seconds, lifetime: Seconds) -> Self {
        Self { not_before: now.saturating_sub(BACKDATE), not_after: now.saturating_add(lifetime) }
    }

    /// Whether it is valid at a time.
    pub fn holds(&self, now: Seconds) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}
