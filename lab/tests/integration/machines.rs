//! What a virtual machine says of itself: whether it runs and why not, and whether it has its devices.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use patchbay_api::VirtualMachine;
use patchbay_core::speed::Speed;
use patchbay_lab::api::request;
use serde_json::{Value, json};

use crate::node::{Node, device};
use crate::players::{self, Awake};
use crate::program::Running;
use crate::stage::{Stage, merge};

const POD: &str = "vm-linux-vm";

/// The kubelet of the machine's pod says what has become of the container.
fn container(stage: &Stage, phase: &str, state: &Value) {
    let container =
        json!({"name": "vm", "image": "none", "imageID": "", "ready": false, "restartCount": 0, "state": state});
    // The list is replaced and not merged, as a kubelet does it.
    let patch = Patch::Merge(json!({"status": {"phase": phase, "containerStatuses": [container]}}));
    let pods: Api<Pod> = stage.within("blue");
    request("say how the container is", pods.patch_status(POD, &PatchParams::default(), &patch)).unwrap();
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_machine_tells_why_it_does_not_run_and_what_it_lacks() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let node = Node::join(&stage, "node-1");
    node.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    let is = |kind: &str, reason: &str| stage.machine_is("blue", "linux-vm", kind, reason).message;
    let written = || {
        stage.rest();
        stage.writes("controller").iter().filter(|write| write.object == "blue/linux-vm").count()
    };

    // Nobody can take it.
    stage.awake(Awake { kubelets: false, ..players::ALL });
    stage.machine("blue", "linux-vm", "node-2", &["webcam", "token"]);
    let message = is("Running", "Unschedulable");
    assert!(message.starts_with("no node can take it: 0/1 nodes") && !message.contains("preemption"), "{message}");
    let message = is("USBDevicesAttached", "NotRunning");
    assert_eq!(message, "0 of 2 USB devices are attached; webcam: waiting for the virtual machine to run");

    // Its node comes, and cannot get its image.
    let _importer = Node::join(&stage, "node-2");
    assert_eq!(is("Running", "Starting"), "node node-2 is starting it");
    let error = "example/guest:9: not found";
    container(&stage, "Pending", &json!({"waiting": {"reason": "ErrImagePull", "message": error}}));
    assert_eq!(is("Running", "ImagePullFailed"), format!("its image cannot be had: {error}"));
    let writes = written();
    let again = format!("Back-off pulling image \"example/guest:9\": ErrImagePull: {error}");
    container(&stage, "Pending", &json!({"waiting": {"reason": "ImagePullBackOff", "message": again}}));
    assert_eq!(written(), writes, "the same again is not worth a write");

    // It runs, and says of its devices which is missing.
    container(&stage, "Running", &json!({"running": {}}));
    assert_eq!(is("Running", "Running"), "it runs on node node-2");
    let message = is("USBDevicesAttached", "NoFreeUSBIPPort");
    assert!(message.starts_with("0 of 2 USB devices are attached; webcam: node node-2 has no USB 2.0"), "{message}");

    // It fails, and is switched off.
    let words = "[1.0] console\npatchbay: QEMU was ended by signal 11\n";
    container(&stage, "Running", &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": words}}));
    let message = is("Running", "ContainerFailed");
    assert_eq!(message, "it has failed with code 1 and is started again: QEMU was ended by signal 11");
    stage.awake(players::ALL);
    merge(&stage.within::<VirtualMachine>("blue"), "linux-vm", json!({"spec": {"runPolicy": "AlwaysOff"}}));
    assert_eq!(is("Running", "Stopped"), "it is stopped, as spec.runPolicy says");
    stage.check(&controller);
}
