//! What the controller does: small steps, each of which may be repeated or lost without harm.

use crate::conditions::Seconds;
use crate::controller::world::{
    Attachment, ClaimReport, DeviceStatus, OperationKind, OperationStatus, Placement, PodState, TemplateContent,
    VmStatus, Want,
};
use crate::migration::{Decision, Destination};
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, PodName, PodRef, Uid, VmName};
use crate::speed::Hub;

/// The plan: what to do now, in this order, and when to look again though nothing has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Plan {
    /// Steps. Independent of each other but for their order.
    pub actions: Vec<Action>,
    /// The earliest time at which the same world would give another plan.
    pub wake_at: Option<Seconds>,
}

impl Plan {
    /// Asks to be woken at `time` at the latest.
    pub(super) fn wake(&mut self, time: Seconds) {
        self.wake_at = Some(self.wake_at.map_or(time, |t| t.min(time)));
    }
}

/// One step. Creating what exists and deleting what is gone count as done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create a `NodeUSBDevice` and write its status.
    CreateNodeDevice {
        /// Its name.
        name: DeviceName,
        /// Its status.
        status: DeviceStatus,
    },
    /// Write the status of a `NodeUSBDevice`.
    PublishNodeDevice {
        /// Its name.
        name: DeviceName,
        /// Its status.
        status: DeviceStatus,
    },
    /// Delete a `NodeUSBDevice` nobody has assigned and nobody has seen for long.
    ForgetNodeDevice {
        /// Its name.
        name: DeviceName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Create a `USBDevice`, owned by its `NodeUSBDevice`, and write its status.
    CreateDevice {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: DeviceName,
        /// The uid of the `NodeUSBDevice` of the same name.
        owner: Uid,
        /// Its status.
        status: DeviceStatus,
    },
    /// Write the status of a `USBDevice`.
    PublishDevice {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: DeviceName,
        /// Its status.
        status: DeviceStatus,
    },
    /// Delete a `USBDevice`.
    DeleteDevice {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: DeviceName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Create the claim for a device, owned by the `USBDevice`.
    CreateClaim {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: ClaimName,
        /// The device's object.
        device: DeviceName,
        /// The name the device is published by.
        dra_name: DeviceName,
        /// The node that publishes it.
        node: NodeName,
        /// The uid of the `USBDevice`.
        owner: Uid,
    },
    /// Delete a claim.
    DeleteClaim {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: ClaimName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Create the claim template for one port of a half.
    CreatePortTemplate {
        /// Where.
        namespace: Namespace,
        /// Which half.
        hub: Hub,
    },
    /// Create the claim template of a device, owned by the `USBDevice`, for ordinary pods.
    CreateTemplate {
        /// Where.
        namespace: Namespace,
        /// The device's object, and the template's name.
        device: DeviceName,
        /// What it asks for.
        content: TemplateContent,
        /// The uid of the `USBDevice`.
        owner: Uid,
    },
    /// Delete the claim template of a device.
    DeleteTemplate {
        /// Where.
        namespace: Namespace,
        /// Its name.
        device: DeviceName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Write what the claim of an ordinary pod says of its device.
    PublishClaim {
        /// Where.
        namespace: Namespace,
        /// The claim.
        claim: ClaimName,
        /// The node and the name of the device that is allocated to it.
        device: (NodeName, DeviceName),
        /// What to say.
        report: ClaimReport,
    },
    /// Create an attachment pod.
    CreateAttachment(NewAttachment),
    /// Delete an attachment pod.
    DeleteAttachment {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Create the pod of a virtual machine; its shape is the engine's matter.
    CreateVmPod {
        /// Where.
        namespace: Namespace,
        /// The machine.
        vm: VmName,
        /// The pod's name.
        pod: PodName,
    },
    /// Create a pod to which a machine is to move: like the one it runs in, on another node.
    CreateTargetPod {
        /// Where.
        namespace: Namespace,
        /// The machine.
        vm: VmName,
        /// The pod's name.
        pod: PodName,
        /// The pod that it runs in.
        source: PodName,
        /// Only if that has this uid.
        source_uid: Uid,
    },
    /// Ask the agents to move the machine of a pod; whatever was decided of an earlier move is forgotten.
    AskToMove {
        /// Where.
        namespace: Namespace,
        /// The pod that the machine runs in.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
        /// The pod it is to move to.
        to: Destination,
    },
    /// Decide where a machine runs from now on. Only if nothing was decided of this move.
    Decide {
        /// Where.
        namespace: Namespace,
        /// The pod that it was to leave.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
        /// Only if it is to move to the pod of this uid.
        target: Uid,
        /// The answer.
        decision: Decision,
    },
    /// Write on the pod to which a machine has moved that it is the machine's pod.
    MarkArrived {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Ask for a device that was held for a machine to be in its guest now.
    Plug {
        /// Where.
        namespace: Namespace,
        /// The attachment pod.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Have a kubelet look at an attachment pod again.
    Remind {
        /// Where.
        namespace: Namespace,
        /// The attachment pod.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
        /// How often that will have been done.
        times: usize,
    },
    /// Create the `PodDisruptionBudget` of a machine, owned by it: nobody may evict its pods.
    CreateBudget {
        /// Where.
        namespace: Namespace,
        /// The machine.
        vm: VmName,
    },
    /// Create an operation, owned by its machine.
    CreateOperation {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: OperationName,
        /// What it does.
        kind: OperationKind,
        /// The machine.
        vm: VmName,
        /// The uid of the machine.
        owner: Uid,
    },
    /// Keep an operation that is deleted until we let it go.
    HoldOperation {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: OperationName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Let it go.
    ReleaseOperation {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: OperationName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Delete the pod of a virtual machine.
    DeleteVmPod {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: PodName,
        /// Only if it has this uid.
        uid: Uid,
    },
    /// Write the status of a `VirtualMachine`.
    PublishVm {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: VmName,
        /// Its status.
        status: VmStatus,
    },
    /// Write the status of a `VirtualMachineOperation`.
    PublishOperation {
        /// Where.
        namespace: Namespace,
        /// Its name.
        name: OperationName,
        /// Its status.
        status: OperationStatus,
    },
    /// Delete a slice of a node that is gone or dead.
    DeleteSlice {
        /// Its name.
        name: String,
    },
}

/// An attachment pod to be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NewAttachment {
    /// Its name; its namespace is the VM pod's.
    pub name: PodName,
    /// The device's object.
    pub device: DeviceName,
    /// The device's claim.
    pub claim: ClaimName,
    /// The pod it plugs the device into, and its owner.
    pub vm_pod: PodRef,
    /// The virtual machine of that pod.
    pub vm: VmName,
    /// The node of that pod.
    pub node: NodeName,
    /// The half whose port it needs; None for a local device.
    pub hub: Option<Hub>,
    /// What it asks the agent for.
    pub want: Want,
}

impl NewAttachment {
    /// The pod as it is the moment it was made, and nobody has looked at it yet.
    pub fn made(self, uid: Uid, created: Seconds) -> Attachment {
        Attachment {
            uid,
            created,
            deleting: false,
            device: self.device,
            vm_pod: self.vm_pod,
            vm: self.vm,
            node: self.node,
            hub: self.hub,
            want: self.want,
            port_claim: None,
            placement: Placement::Awaited,
            reminders: 0,
            state: PodState::Pending,
            plugged: None,
        }
    }
}
