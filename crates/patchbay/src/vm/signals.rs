//! The signals of the first process of a pid namespace: to end, and that a child has died.
//!
//! Such a process gets only the signals it asks for, and becomes the parent of every orphan of the namespace, for example
//! of what `kubectl exec` leaves behind. So it collects every dead child, and nothing else in it may wait for children.

use std::io;

use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal cannot be waited for.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch for {what}")]
pub(crate) struct SignalError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// The wish that this process ends.
pub(super) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(super) fn new() -> Result<Self, SignalError> {
        Ok(Self {
            terminate: watch(SignalKind::terminate(), "SIGTERM")?,
            interrupt: watch(SignalKind::interrupt(), "SIGINT")?,
        })
    }

    /// Completes at each signal.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The children of this process, its own and adopted ones.
pub(super) struct Children(Signal);

impl Children {
    pub(super) fn new() -> Result<Self, SignalError> {
        watch(SignalKind::child(), "SIGCHLD").map(Self)
    }

    /// Collects dead children until it is `pid`. Loses nothing when cancelled.
    pub(super) async fn end_of(&mut self, pid: Pid) -> WaitStatus {
        loop {
            while let Ok(Some((dead, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if dead == pid {
                    return status;
                }
            }
            self.0.recv().await;
        }
    }
}

fn watch(kind: SignalKind, what: &'static str) -> Result<Signal, SignalError> {
    signal(kind).map_err(|source| SignalError { what, source })
}
