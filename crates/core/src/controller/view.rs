//! A world, and who is meant in it by whom.
//!
//! Objects refer to each other by name: a device is published by some node, and some attachment is for it. Who looks through all
//! of them for each device has a plan whose cost grows with the square of the cluster; here everybody is found once, before the
//! plan begins. Nothing is known here that does not follow from the world.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ops::Deref;

use crate::controller::devices;
use crate::controller::moves::{self, Active};
use crate::controller::world::{Attachment, Operation, PodClaim, UsbDevice, World};
use crate::device::Device;
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, OperationName, Uid, VmName};

/// Which published device stands behind which object, and on which node.
pub(super) type Published<'w> = BTreeMap<Cow<'w, DeviceName>, (&'w NodeName, &'w Device)>;

/// A pod's claim, with its namespace and name.
pub(super) type ClaimOfPod<'w> = (&'w Namespace, &'w ClaimName, &'w PodClaim);

/// What there is of each machine.
type ByMachine<'w, T> = BTreeMap<&'w Namespace, BTreeMap<&'w VmName, Vec<T>>>;

/// The view. What is in the world itself is read through it.
pub(super) struct View<'w> {
    world: &'w World,
    published: Published<'w>,
    objects: BTreeMap<&'w DeviceName, Vec<(&'w Namespace, &'w UsbDevice)>>,
    for_device: BTreeMap<&'w DeviceName, Vec<&'w Attachment>>,
    /// Whether an attachment shall stay, by its uid; found out when it is asked for.
    stays: BTreeMap<&'w Uid, OnceCell<bool>>,
    for_machine: ByMachine<'w, &'w Attachment>,
    on_machine: ByMachine<'w, (&'w OperationName, &'w Operation)>,
    holders: BTreeMap<(&'w NodeName, &'w DeviceName), ClaimOfPod<'w>>,
    waiting: BTreeMap<&'w DeviceName, Vec<ClaimOfPod<'w>>>,
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
            published: devices::published(world),
            objects: BTreeMap::new(),
            for_device: BTreeMap::new(),
            stays: world.attachments.values().map(|a| (&a.uid, OnceCell::new())).collect(),
            for_machine: BTreeMap::new(),
            on_machine: BTreeMap::new(),
            holders: BTreeMap::new(),
            waiting: BTreeMap::new(),
            active: moves::active(world),
        };
        for ((namespace, name), object) in &world.devices {
            view.objects.entry(name).or_default().push((namespace, object));
        }
        for ((namespace, _), attachment) in &world.attachments {
            view.for_device.entry(&attachment.device).or_default().push(attachment);
            view.for_machine.entry(namespace).or_default().entry(&attachment.vm).or_default().push(attachment);
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
        view
    }

    /// Everything that is published.
    pub(super) fn published(&self) -> &Published<'w> {
        &self.published
    }

    /// The node that publishes the device of an object, and what it says.
    pub(super) fn publisher(&self, object: &DeviceName) -> Option<(&'w NodeName, &'w Device)> {
        self.published.get(object).copied()
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
