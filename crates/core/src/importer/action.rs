//! What the agent can do.

use crate::conditions::PluggedState;
use crate::device::BusAddress;
use crate::names::{ClaimRef, DeviceName, NodeName, PodRef, Uid};
use crate::speed::PortName;

/// What can fail, and is then not repeated at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Importing for this attachment pod, or this claim of an ordinary pod.
    Call(Uid),
    /// Plugging for this attachment pod.
    Plug(Uid),
    /// Unplugging a device from the machine in this pod.
    Unplug(Uid, DeviceName),
    /// Freeing a port.
    Detach(PortName),
}

/// One step. All are idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Ask the home agent for the device, attach the session to the port.
    Call {
        /// The attachment pod, or the claim of an ordinary pod.
        user: Uid,
        /// Name the device is published by.
        device: DeviceName,
        /// Where it is plugged in.
        home: NodeName,
        /// The claim that entitles us.
        claim: ClaimRef,
        /// The port to attach to.
        port: PortName,
    },
    /// Give up a call.
    HangUp {
        /// The attachment pod, or the claim, it was made for.
        user: Uid,
    },
    /// Hand the device to QEMU.
    Plug {
        /// The attachment pod it is for.
        attachment: Uid,
        /// The machine's pod.
        vm_pod: PodRef,
        /// The device, by its object's name.
        device: DeviceName,
        /// The device of this node's kernel.
        address: BusAddress,
        /// Another guest has had it: it is reset first.
        reset: bool,
    },
    /// Take the device out of QEMU.
    Unplug {
        /// The uid of the machine's pod.
        vm_pod: Uid,
        /// The device, by its object's name.
        device: DeviceName,
    },
    /// Free a port of ours.
    Detach {
        /// The port.
        port: PortName,
    },
    /// Forget our record of a port that is free and wanted by nobody.
    Forget {
        /// The port.
        port: PortName,
    },
    /// Write the `Plugged` condition.
    Report {
        /// The attachment pod.
        pod: PodRef,
        /// What to say.
        state: PluggedState,
    },
}
