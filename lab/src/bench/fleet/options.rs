//! How large a fleet is, and how much happens to it.

use anyhow::{Result, ensure};
use clap::Args;
use patchbay_sim::fleet::Fleet;
use serde::{Deserialize, Serialize};

use super::homes::PORTS;

/// How large the fleet is, and how much happens to it.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Nodes
    #[arg(long, default_value_t = 1000)]
    pub nodes: usize,
    /// USB devices plugged into each node
    #[arg(long, default_value_t = 10)]
    pub devices: usize,
    /// Virtual machines
    #[arg(long, default_value_t = 1000)]
    pub machines: usize,
    /// Devices that are in one of the machines, each through a port
    #[arg(long, default_value_t = 2000)]
    pub attachments: usize,
    /// Nodes that are lost at once, and back
    #[arg(long, default_value_t = 50)]
    pub lost: usize,
    /// Attachments that end at once, and are made at once
    #[arg(long, default_value_t = 500)]
    pub burst: usize,
}

impl Options {
    /// The fleet.
    pub(super) fn fleet(&self) -> Fleet {
        let Self { nodes, devices, machines, attachments, .. } = *self;
        Fleet { nodes, devices, machines, attachments }
    }

    /// All devices.
    pub(super) fn all_devices(&self) -> usize {
        self.nodes * self.devices
    }

    /// Checks that there can be such a fleet.
    ///
    /// # Errors
    /// When there cannot; the error says what would do.
    pub(super) fn check(&self) -> Result<()> {
        let Self { nodes, devices, machines, attachments, lost, burst } = *self;
        ensure!(nodes >= 2 && machines >= 1, "a fleet has at least 2 nodes, and 1 machine");
        ensure!((2..=100).contains(&devices), "a node of the fleet has 2 to 100 devices: set --devices");
        ensure!(machines <= nodes, "each machine has a node of its own: at most --machines {nodes}");
        let most = (nodes * (devices - 1)).min(machines * usize::from(PORTS));
        ensure!(
            (1..=most).contains(&attachments),
            "{attachments} attachments do not go: the node of each machine has {PORTS} ports of a kind, and one device of each node \
             stays free; --attachments 1 to {most} do"
        );
        ensure!((1..=nodes).contains(&lost), "{lost} of {nodes} nodes cannot be lost: set --lost");
        ensure!((1..=attachments).contains(&burst), "{burst} of {attachments} attachments cannot end: set --burst");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Options = Options { nodes: 20, devices: 10, machines: 20, attachments: 40, lost: 5, burst: 10 };

    #[test]
    fn a_fleet_that_cannot_be_is_refused_with_what_would_do() {
        SMALL.check().unwrap();
        Options { nodes: 1000, devices: 10, machines: 1000, attachments: 2000, lost: 50, burst: 500 }.check().unwrap();
        let error = |options: Options| options.check().unwrap_err().to_string();
        assert!(error(Options { attachments: 161, ..SMALL }).contains("--attachments 1 to 160"));
        assert!(error(Options { machines: 2, ..SMALL }).contains("--attachments 1 to 16"));
        assert!(error(Options { lost: 21, ..SMALL }).contains("--lost"));
        assert!(error(Options { burst: 41, ..SMALL }).contains("--burst"));
        assert!(error(Options { machines: 21, ..SMALL }).contains("--machines 20"));
        assert!(error(Options { nodes: 1, ..SMALL }).contains("2 nodes"));
    }
}
