//! What of ours runs under the `restricted` Pod Security level, by the word of the API server that enforces it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use patchbay_core::speed::Speed;
use patchbay_lab::api::block_on;
use serde_json::json;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, create, eventually, get};
use crate::workloads;

const LOCKED: &str = "locked";

/// A namespace that lets in only pods without any privilege.
fn lock(stage: &Stage) {
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {"name": LOCKED, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }))
    .unwrap();
    create(&stage.all(), &namespace);
    let accounts: Api<ServiceAccount> = stage.within(LOCKED);
    eventually("the account of the namespace", || get(&accounts, "default").map(drop));
}

/// What the API server says to a pod of this template in the locked namespace. Nothing is made.
fn tried(stage: &Stage, template: PodTemplateSpec) -> Result<(), String> {
    let mut pod = Pod { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
    pod.metadata.name = Some("tried".to_owned());
    if let Some(spec) = &mut pod.spec {
        // Our accounts are in our own namespace.
        (spec.service_account_name, spec.service_account) = (None, None);
    }
    let params = PostParams { dry_run: true, ..PostParams::default() };
    match block_on(stage.within::<Pod>(LOCKED).create(&params, &pod)) {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn machines_attachments_and_the_controller_need_no_privileges_and_the_agent_does() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let nodes = ["node-1", "node-2"].map(|name| Node::join(&stage, name));
    nodes[1].ports(8);
    nodes[0].plug(device("webcam", 1, Speed::High));
    nodes[1].plug(device("token", 1, Speed::Full));
    lock(&stage);

    // The level is in force: a pod that asks for nothing in particular is refused already.
    let plain: PodTemplateSpec =
        serde_json::from_value(json!({"spec": {"containers": [{"name": "it", "image": "none"}]}})).unwrap();
    let refused = tried(&stage, plain).unwrap_err();
    assert!(refused.contains("violates PodSecurity \"restricted:"), "{refused}");

    // Pods of machines, and attachments of devices of another node and of the same one, are let in.
    for device in ["webcam", "token"] {
        stage.node_device_is(device, "Ready", "Ready");
        stage.assign(device, Some(LOCKED));
    }
    stage.machine(LOCKED, "linux-vm", "node-2", &["webcam", "token"]);
    for device in ["webcam", "token"] {
        stage.is_attached(LOCKED, "linux-vm", device);
    }

    workloads::make(&stage);
    let deployment: Deployment = get(&stage.within("patchbay"), "controller").unwrap();
    tried(&stage, deployment.spec.unwrap().template).unwrap();
    let agents: DaemonSet = get(&stage.within("patchbay"), "agent").unwrap();
    let refused = tried(&stage, agents.spec.unwrap().template).unwrap_err();
    for words in ["hostNetwork=true", "hostPID=true", "privileged", "hostPath", "runAsUser=0"] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    stage.check(&controller);
}
