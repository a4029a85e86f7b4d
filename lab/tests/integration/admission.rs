//! What the API server refuses of what people write, and with which words.

use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use patchbay_api::{NodeUSBDevice, VirtualMachine, VirtualMachineOperation, keys};
use patchbay_core::speed::Speed;
use patchbay_lab::api::block_on;
use serde_json::{Value, json};

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, create};

fn machine(spec: Value) -> VirtualMachine {
    serde_json::from_value(json!({
        "apiVersion": keys::API_VERSION, "kind": "VirtualMachine",
        "metadata": {"name": "linux-vm", "namespace": "blue"},
        "spec": spec,
    }))
    .unwrap()
}

fn lists(names: &[&str]) -> Value {
    json!({"image": "none", "usbDevices": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()})
}

/// The words of a refusal for what the object says.
fn refusal<T: std::fmt::Debug>(answer: kube::Result<T>) -> String {
    match answer {
        Err(kube::Error::Api(status)) => {
            assert_eq!(status.code, 422, "{status:?}");
            status.message.clone()
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_machine_that_cannot_be_is_refused_with_what_to_do() {
    let stage = Stage::open();
    stage.namespace("blue");
    let machines: Api<VirtualMachine> = stage.within("blue");
    let many: Vec<String> = (1..=17).map(|n| format!("camera-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = "a".repeat(64);
    let no_name = |name: &str| format!("\"{name}\" cannot be the name of a USBDevice: at most 63 lower-case letters");
    let cases = [
        (
            "twice",
            lists(&["webcam", "token", "webcam"]),
            "a USB device is listed more than once: list each device once".to_owned(),
        ),
        ("too many", lists(&many), "at most 16 USB devices: take some off the list".to_owned()),
        ("capitals", lists(&["webcam", "Token_1"]), no_name("Token_1")),
        ("dots", lists(&["webcam.v2"]), no_name("webcam.v2")),
        ("a hyphen at the end", lists(&["webcam-"]), no_name("webcam-")),
        ("nothing", lists(&[""]), no_name("")),
        ("too long", lists(&[&long]), no_name(&long)),
        ("no image", json!({"image": ""}), "\"\" cannot be an image: write it like registry.example".to_owned()),
        (
            "image with a space",
            json!({"image": "linux machine"}),
            "\"linux machine\" cannot be an image: write it like".to_owned(),
        ),
        (
            "selector",
            json!({"image": "none", "nodeSelector": {"a b": "c"}}),
            "no node can have such a label".to_owned(),
        ),
        (
            "selected value",
            json!({"image": "none", "nodeSelector": {"a": "b c"}}),
            "no node can have such a label".to_owned(),
        ),
    ];
    for (what, spec, sentence) in cases {
        let answer = refusal(block_on(machines.create(&PostParams::default(), &machine(spec))));
        assert!(answer.contains(&sentence), "{what}: {answer}");
    }

    // The same for a change of what is good.
    let selector = json!({"kubernetes.io/hostname": "node-1", "disk": "", "example.org/Zone_1": "a.B-c"});
    let mut good = machine(lists(&many[..16]));
    good.spec.node_selector = serde_json::from_value(selector).unwrap();
    create(&machines, &good);
    let patch = Patch::Merge(json!({"spec": lists(&many)}));
    let answer = refusal(block_on(machines.patch("linux-vm", &PatchParams::default(), &patch)));
    assert!(answer.contains("at most 16 USB devices"), "{answer}");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_device_cannot_be_given_to_what_is_no_namespace() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let home = Node::join(&stage, "node-1");
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    let devices: Api<NodeUSBDevice> = stage.all();
    for bad in ["My-Project", "my.project", "-my-project", &"a".repeat(64)] {
        let patch = Patch::Merge(json!({"spec": {"assignedNamespace": bad}}));
        let answer = refusal(block_on(devices.patch("webcam", &PatchParams::default(), &patch)));
        let sentence = format!("\"{bad}\" cannot be the name of a namespace: at most 63 lower-case");
        assert!(answer.contains(&sentence), "{answer}");
    }
    stage.assign("webcam", Some(""));
    stage.assign("webcam", Some("1-project"));
    stage.node_device_is("webcam", "Assigned", "InProgress");
    stage.check(&controller);
}

fn operation(kind: &str, vm: &str) -> VirtualMachineOperation {
    serde_json::from_value(json!({
        "apiVersion": keys::API_VERSION, "kind": "VirtualMachineOperation",
        "metadata": {"name": "operation", "namespace": "blue"},
        "spec": {"type": kind, "virtualMachineName": vm},
    }))
    .unwrap()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_operation_that_cannot_be_is_refused_and_none_can_be_changed() {
    let stage = Stage::open();
    stage.namespace("blue");
    let operations: Api<VirtualMachineOperation> = stage.within("blue");
    for (kind, vm, sentence) in [
        ("Dance", "linux-vm", "\"Dance\" is no type of operation: there are Start, Stop, Restart"),
        ("start", "linux-vm", "\"start\" is no type of operation"),
        ("Start", "Linux VM", "\"Linux VM\" cannot be the name of a VirtualMachine"),
        ("Start", "", "\"\" cannot be the name of a VirtualMachine"),
    ] {
        let answer = refusal(block_on(operations.create(&PostParams::default(), &operation(kind, vm))));
        assert!(answer.contains(sentence), "{kind} {vm}: {answer}");
    }
    create(&operations, &operation("Start", "linux-vm"));
    for change in [json!({"type": "Stop"}), json!({"virtualMachineName": "other-vm"})] {
        let patch = Patch::Merge(json!({"spec": change}));
        let answer = refusal(block_on(operations.patch("operation", &PatchParams::default(), &patch)));
        assert!(answer.contains("an operation cannot be changed: make another one"), "{answer}");
    }
}
