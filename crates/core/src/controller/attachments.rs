//! Claims and attachment pods: which device shall be in which virtual machine.
//!
//! Each (running VM pod, listed name) is a wish. A wish has exactly one [`Verdict`], from which both the actions here and
//! the messages in [`super::status`] are made, so that what is said is what is done.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::conditions::{PluggedState, Seconds};
use crate::controller::action::{Action, NewAttachment, Plan};
use crate::controller::devices::{Presence, home};
use crate::controller::moves::{self, Active};
use crate::controller::status::{keeps_ports_to_itself, no_free_port, step};
use crate::controller::view::View;
use crate::controller::world::{Attachment, Claim, Placement, PodState, Vm, Want, World};
use crate::controller::{CLAIMS_SEEN_WITHIN, engine, pods};
use crate::names::{ClaimName, DeviceName, Namespace, NodeName, PodName, PodRef, Uid, VmName};

/// When a kubelet is reminded of an attachment pod that it has not started, counted from its scheduling. A kubelet that could not
/// prepare a pod's claims, be it only because the API server did not know yet that the pod is its, lets the pod lie for 60 to 90
/// seconds; any change of the pod has it try at once (Kubernetes 1.34, `kuberuntime_manager.go` and `pod_workers.go`). Those 60 to 90
/// seconds begin anew with each try, so reminding goes on for longer than whatever a kubelet mends by itself takes: what it has
/// kept of claims that are gone it forgets after a minute.
pub(super) const REMIND_AFTER: [Seconds; 7] = [3, 10, 30, 50, 70, 90, 110];

/// For how long the scheduler may fail with a pod. It tries again within 10 s; but a pod that it has confused with its predecessor
/// of the same name is not looked at for five minutes.
const SCHEDULER_FAILS_FOR: Seconds = 15;

/// That this device be in this virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The device.
    pub device: DeviceName,
    /// The machine.
    pub vm: VmName,
    /// The pod it runs in.
    pub vm_pod: PodRef,
    /// The node of that pod.
    pub node: NodeName,
}

/// What becomes of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict<'w> {
    /// It is being fulfilled by this pod.
    Kept(&'w Attachment),
    /// Its attachment pod is to be made now.
    Attach {
        /// The claim has to be made first.
        claim_missing: bool,
    },
    /// It waits.
    Wait(Wait),
}

/// What a wish waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// There is no such `USBDevice` in the namespace.
    NoDevice,
    /// The device is there but not ready; says why.
    NotReady(String),
    /// The device is being taken from this namespace.
    Leaving,
    /// Another virtual machine has it.
    HeldBy(VmName),
    /// An ordinary pod has it; says which.
    HeldByPod(String),
    /// What was made for an earlier attachment is still going away.
    Settling,
    /// The machine is being moved to another node.
    Moving,
}

/// Whether the devices of a machine are held where it is to move to.
pub(super) enum Reservation {
    /// All that are in the guest.
    Ready,
    /// Not yet; for people.
    Waits(String),
    /// One will not find a port there; for people.
    NoPort(String),
}

/// The claim of a device.
pub fn claim_name(device: &DeviceName) -> ClaimName {
    ClaimName::new(format!("usb-{device}"))
}

/// The attachment pod of a device in a VM pod. Follows from both, so a repeated create makes no second one.
pub fn attachment_name(device: &DeviceName, vm_pod: &Uid) -> PodName {
    let digest = Sha256::digest(vm_pod.as_str());
    let suffix: String = digest.iter().take(3).map(|b| format!("{b:02x}")).collect();
    PodName::new(format!("usb-{device}-{suffix}"))
}

/// All wishes, in a fixed order, each name of a list once.
pub(super) fn wishes(world: &View<'_>) -> Vec<Wish> {
    world.vms.iter().flat_map(|((namespace, name), vm)| wishes_of(world, namespace, name, vm)).collect()
}

/// Those of one machine.
pub(super) fn wishes_of(world: &View<'_>, namespace: &Namespace, name: &VmName, vm: &Vm) -> Vec<Wish> {
    let mut wishes = Vec::new();
    if vm.deleting || !vm.run() || vm.usb_devices.is_empty() {
        return wishes;
    }
    let Some((vm_pod, pod)) = engine::running(world, namespace, name, vm) else { return wishes };
    let Some(node) = &pod.node else { return wishes };
    let mut seen = BTreeSet::new();
    for device in vm.usb_devices.iter().filter(|d| seen.insert(*d)) {
        wishes.push(Wish { device: device.clone(), vm: name.clone(), vm_pod: vm_pod.clone(), node: node.clone() });
    }
    wishes
}

/// What becomes of `wish`, as far as it does not depend on other wishes of the same moment.
pub(super) fn verdict<'w>(world: &'w View<'w>, wish: &Wish) -> Verdict<'w> {
    let namespace = &wish.vm_pod.namespace;
    let mut others = attachments_of(world, namespace, &wish.device);
    if let Some(own) = others.clone().find(|a| a.vm_pod == wish.vm_pod) {
        return if valid(world, own) { Verdict::Kept(own) } else { Verdict::Wait(Wait::Settling) };
    }
    let Some(device) = world.object(namespace, &wish.device) else {
        return Verdict::Wait(Wait::NoDevice);
    };
    if device.deleting || world.assigned(&wish.device) != Some(namespace) {
        return Verdict::Wait(Wait::Leaving);
    }
    if let Some(other) = others.next() {
        let leaving = other.deleting || !valid(world, other);
        return Verdict::Wait(if leaving && other.vm == wish.vm {
            Wait::Settling
        } else {
            Wait::HeldBy(other.vm.clone())
        });
    }
    if let Some(holder) = pods::holder(world, &wish.device) {
        return Verdict::Wait(Wait::HeldByPod(holder.subject()));
    }
    let home = match home(world, &wish.device) {
        Presence::Ready { node, .. } => node,
        Presence::NotReady { why, .. } => return Verdict::Wait(Wait::NotReady(why)),
        Presence::Absent { why } => return Verdict::Wait(Wait::NotReady(why)),
    };
    if moves::is_undecided(world, namespace, &wish.vm, &wish.vm_pod) {
        return Verdict::Wait(Wait::Moving);
    }
    match claim_of(world, namespace, &wish.device) {
        None => Verdict::Attach { claim_missing: true },
        Some(claim) if claim.deleting || claim.node != *home => Verdict::Wait(Wait::Settling),
        Some(_) => Verdict::Attach { claim_missing: false },
    }
}

/// Makes and deletes claims and attachment pods.
pub(super) fn plan(world: &View<'_>, plan: &mut Plan) {
    let mut granted: BTreeSet<(Namespace, DeviceName)> = BTreeSet::new();
    for wish in wishes(world) {
        let Verdict::Attach { claim_missing } = verdict(world, &wish) else { continue };
        let namespace = wish.vm_pod.namespace.clone();
        // Of several who ask at the same moment the first in order gets it.
        if granted.insert((namespace, wish.device.clone())) {
            attach(world, &wish, claim_missing, Want::Plugged, plan);
        }
    }
    for moving in world.active() {
        reserve(world, moving, plan);
    }
    for ((namespace, name), attachment) in &world.attachments {
        for time in [claims_awaited_until(world, attachment), stuck_from(attachment)].into_iter().flatten() {
            if time > world.now {
                plan.wake(time);
            }
        }
        let (namespace, name, uid) = (namespace.clone(), name.clone(), attachment.uid.clone());
        if attachment.deleting {
            continue;
        }
        if !valid(world, attachment) {
            plan.actions.push(Action::DeleteAttachment { namespace, name, uid });
        } else if attachment.want == Want::Reserved
            && machine_of(world, attachment).is_some_and(|vm| has_its_machine(world, attachment, vm))
        {
            plan.actions.push(Action::Plug { namespace, name, uid });
        } else if let Some(due) = reminder(attachment) {
            if due <= world.now {
                let times = attachment.reminders.saturating_add(1);
                plan.actions.push(Action::Remind { namespace, name, uid, times });
            } else {
                plan.wake(due);
            }
        }
    }
    for ((namespace, name), claim) in &world.claims {
        let in_use = attachments_of(world, namespace, &claim.device).next().is_some();
        if !claim.deleting && !in_use && !granted.contains(&(namespace.clone(), claim.device.clone())) {
            let uid = claim.uid.clone();
            plan.actions.push(Action::DeleteClaim { namespace: namespace.clone(), name: name.clone(), uid });
        }
    }
}

/// When a kubelet is to be reminded of a pod; None when it has started it, or was reminded often enough. Where the device is in the
/// guest it has prepared the claims, and does not start the pod because the agent has it wait.
fn reminder(attachment: &Attachment) -> Option<Seconds> {
    let Placement::Placed(since) = attachment.placement else { return None };
    let waits = attachment.state == PodState::Pending && !attachment.holds();
    let after = REMIND_AFTER.get(attachment.reminders).filter(|_| waits)?;
    Some(since.saturating_add(*after))
}

/// The steps that bring a device to a machine: claim, template for a port, pod.
fn attach(world: &View<'_>, wish: &Wish, claim_missing: bool, want: Want, plan: &mut Plan) {
    let namespace = wish.vm_pod.namespace.clone();
    let Presence::Ready { node: home, device } = home(world, &wish.device) else { return };
    let Some(owner) = world.object(&namespace, &wish.device) else { return };
    if claim_missing {
        plan.actions.push(Action::CreateClaim {
            namespace: namespace.clone(),
            name: claim_name(&wish.device),
            device: wish.device.clone(),
            dra_name: device.name.clone(),
            node: home.clone(),
            owner: owner.uid.clone(),
        });
    }
    let hub = (wish.node != *home).then(|| device.attributes.speed.hub());
    if let Some(hub) = hub.filter(|h| !world.port_templates.contains(&(namespace.clone(), *h))) {
        let template = Action::CreatePortTemplate { namespace: namespace.clone(), hub };
        if !plan.actions.contains(&template) {
            plan.actions.push(template);
        }
    }
    plan.actions.push(Action::CreateAttachment(NewAttachment {
        name: attachment_name(&wish.device, &wish.vm_pod.uid),
        device: wish.device.clone(),
        claim: claim_name(&wish.device),
        vm_pod: wish.vm_pod.clone(),
        vm: wish.vm.clone(),
        node: wish.node.clone(),
        hub,
        want,
    }));
}

/// The devices in a guest that moves: of each the attachment that has it.
fn in_guest<'w>(world: &'w View<'w>, vm: &VmName, source: &PodRef) -> impl Iterator<Item = &'w Attachment> {
    let of_it = |a: &&Attachment| a.vm_pod == *source && a.holds() && !a.deleting && valid(world, a);
    world.attachments_to(&source.namespace, vm).iter().copied().filter(of_it)
}

/// The attachment of a device to a pod.
fn attachment_to<'w>(world: &'w View<'w>, device: &DeviceName, pod: &PodRef) -> Option<&'w Attachment> {
    attachments_of(world, &pod.namespace, device).find(|a| a.vm_pod == *pod)
}

/// Holds what the devices of a machine need where it is to move to.
fn reserve(world: &View<'_>, moving: &Active<'_>, plan: &mut Plan) {
    for held in in_guest(world, moving.vm, &moving.source) {
        if attachment_to(world, &held.device, &moving.target).is_none() {
            let (device, vm) = (held.device.clone(), moving.vm.clone());
            let wish = Wish { device, vm, vm_pod: moving.target.clone(), node: moving.node.clone() };
            attach(world, &wish, false, Want::Reserved, plan);
        }
    }
}

/// Whether all is held where a machine is to move to.
pub(super) fn reservation(world: &View<'_>, vm: &VmName, source: &PodRef, target: &PodRef) -> Reservation {
    let mut waits = None;
    for held in in_guest(world, vm, source) {
        let device = &held.device;
        let Some(own) = attachment_to(world, device, target) else {
            if let Presence::NotReady { why, .. } | Presence::Absent { why } = home(world, device) {
                waits.get_or_insert(format!("USB device {device}: {why}"));
            } else {
                waits.get_or_insert(format!("USB device {device} is being made ready there"));
            }
            continue;
        };
        match no_free_port(world, own).map(|why| format!("USB device {device} cannot follow: {why}")) {
            // A node that has just booted tells its ports a moment later than that it is ready.
            Some(why) if keeps_ports_to_itself(world, &own.node) => drop(waits.get_or_insert(why)),
            Some(why) => return Reservation::NoPort(why),
            None => {}
        }
        if own.state != PodState::Running {
            waits.get_or_insert(format!("USB device {device}: {}", step(own)));
        }
    }
    waits.map_or(Reservation::Ready, Reservation::Waits)
}

/// The machine that an attachment is for.
fn machine_of<'w>(world: &View<'w>, attachment: &Attachment) -> Option<&'w Vm> {
    world.world().vms.get(&(attachment.vm_pod.namespace.clone(), attachment.vm.clone()))
}

/// Whether a machine runs in the pod that an attachment is for.
fn has_its_machine(world: &View<'_>, attachment: &Attachment, vm: &Vm) -> bool {
    let running = engine::running(world, &attachment.vm_pod.namespace, &attachment.vm, vm);
    running.is_some_and(|(pod, found)| pod == attachment.vm_pod && found.node.as_ref() == Some(&attachment.node))
}

/// Whether a machine is about to move into the pod that an attachment is for.
fn awaits_its_machine(world: &View<'_>, attachment: &Attachment) -> bool {
    let awaited = |moving: &Active<'_>| moving.target == attachment.vm_pod && *moving.node == attachment.node;
    attachment.want == Want::Reserved && world.active().iter().any(awaited)
}

/// Whether the claim of an attachment's device, or that of its port, is not there.
pub fn lacks_a_claim(world: &World, attachment: &Attachment) -> bool {
    claim_of(world, &attachment.vm_pod.namespace, &attachment.device).is_none() || lacks_its_port(world, attachment)
}

fn lacks_its_port(world: &World, attachment: &Attachment) -> bool {
    let there = |name: &ClaimName| world.port_claims.contains(&(attachment.vm_pod.namespace.clone(), name.clone()));
    !attachment.port_claim.as_ref().is_none_or(there)
}

/// Until when a claim of an attachment may be there though it is not seen; None when all are seen.
fn claims_awaited_until(world: &World, attachment: &Attachment) -> Option<Seconds> {
    lacks_a_claim(world, attachment).then(|| attachment.created.saturating_add(CLAIMS_SEEN_WITHIN))
}

/// When the scheduler has failed for too long.
fn stuck_from(attachment: &Attachment) -> Option<Seconds> {
    let Placement::Failed(since) = attachment.placement else { return None };
    Some(since.saturating_add(SCHEDULER_FAILS_FOR))
}

/// Whether an attachment shall stay: its machine runs in its pod, or is about to move there, and lists the device, the device is
/// this namespace's, its claim asks for the node the device is on, it is remote if and only if that is another node than the
/// machine's, its claims are still what the kubelet has prepared for it, and the scheduler has not given up on it.
/// A device that is absent changes nothing: the attachment waits for it.
fn valid(world: &View<'_>, attachment: &Attachment) -> bool {
    world.stays(attachment, || is_right(world, attachment))
}

fn is_right(world: &View<'_>, attachment: &Attachment) -> bool {
    let namespace = &attachment.vm_pod.namespace;
    let listed = machine_of(world, attachment).is_some_and(|vm| {
        let here = has_its_machine(world, attachment, vm) || awaits_its_machine(world, attachment);
        here && vm.run() && !vm.deleting && vm.usb_devices.contains(&attachment.device)
    });
    let given = world.assigned(&attachment.device) == Some(namespace)
        && world.object(namespace, &attachment.device).is_some_and(|d| !d.deleting);
    let awaited = claims_awaited_until(world, attachment).is_some_and(|until| world.now < until);
    let placed = match claim_of(world, namespace, &attachment.device) {
        Some(claim) => {
            let moved = home(world, &attachment.device).node().is_some_and(|node| *node != claim.node);
            let local = claim.node == attachment.node;
            !claim.deleting && !moved && local == attachment.hub.is_none()
        }
        None => awaited,
    };
    let stuck = stuck_from(attachment).is_some_and(|from| from <= world.now);
    let entitled = attachment.plugged != Some(PluggedState::ClaimLost);
    // No pod runs before it has its port. Without the claim the port is free for the scheduler to give to somebody else.
    let port_lost = attachment.state == PodState::Running && !awaited && lacks_its_port(world, attachment);
    listed && given && placed && !stuck && entitled && !port_lost && attachment.state != PodState::Ended
}

/// The attachments of a device in a namespace, those being deleted included.
pub(super) fn attachments_of<'w>(
    world: &'w View<'w>,
    namespace: &Namespace,
    device: &DeviceName,
) -> impl Iterator<Item = &'w Attachment> + Clone {
    world.attachments_of(device).iter().copied().filter(|a| a.vm_pod.namespace == *namespace)
}

/// The claim of a device in a namespace.
fn claim_of<'w>(world: &'w World, namespace: &Namespace, device: &DeviceName) -> Option<&'w Claim> {
    world.claims.get(&(namespace.clone(), claim_name(device)))
}
