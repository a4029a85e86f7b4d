//! The garbage collector: what is owned by something that is gone goes too.

use crate::cluster::Cluster;
use crate::steps::Steps;

/// The garbage collector's steps.
pub fn steps(cluster: &Cluster, steps: &mut Steps) {
    let seen = &cluster.api.seen;
    for (key, pod) in seen.vm_pods.iter().filter(|(_, p)| !p.deleting) {
        if !seen.vms.values().any(|vm| vm.uid == pod.vm_uid) {
            let mut next = cluster.clone();
            next.api_mut().delete_vm_pod(&key.0, &key.1, &pod.uid);
            steps.quiet(|| format!("garbage collector: deletes {}", key.1), next);
        }
    }
    for (key, pod) in seen.attachments.iter().filter(|(_, p)| !p.deleting) {
        if !seen.vm_pods.values().any(|vm_pod| vm_pod.uid == pod.vm_pod.uid) {
            let mut next = cluster.clone();
            next.api_mut().delete_attachment(&key.0, &key.1, &pod.uid);
            steps.quiet(|| format!("garbage collector: deletes {}", key.1), next);
        }
    }
    for (key, owner) in &cluster.api.device_owners {
        if !seen.node_devices.values().any(|device| device.uid == *owner) {
            let mut next = cluster.clone();
            next.api_mut().seen.devices.remove(key);
            next.api_mut().device_owners.remove(key);
            steps.quiet(|| format!("garbage collector: deletes USBDevice {}", key.1), next);
        }
    }
    for (key, claim) in seen.claims.iter().filter(|(_, c)| !c.deleting) {
        let Some(rest) = cluster.api.claims.get(key) else { continue };
        if !seen.devices.values().any(|device| device.uid == rest.owner) {
            let mut next = cluster.clone();
            next.api_mut().delete_claim(&key.0, &key.1, &claim.uid);
            steps.quiet(|| format!("garbage collector: deletes claim {}", key.1), next);
        }
    }
}
