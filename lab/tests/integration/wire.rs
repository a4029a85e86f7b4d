//! The way of one of our accounts to the API server, which may go dead.

use std::path::PathBuf;

use patchbay_lab::wire;

use crate::stage::Stage;

/// The wire. It ends when dropped.
pub(crate) struct Wire {
    kubeconfig: PathBuf,
    wire: wire::Wire,
}

impl Wire {
    /// A wire to the API server, for one of our accounts.
    pub(crate) fn new(stage: &Stage, account: &str) -> Self {
        let wire = wire::Wire::to(stage.port()).unwrap();
        let text = std::fs::read_to_string(stage.account(account)).unwrap();
        let kubeconfig = stage.folder().join("wire.kubeconfig");
        std::fs::write(&kubeconfig, wire.through(&text)).unwrap();
        Self { kubeconfig, wire }
    }

    /// What a program needs to use it.
    pub(crate) fn kubeconfig(&self) -> &PathBuf {
        &self.kubeconfig
    }

    /// All connections that there are go dead; new ones live.
    pub(crate) fn cut(&self) {
        self.wire.cut();
    }
}
