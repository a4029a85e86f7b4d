//! What is told of nodes: what somebody who looks after a node, and not after a device, may have to do something about.
//!
//! | Event | when |
//! |---|---|
//! | `USBDeviceNotFound` | an assigned device of the node is absent |
//! | `USBDeviceNotReady` | the node itself uses an assigned device |
//! | `USBDeviceReady` | an assigned device can be used again |
//! | `NoFreeUSBIPPort` | a virtual machine of the node waits for a port |
//!
//! A node that is not ready, or whose agent says nothing, is told of by Kubernetes, not once more for each of its devices.

use super::{Deed, Notice, Subject};
use crate::conditions::{ConditionType, Reason, find};
use crate::controller::world::{DeviceStatus, VmStatus, World};
use crate::names::{DeviceName, Namespace, VmName};

/// The news of its node in the status of a `NodeUSBDevice`.
pub(super) fn of_device(
    world: &World,
    name: &DeviceName,
    before: &DeviceStatus,
    after: &DeviceStatus,
) -> Option<Notice> {
    world.node_devices.get(name).filter(|device| device.assigned.is_some())?;
    let node = after.node.as_ref()?;
    let speaks = world.nodes.get(node).is_some_and(|n| n.ready) && world.pools.get(node).is_some_and(|p| !p.silent);
    let (was, is) = (find(&before.conditions, ConditionType::Ready)?, find(&after.conditions, ConditionType::Ready)?);
    let note = format!("USB device {name}: {}", is.message);
    let news = speaks && was.reason != is.reason;
    news.then(|| Notice { about: Subject::Node(node.clone()), deed: Deed::Discover, reason: is.reason, note })
}

/// The news of its node in the status of a machine: that it begins to wait, and not that the words of that change.
pub(super) fn of_vm((namespace, vm): (&Namespace, &VmName), before: &VmStatus, after: &VmStatus) -> Option<Notice> {
    let waits = |status: &VmStatus| {
        let all = find(&status.conditions, ConditionType::USBDevicesAttached)?;
        (all.reason == Reason::NoFreeUSBIPPort).then(|| all.message.clone())
    };
    let now = waits(after).filter(|_| waits(before).is_none())?;
    let about = Subject::Node(after.node.clone()?);
    let note = format!("virtual machine {namespace}/{vm}: {now}");
    Some(Notice { about, deed: Deed::Attach, reason: Reason::NoFreeUSBIPPort, note })
}
