//! TCP options of a session. They survive the hand-over to the kernel.
//!
//! A peer that is cut off is noticed after 8 to 9 s, idle or under load. It takes both mechanisms: keepalive does not run while
//! data is unacknowledged, and the user timeout does not run while there is none (tcp(7)).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Idle time before the first probe.
const IDLE: Duration = Duration::from_secs(3);
/// Time between probes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Probes without an answer that end the connection.
const PROBES: u32 = 3;
/// How long sent data may stay unacknowledged, in milliseconds.
const USER_TIMEOUT: u32 = 8000;

/// Sets the options.
///
/// # Errors
/// What the kernel says; all of them exist since Linux 2.6.37.
pub(crate) fn tune(socket: &impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_tcp_user_timeout(socket, USER_TIMEOUT)?;
    Ok(())
}
