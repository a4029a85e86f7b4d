//! The reasons of virtual machines and of operations on them.

use super::{Entry, entry};
use crate::conditions::ConditionType::{Completed, Running, USBDevicesAttached};
use crate::conditions::Reason;

pub(super) const ENTRIES: &[Entry] = &[
    entry(Running, Reason::Running, "The machine runs.", ""),
    entry(
        Running,
        Reason::Starting,
        "Its pod is being made, scheduled or started.",
        "If it stays so, Kubernetes says why: `kubectl describe pod POD`.",
    ),
    entry(Running, Reason::Stopping, "Its pod is going away; its USB devices are taken out first.", ""),
    entry(
        Running,
        Reason::Stopped,
        "It shall not run, as `spec.runPolicy` or the last operation says.",
        "To start it: a `VirtualMachineOperation` of type `Start`, or another run policy.",
    ),
    entry(
        Running,
        Reason::Unschedulable,
        "No node can take its pod; the message is that of kube-scheduler.",
        "Look at `spec.nodeSelector`, and at what the nodes have left (`kubectl describe nodes`).",
    ),
    entry(
        Running,
        Reason::ImagePullFailed,
        "The node cannot get its image.",
        "Look at the name of the image, the registry, and its password; Kubernetes tries it again.",
    ),
    entry(
        Running,
        Reason::ContainerFailed,
        "Its container could not be started, or has ended with an error; it is started again.",
        "The message has the last words of it. All of them: `kubectl logs POD --previous`.",
    ),
    entry(
        Running,
        Reason::SwitchedOff,
        "The guest has switched itself off, and is started again.",
        "To keep it off: `spec.runPolicy: AlwaysOff`.",
    ),
    entry(USBDevicesAttached, Reason::AllAttached, "All devices of its list are in the guest.", ""),
    entry(
        USBDevicesAttached,
        Reason::Attaching,
        "A device is on its way.",
        "If it does not arrive within a minute: `kubectl usb why VM`.",
    ),
    entry(USBDevicesAttached, Reason::NotRunning, "The machine does not run, so it has no devices.", ""),
    entry(
        USBDevicesAttached,
        Reason::NoUSBDevice,
        "The machine's namespace has no `USBDevice` of a listed name.",
        "Look for another spelling (`kubectl usb list`); an administrator gives the device to the namespace: `kubectl usb assign DEVICE NAMESPACE`.",
    ),
    entry(
        USBDevicesAttached,
        Reason::NotReady,
        "A listed device cannot be used now.",
        "Its own condition `Ready` says why: `kubectl usb why DEVICE`.",
    ),
    entry(
        USBDevicesAttached,
        Reason::NotFound,
        "A listed device is absent. It is attached when it is plugged in again.",
        "Plug it in.",
    ),
    entry(
        USBDevicesAttached,
        Reason::InUse,
        "Another machine or a pod has a listed device. It is attached here when it is released there.",
        "Wait, or take it from there: `kubectl usb detach DEVICE VM`; end the pod that has it.",
    ),
    entry(
        USBDevicesAttached,
        Reason::NoFreeUSBIPPort,
        "The machine's node has no free USB/IP port for a listed device. It is attached when one becomes free.",
        "See who has the ports (`kubectl usb tree`); detach another device of that kind there, or move the machine to another node. A node that has no ports at all lacks the kernel module `vhci-hcd`.",
    ),
    entry(
        USBDevicesAttached,
        Reason::DetachedForMigration,
        "The machine moves to another node, and its devices with it: they are out of the guest for some seconds.",
        "",
    ),
    entry(Completed, Reason::OperationCompleted, "The operation is done.", ""),
    entry(Completed, Reason::StartInProgress, "The machine is being started.", ""),
    entry(Completed, Reason::StopInProgress, "The machine is being stopped.", ""),
    entry(Completed, Reason::RestartInProgress, "The machine is being stopped and started again.", ""),
    entry(
        Completed,
        Reason::MigrationPending,
        "The move waits for the machine to run, or until nothing is left of an earlier move.",
        "",
    ),
    entry(Completed, Reason::TargetScheduling, "A node is looked for that can take the machine.", ""),
    entry(Completed, Reason::TargetPreparing, "The new node starts the pod and holds what the devices need there.", ""),
    entry(Completed, Reason::MigrationRunning, "The machine's memory is on its way while it runs.", ""),
    entry(Completed, Reason::SourceSuspended, "The machine is paused, and the last of it is on its way.", ""),
    entry(
        Completed,
        Reason::TargetResumed,
        "All has arrived; the machine runs on the new node, and its former pod goes.",
        "",
    ),
    entry(
        Completed,
        Reason::TargetUnschedulable,
        "No other node has taken the machine's pod within 30 s; the machine runs on where it was.",
        "Look at `spec.nodeSelector`, and at what the other nodes have left (`kubectl describe nodes`); then make a new operation.",
    ),
    entry(
        Completed,
        Reason::NoFreeUSBIPPort,
        "The new node has no free USB/IP port for a device of the machine; nothing has happened to the machine.",
        "Detach a device there (`kubectl usb tree`), or have another node taken (`spec.nodeSelector`); then make a new operation.",
    ),
    entry(
        Completed,
        Reason::Aborted,
        "The move was called off: the operation was deleted, or the machine stopped.",
        "",
    ),
    entry(
        Completed,
        Reason::Failed,
        "The move did not work; the message says why, and where the machine runs.",
        "Put right what the message says; then make a new operation.",
    ),
    entry(
        Completed,
        Reason::VirtualMachineNotFound,
        "There is no such machine in the namespace, or no more.",
        "Look at `spec.virtualMachineName`; an operation cannot be changed, so make a new one.",
    ),
    entry(
        Completed,
        Reason::NotApplicableForVirtualMachineRunPolicy,
        "The machine's `spec.runPolicy` forbids the operation.",
        "Change the policy: docs/operations.md has a table.",
    ),
    entry(
        Completed,
        Reason::NotApplicableForVirtualMachinePhase,
        "The machine is in that state already, or cannot get there from its own.",
        "",
    ),
    entry(
        Completed,
        Reason::OtherOperationInProgress,
        "Another operation on the machine is in progress; the message names it.",
        "Wait for that one, or delete it; then make a new operation.",
    ),
];
