//! Why a condition is as it is.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $truth:literal,)*) => {
        /// Every reason of every condition. The reason alone decides whether the condition is true.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

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
