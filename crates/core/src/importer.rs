//! The importer's planner: what the agent does on the node where devices are used.
//!
//! The whole state is read from where it lives: attachment pods from the API server, ports from vhci, devices from sysfs,
//! what is plugged from QEMU itself. The only memory is the journal's record of which ports are ours, so an agent that was
//! killed at any moment goes on where it was.
//!
//! # States of an attachment that wants its device plugged
//!
//! ```text
//!   remote:  free port --Call--> occupied --(kernel enumerates)--> device --Plug--> in the guest --> Report Plugged
//!   local:                                                         device --Plug--> in the guest --> Report Plugged
//! ```
//!
//! and backwards, from whatever step it is at, when it no longer wants it or the device is gone: `Unplug`, `Detach`,
//! `HangUp`, `Report Unplugged`.
//!
//! The claim of an ordinary pod goes the same way up to `device`, from the moment the kubelet asks for it until it has it
//! undone; [`reach`] says how far each is.

mod action;
mod held;
mod observed;
mod start;

use std::collections::{BTreeMap, BTreeSet};

use crate::conditions::PluggedState;
use crate::device::BusAddress;
use crate::names::{DeviceName, NodeName, Uid};
use crate::speed::PortName;
pub use action::{Action, Step};
use held::in_any_guest;
pub use held::{Held, has_still, held, is_ours, used_by_guests, used_here};
pub use observed::{Attachment, Observed, Occupied, Plugged, Port, Source};
pub use start::{DEVICES_FIRST, Start, Starting, is_bringing, start};

/// Decides what to do about `seen`, in order.
pub fn plan(seen: &Observed) -> Vec<Action> {
    let mut actions = Vec::new();
    // What may stay: (machine, device) in guests, ports, calls.
    let mut kept = Kept::default();
    for (uid, attachment) in seen.attachments.iter().filter(|(_, a)| a.wanted) {
        let (step, state) = fulfil(seen, uid, attachment, &mut kept);
        actions.extend(step);
        actions.extend(report(attachment, state));
    }
    for (uid, source) in &seen.pods {
        keep(seen, uid, source, &mut kept);
        if let Located::Missing(step, _) = locate(seen, uid, source) {
            actions.extend(step);
        }
    }
    withdraw(seen, &kept, &mut actions);
    for (uid, attachment) in seen.attachments.iter().filter(|(_, a)| !a.wanted) {
        if out(seen, uid, attachment) && attachment.reported.is_some() {
            actions.extend(report(attachment, PluggedState::Unplugged));
        }
    }
    actions
}

/// How far the device of an ordinary pod's claim is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// This node's kernel has it under this address, and no guest uses it.
    Here(BusAddress),
    /// Not yet, or no longer; for people.
    Away(String),
}

/// How far the device of each claim in [`Observed::pods`] is.
pub fn reach(seen: &Observed) -> BTreeMap<Uid, Reach> {
    let one = |(uid, source): (&Uid, &Source)| {
        let reach = match locate(seen, uid, source) {
            Located::At(address) if in_any_guest(seen, address) => {
                Reach::Away("taking the device out of the guest that had it before".to_owned())
            }
            Located::At(address) => Reach::Here(address),
            Located::Missing(_, PluggedState::Failed(text) | PluggedState::Waiting(text)) => Reach::Away(text),
            Located::Missing(_, state) => Reach::Away(state.message()),
        };
        (uid.clone(), reach)
    };
    seen.pods.iter().map(one).collect()
}

/// What is said when the agent of a home node cannot be called.
pub fn unreachable(home: &NodeName) -> String {
    format!("the agent of node {home} cannot be called")
}

/// What belongs to attachments and pods that want their device.
#[derive(Default)]
struct Kept {
    guests: BTreeSet<(Uid, DeviceName)>,
    /// Ports, with the claim each is for.
    ports: BTreeSet<(PortName, Uid)>,
    calls: BTreeSet<Uid>,
}

/// The next step of an attachment that wants its device, and what to say of it.
fn fulfil(seen: &Observed, uid: &Uid, attachment: &Attachment, kept: &mut Kept) -> (Option<Action>, PluggedState) {
    let waiting = |text: &str| PluggedState::Waiting(text.to_owned());
    let machine = seen.machines.get(&attachment.vm_pod.uid);
    let plugged = machine.and_then(|m| m.iter().find(|p| p.device == attachment.device));
    let source = match &attachment.source {
        Some(source) => source,
        None if attachment.started => return (None, PluggedState::ClaimLost),
        None => return (None, waiting("waiting for the kubelet to prepare its claims")),
    };
    keep(seen, uid, source, kept);
    let address = match locate(seen, uid, source) {
        Located::At(address) => address,
        Located::Missing(step, state) => return (step, state),
    };
    if machine.is_none() {
        return (None, waiting("waiting for the virtual machine to open its monitor"));
    }
    match plugged {
        Some(Plugged { address: Some(there), guest: Some(guest), .. }) if *there == address => {
            kept.guests.insert((attachment.vm_pod.uid.clone(), attachment.device.clone()));
            (None, PluggedState::Plugged(guest.clone()))
        }
        _ if seen.moving.contains(&attachment.vm_pod.uid) => (None, waiting("the virtual machine is being moved")),
        Some(_) => (None, waiting("taking the device's former incarnation out of the guest")),
        // A device that stays where it is when it changes hands is in the former guest until that one has let go.
        None if in_any_guest(seen, address) => (None, waiting("taking the device out of the guest that had it before")),
        None => match seen.failures.get(&Step::Plug(uid.clone())) {
            Some(why) => (None, PluggedState::Failed(why.clone())),
            // Its home node resets it when the session ends.
            None if let Source::Remote { port, .. } = source
                && seen.used.contains(&address) =>
            {
                match seen.failures.get(&Step::Detach(*port)) {
                    Some(why) => (None, PluggedState::Failed(why.clone())),
                    None => (
                        Some(Action::Detach { port: *port }),
                        waiting("resetting the device, which another guest has had"),
                    ),
                }
            }
            None => {
                let plug = Action::Plug {
                    attachment: uid.clone(),
                    vm_pod: attachment.vm_pod.clone(),
                    device: attachment.device.clone(),
                    address,
                    reset: seen.used.contains(&address),
                };
                (Some(plug), waiting("plugging into the guest"))
            }
        },
    }
}

/// Marks the port and the call of a user that wants its device.
fn keep(seen: &Observed, user: &Uid, source: &Source, kept: &mut Kept) {
    if let Source::Remote { port, claim, .. } = source {
        kept.ports.insert((*port, claim.uid.clone()));
        // A session that another call has brought, for the same claim, makes this one needless.
        if !seen.ports.get(port).is_some_and(|p| p.holds(&claim.uid)) {
            kept.calls.insert(user.clone());
        }
    }
}

/// Whether this node's kernel has a user's device.
enum Located {
    At(BusAddress),
    Missing(Option<Action>, PluggedState),
}

fn locate(seen: &Observed, user: &Uid, source: &Source) -> Located {
    let missing = |text: String| Located::Missing(None, PluggedState::Waiting(text));
    let (device, home, claim, port) = match source {
        Source::Local { device } => {
            let has = |(other, source): (&Uid, &Source)| match source {
                Source::Local { device: theirs } => other != user && theirs == device,
                Source::Remote { .. } => false,
            };
            return match seen.local.get(device) {
                // Its containers may still run, though its pod and claim were deleted by force.
                Some(_) if seen.pods.iter().any(has) => {
                    missing("waiting for the kubelet to end the pod that had the device before".to_owned())
                }
                // Once it is in a guest, it is the guest's.
                Some(address) => match seen.kept.get(device).filter(|_| !in_any_guest(seen, *address)) {
                    Some(why) => missing(why.clone()),
                    None => Located::At(*address),
                },
                None => missing("the device is absent on this node".to_owned()),
            };
        }
        Source::Remote { device, home, claim, port } => (device, home, claim, port),
    };
    let Some(state) = seen.ports.get(port) else {
        return missing(format!("port {port} is not there: load the kernel module vhci-hcd (modprobe vhci-hcd)"));
    };
    match (&state.occupied, &state.record) {
        (Some(occupied), Some(record)) if *record == claim.uid => match occupied.address {
            Some(address) => Located::At(address),
            None if occupied.stuck && !seen.failures.contains_key(&Step::Detach(*port)) => Located::Missing(
                Some(Action::Detach { port: *port }),
                PluggedState::Waiting("the device does not come up: calling for it again".to_owned()),
            ),
            None => missing("the kernel is enumerating the device".to_owned()),
        },
        (Some(_), Some(_)) => missing(format!("port {port} is being freed")),
        (Some(_), None) => {
            missing(format!("port {port} is used by something else on this node (see usbip port): free it"))
        }
        // A call goes on while the plan is carried out: it must not write its record before the old one is forgotten.
        (None, Some(record)) if *record != claim.uid => missing(format!("port {port} is being freed")),
        (None, _) => {
            if let Some(word) = seen.calls.get(user) {
                return missing(word.clone());
            }
            if let Some(why) = seen.failures.get(&Step::Call(user.clone())) {
                return Located::Missing(None, PluggedState::Failed(why.clone()));
            }
            let call = Action::Call {
                user: user.clone(),
                device: device.clone(),
                home: home.clone(),
                claim: claim.clone(),
                port: *port,
            };
            Located::Missing(Some(call), PluggedState::Waiting(format!("asking node {home} for the device")))
        }
    }
}

/// Takes back what no attachment wants: calls first, then out of guests, then ports. Not the other way round, though QEMU would
/// then have nothing to reset: QEMU 7.2 may abort when a device vanishes while its guest uses it.
fn withdraw(seen: &Observed, kept: &Kept, actions: &mut Vec<Action>) {
    let given_up: Vec<&Uid> = seen.calls.keys().filter(|user| !kept.calls.contains(*user)).collect();
    actions.extend(given_up.iter().map(|user| Action::HangUp { user: (*user).clone() }));
    let mut in_guest: BTreeSet<BusAddress> = BTreeSet::new();
    for (vm_pod, plugged) in &seen.machines {
        for item in plugged.iter().filter(|p| !kept.guests.contains(&(vm_pod.clone(), p.device.clone()))) {
            if seen.moving.contains(vm_pod) {
                in_guest.extend(item.address);
                continue;
            }
            // A machine that does not let go must not keep the port: after a failed try the port is freed under it.
            if !seen.failures.contains_key(&Step::Unplug(vm_pod.clone(), item.device.clone())) {
                actions.push(Action::Unplug { vm_pod: vm_pod.clone(), device: item.device.clone() });
                in_guest.extend(item.address);
            }
        }
    }
    for (name, port) in &seen.ports {
        // A port whose claim was deleted by force may be allocated a second time: who has it keeps it until its user is gone.
        let Some(record) = &port.record else { continue };
        if kept.ports.contains(&(*name, record.clone())) {
            continue;
        }
        match &port.occupied {
            // A call that is given up may have been granted at this very moment: until it has ended, it may still write its
            // record, occupy its port, and free it by that record.
            None if !given_up.is_empty() => {}
            None => actions.push(Action::Forget { port: *name }),
            Some(o) if o.address.is_some_and(|a| in_guest.contains(&a)) => {}
            Some(_) if seen.failures.contains_key(&Step::Detach(*name)) => {}
            Some(_) => actions.push(Action::Detach { port: *name }),
        }
    }
}

/// Whether nothing is left of an attachment that no longer wants its device.
fn out(seen: &Observed, uid: &Uid, attachment: &Attachment) -> bool {
    let in_guest =
        seen.machines.get(&attachment.vm_pod.uid).is_some_and(|m| m.iter().any(|p| p.device == attachment.device));
    let on_port = match &attachment.source {
        Some(Source::Remote { port, claim, .. }) => seen.ports.get(port).is_some_and(|p| p.holds(&claim.uid)),
        _ => false,
    };
    !in_guest && !on_port && !seen.calls.contains_key(uid)
}

/// The report of `state`, if it says anything new. Steps that are merely under way are reported only when they take long, or
/// when the device has just left the guest: the API server is told of results and of waits, not of each step.
fn report(attachment: &Attachment, state: PluggedState) -> Option<Action> {
    if attachment.reported.as_ref() == Some(&state) {
        return None;
    }
    let falls = matches!(attachment.reported, Some(PluggedState::Plugged(_)));
    let quiet = matches!(state, PluggedState::Waiting(_)) && !falls && !attachment.overdue;
    (!quiet).then(|| Action::Report { pod: attachment.pod.clone(), state })
}

#[cfg(test)]
mod tests;
