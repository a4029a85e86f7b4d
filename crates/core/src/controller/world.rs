//! What the controller sees: everything the API server knows that matters to us, in our own words.

mod moving;
mod operation;
mod policy;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, PluggedState, Seconds};
use crate::device::{Attributes, Device};
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, PodName, PodRef, Uid, VmName};
use crate::speed::{Hub, PortName};

pub use moving::Moving;
pub use operation::{Operation, OperationKind, OperationPhase, OperationStatus};
pub use policy::{Power, RunPolicy};

/// A snapshot. Parts may be of slightly different moments: each is only ever late, never wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct World {
    /// The time of the snapshot.
    pub now: Seconds,
    /// Nodes.
    pub nodes: BTreeMap<NodeName, Node>,
    /// What each node's agent publishes.
    pub pools: BTreeMap<NodeName, Pool>,
    /// Namespaces; the value says whether it is being deleted.
    pub namespaces: BTreeMap<Namespace, bool>,
    /// `NodeUSBDevice`s.
    pub node_devices: BTreeMap<DeviceName, NodeDevice>,
    /// `USBDevice`s.
    pub devices: BTreeMap<(Namespace, DeviceName), UsbDevice>,
    /// `VirtualMachine`s.
    pub vms: BTreeMap<(Namespace, VmName), Vm>,
    /// `VirtualMachineOperation`s.
    pub operations: BTreeMap<(Namespace, OperationName), Operation>,
    /// Machines with a `PodDisruptionBudget` of ours.
    pub budgets: BTreeSet<(Namespace, VmName)>,
    /// Pods that run virtual machines.
    pub vm_pods: BTreeMap<(Namespace, PodName), VmPod>,
    /// Device claims of ours, by name.
    pub claims: BTreeMap<(Namespace, ClaimName), Claim>,
    /// Claims of ordinary pods for devices of ours, made from a template or by hand.
    pub pod_claims: BTreeMap<(Namespace, ClaimName), PodClaim>,
    /// Claim templates of devices, by the name they share with the `USBDevice`.
    pub templates: BTreeMap<(Namespace, DeviceName), Template>,
    /// Ports in use: how many of each half are allocated on each node.
    pub ports_used: BTreeMap<(NodeName, Hub), usize>,
    /// Claims that hold a port.
    pub port_claims: BTreeSet<(Namespace, ClaimName)>,
    /// Namespaces that have the claim template for a port of this half.
    pub port_templates: BTreeSet<(Namespace, Hub)>,
    /// Attachment pods.
    pub attachments: BTreeMap<(Namespace, PodName), Attachment>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its `Ready` condition is true.
    pub ready: bool,
    /// Since when it is so.
    pub since: Seconds,
    /// It shall get no new pods: it is, or will be, drained.
    pub cordoned: bool,
}

/// What one agent publishes: its devices and its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Devices plugged into the node.
    pub devices: Vec<Device>,
    /// Its vhci ports.
    pub ports: Vec<PortName>,
    /// The claims of ordinary pods whose device is in reach of their containers now.
    pub in_use: BTreeSet<Uid>,
    /// The names of the slices it is made of, and when each was created.
    pub slices: BTreeMap<String, Seconds>,
    /// Of its devices or of its ports there is no slice at all, not even an empty one: the agent has not published them yet,
    /// or somebody has deleted what it had published. What is missing here is unknown, not absent.
    pub silent: bool,
}

/// A `NodeUSBDevice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeDevice {
    /// Its uid.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// `spec.assignedNamespace`.
    pub assigned: Option<Namespace>,
    /// Its status as last written by us.
    pub status: DeviceStatus,
}

/// A `USBDevice`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UsbDevice {
    /// Its uid.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// Its status as last written by us.
    pub status: DeviceStatus,
}

/// The status of a `NodeUSBDevice` or `USBDevice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceStatus {
    /// The node it is plugged into, or was last.
    pub node: Option<NodeName>,
    /// The DRA device's name, where it differs from the object's: a second device of the same serial number.
    pub device_name: Option<DeviceName>,
    /// What is, or was, known of it.
    pub attributes: Option<Attributes>,
    /// Conditions in the order of [`crate::conditions::ConditionType`].
    pub conditions: Vec<Condition>,
    /// `status.observedGeneration`.
    pub observed_generation: i64,
    /// The virtual machine that has it, for the wide column.
    pub vm: Option<VmName>,
}

/// A `VirtualMachine`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vm {
    /// Its uid.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// When it runs.
    pub policy: RunPolicy,
    /// The names in `spec.usbDevices`, as written.
    pub usb_devices: Vec<DeviceName>,
    /// Its status as last written by us.
    pub status: VmStatus,
}

/// The status of a `VirtualMachine`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct VmStatus {
    /// Where it is in its life; None before the first status.
    pub phase: Option<VmPhase>,
    /// What operations have asked for last, where the policy leaves it to them.
    pub power: Option<Power>,
    /// The node it runs on.
    pub node: Option<NodeName>,
    /// `status.observedGeneration`.
    pub observed_generation: i64,
    /// One entry for each listed device, and for each that is still being unplugged.
    pub usb_devices: Vec<VmUsbStatus>,
    /// Conditions in the order of [`crate::conditions::ConditionType`].
    pub conditions: Vec<Condition>,
}

/// Where a virtual machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VmPhase {
    /// No pod yet, or the pod has no node.
    Pending,
    /// The pod has a node; the machine is not running yet, or not any more.
    Starting,
    /// The machine runs.
    Running,
    /// It runs, and is being moved to another node.
    Migrating,
    /// The pod is being deleted.
    Stopping,
    /// No pod, and none is wanted.
    Stopped,
}

/// One entry of `VirtualMachine.status.usbDevices`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VmUsbStatus {
    /// The device.
    pub name: DeviceName,
    /// It is in the guest.
    pub attached: bool,
    /// The device itself is ready.
    pub ready: bool,
    /// Where in the guest, when attached.
    pub address: Option<crate::conditions::GuestPort>,
    /// For people.
    pub message: String,
}

/// A pod that runs a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VmPod {
    /// Its uid.
    pub uid: Uid,
    /// The machine it runs.
    pub vm: VmName,
    /// The machine's uid.
    pub vm_uid: Uid,
    /// Where it runs, once bound.
    pub node: Option<NodeName>,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// What its phase says.
    pub state: PodState,
    /// What keeps it from running.
    pub trouble: Option<PodTrouble>,
    /// Its part in a move of its machine.
    pub moving: Moving,
}

/// What keeps the pod of a virtual machine from running. The words are those of whoever has tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PodTrouble {
    /// kube-scheduler has found no node for it.
    Unschedulable(String),
    /// The kubelet cannot get its image.
    NoImage(String),
    /// The kubelet cannot start its container.
    NotStarted(String),
    /// Its container has ended, with this code, and is to be started again.
    Ended {
        /// The code.
        code: i32,
        /// The last words.
        words: String,
    },
}

/// What a pod's phase says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodState {
    /// Not started.
    Pending,
    /// Running.
    Running,
    /// Succeeded or failed: it will not run again.
    Ended,
}

/// A device's claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Its uid.
    pub uid: Uid,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// The device it asks for, by its object's name.
    pub device: DeviceName,
    /// The node whose pool it asks for.
    pub node: NodeName,
}

/// A claim of an ordinary pod: it brings a device into the pod's containers, not into a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodClaim {
    /// Its uid.
    pub uid: Uid,
    /// When it was created.
    pub created: Seconds,
    /// The device whose template it was made from, by its object's name; None when it was made by hand.
    pub made_for: Option<DeviceName>,
    /// The pods it is reserved for; before that, the pod it was made for.
    pub pods: Vec<PodName>,
    /// What the scheduler has allocated; None while it waits.
    pub allocated: Option<Allocated>,
    /// What we have published in its status.
    pub told: Option<ClaimReport>,
}

/// What is allocated to a pod's claim.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Allocated {
    /// The node the device is plugged into.
    pub home: NodeName,
    /// The name it is published by.
    pub device: DeviceName,
    /// The node that holds a port for it, or the home node's token: where it is used. None when nothing says so.
    pub node: Option<NodeName>,
    /// The port; None when the device is local.
    pub port: Option<PortName>,
}

/// What a pod's claim says of its device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClaimReport {
    /// The device is in reach of the containers.
    pub attached: bool,
    /// For people.
    pub message: String,
    /// Since when it is so, or not.
    pub since: Seconds,
}

/// The claim template of a device: what a pod's claim made from it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Template {
    /// Its uid.
    pub uid: Uid,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// The device it names.
    pub content: TemplateContent,
}

/// Which device a template names. A template cannot be changed: another content is another template.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemplateContent {
    /// The node the device is plugged into.
    pub node: NodeName,
    /// The name it is published by.
    pub dra_name: DeviceName,
    /// The half of a vhci that a pod on another node needs a port of.
    pub hub: Hub,
}

/// An attachment pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// Its uid.
    pub uid: Uid,
    /// When it was created.
    pub created: Seconds,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// The device, by its object's name.
    pub device: DeviceName,
    /// The pod it plugs the device into.
    pub vm_pod: PodRef,
    /// The virtual machine of that pod.
    pub vm: VmName,
    /// The node it is made for.
    pub node: NodeName,
    /// The half of a vhci whose port it asks for; None for a local device.
    pub hub: Option<Hub>,
    /// What it asks the agent for.
    pub want: Want,
    /// The claim for that port, once Kubernetes has made it.
    pub port_claim: Option<ClaimName>,
    /// What the scheduler says.
    pub placement: Placement,
    /// How often its kubelet was reminded of it.
    pub reminders: usize,
    /// What its phase says.
    pub state: PodState,
    /// What the agent says; None before it has said anything.
    pub plugged: Option<PluggedState>,
}

/// What the scheduler says of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// Nothing yet.
    Awaited,
    /// There is no place for it.
    NoPlace,
    /// It has failed, where it would have to look again; the pod has had no place since this moment.
    Failed(Seconds),
    /// It has a node, since this moment.
    Placed(Seconds),
}

/// What an attachment asks the agent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Want {
    /// That the device be in the guest.
    Plugged,
    /// That nothing be done yet: the device is still in the pod that the machine is about to leave.
    Reserved,
}

impl Attachment {
    /// The scheduler finds no place for it.
    pub fn is_unschedulable(&self) -> bool {
        self.placement == Placement::NoPlace
    }

    /// It has a node.
    pub fn is_placed(&self) -> bool {
        matches!(self.placement, Placement::Placed(_))
    }

    /// The device is in the guest, or may still be.
    pub fn holds(&self) -> bool {
        matches!(self.plugged, Some(PluggedState::Plugged(_)))
    }
}
