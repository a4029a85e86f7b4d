//! What somebody may do about a finding. How it is said is for whoever talks to people.

use crate::names::{DeviceName, Namespace, NodeName, PodName};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing, or what the message says.
    AsSaid,
    /// Bring Kubernetes to a version that will do.
    Upgrade,
    /// Let the API server serve what it could.
    ServeDra,
    /// Install what is missing or was changed again.
    Install,
    /// Look at what Kubernetes says of an object of the installation: kind and name.
    Describe(&'static str, String),
    /// Read what a program of ours has written.
    Logs {
        /// Its pod.
        pod: PodName,
        /// What the container before the present one has written.
        previous: bool,
    },
    /// Let the programs of a workload have more memory: its name.
    MoreMemory(&'static str),
    /// Bring a node back.
    HealNode(NodeName),
    /// Look at what keeps the agent off a node.
    ShowNode(NodeName),
    /// Load the module that makes USB/IP ports.
    LoadVhci(NodeName),
    /// Load a kernel module, by its name.
    LoadModule(NodeName, String),
    /// Look at the requests for certificates of a node.
    ShowRequests(NodeName),
    /// Let the agent of one node call that of another.
    OpenPort(NodeName, NodeName),
    /// See who has the ports.
    ShowPorts,
    /// Ask what holds a device up.
    Why(DeviceName),
    /// Look at what Kubernetes says of something in a namespace: kind and name.
    Show(&'static str, Namespace, String),
}
