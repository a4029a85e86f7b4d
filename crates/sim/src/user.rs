//! People: they assign devices, list them, and delete, restart, stop and start machines.

use patchbay_core::controller::world::RunPolicy;
use patchbay_core::names::{DeviceName, Namespace, NodeName, PodName, VmName};

use crate::cluster::Cluster;
use crate::pods::Pod;
use crate::scenario::Scenario;
use crate::steps::{Kind, Steps};

/// An edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Set `spec.assignedNamespace`, or remove it.
    Assign(DeviceName, Option<Namespace>),
    /// Add a device to a machine's list.
    List(Namespace, VmName, DeviceName),
    /// Remove a device from a machine's list.
    Unlist(Namespace, VmName, DeviceName),
    /// Delete a machine.
    Delete(Namespace, VmName),
    /// Delete a machine's pod.
    Restart(Namespace, VmName),
    /// Stop a machine, or start it.
    Run(Namespace, VmName, bool),
    /// Make a pod that uses a device, on a node or on any.
    MakePod(Namespace, PodName, DeviceName, Option<NodeName>),
    /// Delete a pod.
    DeletePod(Namespace, PodName),
    /// Let the program of a pod come to its end.
    EndPod(Namespace, PodName),
}

/// People's steps.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    if cluster.edits == 0 {
        return;
    }
    for edit in &scenario.edits {
        let mut next = cluster.clone();
        if apply(&mut next, edit) {
            next.edits = next.edits.saturating_sub(1);
            steps.add(Kind::Edit, || format!("somebody edits: {edit:?}"), next);
        }
    }
}

/// Makes an edit; false when it changes nothing.
pub fn apply(cluster: &mut Cluster, edit: &Edit) -> bool {
    let seen = &mut cluster.api_mut().seen;
    let vm = |namespace: &Namespace, name: &VmName| (namespace.clone(), name.clone());
    match edit {
        Edit::Assign(device, namespace) => seen.node_devices.get_mut(device).is_some_and(|object| {
            let changes = object.assigned != *namespace;
            object.assigned.clone_from(namespace);
            object.generation += i64::from(changes);
            changes
        }),
        Edit::List(namespace, name, device) => seen.vms.get_mut(&vm(namespace, name)).is_some_and(|object| {
            let changes = !object.usb_devices.contains(device);
            if changes {
                object.usb_devices.push(device.clone());
                object.generation += 1;
            }
            changes
        }),
        Edit::Unlist(namespace, name, device) => seen.vms.get_mut(&vm(namespace, name)).is_some_and(|object| {
            let changes = object.usb_devices.contains(device);
            if changes {
                object.usb_devices.retain(|d| d != device);
                object.generation += 1;
            }
            changes
        }),
        Edit::Delete(namespace, name) => seen.vms.remove(&vm(namespace, name)).is_some(),
        Edit::Restart(namespace, name) => {
            let pod = seen.vm_pods.iter().find(|((ns, _), p)| ns == namespace && p.vm == *name && !p.deleting);
            let Some((pod, uid)) = pod.map(|((_, pod), p)| (pod.clone(), p.uid.clone())) else { return false };
            cluster.api_mut().delete_vm_pod(namespace, &pod, &uid);
            true
        }
        Edit::MakePod(namespace, name, device, pin) => {
            let key = (namespace.clone(), name.clone());
            if cluster.api.pods.contains_key(&key) {
                return false;
            }
            let uid = cluster.fresh_uid(&format!("pod-{namespace}-{name}"));
            let (device, pin) = (device.clone(), pin.clone());
            let pod = Pod { uid, device, pin, node: None, deleting: false, done: false, ended: false };
            cluster.api_mut().pods.insert(key, pod);
            true
        }
        Edit::DeletePod(namespace, name) => cluster.api_mut().delete_pod(&(namespace.clone(), name.clone())),
        Edit::EndPod(namespace, name) => cluster.end_pod(&(namespace.clone(), name.clone())),
        Edit::Run(namespace, name, run) => seen.vms.get_mut(&vm(namespace, name)).is_some_and(|object| {
            let changes = object.run() != *run;
            object.policy = if *run { RunPolicy::AlwaysOn } else { RunPolicy::AlwaysOff };
            object.generation += i64::from(changes);
            changes
        }),
    }
}
