//! What the objects of a world are about.
//!
//! Two objects that share a device, a machine, a serial number or the claim for a port are planned for together. A node or a
//! namespace is a place: it is looked at for what is in it, but what is in the same place has nothing to do with each other by that.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::controller::published::suffixed;
use crate::controller::world::{
    Attachment, Claim, NodeDevice, Operation, PodClaim, Template, UsbDevice, Vm, VmPod, World,
};
use crate::device::{Device, HexId};
use crate::identity::plausible;
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, PodName, VmName};

/// What an object is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// All that has this device's name.
    Device(DeviceName),
    /// Vendor, product and serial number: devices that may be taken for each other.
    Serial(HexId, HexId, Arc<str>),
    /// A virtual machine.
    Machine(Namespace, VmName),
    /// The claim for the port of an attachment.
    PortClaim(Namespace, ClaimName),
    /// A place.
    Node(NodeName),
    /// A place.
    Namespace(Namespace),
}

impl Topic {
    /// Whether it is a place.
    pub(super) const fn is_place(&self) -> bool {
        matches!(self, Self::Node(_) | Self::Namespace(_))
    }
}

/// An object of a world, by the key it has there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Object {
    /// A `NodeUSBDevice`.
    NodeDevice(DeviceName),
    /// A device of a node's pool.
    Published((NodeName, DeviceName)),
    /// A `USBDevice`.
    Device((Namespace, DeviceName)),
    /// A `VirtualMachine`.
    Vm((Namespace, VmName)),
    /// The budget of one.
    Budget((Namespace, VmName)),
    /// A `VirtualMachineOperation`.
    Operation((Namespace, OperationName)),
    /// The pod of a machine.
    VmPod((Namespace, PodName)),
    /// An attachment pod.
    Attachment((Namespace, PodName)),
    /// The claim of a device.
    Claim((Namespace, ClaimName)),
    /// A claim of an ordinary pod.
    PodClaim((Namespace, ClaimName)),
    /// A claim that holds a port.
    PortClaim((Namespace, ClaimName)),
    /// The claim template of a device.
    Template((Namespace, DeviceName)),
}

/// An object that the world has in a map of its kind.
pub trait Fact: Clone + PartialEq {
    /// Its key there.
    type Key: Clone + Ord;

    /// The object of a key.
    fn object(key: &Self::Key) -> Object;

    /// What it is about.
    fn topics(&self, key: &Self::Key) -> Vec<Topic>;

    /// The map.
    fn map(world: &World) -> &BTreeMap<Self::Key, Self>;

    /// The map, to be changed.
    fn map_mut(world: &mut World) -> &mut BTreeMap<Self::Key, Self>;
}

/// `Type, key, map, variant, |value, key| topics`.
macro_rules! fact {
    ($type:ty, $key:ty, $map:ident, $variant:ident, |$fact:ident, $at:pat_param| $topics:expr) => {
        impl Fact for $type {
            type Key = $key;

            fn object(key: &Self::Key) -> Object {
                Object::$variant(key.clone())
            }

            fn topics(&self, $at: &Self::Key) -> Vec<Topic> {
                let $fact = self;
                $topics
            }

            fn map(world: &World) -> &BTreeMap<Self::Key, Self> {
                &world.$map
            }

            fn map_mut(world: &mut World) -> &mut BTreeMap<Self::Key, Self> {
                &mut world.$map
            }
        }
    };
}

fact!(NodeDevice, DeviceName, node_devices, NodeDevice, |it, name| {
    let mut topics = vec![device(name)];
    topics.extend(it.status.device_name.as_ref().map(device));
    topics.extend(it.assigned.clone().map(Topic::Namespace));
    topics.extend(node(it.status.node.as_ref()));
    topics
});
fact!(UsbDevice, (Namespace, DeviceName), devices, Device, |_it, (namespace, name)| {
    vec![device(name), Topic::Namespace(namespace.clone())]
});
fact!(Vm, (Namespace, VmName), vms, Vm, |it, (namespace, name)| {
    let listed = it.usb_devices.iter().map(device);
    listed.chain([machine(namespace, name), Topic::Namespace(namespace.clone())]).collect()
});
fact!(Operation, (Namespace, OperationName), operations, Operation, |it, (namespace, _)| {
    vec![machine(namespace, &it.vm), Topic::Namespace(namespace.clone())]
});
fact!(VmPod, (Namespace, PodName), vm_pods, VmPod, |it, (namespace, _)| {
    let mut topics = vec![machine(namespace, &it.vm)];
    topics.extend(node(it.node.as_ref()));
    topics
});
fact!(Attachment, (Namespace, PodName), attachments, Attachment, |it, (namespace, _)| {
    let mut topics = vec![device(&it.device), machine(namespace, &it.vm), Topic::Node(it.node.clone())];
    topics.push(Topic::Namespace(namespace.clone()));
    topics.extend(it.port_claim.clone().map(|claim| Topic::PortClaim(it.vm_pod.namespace.clone(), claim)));
    topics
});
fact!(Claim, (Namespace, ClaimName), claims, Claim, |it, (namespace, name)| {
    // It is found by its name, which says the same unless somebody else has made it.
    let named = name.as_str().strip_prefix("usb-").map(|name| Topic::Device(DeviceName::new(name)));
    let mut topics = vec![device(&it.device), Topic::Namespace(namespace.clone())];
    topics.extend(named.filter(|named| *named != device(&it.device)));
    topics
});
fact!(PodClaim, (Namespace, ClaimName), pod_claims, PodClaim, |it, (namespace, _)| {
    let mut topics = vec![Topic::Namespace(namespace.clone())];
    topics.extend(it.made_for.as_ref().map(device));
    if let Some(allocated) = &it.allocated {
        topics.extend([device(&allocated.device), Topic::Node(allocated.home.clone())]);
        topics.extend(node(allocated.node.as_ref()));
    }
    topics
});
fact!(Template, (Namespace, DeviceName), templates, Template, |_it, (namespace, name)| {
    vec![device(name), Topic::Namespace(namespace.clone())]
});

/// What a device is about that a node publishes.
pub(super) fn published(home: &NodeName, it: &Device) -> Vec<Topic> {
    let attributes = &it.attributes;
    let mut topics = vec![device(&it.name), device(&suffixed(&it.name, home)), Topic::Node(home.clone())];
    if let Some(serial) = attributes.serial.as_deref().filter(|serial| plausible(serial)) {
        topics.push(Topic::Serial(attributes.vendor_id, attributes.product_id, serial.into()));
    }
    topics
}

/// That of a machine.
pub(super) fn machine(namespace: &Namespace, name: &VmName) -> Topic {
    Topic::Machine(namespace.clone(), name.clone())
}

fn device(name: &DeviceName) -> Topic {
    Topic::Device(name.clone())
}

fn node(name: Option<&NodeName>) -> Option<Topic> {
    name.cloned().map(Topic::Node)
}
