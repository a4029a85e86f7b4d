//! Conditions: what people read about a device or a virtual machine, and since when.
//!
//! One enum per condition type holds every reason there is, so a status cannot be written that the documentation does not
//! list ([`crate::messages`]). Messages say what is, and what to do where somebody has to do something.

mod reason;

use serde::{Deserialize, Serialize};

use crate::messages;
pub use reason::Reason;

/// Seconds since the epoch: the resolution of Kubernetes' `metav1.Time`.
pub type Seconds = i64;

/// The types of condition that `NodeUSBDevice`, `USBDevice`, `VirtualMachine` and `VirtualMachineOperation` carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConditionType {
    /// Whether the device can be used.
    Ready,
    /// Whether the device is given to a namespace. Only on `NodeUSBDevice`.
    Assigned,
    /// Whether the device is in a virtual machine or a pod.
    Attached,
    /// Whether the virtual machine runs.
    Running,
    /// Whether all USB devices of the virtual machine are attached.
    USBDevicesAttached,
    /// Whether the operation is done.
    Completed,
}

impl ConditionType {
    /// All types.
    pub const ALL: &[Self] =
        &[Self::Ready, Self::Assigned, Self::Attached, Self::Running, Self::USBDevicesAttached, Self::Completed];

    /// Those of a device.
    pub const OF_DEVICE: &[Self] = &[Self::Ready, Self::Assigned, Self::Attached];

    /// Those of a virtual machine.
    pub const OF_VM: &[Self] = &[Self::Running, Self::USBDevicesAttached];

    /// Those of an operation.
    pub const OF_OPERATION: &[Self] = &[Self::Completed];

    /// As in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Assigned => "Assigned",
            Self::Attached => "Attached",
            Self::Running => "Running",
            Self::USBDevicesAttached => "USBDevicesAttached",
            Self::Completed => "Completed",
        }
    }
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionType,
    /// Why it is as it is.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// When it last went from true to false or back.
    pub since: Seconds,
}

impl Condition {
    /// The condition after `before`: the time stays unless its truth changed.
    pub fn next(kind: ConditionType, reason: Reason, message: String, before: &[Self], now: Seconds) -> Self {
        debug_assert!(messages::find(kind, reason).is_some(), "the catalogue has no {reason:?} of {kind:?}");
        let unchanged = before.iter().find(|c| c.kind == kind && c.reason.is_true() == reason.is_true());
        Self { kind, reason, message, since: unchanged.map_or(now, |c| c.since) }
    }
}

/// Finds the condition of a type.
pub fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|c| c.kind == kind)
}

/// What the importer's agent says of an attachment, in the `Plugged` condition of its pod.
///
/// The condition's reason is the variant's name, its message the `Display` of the variant. `Plugged` is read back with
/// [`GuestPort`]'s own parser; all other messages are for people only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PluggedState {
    /// In the guest.
    Plugged(GuestPort),
    /// Out of the guest, port and session freed.
    Unplugged,
    /// Not in the guest, and why: the step that is under way or what it waits for.
    Waiting(String),
    /// The last try failed, for this reason; it is being tried again.
    Failed(String),
    /// Not in the guest, and never again by this pod: what the kubelet had prepared for it is gone, because a claim was
    /// deleted by hand or the node has lost its journal, and a kubelet prepares claims only before it starts a pod.
    ClaimLost,
}

impl PluggedState {
    /// The condition's reason.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Plugged(_) => "Plugged",
            Self::Unplugged => "Unplugged",
            Self::Waiting(_) => "Waiting",
            Self::Failed(_) => "Failed",
            Self::ClaimLost => "ClaimLost",
        }
    }

    /// The condition's message.
    pub fn message(&self) -> String {
        match self {
            Self::Plugged(port) => port.to_string(),
            Self::Unplugged => "out of the guest".to_owned(),
            Self::Waiting(text) | Self::Failed(text) => text.clone(),
            Self::ClaimLost => "a claim of this pod is gone: the pod has to be made anew".to_owned(),
        }
    }

    /// Reads a condition's reason and message. Unknown reasons are somebody else's: waiting, with their text.
    pub fn parse(reason: &str, message: &str) -> Self {
        match reason {
            "Plugged" => match message.parse() {
                Ok(port) => Self::Plugged(port),
                Err(GuestPortError(text)) => Self::Waiting(text),
            },
            "Unplugged" => Self::Unplugged,
            "Failed" => Self::Failed(message.to_owned()),
            "ClaimLost" => Self::ClaimLost,
            _ => Self::Waiting(message.to_owned()),
        }
    }
}

/// Where in the guest a device is: written `guest bus 0 port 3`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestPort {
    /// The guest's USB bus, as QEMU counts.
    pub bus: u16,
    /// The port on it; `2.1` behind a hub.
    pub port: String,
}

/// Text that is no guest port; holds the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} does not name a guest port")]
pub struct GuestPortError(String);

impl std::fmt::Display for GuestPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "guest bus {} port {}", self.bus, self.port)
    }
}

impl std::str::FromStr for GuestPort {
    type Err = GuestPortError;

    fn from_str(text: &str) -> Result<Self, GuestPortError> {
        let parse = || {
            let (bus, port) = text.strip_prefix("guest bus ")?.split_once(" port ")?;
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            digits.then_some(Self { bus: bus.parse().ok()?, port: port.to_owned() })
        };
        parse().ok_or_else(|| GuestPortError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_condition_moves_only_with_its_truth() {
        let next = |reason, before: &[Condition], now| {
            Condition::next(ConditionType::Ready, reason, String::new(), before, now)
        };
        let first = next(Reason::NotReady, &[], 10);
        let still = next(Reason::NotFound, std::slice::from_ref(&first), 20);
        let turned = next(Reason::Ready, std::slice::from_ref(&still), 30);
        assert_eq!((first.since, still.since, turned.since), (10, 10, 30));
    }

    #[test]
    fn a_plugged_condition_is_read_back_as_it_was_written() {
        let port = GuestPort { bus: 0, port: "2.1".to_owned() };
        for state in [
            PluggedState::Plugged(port),
            PluggedState::Unplugged,
            PluggedState::Waiting("for node-1".to_owned()),
            PluggedState::Failed("no such device".to_owned()),
            PluggedState::ClaimLost,
        ] {
            assert_eq!(PluggedState::parse(state.reason(), &state.message()), state);
        }
        assert!(matches!(PluggedState::parse("Plugged", "guest bus x port 1"), PluggedState::Waiting(_)));
    }
}
