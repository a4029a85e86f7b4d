//! What can go wrong between an agent and a monitor.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A failure of the connection to a monitor, or of one command.
#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    /// The socket, or the folder it should be in, cannot be opened.
    #[error("cannot open the monitor socket {path}")]
    Open {
        /// The socket's path, as far as it is known.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// Something else, perhaps a symbolic link, is where the socket should be.
    #[error("{path} is not a socket; refusing to follow it")]
    NotASocket {
        /// The path in question.
        path: PathBuf,
    },
    /// QEMU does not listen, or another client waits for the monitor already.
    #[error("cannot connect to the monitor socket {path}")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// No greeting, or no answer to a command. The connection is closed afterwards.
    #[error(
        "the monitor did not answer {command} within {patience:?}; it serves one client at a time, is another one connected?"
    )]
    Timeout {
        /// The command, or `greeting`.
        command: &'static str,
        /// How long it had.
        patience: Duration,
    },
    /// The connection is gone.
    #[error("the monitor connection is closed: {reason}")]
    Closed {
        /// Why.
        reason: Arc<str>,
    },
    /// QEMU understood the command and says no.
    #[error("the monitor refused {command}: {description} ({class})")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's error class, for example `DeviceNotFound`.
        class: String,
        /// QEMU's words.
        description: String,
    },
    /// The answer to a command is not what QEMU's schema promises.
    #[error("the monitor's answer to {command} makes no sense: {what}")]
    Nonsense {
        /// The command.
        command: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// All ports of the guest's USB controllers are taken.
    #[error("the virtual machine has no free USB port: take another device from it first")]
    NoFreePort,
    /// The name cannot be part of a QEMU id.
    #[error("{name:?} is not a device name (up to 63 of a-z, 0-9 and '-', no '-' at either end)")]
    BadName {
        /// The name.
        name: String,
    },
    /// The tag is not a device's address.
    #[error("{tag:?} is not a device's bus and number (like 005-002)")]
    BadTag {
        /// The tag.
        tag: String,
    },
}

impl QmpError {
    /// Whether QEMU refused because it knows no device of that id.
    pub(crate) fn is_device_not_found(&self) -> bool {
        matches!(self, Self::Refused { class, .. } if class == "DeviceNotFound")
    }
}
