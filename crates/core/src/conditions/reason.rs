//! Why a condition is as it is.

use serde::{Deserialize, Serialize};

use super::ConditionType;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $truth:literal,)*) => {
        /// Every reason of every condition. The reason alone decides whether the condition is true.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What is written above it: a sentence for each of its types of condition, or for several.
            const fn doc(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc,)+),)*
                }
            }

            /// As in the API.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Whether a condition with this reason is true.
            pub const fn is_true(self) -> bool {
                match self {
                    $(Self::$name => $truth,)*
                }
            }

            /// Whether somebody may have to do something about it: an Event of it is a warning.
            pub const fn is_warning(self) -> bool {
                matches!(
                    self,
                    Self::NotReady
                        | Self::NotFound
                        | Self::NoFreeUSBIPPort
                        | Self::Unschedulable
                        | Self::ImagePullFailed
                        | Self::ContainerFailed
                        | Self::NoUSBDevice
                        | Self::InUse
                )
            }
        }
    };
}

reasons! {
    /// Ready: the home node lists the device and is ready itself.
    Ready = true,
    /// Ready: known, but it cannot be used now. USBDevicesAttached: a device of the list cannot be used now.
    NotReady = false,
    /// Ready: absent on the host. USBDevicesAttached: a device of the list is absent.
    NotFound = false,
    /// Assigned: the `USBDevice` exists in the assigned namespace.
    Assigned = true,
    /// Assigned: no namespace. Attached: nobody uses it, or an attachment is under way.
    Available = false,
    /// Assigned: under way.
    InProgress = false,
    /// Attached: plugged into a virtual machine.
    AttachedToVirtualMachine = true,
    /// Attached: an ordinary pod has it.
    AttachedToPod = true,
    /// Attached, USBDevicesAttached: out of its machine while that moves to another node.
    DetachedForMigration = false,
    /// Attached, USBDevicesAttached, Completed: requested, but the node of the virtual machine has no free port of the device's kind.
    NoFreeUSBIPPort = false,
    /// Running: the machine runs.
    Running = true,
    /// Running: its pod is being made, scheduled or started.
    Starting = false,
    /// Running: its pod is going away.
    Stopping = false,
    /// Running: it shall not run.
    Stopped = false,
    /// Running: no node can take its pod.
    Unschedulable = false,
    /// Running: the node cannot get its image.
    ImagePullFailed = false,
    /// Running: its container could not be started, or has failed.
    ContainerFailed = false,
    /// Running: the guest has switched itself off.
    SwitchedOff = false,
    /// USBDevicesAttached: all there are.
    AllAttached = true,
    /// USBDevicesAttached: one is on its way.
    Attaching = false,
    /// USBDevicesAttached: the machine does not run.
    NotRunning = false,
    /// USBDevicesAttached: the machine's namespace has no such `USBDevice`.
    NoUSBDevice = false,
    /// USBDevicesAttached: another machine or a pod has one.
    InUse = false,
    /// Completed: it is done.
    OperationCompleted = true,
    /// Completed: the machine is being started.
    StartInProgress = false,
    /// Completed: the machine is being stopped.
    StopInProgress = false,
    /// Completed: the machine is being stopped and started again.
    RestartInProgress = false,
    /// Completed: the move has not begun.
    MigrationPending = false,
    /// Completed: a node is looked for that can take the machine.
    TargetScheduling = false,
    /// Completed: a node makes itself ready to take it.
    TargetPreparing = false,
    /// Completed: the machine is on its way.
    MigrationRunning = false,
    /// Completed: it is paused, and the last of it is on its way.
    SourceSuspended = false,
    /// Completed: it has arrived, and is let run there.
    TargetResumed = false,
    /// Completed: no node can take it.
    TargetUnschedulable = false,
    /// Completed: the operation was deleted, or the machine stopped.
    Aborted = false,
    /// Completed: it did not work; the message says why.
    Failed = false,
    /// Completed: there is no such machine, or no more.
    VirtualMachineNotFound = false,
    /// Completed: the machine's `spec.runPolicy` forbids it.
    NotApplicableForVirtualMachineRunPolicy = false,
    /// Completed: the machine is in that state already, or cannot get there from its own.
    NotApplicableForVirtualMachinePhase = false,
    /// Completed: another operation on the machine is in progress.
    OtherOperationInProgress = false,
}

impl Reason {
    /// When a condition of this type has this reason; none when no such condition ever has it.
    pub fn when(self, kind: ConditionType) -> Option<String> {
        let sentences = self.doc().split_inclusive(". ").filter_map(|sentence| sentence.split_once(": "));
        let mut of_kind = sentences.filter(|(kinds, _)| kinds.split(", ").any(|name| name.trim() == kind.as_str()));
        of_kind.next().map(|(_, when)| when.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_for_each_of_its_types_when_it_is_given() {
        for reason in Reason::ALL {
            assert!(ConditionType::ALL.iter().any(|kind| reason.when(*kind).is_some()), "{reason:?}");
            let sentences = reason.doc().split_inclusive(". ").count();
            let kinds = |sentence: &str| sentence.split_once(": ").map_or(0, |(kinds, _)| kinds.split(", ").count());
            let named: usize = reason.doc().split_inclusive(". ").map(kinds).sum();
            let found = ConditionType::ALL.iter().filter(|kind| reason.when(**kind).is_some()).count();
            assert!(sentences <= found && named == found, "{reason:?}: {}", reason.doc());
        }
        assert_eq!(Reason::Available.when(ConditionType::Assigned).as_deref(), Some("no namespace."));
        assert_eq!(Reason::Available.when(ConditionType::Ready), None);
    }
}
