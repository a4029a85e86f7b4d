//! The reasons of Events about nodes, which have reasons of others too: there they say that they are about USB devices.

use crate::conditions::Reason;

/// A reason of an Event about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEntry {
    /// The reason of the condition that it tells of.
    pub of: Reason,
    /// The reason of the Event.
    pub reason: &'static str,
    /// What it means, as a sentence.
    pub means: &'static str,
    /// What to do, as sentences; nothing where nothing is to be done.
    pub cure: &'static str,
}

pub(super) const ENTRIES: &[NodeEntry] = &[
    NodeEntry {
        of: Reason::NotFound,
        reason: "USBDeviceNotFound",
        means: "An assigned device that was plugged into the node is absent.",
        cure: "Plug it in; if it is gone for good: `kubectl usb unassign DEVICE`.",
    },
    NodeEntry {
        of: Reason::NotReady,
        reason: "USBDeviceNotReady",
        means: "The node itself uses an assigned device.",
        cure: "Have the node let go of it, as the message says (unmount it there).",
    },
    NodeEntry {
        of: Reason::Ready,
        reason: "USBDeviceReady",
        means: "An assigned device of the node can be used again.",
        cure: "",
    },
    NodeEntry {
        of: Reason::NoFreeUSBIPPort,
        reason: "NoFreeUSBIPPort",
        means: "A machine on the node waits for a free USB/IP port for one of its devices.",
        cure: "See who has the ports (`kubectl usb tree`); detach another device of that kind there, or move the machine to another node.",
    },
];
