//! One gRPC server on one Unix socket, with an orderly end.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::Router;

use crate::socket::{self, SocketError, SocketFile};

/// How long calls under way may take to finish when the server stops.
const GRACE: Duration = Duration::from_secs(10);

/// Turns true when a server is to stop. Answers that never end by themselves
/// (streams) have to watch it.
pub(crate) type Stopping = watch::Receiver<bool>;

/// A running server. Dropping it ends it at once and leaves the socket file, as
/// a crash would.
#[derive(Debug)]
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Why the task has ended, once that is known: a handle gives it only once.
    ended: Option<String>,
    file: SocketFile,
}

impl Server {
    /// Binds the socket and serves; connections are accepted when this returns.
    pub(crate) fn start(path: &Path, stop: watch::Sender<bool>, router: Router) -> Result<Self, SocketError> {
        let (listener, file) = socket::bind(path)?;
        let mut stopping = stop.subscribe();
        let stopped = async move {
            // An error means that the sender is gone, which is the end as well.
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        let serving = router.serve_with_incoming_shutdown(socket::connections(listener), stopped);
        Ok(Self { stop, task: tokio::spawn(serving), ended: None, file })
    }

    /// The file of the socket it serves.
    pub(crate) fn file(&self) -> SocketFile {
        self.file.clone()
    }

    /// Returns when the server has ended by itself, with the reason.
    pub(crate) async fn ended(&mut self) -> String {
        if let Some(reason) = &self.ended {
            return reason.clone();
        }
        let reason = match (&mut self.task).await {
            Ok(Ok(())) => "it stopped accepting".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.ended.insert(reason).clone()
    }

    /// Removes the socket file, lets calls under way finish, and ends.
    pub(crate) async fn stop(mut self) {
        self.file.remove();
        self.stop.send_replace(true);
        if tokio::time::timeout(GRACE, self.ended()).await.is_err() {
            tracing::warn!("calls under way were cut off at the end of the grace period");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}
