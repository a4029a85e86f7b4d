//! A world, and who is meant in it by whom.
//!
//! Objects refer to each other by name: a device is published by some node, and some attachment is for it. Who looks through all
//! of them for each device has a plan whose cost grows with the square of the cluster; here everybody is found once, before the
//! plan begins. Nothing is known here that does not follow from the world.

use std::cell::OnceCell;
use std::ops::Deref;

use crate::controller::engine;
use crate::controller::index::Index;
use crate::controller::moves::{self, Active};
use crate::controller::published::{Found, Published};
use crate::controller::world::{Attachment, Operation, PodClaim, UsbDevice, VmPod, World};
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, PodName, Uid, VmName};

/// A pod's claim, with its namespace and name.
pub(super) type ClaimOfPod<'w> = (&'w Namespace, &'w ClaimName, &'w PodClaim);

/// What there is of each machine.
type ByMachine<'w, T> = Index<&'w Namespace, Index<&'w VmName, Vec<T>>>;

/// The view. What is in the world itself is read through it.
pub(super) struct View<'w> {
    world: &'w World,
    published: Published<'w>,
    assigned: Index<&'w DeviceName, &'w Namespace>,
    objects: Index<&'w DeviceName, Vec<(&'w Namespace, &'w UsbDevice)>>,
    for_device: Index<&'w DeviceName, Vec<&'w Attachment>>,
    /// Whether an attachment shall stay, by its uid; found out when it is asked for.
    stays: Index<&'w Uid, OnceCell<bool>>,
    for_machine: ByMachine<'w, &'w Attachment>,
    pods: ByMachine<'w, (&'w PodName, &'w VmPod)>,
    on_machine: ByMachine<'w, (&'w OperationName, &'w Operation)>,
    holders: Index<(&'w NodeName, &'w DeviceName), ClaimOfPod<'w>>,
    waiting: Index<&'w DeviceName, Vec<ClaimOfPod<'w>>>,
    active: Vec<Active<'w>>,
}

impl Deref for View<'_> {
    type Target = World;

    fn deref(&self) -> &World {
        self.world
    }
}

impl<'w> View<'w> {
    /// Looks at a world.
    pub(super) fn of(world: &'w World) -> Self {
        let mut view = Self {
            world,
            published: Published::of(world),
            assigned: Index::default(),
            objects: Index::default(),
            for_device: Index::default(),
            stays: world.attachments.values().map(|a| (&a.uid, OnceCell::new())).collect(),
            for_machine: Index::default(),
            pods: Index::default(),
            on_machine: Index::default(),
            holders: Index::default(),
            waiting: Index::default(),
            active: Vec::new(),
        };
        for (name, object) in world.node_devices.iter().filter(|(_, object)| !object.deleting) {
            view.assigned.extend(object.assigned.as_ref().map(|namespace| (name, namespace)));
        }
        for ((namespace, name), object) in &world.devices {
            view.objects.entry(name).or_default().push((namespace, object));
        }
        for ((namespace, _), attachment) in &world.attachments {
            view.for_device.entry(&attachment.device).or_default().push(attachment);
            view.for_machine.entry(namespace).or_default().entry(&attachment.vm).or_default().push(attachment);
        }
        for ((namespace, name), pod) in &world.vm_pods {
            if engine::is_named_for(name, &pod.vm) {
                view.pods.entry(namespace).or_default().entry(&pod.vm).or_default().push((name, pod));
            }
        }
        for ((namespace, name), operation) in &world.operations {
            view.on_machine.entry(namespace).or_default().entry(&operation.vm).or_default().push((name, operation));
        }
        for ((namespace, name), claim) in &world.pod_claims {
            let this = (namespace, name, claim);
            match (&claim.allocated, &claim.made_for) {
                // A device is allocated to one claim; should it be to several, the first in order counts.
                (Some(allocated), _) => {
                    view.holders.entry((&allocated.home, &allocated.device)).or_insert(this);
                }
                (None, Some(device)) => view.waiting.entry(device).or_default().push(this),
                (None, None) => {}
            }
        }
        view.active = moves::active(&view);
        view
    }

    /// The world itself.
    pub(super) fn world(&self) -> &'w World {
        self.world
    }

    /// Everything that is published.
    pub(super) fn published(&self) -> &Published<'w> {
        &self.published
    }

    /// The node that publishes the device of an object, and what it says.
    pub(super) fn publisher(&self, object: &DeviceName) -> Option<Found<'w>> {
        self.published.get(object)
    }

    /// The namespace to which an administrator has assigned a device.
    pub(super) fn assigned(&self, device: &DeviceName) -> Option<&'w Namespace> {
        self.assigned.get(device).copied()
    }

    /// The `USBDevice` of a name in a namespace.
    pub(super) fn object(&self, namespace: &Namespace, name: &DeviceName) -> Option<&'w UsbDevice> {
        self.objects(name).iter().find(|(found, _)| *found == namespace).map(|(_, object)| *object)
    }

    /// The `USBDevice`s of a name, with their namespaces, in order.
    pub(super) fn objects(&self, name: &DeviceName) -> &[(&'w Namespace, &'w UsbDevice)] {
        self.objects.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The attachments of a device in all namespaces, those being deleted included, in order.
    pub(super) fn attachments_of(&self, device: &DeviceName) -> &[&'w Attachment] {
        self.for_device.get(device).map(Vec::as_slice).unwrap_or_default()
    }

    /// The attachments that are for a machine, likewise.
    pub(super) fn attachments_to(&self, namespace: &Namespace, vm: &VmName) -> &[&'w Attachment] {
        self.for_machine.get(namespace).and_then(|own| own.get(vm)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether an attachment shall stay: what `look` says, which is asked once.
    pub(super) fn stays(&self, attachment: &Attachment, look: impl FnOnce() -> bool) -> bool {
        match self.stays.get(&attachment.uid) {
            Some(known) => *known.get_or_init(look),
            None => look(),
        }
    }

    /// The pods of a machine, in the order of their names.
    pub(super) fn pods_of(&self, namespace: &Namespace, vm: &VmName) -> &[(&'w PodName, &'w VmPod)] {
        self.pods.get(namespace).and_then(|own| own.get(vm)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The operations on a machine, in the order of their names.
    pub(super) fn operations_on(&self, namespace: &Namespace, vm: &VmName) -> &[(&'w OperationName, &'w Operation)] {
        self.on_machine.get(namespace).and_then(|own| own.get(vm)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The pod's claim to which a published device is allocated.
    pub(super) fn holder(&self, node: &NodeName, device: &DeviceName) -> Option<ClaimOfPod<'w>> {
        self.holders.get(&(node, device)).copied()
    }

    /// The pods' claims that were made for a device and wait for it, in order.
    pub(super) fn waiting(&self, object: &DeviceName) -> &[ClaimOfPod<'w>] {
        self.waiting.get(object).map(Vec::as_slice).unwrap_or_default()
    }

    /// The moves for which devices are to be held on the target.
    pub(super) fn active(&self) -> &[Active<'w>] {
        &self.active
    }
}
