//! Names that are part of the API: the group, labels, annotations, condition types, field managers.

/// The API group of the custom resources.
pub const GROUP: &str = "virtualization.deckhouse.io";

/// Its version.
pub const VERSION: &str = "v1alpha2";

/// Group and version.
pub const API_VERSION: &str = "virtualization.deckhouse.io/v1alpha2";

/// The device class of USB devices.
pub const DEVICE_CLASS: &str = "usb-devices.virtualization.deckhouse.io";

/// The device class of vhci ports.
pub const PORT_CLASS: &str = "usbip-ports.virtualization.deckhouse.io";

/// Label of an attachment pod: the device's object.
pub const ATTACHMENT: &str = "usb.virtualization.deckhouse.io/attachment";

/// Label of a device's claim: the device's object.
pub const DEVICE: &str = "usb.virtualization.deckhouse.io/device";

/// Label of the template of port claims and of the claims made from it: the half, `usb2` or `usb3`.
pub const PORT: &str = "usb.virtualization.deckhouse.io/port";

/// Label of a device's claim template and of the claims made from it: the device's object.
pub const TEMPLATE: &str = "usb.virtualization.deckhouse.io/template";

/// Annotation of a device's claim template: the name the device is published by.
pub const PUBLISHED: &str = "usb.virtualization.deckhouse.io/published";

/// Annotation of a device's claim or template: the node whose device it asks for. Label of a slice: the node whose agent it is of,
/// as `patchbay_dra::Publishing` says.
pub const NODE: &str = "usb.virtualization.deckhouse.io/node";

/// Annotation of an attachment pod: `plugged`, or `reserved` for what waits for a migration.
pub const WANT: &str = "usb.virtualization.deckhouse.io/want";

/// The value of [`WANT`] that asks for the device to be in the guest.
pub const WANT_PLUGGED: &str = "plugged";

/// The value of [`WANT`] that asks for nothing yet.
pub const WANT_RESERVED: &str = "reserved";

/// Annotation of an attachment pod: the virtual machine.
pub const VM: &str = "usb.virtualization.deckhouse.io/vm";

/// Annotation of an attachment pod: the pod that runs the virtual machine.
pub const VM_POD: &str = "usb.virtualization.deckhouse.io/vm-pod";

/// Annotation of an attachment pod: the uid of that pod.
pub const VM_POD_UID: &str = "usb.virtualization.deckhouse.io/vm-pod-uid";

/// Annotation of an attachment pod: the half whose port it has; absent when the device is local. Of a device's claim
/// template: the half whose port a pod on another node needs.
pub const HUB: &str = "usb.virtualization.deckhouse.io/hub";

/// Annotation of an attachment pod: how often its kubelet was reminded of it. What counts is that the pod changes.
pub const REMINDERS: &str = "usb.virtualization.deckhouse.io/reminders";

/// Condition and readiness gate of an attachment pod: what the agent says.
pub const PLUGGED: &str = "usb.virtualization.deckhouse.io/Plugged";

/// Label of a pod that runs a virtual machine: the machine.
pub const VM_NAME: &str = "vm.virtualization.deckhouse.io/name";

/// Annotation of a pod that runs a virtual machine: the machine's uid.
pub const VM_UID: &str = "vm.virtualization.deckhouse.io/uid";

/// Annotation of a pod that was made so that a virtual machine moves to it: the uid of the pod that the machine runs in.
pub const MIGRATE_FROM: &str = "vm.virtualization.deckhouse.io/migrate-from";

/// Annotation of a pod that runs a virtual machine: the pod it shall move to, as `<name>/<uid>`.
pub const MIGRATE_TO: &str = "vm.virtualization.deckhouse.io/migrate-to";

/// Annotation of a pod whose virtual machine was asked to move: where it runs from now on, `target` or `source`.
pub const MOVE: &str = "vm.virtualization.deckhouse.io/move";

/// Condition of the pods of a virtual machine that moves: what their agents say.
pub const MIGRATED: &str = "vm.virtualization.deckhouse.io/Migrated";

/// Annotation of a pod that was made so that a virtual machine moves to it: it has.
pub const ARRIVED: &str = "vm.virtualization.deckhouse.io/arrived";

/// Finalizer of an operation that moves a virtual machine: what it has begun is to be undone or completed.
pub const MOVING: &str = "vm.virtualization.deckhouse.io/moving";

/// The field manager of the controller.
pub const CONTROLLER: &str = "patchbay-controller";

/// The field manager of the agents.
pub const AGENT: &str = "patchbay-agent";
