//! A wire between a program and the API server. It counts what the program receives, and it can go dead: what is sent is
//! swallowed, and nobody hangs up. So it looks to one end when the other has lost its power, or a router its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::api;

/// As much is carried at once.
const LOAD: usize = 16 << 10;

/// The wire. It ends when dropped.
pub struct Wire {
    far: u16,
    near: u16,
    cut: watch::Sender<()>,
    received: Arc<AtomicU64>,
}

impl Wire {
    /// A wire to an API server at a port of this machine.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn to(far: u16) -> Result<Self> {
        let listener = api::block_on(TcpListener::bind(("127.0.0.1", 0))).context("no port for a wire")?;
        let near = listener.local_addr()?.port();
        let ((cut, dead), received) = (watch::channel(()), Arc::default());
        api::spawn(lay(listener, far, dead, Arc::clone(&received)));
        Ok(Self { far, near, cut, received })
    }

    /// The text of a kubeconfig for that server with this wire to it.
    pub fn through(&self, kubeconfig: &str) -> String {
        kubeconfig.replace(&format!(":{}\"", self.far), &format!(":{}\"", self.near))
    }

    /// Bytes that programs have received so far: TLS records, with what they are sealed in, on all connections there were.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// All connections that there are go dead; new ones live.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }
}

async fn lay(listener: TcpListener, far: u16, mut dead: watch::Receiver<()>, received: Arc<AtomicU64>) {
    loop {
        let near = tokio::select! {
            Ok((near, _)) = listener.accept() => near,
            changed = dead.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        tokio::spawn(carry(near, far, dead.clone(), Arc::clone(&received)));
    }
}

async fn carry(near: TcpStream, far: u16, mut dead: watch::Receiver<()>, received: Arc<AtomicU64>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", far)).await else { return };
    // Whoever waits for an answer must not wait for more of it to come.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((mut asked, mut told), (mut answers, mut asks)) = (near.into_split(), far.into_split());
    tokio::select! {
        () = both(&mut asked, &mut asks, &mut answers, &mut told, &received) => return,
        _ = dead.changed() => {}
    }
    // Both ends stay open, and nobody listens, until the wire is gone.
    while dead.changed().await.is_ok() {}
}

/// Carries both ways, until both are at their ends.
async fn both(
    asked: &mut OwnedReadHalf,
    asks: &mut OwnedWriteHalf,
    answers: &mut OwnedReadHalf,
    told: &mut OwnedWriteHalf,
    received: &AtomicU64,
) {
    let there = async {
        let _ = copy(asked, asks).await;
        let _ = asks.shutdown().await;
    };
    let back = async {
        let mut load = vec![0; LOAD];
        while let Ok(length @ 1..) = answers.read(&mut load).await {
            received.fetch_add(u64::try_from(length).unwrap_or_default(), Ordering::Relaxed);
            if told.write_all(load.get(..length).unwrap_or_default()).await.is_err() {
                break;
            }
        }
        let _ = told.shutdown().await;
    };
    tokio::join!(there, back);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_counted_and_the_kubeconfig_leads_through_the_wire() {
        let server = api::block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = server.local_addr().unwrap().port();
        let wire = Wire::to(port).unwrap();
        let text = wire.through(&format!("\"https://127.0.0.1:{port}\""));
        let near: u16 = text.trim_end_matches('"').rsplit(':').next().unwrap().parse().unwrap();
        assert_ne!(near, port);
        api::block_on(async {
            let mut client = TcpStream::connect(("127.0.0.1", near)).await.unwrap();
            let (mut accepted, _) = server.accept().await.unwrap();
            client.write_all(b"question").await.unwrap();
            let mut question = [0; 8];
            accepted.read_exact(&mut question).await.unwrap();
            accepted.write_all(b"answer").await.unwrap();
            drop(accepted);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
        });
        assert_eq!(wire.received(), 6);
    }
}
