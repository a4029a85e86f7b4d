//! A fleet at rest: every listed device is in its machine, and the controller has nothing to do.
//!
//! It comes about as it would in a cluster: the controller's plans are carried out one after the other, and kubelets,
//! scheduler and agents do their part at once.

use patchbay_core::conditions::{GuestPort, PluggedState};
use patchbay_core::controller::world::{
    Claim, Node, NodeDevice, Placement, PodState, Pool, RunPolicy, Template, UsbDevice, Vm, VmPod,
};
use patchbay_core::controller::{Action, World, plan, pod_name};
use patchbay_core::names::{ClaimName, Uid};
use patchbay_core::speed::{Hub, PortName};

use super::Fleet;

/// The time at which all is made.
const MADE: i64 = 1_000;
/// The time at which it is at rest.
const LATER: i64 = 2_000;
/// So many ports of each half a node has.
const PORTS: u16 = 8;
/// More plans than it takes.
const MOST_PLANS: usize = 20;

/// It did not come to rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// What was still to be done.
    pub next: Option<Box<Action>>,
}

/// The world of a fleet at rest.
///
/// # Errors
/// When the controller goes on to find something to do: then one of us is wrong.
pub fn settled(fleet: Fleet) -> Result<World, Unsettled> {
    let mut world = World { now: MADE, ..World::default() };
    nodes(fleet, &mut world);
    machines(fleet, &mut world);
    settle(&mut world)?;
    for (device, namespace) in fleet.assignments() {
        if let Some(object) = world.node_devices.get_mut(&device) {
            (object.assigned, object.generation) = (Some(namespace), 2);
        }
    }
    settle(&mut world)?;
    for ((namespace, name), attachment) in &mut world.attachments {
        attachment.placement = Placement::Placed(MADE);
        attachment.state = PodState::Running;
        attachment.plugged = Some(PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }));
        if let Some(hub) = attachment.hub {
            let claim = ClaimName::new(format!("{name}-port"));
            attachment.port_claim = Some(claim.clone());
            world.port_claims.insert((namespace.clone(), claim));
            *world.ports_used.entry((attachment.node.clone(), hub)).or_default() += 1;
        }
    }
    world.now = LATER;
    settle(&mut world)?;
    Ok(world)
}

fn nodes(fleet: Fleet, world: &mut World) {
    for node in 0..fleet.nodes {
        let name = fleet.node(node);
        let ports = Hub::ALL.into_iter().flat_map(|hub| (0..PORTS).map(move |index| PortName { hub, index }));
        let slices = ["devices", "ports"].map(|part| (format!("{name}-{part}"), 0)).into();
        let pool =
            Pool { devices: fleet.devices_of(node).collect(), ports: ports.collect(), slices, ..Pool::default() };
        world.nodes.insert(name.clone(), Node { ready: true, since: 0, cordoned: false });
        world.pools.insert(name, pool);
    }
}

fn machines(fleet: Fleet, world: &mut World) {
    world.namespaces = fleet.namespaces().map(|namespace| (namespace, false)).collect();
    for machine in 0..fleet.machines {
        let (namespace, name) = fleet.machine(machine);
        let uid = Uid::new(format!("uid-of-{name}"));
        let pod = VmPod {
            uid: Uid::new(format!("uid-of-pod-{name}")),
            vm: name.clone(),
            vm_uid: uid.clone(),
            node: Some(fleet.node(fleet.node_of(machine))),
            deleting: false,
            state: PodState::Running,
            trouble: None,
            moving: Default::default(),
        };
        let vm = Vm {
            uid,
            generation: 1,
            deleting: false,
            policy: RunPolicy::AlwaysOnUnlessStoppedManually,
            usb_devices: fleet.listed(machine),
            status: Default::default(),
        };
        world.vm_pods.insert((namespace.clone(), pod_name(&name)), pod);
        world.vms.insert((namespace, name), vm);
    }
}

fn settle(world: &mut World) -> Result<(), Unsettled> {
    for _ in 0..MOST_PLANS {
        let actions = plan(world).actions;
        if actions.is_empty() {
            return Ok(());
        }
        for action in actions {
            carry_out(world, action)?;
        }
    }
    Err(Unsettled { next: plan(world).actions.into_iter().next().map(Box::new) })
}

/// Does what is done of a fleet that comes to be: nothing is taken away.
fn carry_out(world: &mut World, action: Action) -> Result<(), Unsettled> {
    match action {
        Action::CreateNodeDevice { name, status } => {
            let uid = Uid::new(format!("uid-of-nusb-{name}"));
            world.node_devices.insert(name, NodeDevice { uid, generation: 1, deleting: false, assigned: None, status });
        }
        Action::PublishNodeDevice { name, status } => {
            world.node_devices.entry(name).and_modify(|object| object.status = status);
        }
        Action::CreateDevice { namespace, name, status, .. } => {
            let uid = Uid::new(format!("uid-of-usb-{name}"));
            world.devices.insert((namespace, name), UsbDevice { uid, generation: 1, deleting: false, status });
        }
        Action::PublishDevice { namespace, name, status } => {
            world.devices.entry((namespace, name)).and_modify(|object| object.status = status);
        }
        Action::CreateTemplate { namespace, device, content, .. } => {
            let uid = Uid::new(format!("uid-of-template-{device}"));
            world.templates.insert((namespace, device), Template { uid, deleting: false, content });
        }
        Action::CreatePortTemplate { namespace, hub } => drop(world.port_templates.insert((namespace, hub))),
        Action::CreateClaim { namespace, name, device, node, .. } => {
            let uid = Uid::new(format!("uid-of-{name}"));
            world.claims.insert((namespace, name), Claim { uid, deleting: false, device, node });
        }
        Action::CreateAttachment(new) => {
            let key = (new.vm_pod.namespace.clone(), new.name.clone());
            let uid = Uid::new(format!("uid-of-{}", new.name));
            world.attachments.insert(key, new.made(uid, MADE));
        }
        Action::CreateBudget { namespace, vm } => drop(world.budgets.insert((namespace, vm))),
        Action::PublishVm { namespace, name, status } => {
            world.vms.entry((namespace, name)).and_modify(|vm| vm.status = status);
        }
        other => return Err(Unsettled { next: Some(Box::new(other)) }),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_comes_to_rest_with_every_listed_device_in_its_machine() {
        let fleet = Fleet::of_devices(100);
        let world = settled(fleet).unwrap();
        assert_eq!((world.nodes.len(), world.node_devices.len(), world.vms.len()), (10, 100, 10));
        assert_eq!((world.devices.len(), world.attachments.len(), world.port_claims.len()), (20, 20, 20));
        assert!(world.vms.values().all(|vm| vm.status.usb_devices.iter().filter(|usb| usb.attached).count() == 2));
        assert_eq!(plan(&world).actions, []);
    }
}
