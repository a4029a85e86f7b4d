//! Logs: structured lines on standard error.
//!
//! `info` is a change an operator cares about; fields have the same names everywhere (`device`, `node`, `vm`, `claim`).
//! `PATCHBAY_LOG` chooses what is written, in the syntax of `tracing`'s filters, for example `debug` or
//! `info,patchbay::controller=debug`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is written unless something else is chosen. The Kubernetes client logs each failed request as an error, which
/// its callers do too, and better.
const DEFAULT: &str = "info,kube_client=off";

/// Starts logging. A filter that cannot be read counts as none.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_env("PATCHBAY_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
