//! A wire between a program and the API server that can go dead: what is sent is swallowed, and nobody hangs up. So it looks
//! to one end when the other has lost its power, or a router its memory.

use std::path::PathBuf;

use patchbay_lab::api;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::stage::Stage;

/// The wire. It ends when dropped.
pub(crate) struct Wire {
    kubeconfig: PathBuf,
    cut: watch::Sender<()>,
}

impl Wire {
    /// A wire to the API server, for one of our accounts.
    pub(crate) fn new(stage: &Stage, account: &str) -> Self {
        let port = stage.port();
        let listener = api::block_on(TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let ours = listener.local_addr().unwrap().port();
        let text = std::fs::read_to_string(stage.account(account)).unwrap();
        let kubeconfig = stage.folder().join("wire.kubeconfig");
        std::fs::write(&kubeconfig, text.replace(&format!(":{port}\""), &format!(":{ours}\""))).unwrap();
        let (cut, dead) = watch::channel(());
        api::spawn(lay(listener, port, dead));
        Self { kubeconfig, cut }
    }

    /// What a program needs to use it.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// All connections that there are go dead; new ones live.
    pub(crate) fn cut(&self) {
        self.cut.send_replace(());
    }
}

async fn lay(listener: TcpListener, port: u16, mut dead: watch::Receiver<()>) {
    loop {
        let near = tokio::select! {
            Ok((near, _)) = listener.accept() => near,
            changed = dead.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        tokio::spawn(carry(near, port, dead.clone()));
    }
}

async fn carry(mut near: TcpStream, port: u16, mut dead: watch::Receiver<()>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => return,
        _ = dead.changed() => {}
    }
    // Both ends stay open, and nobody listens, until the wire is gone.
    while dead.changed().await.is_ok() {}
}
