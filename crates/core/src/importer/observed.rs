//! What the agent sees of its node.

use std::collections::{BTreeMap, BTreeSet};

use super::Step;
use crate::conditions::{GuestPort, PluggedState};
use crate::device::BusAddress;
use crate::names::{ClaimRef, DeviceName, NodeName, PodRef, Uid};
use crate::speed::PortName;

/// What the agent sees of its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Observed {
    /// Attachment pods of this node, by uid.
    pub attachments: BTreeMap<Uid, Attachment>,
    /// Claims of ordinary pods of this node that are being prepared or are prepared, by uid: where each device comes from.
    pub pods: BTreeMap<Uid, Source>,
    /// Devices plugged into this node that can be used, by the name they are published under.
    pub local: BTreeMap<DeviceName, BusAddress>,
    /// Those of them that the node uses itself, and nobody of ours: why they are kept, for people.
    pub kept: BTreeMap<DeviceName, String>,
    /// vhci ports by name.
    pub ports: BTreeMap<PortName, Port>,
    /// Devices that a guest has been seen to have since they have this address ([`super::used_by_guests`]). They may be in the midst of what that guest has begun: QEMU does not pass on the first reset of
    /// a new guest (`guest-resets-all` of `usb-host`), and vhci passes on none.
    pub used: BTreeSet<BusAddress>,
    /// Virtual machines of this node whose monitor answers, by the uid of their pod.
    pub machines: BTreeMap<Uid, Vec<Plugged>>,
    /// Machines that are about to move, or to stay after all: what is in them stays as it is. QEMU would refuse to add or delete
    /// devices, and those that were taken out for the move must not come back before it is known where to.
    pub moving: BTreeSet<Uid>,
    /// Calls to home agents that are under way, by the uid of the attachment pod or of the pod's claim; with the home agent's
    /// last word.
    pub calls: BTreeMap<Uid, String>,
    /// Steps that failed a moment ago and are not to be repeated yet.
    pub failures: BTreeMap<Step, String>,
}

/// An attachment pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// The pod.
    pub pod: PodRef,
    /// The device, by its object's name.
    pub device: DeviceName,
    /// The pod of the virtual machine.
    pub vm_pod: PodRef,
    /// It wants the device plugged, and is not being deleted.
    pub wanted: bool,
    /// The kubelet has started it, and so prepares nothing more for it.
    pub started: bool,
    /// Where its device comes from, once its claims are prepared.
    pub source: Option<Source>,
    /// What was reported last.
    pub reported: Option<PluggedState>,
    /// It has been on its way for so long that people should be told what it waits for.
    pub overdue: bool,
}

/// Where a device comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// This node.
    Local {
        /// The name it is published by.
        device: DeviceName,
    },
    /// Another node, through a port.
    Remote {
        /// The name it is published by.
        device: DeviceName,
        /// The node it is plugged into.
        home: NodeName,
        /// The claim that entitles us to it.
        claim: ClaimRef,
        /// The port that is allocated for it.
        port: PortName,
    },
}

/// A vhci port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// What is behind it; None when it is free.
    pub occupied: Option<Occupied>,
    /// Our record: the claim we occupied it for. None when it is not ours.
    pub record: Option<Uid>,
}

impl Port {
    /// It is occupied by us, for this claim.
    pub(super) fn holds(&self, claim: &Uid) -> bool {
        self.occupied.is_some() && self.record.as_ref() == Some(claim)
    }
}

/// An occupied port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Occupied {
    /// The device, once the kernel has enumerated it.
    pub address: Option<BusAddress>,
    /// The kernel has tried to enumerate it for longer than it ever takes: a session that broke in that moment leaves the
    /// port so for minutes (seen on 7.3), and only freeing it helps.
    pub stuck: bool,
}

/// A device in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plugged {
    /// The device, by its object's name.
    pub device: DeviceName,
    /// The device of this node's kernel that was handed over; None when a leftover without one.
    pub address: Option<BusAddress>,
    /// Where in the guest; None when a leftover.
    pub guest: Option<GuestPort>,
}
