//! The controller's shell: it plans on what it sees, and carries the plan out action by action.

use std::collections::VecDeque;
use std::sync::Arc;

use patchbay_core::controller::Action;
use patchbay_core::controller::world::{Claim, NodeDevice, PodState, Template, UsbDevice, VmPod};

use crate::api::ClaimRest;
use crate::cluster::Cluster;
use crate::fault::FaultKind;
use crate::importer::twice;
use crate::scenario::{Grain, Scenario};
use crate::steps::Steps;

/// The controller's steps, and what may go wrong with them.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    let planned = cluster.controller.is_empty();
    let queue: Arc<VecDeque<Action>> = match planned {
        true => cluster.plan(scenario),
        false => Arc::clone(&cluster.controller),
    };
    let Some(first) = queue.front() else { return };
    if let Some(twice) = twice(&queue).filter(|_| planned) {
        steps.broken(format!("the controller plans the same twice: {twice}"));
    }
    if cluster.faults > 0 {
        faults(cluster, scenario, planned, &queue, steps);
    }
    let mut next = cluster.clone();
    next.controller = Arc::clone(&queue);
    match scenario.grain {
        Grain::Action => advance(&mut next),
        Grain::Plan => {
            while !next.controller.is_empty() {
                advance(&mut next);
            }
        }
    }
    match scenario.grain {
        Grain::Action => steps.quiet(|| format!("controller: {}", brief(first)), next),
        Grain::Plan => {
            steps.quiet(|| format!("controller: {}", queue.iter().map(brief).collect::<Vec<_>>().join("; ")), next)
        }
    }
}

fn faults(cluster: &Cluster, scenario: &Scenario, planned: bool, queue: &Arc<VecDeque<Action>>, steps: &mut Steps) {
    let Some(first) = queue.front() else { return };
    if scenario.has(FaultKind::Conflict) {
        let mut next = cluster.clone();
        next.controller = Arc::clone(queue);
        Arc::make_mut(&mut next.controller).pop_front();
        steps.fault(|| format!("controller: fails to do {} (conflict)", brief(first)), next);
    }
    if scenario.has(FaultKind::ControllerCrash) {
        let mut next = cluster.clone();
        match (scenario.grain, planned) {
            (Grain::Action, true) => {}
            (Grain::Action, false) => {
                next.controller = Arc::default();
                steps.fault(|| format!("controller: crashes before it does {}", brief(first)), next);
            }
            (Grain::Plan, _) => {
                next.controller = Arc::clone(queue);
                for count in 1..queue.len() {
                    advance(&mut next);
                    let mut crashed = next.clone();
                    crashed.controller = Arc::default();
                    steps.fault(
                        || format!("controller: crashes after {count} actions, from {} on", brief(first)),
                        crashed,
                    );
                }
            }
        }
    }
    if scenario.has(FaultKind::StaleCache) && planned {
        // It carries out its plan, and plans again while its caches lack the last of what it did.
        let mut ahead = cluster.clone();
        ahead.controller = Arc::clone(queue);
        for seen in 0..queue.len() {
            let again = ahead.plan(scenario);
            let mut next = cluster.clone();
            next.controller = Arc::new(queue.iter().chain(again.iter()).cloned().collect());
            steps.fault(
                || format!("controller: plans twice, and sees only {seen} of its actions the second time"),
                next,
            );
            advance(&mut ahead);
        }
    }
}

/// Carries out the next action.
fn advance(cluster: &mut Cluster) {
    let Some(action) = Arc::make_mut(&mut cluster.controller).pop_front() else { return };
    if let Some(status) = perform(cluster, action) {
        Arc::make_mut(&mut cluster.controller).push_front(status);
    }
}

/// Does what the controller's shell and the API server do for an action. An object is created without its status, which is
/// a write of its own.
pub fn perform(cluster: &mut Cluster, action: Action) -> Option<Action> {
    match action {
        Action::CreateNodeDevice { name, status } => {
            if cluster.api.seen.node_devices.contains_key(&name) {
                return None;
            }
            let uid = cluster.fresh_uid(&format!("nusb-{name}"));
            let object = NodeDevice { uid, generation: 1, deleting: false, assigned: None, status: Default::default() };
            cluster.api_mut().seen.node_devices.insert(name.clone(), object);
            return Some(Action::PublishNodeDevice { name, status });
        }
        Action::PublishNodeDevice { name, status } => {
            if let Some(object) = cluster.api_mut().seen.node_devices.get_mut(&name) {
                object.status = status;
            }
        }
        Action::ForgetNodeDevice { name, uid } => {
            cluster.api_mut().seen.node_devices.retain(|n, object| *n != name || object.uid != uid);
        }
        Action::CreateDevice { namespace, name, owner, status } => {
            let key = (namespace.clone(), name.clone());
            if cluster.api.seen.devices.contains_key(&key) {
                return None;
            }
            let uid = cluster.fresh_uid(&format!("usb-{namespace}-{name}"));
            let object = UsbDevice { uid, generation: 1, deleting: false, status: Default::default() };
            cluster.api_mut().seen.devices.insert(key.clone(), object);
            cluster.api_mut().device_owners.insert(key, owner);
            return Some(Action::PublishDevice { namespace, name, status });
        }
        Action::PublishDevice { namespace, name, status } => {
            if let Some(object) = cluster.api_mut().seen.devices.get_mut(&(namespace, name)) {
                object.status = status;
            }
        }
        Action::DeleteDevice { namespace, name, uid } => {
            let key = (namespace, name);
            if cluster.api.seen.devices.get(&key).is_some_and(|object| object.uid == uid) {
                cluster.api_mut().seen.devices.remove(&key);
                cluster.api_mut().device_owners.remove(&key);
            }
        }
        Action::CreateClaim { namespace, name, device, dra_name, node, owner } => {
            let key = (namespace, name);
            if !cluster.api.seen.claims.contains_key(&key) {
                let uid = cluster.fresh_uid(&format!("claim-{}-{}", key.0, device));
                let rest = ClaimRest { dra_name, owner, reserved: Default::default() };
                cluster.api_mut().seen.claims.insert(key.clone(), Claim { uid, deleting: false, device, node });
                cluster.api_mut().claims.insert(key, rest);
            }
        }
        Action::DeleteClaim { namespace, name, uid } => cluster.api_mut().delete_claim(&namespace, &name, &uid),
        Action::CreatePortTemplate { namespace, hub } => {
            cluster.api_mut().seen.port_templates.insert((namespace, hub));
        }
        Action::CreateTemplate { namespace, device, content, .. } => {
            let uid = cluster.fresh_uid(&format!("template-{namespace}-{device}"));
            let template = Template { uid, deleting: false, content };
            cluster.api_mut().seen.templates.entry((namespace, device)).or_insert(template);
        }
        Action::DeleteTemplate { namespace, device, uid } => {
            cluster
                .api_mut()
                .seen
                .templates
                .retain(|key, t| *key != (namespace.clone(), device.clone()) || t.uid != uid);
        }
        Action::PublishClaim { namespace, claim, report, .. } => {
            if let Some(claim) = cluster.api_mut().seen.pod_claims.get_mut(&(namespace, claim)) {
                claim.told = Some(report);
            }
        }
        Action::CreateAttachment(new) => {
            let key = (new.vm_pod.namespace.clone(), new.name.clone());
            if !cluster.api.seen.attachments.contains_key(&key) {
                let uid = cluster.fresh_uid(&format!("pod-{}-{}", key.0, key.1));
                let pod = new.made(uid, 0);
                cluster.api_mut().seen.attachments.insert(key, pod);
            }
        }
        Action::DeleteAttachment { namespace, name, uid } => {
            cluster.api_mut().delete_attachment(&namespace, &name, &uid);
        }
        Action::CreateVmPod { namespace, vm, pod } => {
            let key = (namespace.clone(), pod.clone());
            let owner = cluster.api.seen.vms.get(&(namespace, vm.clone())).map(|vm| vm.uid.clone());
            if let Some(vm_uid) = owner.filter(|_| !cluster.api.seen.vm_pods.contains_key(&key)) {
                let uid = cluster.fresh_uid(&format!("pod-{}-{}", key.0, key.1));
                let pod = VmPod {
                    uid,
                    vm,
                    vm_uid,
                    node: None,
                    deleting: false,
                    state: PodState::Pending,
                    trouble: None,
                    moving: Default::default(),
                };
                cluster.api_mut().seen.vm_pods.insert(key, pod);
            }
        }
        Action::DeleteVmPod { namespace, name, uid } => cluster.api_mut().delete_vm_pod(&namespace, &name, &uid),
        Action::PublishVm { namespace, name, status } => {
            if let Some(vm) = cluster.api_mut().seen.vms.get_mut(&(namespace, name)) {
                vm.status = status;
            }
        }
        // Nobody asks for a move here.
        Action::CreateTargetPod { .. }
        | Action::AskToMove { .. }
        | Action::Decide { .. }
        | Action::MarkArrived { .. }
        | Action::Plug { .. }
        | Action::Remind { .. }
        | Action::CreateBudget { .. }
        | Action::CreateOperation { .. }
        | Action::HoldOperation { .. }
        | Action::ReleaseOperation { .. } => {}
        Action::PublishOperation { namespace, name, status } => {
            if let Some(operation) = cluster.api_mut().seen.operations.get_mut(&(namespace, name)) {
                operation.status = status;
            }
        }
        Action::DeleteSlice { name } => {
            for pool in cluster.api_mut().seen.pools.values_mut() {
                pool.slices.remove(&name);
            }
        }
    }
    None
}

/// An action in a few words.
fn brief(action: &Action) -> String {
    let conditions = |status: &patchbay_core::controller::world::DeviceStatus| {
        let words = status.conditions.iter().map(|c| format!("{}: {}", c.kind.as_str(), c.message));
        words.collect::<Vec<_>>().join(", ")
    };
    match action {
        Action::CreateNodeDevice { name, .. } => format!("creates NodeUSBDevice {name}"),
        Action::PublishNodeDevice { name, status } => format!("NodeUSBDevice {name} says [{}]", conditions(status)),
        Action::ForgetNodeDevice { name, .. } => format!("forgets NodeUSBDevice {name}"),
        Action::CreateDevice { namespace, name, .. } => format!("creates USBDevice {namespace}/{name}"),
        Action::PublishDevice { namespace, name, status } => {
            format!("USBDevice {namespace}/{name} says [{}]", conditions(status))
        }
        Action::DeleteDevice { namespace, name, .. } => format!("deletes USBDevice {namespace}/{name}"),
        Action::CreateClaim { namespace, name, node, .. } => format!("creates claim {namespace}/{name} for {node}"),
        Action::DeleteClaim { namespace, name, .. } => format!("deletes claim {namespace}/{name}"),
        Action::CreatePortTemplate { namespace, hub } => format!("creates the {hub} port template in {namespace}"),
        Action::CreateTemplate { device, .. } => format!("creates the template of {device}"),
        Action::DeleteTemplate { device, .. } => format!("deletes the template of {device}"),
        Action::PublishClaim { claim, report, .. } => format!("claim {claim} says [{}]", report.message),
        Action::CreateAttachment(new) => format!("creates attachment {} on {}", new.name, new.node),
        Action::DeleteAttachment { name, .. } => format!("deletes attachment {name}"),
        Action::CreateVmPod { pod, .. } => format!("creates {pod}"),
        Action::DeleteVmPod { name, .. } => format!("deletes {name}"),
        Action::PublishVm { namespace, name, status } => {
            let usb = status.usb_devices.iter().map(|u| format!("{}: {}", u.name, u.message)).collect::<Vec<_>>();
            format!("VirtualMachine {namespace}/{name} says [{:?}, {}]", status.phase, usb.join(", "))
        }
        Action::CreateTargetPod { pod, .. } => format!("creates target {pod}"),
        Action::AskToMove { name, to, .. } => format!("asks {name} to move to {}", to.name),
        Action::Decide { name, decision, .. } => format!("decides for the {} of {name}", decision.as_str()),
        Action::MarkArrived { name, .. } => format!("marks {name} as arrived"),
        Action::Plug { name, .. } => format!("plugs attachment {name}"),
        Action::Remind { name, times, .. } => format!("reminds the kubelet of {name}, {times} times"),
        Action::CreateBudget { vm, .. } => format!("creates the budget of {vm}"),
        Action::CreateOperation { name, .. } => format!("creates operation {name}"),
        Action::HoldOperation { name, .. } => format!("holds operation {name}"),
        Action::ReleaseOperation { name, .. } => format!("releases operation {name}"),
        Action::PublishOperation { name, status, .. } => format!("operation {name} says {:?}", status.phase),
        Action::DeleteSlice { name } => format!("deletes slice {name}"),
    }
}
