//! The chain as far as somebody sees it who may only look into one namespace: not from what is, which takes nodes, slices
//! and claims of the whole cluster, but from what the controller has written.

use super::{Finding, Link, Remedy, State, bad, listed};
use crate::conditions::{ConditionType, find};
use crate::controller::world::{Vm, VmPhase, World};
use crate::names::{DeviceName, Namespace, VmName};

/// The chain of a device of a namespace to a machine; without one, to the machine that has it, or to the first that lists it.
pub fn device(world: &World, namespace: &Namespace, name: &DeviceName, machine: Option<&VmName>) -> Vec<Finding> {
    let mut found = Vec::new();
    let _ = walk(world, namespace, name, machine, &mut found);
    found
}

fn walk(
    world: &World,
    namespace: &Namespace,
    name: &DeviceName,
    machine: Option<&VmName>,
    found: &mut Vec<Finding>,
) -> Option<()> {
    let mut add = |link, state: State| {
        let holds = state.is_ok();
        found.push(Finding { link, state });
        holds.then_some(())
    };
    let device = world.devices.get(&(namespace.clone(), name.clone()));
    add(
        Link::Given,
        match device {
            Some(_) => Ok(format!("USBDevice {namespace}/{name}")),
            None => {
                let remedy = Remedy::Assign { device: name.clone(), namespace: Some(namespace.clone()) };
                bad(format!("there is no USBDevice {name} in namespace {namespace}"), remedy)
            }
        },
    )?;
    let status = &device?.status;
    add(
        Link::Ready,
        match find(&status.conditions, ConditionType::Ready) {
            Some(ready) if ready.reason.is_true() => Ok(ready.message.clone()),
            Some(ready) => bad(ready.message.clone(), Remedy::AsSaid),
            None => bad("nothing is said of it yet", Remedy::CheckController),
        },
    )?;
    let mut lists = world.vms.iter().filter(|((ns, _), vm)| ns == namespace && vm.usb_devices.contains(name));
    let wanted = machine.or(status.vm.as_ref());
    let vm = lists.clone().find(|((_, vm), _)| Some(vm) == wanted);
    let vm = if machine.is_some() { vm } else { vm.or_else(|| lists.next()) };
    add(Link::Listed, listed(namespace, name, vm.map(|((_, vm), _)| vm), machine))?;
    let ((_, vm_name), vm) = vm?;
    add(Link::Running, self::machine(namespace, vm_name, vm))?;
    add(
        Link::Plugged,
        match vm.status.usb_devices.iter().find(|e| e.name == *name) {
            Some(entry) if entry.attached => {
                Ok(entry.address.as_ref().map_or(entry.message.clone(), ToString::to_string))
            }
            Some(entry) => bad(entry.message.clone(), Remedy::AsSaid),
            None => bad("the controller has not seen that it is listed", Remedy::CheckController),
        },
    )
}

/// Whether a machine runs, or why it does not.
pub fn machine(namespace: &Namespace, name: &VmName, vm: &Vm) -> State {
    if matches!(vm.status.phase, Some(VmPhase::Running | VmPhase::Migrating)) {
        return Ok(format!("virtual machine {namespace}/{name} runs"));
    }
    let message =
        find(&vm.status.conditions, ConditionType::Running).map_or("nothing is said of it yet", |c| &c.message);
    bad(format!("virtual machine {namespace}/{name} does not run: {message}"), Remedy::AsSaid)
}
