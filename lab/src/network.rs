//! Addresses of the lab, and the namespace's own end of the network.
//!
//! ```text
//! node-N   192.0.2.N/24       its pods: 10.88.N.0/24
//! tap0     192.0.2.254/24     the namespace: API server, and the router between pods (no NAT anywhere)
//!          10.96.0.1/32       the `kubernetes` service, so that pods need no kube-proxy
//! ```

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::Result;

use crate::namespace::ip;
use crate::plane::SERVICE;
use crate::switch::Switch;
use crate::tap;

/// The namespace, as nodes see it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);

/// Address of the node with this number (from 1).
pub fn node(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number)
}

/// The addresses of that node's pods.
pub fn pods(number: u8) -> String {
    format!("10.88.{number}.0/24")
}

/// Starts the switch for this many nodes and gives the namespace its addresses and routes.
///
/// # Errors
/// When this is not the lab's own namespace.
pub fn start(nodes: u8) -> Result<Switch> {
    let switch = Switch::start(usize::from(nodes), tap::open()?)?;
    let mut batch = format!(
        "addr add {GATEWAY}/24 dev {tap}\naddr add {SERVICE}/32 dev {tap}\nlink set {tap} up\n",
        tap = tap::NAME
    );
    for number in 1..=nodes {
        let _ = writeln!(batch, "route add {} via {}", pods(number), node(number));
    }
    ip(&batch)?;
    Ok(switch)
}
