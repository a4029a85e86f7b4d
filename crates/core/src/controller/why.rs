//! Why a device is not in its machine: the chain from the cable to the guest, link by link.
//!
//! It is decided by the functions that decide what the controller does, from the same objects, and not read from what the
//! controller has written: so it is true, in the same words, also while no controller runs. The chain ends at the first
//! link that does not hold, with what somebody may do about it; what is beyond says nothing yet.

mod link;
mod remedy;
pub mod told;

pub use link::Link;
pub use remedy::Remedy;

use crate::conditions::PluggedState;
use crate::controller::attachments::{Verdict, Wait, attachment_name, attachments_of, verdict, wishes};
use crate::controller::devices::{self, Presence, home, is_dead};
use crate::controller::status::{no_free_port, step};
use crate::controller::view::View;
use crate::controller::world::{Attachment, NodeDevice, PodState, Vm, VmPhase, VmPod, World};
use crate::controller::{engine, machines, moves, pods};
use crate::importer::unreachable;
use crate::names::{DeviceName, Namespace, NodeName, PodRef, VmName};

/// What was found at one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub link: Link,
    /// How it holds, for people, or why it does not.
    pub state: Result<String, Trouble>,
}

/// Why a link does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For people.
    pub why: String,
    /// What somebody may do about it.
    pub remedy: Remedy,
}

type State = Result<String, Trouble>;

fn bad<T>(why: impl Into<String>, remedy: Remedy) -> Result<T, Trouble> {
    Err(Trouble { why: why.into(), remedy })
}

/// The chain of a device to a machine; without one, to the machine that has it, or to the first that asks for it. It ends
/// at the first link that does not hold, or in the guest, or in the pod that has the device.
pub fn device(world: &World, device: &DeviceName, machine: Option<&(Namespace, VmName)>) -> Vec<Finding> {
    let mut found = Vec::new();
    // Whether all links hold can be seen in what was found.
    let _ = walk(&View::of(world), device, machine, &mut found);
    found
}

/// The machine of a namespace that asks for a device, if none of that namespace has it: whoever asks about the namespace wants to
/// know what that one waits for, and not that the device is well where it is.
pub fn waiting(world: &World, namespace: &Namespace, device: &DeviceName) -> Option<(Namespace, VmName)> {
    let held = |((ns, _), a): (&(Namespace, _), &Attachment)| ns == namespace && a.device == *device;
    if world.attachments.iter().any(held) {
        return None;
    }
    let lists = |vm: &Vm| !vm.deleting && vm.usb_devices.contains(device);
    world.vms.iter().find(|((ns, _), vm)| ns == namespace && lists(vm)).map(|(key, _)| key.clone())
}

/// Whether a machine runs, or why it does not.
pub fn machine(world: &World, namespace: &Namespace, name: &VmName, vm: &Vm) -> State {
    runs(&View::of(world), namespace, name, vm)
}

fn runs(world: &View<'_>, namespace: &Namespace, name: &VmName, vm: &Vm) -> State {
    if let Some((_, pod)) = engine::running(world, namespace, name, vm).filter(|(_, p)| p.trouble.is_none() && vm.run())
    {
        let node = pod.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
        return Ok(format!("virtual machine {namespace}/{name} runs{node}"));
    }
    // One that shall not run is as good as stopped, whatever is left of it.
    let phase = if vm.run() { engine::phase(world, namespace, name, vm) } else { VmPhase::Stopped };
    let pod = engine::pod(world, namespace, name);
    let (_, message) = engine::running_reason(world, phase, pod.map(|(_, pod)| pod), vm);
    let remedy = match pod {
        _ if !vm.run() && vm.policy.is_by_hand() => Remedy::Start { namespace: namespace.clone(), vm: name.clone() },
        _ if !vm.run() => Remedy::AsSaid,
        Some((_, VmPod { deleting: true, node: Some(node), .. })) if is_dead(world, node) => {
            Remedy::HealNode(node.clone())
        }
        Some((pod, _)) => Remedy::DescribePod { namespace: namespace.clone(), pod: pod.clone() },
        None => Remedy::CheckController,
    };
    bad(format!("virtual machine {namespace}/{name} does not run: {message}"), remedy)
}

fn walk(
    world: &View<'_>,
    name: &DeviceName,
    machine: Option<&(Namespace, VmName)>,
    found: &mut Vec<Finding>,
) -> Option<()> {
    let mut add = |link, state: State| {
        let holds = state.is_ok();
        found.push(Finding { link, state });
        holds.then_some(())
    };
    let object = world.node_devices.get(name).filter(|object| !object.deleting);
    let presence = home(world, name);
    add(Link::Cable, cable(object, name, &presence))?;
    add(Link::Slice, slice(world, name, &presence))?;
    add(Link::Ready, ready(world, object, &presence))?;
    let object = object?;
    add(Link::Assigned, assigned(world, object, name, machine))?;
    let namespace = object.assigned.as_ref()?;
    add(Link::Given, given(world, namespace, name))?;
    if let Some(holder) = pods::holder(world, name).filter(|_| machine.is_none()) {
        let message = holder.message(world) + &pods::queue(world, name);
        return add(Link::Pod, if holder.attached(world) { Ok(message) } else { bad(message, Remedy::Wait) });
    }
    let vm = listing(world, namespace, name, machine);
    let asked = machine.map(|(_, vm)| vm);
    add(Link::Listed, listed(namespace, name, vm, asked))?;
    let vm = vm?;
    let spec = world.vms.get(&(namespace.clone(), vm.clone()))?;
    add(Link::Running, runs(world, namespace, vm, spec))?;
    let (pod, _) = engine::running(world, namespace, vm, spec)?;
    add(Link::Attachment, attachment(world, namespace, vm, name))?;
    let own = attachments_of(world, namespace, name).find(|a| a.vm_pod == pod)?;
    add(Link::Scheduled, scheduled(world, own))?;
    add(Link::Prepared, prepared(own))?;
    add(Link::Plugged, plugged(world, namespace, own))
}

fn cable(object: Option<&NodeDevice>, name: &DeviceName, presence: &Presence<'_>) -> State {
    let known = object.and_then(|o| o.status.attributes.as_ref());
    match (presence, presence.device()) {
        (Presence::Absent { .. }, _) if object.is_none() => {
            bad(format!("no node has, or had, a USB device named {name}"), Remedy::PlugIn { anywhere: true })
        }
        (Presence::Absent { why }, _) => {
            let anywhere = known.is_none_or(|k| k.serial.is_some());
            bad(why.clone(), Remedy::PlugIn { anywhere })
        }
        (Presence::Ready { node, .. } | Presence::NotReady { node, .. }, Some(device)) => {
            Ok(format!("port {} of node {node}", device.attributes.port_path))
        }
        (Presence::Ready { node, .. } | Presence::NotReady { node, .. }, None) => match known {
            Some(known) => Ok(format!("last seen in port {} of node {node}", known.port_path)),
            None => Ok(format!("last seen in node {node}")),
        },
    }
}

fn slice(world: &World, name: &DeviceName, presence: &Presence<'_>) -> State {
    match presence {
        Presence::NotReady { node, device: None, why } => bad(why.clone(), silence(world, node)),
        _ => match (presence.node(), presence.device().map(|d| &d.name)) {
            (Some(node), Some(published)) if published != name => {
                Ok(format!("by the agent of node {node}, as {published}"))
            }
            (Some(node), _) => Ok(format!("by the agent of node {node}")),
            (None, _) => Ok("by nobody".to_owned()),
        },
    }
}

/// What to do about a node that says nothing.
fn silence(world: &World, node: &NodeName) -> Remedy {
    if is_dead(world, node) { Remedy::HealNode(node.clone()) } else { Remedy::CheckAgent(node.clone()) }
}

fn ready(world: &World, object: Option<&NodeDevice>, presence: &Presence<'_>) -> State {
    match presence {
        Presence::NotReady { node, why, .. } if is_dead(world, node) => {
            bad(why.clone(), Remedy::HealNode((*node).clone()))
        }
        Presence::NotReady { why, .. } | Presence::Absent { why } => bad(why.clone(), Remedy::AsSaid),
        Presence::Ready { .. } if object.is_none() => bad("it has no NodeUSBDevice yet", Remedy::CheckController),
        Presence::Ready { .. } => Ok(presence.condition().message.into_owned()),
    }
}

fn assigned(world: &World, object: &NodeDevice, name: &DeviceName, machine: Option<&(Namespace, VmName)>) -> State {
    let asks = machine.map(|(namespace, _)| namespace);
    let assign = |namespace: Option<&Namespace>| Remedy::Assign { device: name.clone(), namespace: namespace.cloned() };
    let Some(namespace) = &object.assigned else {
        return bad(devices::UNASSIGNED, assign(asks));
    };
    if let Some(asks) = asks.filter(|asks| *asks != namespace) {
        let remedy = Remedy::Reassign { device: name.clone(), namespace: asks.clone() };
        return bad(format!("it is assigned to namespace {namespace}, and not to {asks}"), remedy);
    }
    match world.namespaces.get(namespace) {
        None => {
            let remedy = Remedy::MakeNamespace { namespace: namespace.clone(), device: name.clone() };
            bad(format!("namespace {namespace} does not exist"), remedy)
        }
        Some(true) => bad(format!("namespace {namespace} is being deleted"), assign(None)),
        Some(false) => Ok(format!("to namespace {namespace}")),
    }
}

/// Whether the `USBDevice` is there, and what it still waits for in the namespace the device is leaving.
fn given(world: &View<'_>, namespace: &Namespace, name: &DeviceName) -> State {
    let former = world.devices.keys().find(|(ns, n)| n == name && ns != namespace).map(|(ns, _)| ns);
    if let Some(former) = former {
        return match devices::holder(world, former, name) {
            Some(holder) => bad(format!("waiting until {holder} has released the device"), Remedy::Wait),
            None => bad(format!("waiting until the USBDevice in namespace {former} is gone"), Remedy::Wait),
        };
    }
    match world.devices.get(&(namespace.clone(), name.clone())) {
        Some(device) if !device.deleting => Ok(format!("USBDevice {namespace}/{name}")),
        Some(_) => bad(format!("USBDevice {namespace}/{name} is being deleted and will be made anew"), Remedy::Wait),
        None => bad(format!("there is no USBDevice {namespace}/{name} yet"), Remedy::CheckController),
    }
}

/// The machine whose chain it is: the one that is asked for, or that has the device, or that asks for it first.
fn listing<'w>(
    world: &'w View<'w>,
    namespace: &Namespace,
    name: &DeviceName,
    machine: Option<&(Namespace, VmName)>,
) -> Option<&'w VmName> {
    let lists = |vm: &Vm| !vm.deleting && vm.usb_devices.contains(name);
    let mut all = world.vms.iter().filter(|((ns, _), vm)| ns == namespace && lists(vm)).map(|((_, vm), _)| vm);
    if let Some((_, asked)) = machine {
        return all.find(|vm| *vm == asked);
    }
    let holds = attachments_of(world, namespace, name).max_by_key(|a| (a.holds(), a.created)).map(|a| &a.vm);
    let wishes = wishes(world).into_iter().find(|w| w.device == *name && w.vm_pod.namespace == *namespace);
    let asks = holds.cloned().or(wishes.map(|w| w.vm));
    all.clone().find(|vm| Some(*vm) == asks.as_ref()).or_else(|| all.next())
}

fn listed(namespace: &Namespace, name: &DeviceName, vm: Option<&VmName>, asked: Option<&VmName>) -> State {
    match (vm, asked) {
        (Some(vm), _) => Ok(format!("by virtual machine {namespace}/{vm}")),
        (None, Some(asked)) => {
            let remedy = Remedy::List { device: name.clone(), namespace: namespace.clone(), vm: Some(asked.clone()) };
            bad(format!("virtual machine {namespace}/{asked} does not list it"), remedy)
        }
        (None, None) => {
            let remedy = Remedy::List { device: name.clone(), namespace: namespace.clone(), vm: None };
            bad(format!("no virtual machine of namespace {namespace} lists it"), remedy)
        }
    }
}

fn attachment(world: &View<'_>, namespace: &Namespace, vm: &VmName, name: &DeviceName) -> State {
    let wishes = wishes(world);
    let Some(wish) = wishes.iter().find(|w| w.device == *name && w.vm == *vm && w.vm_pod.namespace == *namespace)
    else {
        return bad("its machine does not run", Remedy::Wait);
    };
    let pod = |pod: &PodRef| format!("pod {namespace}/{}", attachment_name(name, &pod.uid));
    let wait = match verdict(world, wish) {
        Verdict::Kept(own) => return Ok(pod(&own.vm_pod)),
        Verdict::Attach { .. } => {
            return bad(format!("there is no {} yet", pod(&wish.vm_pod)), Remedy::CheckController);
        }
        Verdict::Wait(wait) => wait,
    };
    let (_, message) = machines::explain(world, namespace, name, &wait);
    let remedy = match wait {
        Wait::HeldBy(holder) => Remedy::Release { device: name.clone(), namespace: namespace.clone(), vm: holder },
        Wait::HeldByPod(subject) => Remedy::EndPod(subject),
        Wait::NoDevice | Wait::NotReady(_) => Remedy::AsSaid,
        Wait::Leaving | Wait::Settling | Wait::Moving => Remedy::Wait,
    };
    bad(message, remedy)
}

fn scheduled(world: &World, own: &Attachment) -> State {
    if let Some(message) = no_free_port(world, own) {
        let remedy = if has_ports(world, own) { Remedy::FreePort(own.node.clone()) } else { Remedy::AsSaid };
        return bad(message, remedy);
    }
    if own.is_unschedulable() {
        let pod = attachment_name(&own.device, &own.vm_pod.uid);
        return bad(step(own), Remedy::DescribePod { namespace: own.vm_pod.namespace.clone(), pod });
    }
    Ok(match own.hub {
        Some(hub) => format!("on node {}, with a {} USB/IP port", own.node, hub.title()),
        None => format!("on node {}, where the device is plugged in", own.node),
    })
}

/// The home node of a device, if its agent cannot be called: that is then where to look.
fn silent_home<'w>(world: &'w View<'w>, own: &'w Attachment, said: &str) -> Option<&'w NodeName> {
    let (home, _) = devices::place(world, &own.device)?;
    said.starts_with(&unreachable(home)).then_some(home)
}

/// Whether the node of an attachment offers any USB/IP ports.
fn has_ports(world: &World, own: &Attachment) -> bool {
    world.pools.get(&own.node).is_none_or(|pool| !pool.ports.is_empty())
}

/// The kubelet prepares claims before it starts a pod; the agent speaks of it only when it has.
fn prepared(own: &Attachment) -> State {
    if own.state == PodState::Running || own.plugged.is_some() {
        return Ok(format!("by the kubelet and the agent of node {}", own.node));
    }
    let pod = attachment_name(&own.device, &own.vm_pod.uid);
    bad(step(own), Remedy::DescribePod { namespace: own.vm_pod.namespace.clone(), pod })
}

fn plugged(world: &View<'_>, namespace: &Namespace, own: &Attachment) -> State {
    if let Some(PluggedState::Plugged(port)) = &own.plugged {
        return Ok(port.to_string());
    }
    if let Some(gap) = moves::gap(world, namespace, &own.vm) {
        return bad(format!("it is {gap}"), Remedy::Wait);
    }
    if own.hub.is_some() && !has_ports(world, own) {
        let why = format!(
            "node {} has no USB/IP ports any more: load the kernel module vhci-hcd there (modprobe vhci-hcd)",
            own.node
        );
        return bad(why, Remedy::AsSaid);
    }
    let remedy = match own.plugged {
        Some(PluggedState::Failed(ref said)) if let Some(home) = silent_home(world, own, said) => {
            Remedy::CheckAgent(home.clone())
        }
        Some(PluggedState::Failed(_)) | None => Remedy::CheckAgent(own.node.clone()),
        _ => Remedy::Wait,
    };
    bad(step(own), remedy)
}
