//! Cables: from a device to each machine that lists it, and to whoever has it.

use std::collections::BTreeSet;

use patchbay_core::controller::why as chain;
use patchbay_core::controller::world::{DeviceStatus, PodClaim, World};
use patchbay_core::names::{ClaimName, DeviceName, Namespace, VmName};
use serde::Serialize;

use super::state::State;
use super::{Chain, Machine};

/// What a cable's end is, where it is a virtual machine.
pub(super) const VM: &str = "vm";

/// The same where it is a pod.
const POD: &str = "pod";

/// A cable.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cable {
    device: DeviceName,
    kind: &'static str,
    namespace: Namespace,
    machine: String,
    state: State,
    /// The machine lists the device: it can be taken off the list.
    listed: bool,
    why: Chain,
}

#[cfg(test)]
impl Cable {
    /// What there is to see of it: device, kind, namespace and name of the other end, state, and why.
    pub(super) fn told(&self) -> (&DeviceName, &str, &Namespace, &str, State, &str) {
        (&self.device, self.kind, &self.namespace, &self.machine, self.state, &self.why.says)
    }
}

/// All cables; in the scope of a namespace only what that shows.
pub(super) fn all(world: &World, only: Option<&Namespace>, names: &BTreeSet<&DeviceName>) -> Vec<Cable> {
    let shown = world.vms.iter().filter(|((namespace, _), vm)| !vm.deleting && only.is_none_or(|o| o == namespace));
    let wishes = shown.flat_map(|((namespace, vm), spec)| spec.usb_devices.iter().map(move |d| (d, namespace, vm)));
    let wishes = wishes.filter(|(device, ..)| names.contains(device));
    let cables = wishes.map(|(device, namespace, vm)| wish(world, only, device, namespace, vm));
    let mut cables: Vec<Cable> = cables.chain(leaving(world)).chain(to_pods(world)).collect();
    cables.sort_by(|a, b| (&a.device, &a.namespace, &a.machine).cmp(&(&b.device, &b.namespace, &b.machine)));
    cables
}

fn status<'w>(world: &'w World, device: &DeviceName, namespace: &Namespace) -> Option<&'w DeviceStatus> {
    let of_node = world.node_devices.get(device).map(|d| &d.status);
    of_node.or_else(|| world.devices.get(&(namespace.clone(), device.clone())).map(|d| &d.status))
}

fn wish(world: &World, only: Option<&Namespace>, device: &DeviceName, namespace: &Namespace, vm: &VmName) -> Cable {
    let found = match only {
        None => chain::device(world, device, Some(&(namespace.clone(), vm.clone()))),
        Some(_) => chain::told::device(world, namespace, device, Some(vm)),
    };
    let state = status(world, device, namespace).map_or(State::Waiting, |status| State::of_chain(&found, status));
    Cable {
        device: device.clone(),
        kind: VM,
        namespace: namespace.clone(),
        machine: vm.to_string(),
        state,
        listed: true,
        why: Chain::new(&found, only.is_some()),
    }
}

/// What is in a guest, and not on its machine's list any more.
fn leaving(world: &World) -> impl Iterator<Item = Cable> {
    let held = world.attachments.values().filter(|a| a.holds());
    let unlisted = held.filter(|a| {
        let vm = world.vms.get(&(a.vm_pod.namespace.clone(), a.vm.clone()));
        vm.is_none_or(|vm| vm.deleting || !vm.usb_devices.contains(&a.device))
    });
    unlisted.map(|a| Cable {
        device: a.device.clone(),
        kind: VM,
        namespace: a.vm_pod.namespace.clone(),
        machine: a.vm.to_string(),
        state: State::Waiting,
        listed: false,
        why: Chain { says: "it is leaving the guest".to_owned(), ..Chain::default() },
    })
}

/// The device that a pod's claim has got, by its object's name.
fn held<'w>(world: &'w World, claim: &PodClaim) -> Option<&'w DeviceName> {
    let allocated = claim.allocated.as_ref()?;
    let published = |name: &DeviceName, status: &DeviceStatus| {
        status.node.as_ref() == Some(&allocated.home)
            && *status.device_name.as_ref().unwrap_or(name) == allocated.device
    };
    world.node_devices.iter().find(|(name, device)| published(name, &device.status)).map(|(name, _)| name)
}

/// Who has a claim: its pod, or the claim itself where there is none.
fn consumer(claim: &ClaimName, content: &PodClaim) -> String {
    content.pods.first().map_or_else(|| claim.to_string(), ToString::to_string)
}

fn to_pods(world: &World) -> impl Iterator<Item = Cable> {
    world.pod_claims.iter().filter_map(|((namespace, name), claim)| {
        let told = claim.told.as_ref();
        let attached = told.is_some_and(|told| told.attached);
        Some(Cable {
            device: held(world, claim)?.clone(),
            kind: POD,
            namespace: namespace.clone(),
            machine: consumer(name, claim),
            state: if attached { State::Attached } else { State::Waiting },
            listed: false,
            why: Chain { says: told.map_or_else(String::new, |told| told.message.clone()), ..Chain::default() },
        })
    })
}

/// The pods that cables lead to.
pub(super) fn pods(world: &World, cables: &[Cable]) -> Vec<Machine> {
    let pods: BTreeSet<_> = cables.iter().filter(|c| c.kind == POD).map(|c| (&c.namespace, &c.machine)).collect();
    let node = |namespace: &Namespace, pod: &str| {
        let claims = world.pod_claims.iter().filter(|((ns, name), c)| ns == namespace && consumer(name, c) == pod);
        claims.filter_map(|(_, claim)| claim.allocated.as_ref()?.node.clone()).next()
    };
    let machine = |(namespace, pod): (&Namespace, &String)| Machine {
        kind: POD,
        namespace: namespace.clone(),
        name: pod.clone(),
        node: node(namespace, pod),
        runs: true,
        says: format!("pod {namespace}/{pod}"),
        unknown: Vec::new(),
    };
    pods.into_iter().map(machine).collect()
}
