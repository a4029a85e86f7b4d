//! The pod that runs a virtual machine of the built-in engine.
//!
//! It has no privileges, no devices and no host paths. QEMU's monitor listens in the volume `run`, where the node's agent
//! finds it.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, Pod, PodSpec, ResourceRequirements, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use patchbay_core::controller::world::{Moving, VmPod};
use patchbay_core::names::{Namespace, NodeName, PodName, Uid, VmName};

use crate::attachment;
use crate::meta::{self, Unreadable};
use crate::virtual_machine::{Machine, VirtualMachine};
use crate::{keys, migration, pod_trouble, restricted};

/// The volume that holds the monitor's socket.
pub const RUN_VOLUME: &str = "run";

/// Where that volume is in the pod.
pub const RUN_PATH: &str = "/run/vm";

/// The environment variable that says how many processors the guest has.
pub const CPUS: &str = "PATCHBAY_VM_CPUS";

/// The environment variable that says how much memory the guest has, in bytes.
pub const MEMORY: &str = "PATCHBAY_VM_MEMORY";

/// What QEMU needs besides the guest's memory, in bytes.
const OVERHEAD: u64 = 256 << 20;

/// The pod of a machine.
pub fn build(namespace: &Namespace, vm: &VmName, pod: &PodName, machine: &Machine) -> Pod {
    let owner = meta::owner(keys::API_VERSION, &VirtualMachine::kind(&()), vm.as_str(), &machine.uid);
    let volume = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let selector = Some(machine.node_selector.clone()).filter(|s| !s.is_empty());
    Pod {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_string()),
            name: Some(pod.to_string()),
            labels: Some(meta::map([(keys::VM_NAME, vm.as_str())])),
            annotations: Some(meta::map([(keys::VM_UID, machine.uid.as_str())])),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            containers: vec![container(machine)],
            enable_service_links: Some(false),
            node_selector: selector,
            restart_policy: Some("Always".to_owned()),
            security_context: Some(restricted::pod()),
            termination_grace_period_seconds: Some(30),
            volumes: Some(vec![volume(RUN_VOLUME), volume("tmp")]),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(machine: &Machine) -> Container {
    let variable =
        |name: &str, value: u64| EnvVar { name: name.to_owned(), value: Some(value.to_string()), ..EnvVar::default() };
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    let memory = ("memory".to_owned(), Quantity(machine.memory.saturating_add(OVERHEAD).to_string()));
    let cpu = u64::from(machine.cpus) * u64::from(machine.core_percent) * 10;
    Container {
        name: "vm".to_owned(),
        image: Some(machine.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["/patchbay".to_owned(), "vm".to_owned()]),
        env: Some(vec![variable(CPUS, machine.cpus.into()), variable(MEMORY, machine.memory)]),
        resources: Some(ResourceRequirements {
            requests: Some([("cpu".to_owned(), Quantity(format!("{cpu}m"))), memory.clone()].into()),
            limits: Some([memory].into()),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted::container()),
        // What the engine says last is what people have to read.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![mount(RUN_VOLUME, RUN_PATH), mount("tmp", "/tmp")]),
        ..Container::default()
    }
}

/// Reads the pod of a machine.
pub fn read(pod: &Pod) -> Result<((Namespace, PodName), VmPod), Unreadable> {
    let meta = &pod.metadata;
    let this = attachment::pod_ref(pod)?;
    let read = VmPod {
        uid: this.uid,
        vm: VmName::new(meta::label(meta, keys::VM_NAME)?),
        vm_uid: Uid::new(meta::annotation(meta, keys::VM_UID)?),
        node: pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).map(NodeName::new),
        deleting: meta.deletion_timestamp.is_some(),
        state: attachment::state(pod),
        trouble: pod_trouble::read(pod),
        moving: moving(pod)?,
    };
    Ok(((this.namespace, this.name), read))
}

fn moving(pod: &Pod) -> Result<Moving, Unreadable> {
    let read = migration::read(pod)?;
    Ok(Moving {
        report: read.report().cloned(),
        from: read.from,
        arrived: meta::annotation(&pod.metadata, keys::ARRIVED).is_ok(),
        to: read.to,
        decision: read.decision,
    })
}

#[cfg(test)]
mod tests {
    use patchbay_core::controller::world::PodState;

    use super::*;
    use crate::samples;

    fn pod() -> Pod {
        let machine = Machine {
            uid: "vm-uid".into(),
            image: "example/guest:1".to_owned(),
            cpus: 2,
            core_percent: 20,
            memory: 512 << 20,
            node_selector: [("disk".to_owned(), "fast".to_owned())].into(),
        };
        samples::created(&build(&"my-project".into(), &"linux-vm".into(), &"vm-linux-vm".into(), &machine), "u1")
    }

    #[test]
    fn the_pod_of_a_machine_has_no_privileges_and_no_devices() {
        insta::assert_json_snapshot!("vm_pod", pod());
    }

    #[test]
    fn a_pod_is_read_back_as_it_was_built() {
        let mut running = pod();
        running.spec.as_mut().unwrap().node_name = Some("node-2".to_owned());
        running.status = serde_json::from_value(serde_json::json!({"phase": "Running"})).unwrap();
        let expected = VmPod {
            uid: "u1".into(),
            vm: "linux-vm".into(),
            vm_uid: "vm-uid".into(),
            node: Some("node-2".into()),
            deleting: false,
            state: PodState::Running,
            trouble: None,
            moving: Moving::default(),
        };
        assert_eq!(read(&running), Ok((("my-project".into(), "vm-linux-vm".into()), expected)));
        assert_eq!(read(&pod()).unwrap().1.state, PodState::Pending);
    }

    #[test]
    fn a_pod_of_somebody_else_is_not_read() {
        let mut foreign = pod();
        foreign.metadata.annotations = None;
        assert_eq!(read(&foreign), Err(Unreadable::Missing(keys::VM_UID)));
    }
}
