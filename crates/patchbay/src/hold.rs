//! The process of an attachment pod: it does nothing until it is told to end.
//!
//! The pod is only there for the scheduler and the kubelet; the agent does the work. As the first process of a container
//! it has to ask for signals, or the kernel would not deliver them.

use std::io::Read;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// Waits for SIGTERM or SIGINT.
pub(crate) fn run() -> anyhow::Result<()> {
    let (mut told, tell) = UnixStream::pair().context("cannot make a pair of sockets")?;
    for signal in [SIGTERM, SIGINT] {
        let tell = tell.try_clone().context("cannot copy a socket")?;
        pipe::register(signal, tell).with_context(|| format!("cannot listen for signal {signal}"))?;
    }
    told.read_exact(&mut [0]).context("cannot wait for a signal")
}
