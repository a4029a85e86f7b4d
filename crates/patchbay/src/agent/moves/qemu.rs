//! The connection to a machine's QEMU through the monitor that only moves use.

use std::path::PathBuf;
use std::time::Duration;

use patchbay_core::migration::{Guest, Phase, Qemu};
use patchbay_qmp::migration::{self, Progress};
use patchbay_qmp::{Event, Monitor, QmpError, Status};
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};

/// How long QEMU may take to answer one command.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(4);

/// A QEMU that is looked at again and again.
pub(super) struct Connection {
    socket: PathBuf,
    open: Option<(Monitor, broadcast::Receiver<Event>)>,
    /// How many connections there have been.
    number: u64,
    /// Since when it has not answered.
    silent: Option<Instant>,
    /// It has answered once.
    met: bool,
    /// It has answered once, and nobody listens any more.
    gone: bool,
}

impl Connection {
    /// Connects when it is looked at. `folder` is the pod's.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { socket: folder.join("migration.sock"), open: None, number: 0, silent: None, met: false, gone: false }
    }

    /// What QEMU says; None when it does not answer.
    pub(super) async fn look(&mut self) -> Option<Qemu> {
        let seen = match timeout(LOOK, self.ask()).await {
            Ok(Ok(seen)) => Some(seen),
            Ok(Err(error)) => {
                tracing::debug!(socket = %self.socket.display(), %error, "monitor not reached");
                self.open = None;
                // The socket of a QEMU that has ended refuses; one that is busy does not.
                self.gone = self.met && matches!(error, QmpError::Open { .. } | QmpError::Connect { .. });
                None
            }
            Err(_) => None,
        };
        match &seen {
            Some(_) => (self.silent, self.met, self.gone) = (None, true, false),
            None => drop(self.silent.get_or_insert_with(Instant::now)),
        }
        seen
    }

    async fn ask(&mut self) -> Result<Qemu, QmpError> {
        if let Some((monitor, _)) = &self.open {
            match look(monitor).await {
                Err(QmpError::Closed { .. } | QmpError::Timeout { .. }) => self.open = None,
                answer => return answer,
            }
        }
        let monitor = Monitor::connect(&self.socket, PATIENCE).await?;
        let events = monitor.events();
        self.number += 1;
        let (monitor, _) = self.open.insert((monitor, events));
        look(monitor).await
    }

    /// The open connection.
    pub(super) fn monitor(&self) -> Result<&Monitor, String> {
        let open = self.open.as_ref().map(|(monitor, _)| monitor);
        open.ok_or_else(|| "the virtual machine's monitor does not answer".to_owned())
    }

    /// The number of the connection, which changes when there is another one.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether QEMU has ended since it answered last.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// For how long QEMU has not answered.
    pub(super) fn silence(&self) -> Duration {
        self.silent.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Completes when QEMU has something to tell, be it that it has ended.
    pub(super) async fn news(&mut self) {
        match &mut self.open {
            Some((monitor, events)) => tokio::select! {
                _ = events.recv() => {}
                _ = monitor.closed() => {}
            },
            None => std::future::pending().await,
        }
    }
}

/// What QEMU says.
pub(super) async fn look(monitor: &Monitor) -> Result<Qemu, QmpError> {
    // In this order: a migration that is over by now has left the guest as it is to be.
    let progress = migration::progress(monitor).await?;
    Ok(translate(progress, &monitor.query_status().await?))
}

fn translate(progress: Progress, status: &Status) -> Qemu {
    use migration::Phase as P;
    let phase = match progress.phase {
        P::None => Phase::None,
        P::Setup | P::Active => Phase::Active,
        P::PreSwitchover => Phase::PreSwitchover,
        P::Device => Phase::Device,
        P::Completed => Phase::Completed,
        P::Failed | P::Cancelled => Phase::Ended,
        P::Cancelling | P::Unknown => Phase::Ending,
    };
    let guest = match status.status.as_str() {
        _ if status.running => Guest::Runs,
        "paused" | "postmigrate" | "finish-migrate" => Guest::Paused,
        "inmigrate" => Guest::Awaited,
        _ => Guest::Other,
    };
    Qemu { phase, percent: progress.percent, left: progress.left, error: progress.error, guest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_qemu_says_is_put_into_our_words() {
        let seen = |phase, running, status: &str| {
            let status = Status { running, status: status.to_owned() };
            let qemu = translate(Progress { phase, percent: Some(7), left: None, error: None }, &status);
            (qemu.phase, qemu.guest)
        };
        use migration::Phase as P;
        assert_eq!(seen(P::None, true, "running"), (Phase::None, Guest::Runs));
        assert_eq!(seen(P::PreSwitchover, false, "finish-migrate"), (Phase::PreSwitchover, Guest::Paused));
        assert_eq!(seen(P::Completed, false, "postmigrate"), (Phase::Completed, Guest::Paused));
        assert_eq!(seen(P::Active, false, "inmigrate"), (Phase::Active, Guest::Awaited));
        assert_eq!(seen(P::Cancelled, false, "guest-panicked"), (Phase::Ended, Guest::Other));
    }
}
