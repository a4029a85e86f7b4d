//! What somebody may do about a link that does not hold. How it is said is for whoever talks to people.

use crate::names::{DeviceName, Namespace, NodeName, PodName, VmName};

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing: it goes on by itself.
    Wait,
    /// What the message says.
    AsSaid,
    /// Plug the device in.
    PlugIn {
        /// It is known again in any port of any node, and not only in the one it was in.
        anywhere: bool,
    },
    /// Bring a node back.
    HealNode(NodeName),
    /// Look at the agent of a node.
    CheckAgent(NodeName),
    /// Look at the controller.
    CheckController,
    /// Give the device to a namespace.
    Assign {
        /// The device.
        device: DeviceName,
        /// The namespace; None when it is for somebody to choose.
        namespace: Option<Namespace>,
    },
    /// Take the device from the namespace that has it, for another one.
    Reassign {
        /// The device.
        device: DeviceName,
        /// The namespace that asks for it.
        namespace: Namespace,
    },
    /// Make a namespace, or assign another one.
    MakeNamespace {
        /// The namespace that is missing.
        namespace: Namespace,
        /// The device that is assigned to it.
        device: DeviceName,
    },
    /// Put the device on a machine's list.
    List {
        /// The device.
        device: DeviceName,
        /// The machine's namespace.
        namespace: Namespace,
        /// The machine; None when it is for somebody to choose.
        vm: Option<VmName>,
    },
    /// Start a machine.
    Start {
        /// Its namespace.
        namespace: Namespace,
        /// The machine.
        vm: VmName,
    },
    /// Take the device off another machine's list.
    Release {
        /// The device.
        device: DeviceName,
        /// The namespace of both machines.
        namespace: Namespace,
        /// The machine that has it.
        vm: VmName,
    },
    /// End the pod that has the device, which a message names like this.
    EndPod(String),
    /// Free a port of a node, or give it ports.
    FreePort(NodeName),
    /// Look at what Kubernetes says of a pod.
    DescribePod {
        /// Its namespace.
        namespace: Namespace,
        /// The pod.
        pod: PodName,
    },
}
