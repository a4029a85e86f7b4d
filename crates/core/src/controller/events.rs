//! What is worth an Event: the moment at which a status begins to say something that people care about.
//!
//! News are the difference between the status that is there and the one that is about to be written. Nothing is remembered:
//! who writes nothing has no news, and a new process finds the old status and has none either.
//!
//! | condition | is news when |
//! |---|---|
//! | `Ready`, `Assigned`, `Running` | its reason changes, or the message of one that is not true; a warning begins, or is another |
//! | `Attached` | the same; one device at rest is as good as another, whatever its message says |
//! | `USBDevicesAttached` | another device is missing, or for another reason; or none any more |
//!
//! A machine also tells of each of its devices when it comes and when it goes, for its conditions are about all of them. What a node is told of is in `nodes`.

mod nodes;

use crate::conditions::{Condition, ConditionType, Reason, find};
use crate::controller::action::Action;
use crate::controller::status;
use crate::controller::twins;
use crate::controller::world::{DeviceStatus, VmStatus, VmUsbStatus, World};
use crate::messages;
use crate::names::{DeviceName, Namespace, NodeName, VmName};

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A `NodeUSBDevice`.
    NodeDevice(DeviceName),
    /// A `USBDevice`.
    Device(Namespace, DeviceName),
    /// A `VirtualMachine`.
    Vm(Namespace, VmName),
    /// A `Node` of Kubernetes.
    Node(NodeName),
}

/// What was done, or tried, when the news came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deed {
    /// The nodes were looked at for the device.
    Discover,
    /// The device was given to a namespace, or taken from one.
    Assign,
    /// The device was put into a machine or a pod.
    Attach,
    /// It was taken out.
    Detach,
    /// The machine was started or stopped.
    Run,
}

impl Deed {
    /// All.
    pub const ALL: &[Self] = &[Self::Discover, Self::Assign, Self::Attach, Self::Detach, Self::Run];

    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discover => "Discover",
            Self::Assign => "Assign",
            Self::Attach => "Attach",
            Self::Detach => "Detach",
            Self::Run => "Run",
        }
    }
}

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Notice {
    /// Whom it is about.
    pub about: Subject,
    /// What was done.
    pub deed: Deed,
    /// The condition's reason.
    pub reason: Reason,
    /// The condition's message.
    pub note: String,
}

impl Notice {
    /// The reason as in the API. Of a node, which has reasons of others too, it names what it is about.
    pub fn reason(&self) -> &'static str {
        let of_node = |reason| messages::of_nodes().find(|entry| entry.of == reason).map(|entry| entry.reason);
        match self.about {
            Subject::Node(_) => of_node(self.reason).unwrap_or(self.reason.as_str()),
            _ => self.reason.as_str(),
        }
    }

    /// Somebody may have to do something about it.
    pub fn is_warning(&self) -> bool {
        self.reason.is_warning() || twins::is_warning(&self.note)
    }
}

/// The news that `action` makes in `world`, in the order in which they are to be told. To be told once it is done.
///
/// There are none of objects whose namespace is going: no Event can be made there.
pub fn notices(action: &Action, world: &World) -> Vec<Notice> {
    let stays = |namespace: &Namespace| world.namespaces.get(namespace) == Some(&false);
    let new = DeviceStatus::default();
    match action {
        Action::CreateNodeDevice { name, status } => of_device(&Subject::NodeDevice(name.clone()), &new, status),
        Action::PublishNodeDevice { name, status } => {
            let Some(device) = world.node_devices.get(name) else { return Vec::new() };
            let mut notices = of_device(&Subject::NodeDevice(name.clone()), &device.status, status);
            notices.extend(nodes::of_device(world, name, &device.status, status));
            notices
        }
        Action::CreateDevice { namespace, name, status, .. } if stays(namespace) => {
            of_device(&Subject::Device(namespace.clone(), name.clone()), &new, status)
        }
        Action::PublishDevice { namespace, name, status } if stays(namespace) => {
            let key = (namespace.clone(), name.clone());
            let before = world.devices.get(&key);
            before.map_or_else(Vec::new, |d| of_device(&Subject::Device(key.0, key.1), &d.status, status))
        }
        Action::PublishVm { namespace, name, status } if stays(namespace) => {
            let key = (namespace.clone(), name.clone());
            let Some(vm) = world.vms.get(&key) else { return Vec::new() };
            let of_node = nodes::of_vm((namespace, name), &vm.status, status);
            let mut notices = of_vm(&Subject::Vm(key.0, key.1), &vm.status, status);
            notices.extend(of_node);
            notices
        }
        _ => Vec::new(),
    }
}

fn of_device(about: &Subject, before: &DeviceStatus, after: &DeviceStatus) -> Vec<Notice> {
    let news = after.conditions.iter().filter(|now| is_news(find(&before.conditions, now.kind), now));
    let notice = |now: &Condition| {
        let attached = find(&before.conditions, ConditionType::Attached).is_some_and(|c| c.reason.is_true());
        let deed = match now.kind {
            ConditionType::Assigned => Deed::Assign,
            ConditionType::Attached if attached && !now.reason.is_true() => Deed::Detach,
            ConditionType::Attached => Deed::Attach,
            _ => Deed::Discover,
        };
        Notice { about: about.clone(), deed, reason: now.reason, note: now.message.clone() }
    };
    news.map(notice).collect()
}

/// Whether a condition says something new. What is nothing to speak of at the first sight of an object is none.
fn is_news(before: Option<&Condition>, now: &Condition) -> bool {
    match before {
        None => !matches!(now.reason, Reason::Available | Reason::AllAttached),
        Some(before) if before.reason != now.reason => true,
        Some(before) if twins::is_warning(&now.message) => before.message != now.message,
        Some(before) if now.reason.is_true() => !continues(&before.message, &now.message),
        Some(before) => before.message != now.message && !(at_rest(before) && at_rest(now)),
    }
}

/// Whether one message is the other, with or without something at its end: who waits for a device is told there, and that is
/// no change of the device.
fn continues(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Nobody has the device or asks for it.
fn at_rest(attached: &Condition) -> bool {
    [status::AVAILABLE, status::UNUSED].contains(&attached.message.as_str())
}

fn of_vm(about: &Subject, before: &VmStatus, after: &VmStatus) -> Vec<Notice> {
    let notice = |deed, reason, note| Notice { about: about.clone(), deed, reason, note };
    let mut notices = Vec::new();
    if let Some(running) = find(&after.conditions, ConditionType::Running)
        && is_news(find(&before.conditions, ConditionType::Running), running)
    {
        notices.push(notice(Deed::Run, running.reason, running.message.clone()));
    }
    let summary = |status: &VmStatus| find(&status.conditions, ConditionType::USBDevicesAttached).map(|c| c.reason);
    let (was, is) = (summary(before), summary(after));
    for gone in before.usb_devices.iter().filter(|e| e.attached && !has(after, e)) {
        if let Some(note) = why_gone(gone, after, is) {
            notices.push(notice(Deed::Detach, Reason::Available, note));
        }
    }
    for come in after.usb_devices.iter().filter(|e| e.attached && !has(before, e)) {
        let note = format!("USB device {} is attached{}", come.name, place(come, after));
        notices.push(notice(Deed::Attach, Reason::AttachedToVirtualMachine, note));
    }
    if let Some(all) = find(&after.conditions, ConditionType::USBDevicesAttached) {
        let missed = missing(before).map(|e| (&e.name, &e.message));
        let told = match is {
            // Whether it runs is told by the other condition.
            None | Some(Reason::NotRunning) => false,
            Some(Reason::AllAttached) => was.is_some_and(|was| !was.is_true() && was != Reason::NotRunning),
            Some(_) => was != is || missed != missing(after).map(|e| (&e.name, &e.message)),
        };
        notices.extend(told.then(|| notice(Deed::Attach, all.reason, all.message.clone())));
    }
    notices
}

/// Whether a machine has the device of an entry, in the same place.
fn has(status: &VmStatus, entry: &VmUsbStatus) -> bool {
    status.usb_devices.iter().any(|e| e.attached && e.name == entry.name && e.address == entry.address)
}

/// The first device that is not attached: the one that `USBDevicesAttached` is about.
fn missing(status: &VmStatus) -> Option<&VmUsbStatus> {
    status.usb_devices.iter().find(|e| !e.attached)
}

/// What is told of a device that is no longer where it was; None when another notice tells it.
fn why_gone(gone: &VmUsbStatus, after: &VmStatus, summary: Option<Reason>) -> Option<String> {
    match after.usb_devices.iter().find(|e| e.name == gone.name) {
        None => Some(format!("USB device {} is detached", gone.name)),
        Some(now) if now.attached || summary == Some(Reason::NotRunning) => None,
        Some(now) if missing(after).is_some_and(|first| first.name == now.name) => None,
        Some(now) => Some(format!("USB device {} is detached: {}", now.name, now.message)),
    }
}

fn place(entry: &VmUsbStatus, status: &VmStatus) -> String {
    let node = status.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    let port = entry.address.as_ref().map(|port| format!(", {port}")).unwrap_or_default();
    node + &port
}
