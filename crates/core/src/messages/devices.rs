//! The reasons of devices.

use super::{Entry, entry};
use crate::conditions::ConditionType::{Assigned, Attached, Ready};
use crate::conditions::Reason;

pub(super) const ENTRIES: &[Entry] = &[
    entry(
        Ready,
        Reason::Ready,
        "The node that the device is plugged into publishes it, and is ready itself.",
        "Where the message has a warning: another device claims the same serial number, and only their ports tell the two apart.",
    ),
    entry(
        Ready,
        Reason::NotReady,
        "The device is known and cannot be used now: its node is not ready, its agent publishes nothing, or the node uses the device itself.",
        "The message says which. Bring the node back (`kubectl describe node NODE`), look at its agent (`kubectl get pods -n patchbay -o wide`), or have the node let go of the device (unmount it there).",
    ),
    entry(
        Ready,
        Reason::NotFound,
        "The device is absent: the node that it was plugged into last does not have it any more, and no other has it.",
        "Plug it in. One with a serial number may go into any port of any node; one without only into the port that it was in.",
    ),
    entry(Assigned, Reason::Assigned, "The `USBDevice` exists in the assigned namespace.", ""),
    entry(
        Assigned,
        Reason::Available,
        "The device is given to no namespace, so nobody can use it.",
        "An administrator gives it to one: `kubectl usb assign DEVICE NAMESPACE`.",
    ),
    entry(
        Assigned,
        Reason::InProgress,
        "The device is on its way into a namespace, or out of one.",
        "The message says for what it waits: for a machine or a pod to release the device, or for the namespace to exist (`kubectl create namespace NAMESPACE`).",
    ),
    entry(
        Attached,
        Reason::Available,
        "Nobody has the device. It may be requested: then the message says by whom, and which step is under way.",
        "To attach it: `kubectl usb attach DEVICE VM`. If a step does not end: `kubectl usb why DEVICE`.",
    ),
    entry(Attached, Reason::AttachedToVirtualMachine, "The device is in the guest of a virtual machine.", ""),
    entry(Attached, Reason::AttachedToPod, "The containers of an ordinary pod have the device.", ""),
    entry(
        Attached,
        Reason::DetachedForMigration,
        "The device is out of its machine while that moves to another node; it is plugged in there.",
        "",
    ),
    entry(
        Attached,
        Reason::NoFreeUSBIPPort,
        "The device is requested, and the node of the machine has no free USB/IP port of the kind that it needs (USB 2.0 or 3.0). It is attached when one becomes free.",
        "See who has the ports (`kubectl usb tree`); detach another device of that kind there, or move the machine to another node. A node that has no ports at all lacks the kernel module `vhci-hcd`.",
    ),
];
