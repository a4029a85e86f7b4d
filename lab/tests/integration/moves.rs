//! Moves of machines between nodes, with everybody played but the controller, the scheduler and the API server.

use k8s_openapi::api::core::v1::{Node as KubeNode, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use patchbay_api::virtual_machine::VirtualMachineStatus;
use patchbay_api::{VirtualMachine, VirtualMachineOperation, attachment, keys, migration};
use patchbay_core::migration::{Decision, Destination, Report};
use patchbay_core::speed::Speed;
use patchbay_lab::api::{connect, request};
use serde_json::json;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, create, delete, eventually, get, is_gone, list, merge};

const POD: &str = "vm-linux-vm";

/// A machine on node-2 with a device of node-1; node-3 has so many ports.
fn machine(stage: &Stage, ports: u16) -> [Node; 3] {
    let nodes = ["node-1", "node-2", "node-3"].map(|name| Node::join(stage, name));
    nodes[1].ports(8);
    nodes[2].ports(ports);
    nodes[0].plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.assign("webcam", Some("blue"));
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    merge(
        &stage.within::<VirtualMachine>("blue"),
        "linux-vm",
        json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-3"}}}),
    );
    nodes
}

fn ask(stage: &Stage, name: &str, kind: &str) {
    let operation: VirtualMachineOperation = serde_json::from_value(json!({
        "apiVersion": keys::API_VERSION, "kind": "VirtualMachineOperation",
        "metadata": {"name": name, "namespace": "blue"},
        "spec": {"type": kind, "virtualMachineName": "linux-vm"},
    }))
    .unwrap();
    create(&stage.within("blue"), &operation);
}

/// Waits until an operation is in this phase, with this reason; the message.
fn is(stage: &Stage, name: &str, phase: &str, reason: &str) -> String {
    let operations: Api<VirtualMachineOperation> = stage.within("blue");
    eventually(&format!("operation {name} to be {phase} with {reason}"), || {
        let status = get(&operations, name)?.status.unwrap_or_default();
        let found = status.conditions.iter().flatten().find(|c| c.type_ == "Completed" && c.reason == reason);
        let there = found.filter(|_| status.phase.as_deref() == Some(phase)).map(|c| c.message.clone());
        there.ok_or_else(|| format!("{status:?}"))
    })
}

/// Waits until the agents are asked to move the machine: where to.
fn asked(stage: &Stage) -> Destination {
    let pods: Api<Pod> = stage.within("blue");
    eventually("the agents to be asked", || {
        let source = migration::read(&get(&pods, POD)?).map_err(|error| error.to_string())?;
        source.to.filter(|_| source.decision.is_none()).ok_or_else(|| "not yet".to_owned())
    })
}

fn decision(stage: &Stage) -> Option<Decision> {
    migration::read(&get(&stage.within("blue"), POD).unwrap()).unwrap().decision
}

/// The agent of a pod's node says how far the move is, with the rights of an agent.
fn say(stage: &Stage, pod: &str, to: &Destination, report: &Report) {
    let seen = get(&stage.within::<Pod>("blue"), pod).unwrap();
    let this = attachment::pod_ref(&seen).unwrap();
    let node = seen.spec.and_then(|spec| spec.node_name).unwrap();
    let pods: Api<Pod> = Api::namespaced(connect(&stage.agent_of(&node)).unwrap(), "blue");
    let patch = Patch::Apply(migration::patch(&this, &to.name, report, 1_700_000_000));
    request("say it", pods.patch_status(pod, &PatchParams::apply(keys::AGENT).force(), &patch)).unwrap();
}

/// Waits until these are the machine's pods.
fn pods_are(stage: &Stage, names: &[&str]) {
    eventually(&format!("the machine's pods to be {names:?}"), || {
        let pods = list::<Pod>(&stage.within("blue"), &ListParams::default().labels(keys::VM_NAME))?;
        let found: Vec<_> = pods.iter().map(ResourceExt::name_any).collect();
        if found == names { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// Waits until the machine's status is as it should be.
fn status_is(stage: &Stage, what: &str, good: impl Fn(&VirtualMachineStatus) -> bool) {
    eventually(&format!("the machine's status to say {what}"), || {
        let status = get(&stage.within::<VirtualMachine>("blue"), "linux-vm")?.status.unwrap_or_default();
        if good(&status) { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_machine_moves_with_its_device_when_its_target_has_loaded_it() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _nodes = machine(&stage, 8);
    let before = stage.attachments("blue").unwrap()[0].uid().unwrap();

    ask(&stage, "move", "Migrate");
    let to = asked(&stage);
    pods_are(&stage, &[POD, to.name.as_str()]);
    assert_eq!(stage.attachments("blue").unwrap().len(), 2, "ports are held on the target");
    status_is(&stage, "Migrating", |status| status.phase.as_deref() == Some("Migrating"));
    say(&stage, POD, &to, &Report::Moving(Some(43)));
    eventually("the operation to say how far the move is", || {
        let message = is(&stage, "move", "InProgress", "MigrationRunning");
        if message.ends_with("43 % sent") { Ok(()) } else { Err(message) }
    });
    say(&stage, POD, &to, &Report::Paused);
    is(&stage, "move", "InProgress", "SourceSuspended");
    assert_eq!(decision(&stage), None);

    say(&stage, to.name.as_str(), &to, &Report::Loaded);
    is(&stage, "move", "InProgress", "TargetResumed");
    assert_eq!(decision(&stage), Some(Decision::Target));
    say(&stage, to.name.as_str(), &to, &Report::Running);
    assert_eq!(
        is(&stage, "move", "Completed", "OperationCompleted"),
        "virtual machine linux-vm has moved to node node-3"
    );
    pods_are(&stage, &[to.name.as_str()]);
    stage.is_attached("blue", "linux-vm", "webcam");
    let message = stage.device_is("blue", "webcam", "Attached", "AttachedToVirtualMachine").message;
    assert!(message.contains("on node node-3"), "{message}");
    eventually("the attachment of the former node to be gone", || {
        let after: Vec<_> = stage.attachments("blue")?.iter().filter_map(ResourceExt::uid).collect();
        if after.len() == 1 && after[0] != before { Ok(()) } else { Err(format!("{after:?}")) }
    });
    stage.machine_is("blue", "linux-vm", "Running", "Running");
    status_is(&stage, "node-3", |status| status.node_name.as_deref() == Some("node-3"));
    delete(&stage.within::<VirtualMachineOperation>("blue"), "move");
    eventually("the operation to be gone", || is_gone(&stage.within::<VirtualMachineOperation>("blue"), "move"));
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_machine_whose_device_finds_no_port_stays_and_nothing_has_happened() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _nodes = machine(&stage, 0);
    let before = stage.attachments("blue").unwrap()[0].uid();
    ask(&stage, "move", "Migrate");
    let message = is(&stage, "move", "Failed", "NoFreeUSBIPPort");
    assert!(message.contains("node-3") && message.contains("stays on node node-2"), "{message}");
    pods_are(&stage, &[POD]);
    assert_eq!((decision(&stage), stage.attachments("blue").unwrap()[0].uid()), (None, before));
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_move_that_is_called_off_is_undone_and_a_drained_node_is_left_nevertheless() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _nodes = machine(&stage, 8);
    ask(&stage, "move", "Migrate");
    let to = asked(&stage);
    delete(&stage.within::<VirtualMachineOperation>("blue"), "move");
    eventually("the operation to be gone", || is_gone(&stage.within::<VirtualMachineOperation>("blue"), "move"));
    assert_eq!(decision(&stage), Some(Decision::Source));
    eventually("the target to be gone", || is_gone(&stage.within::<Pod>("blue"), to.name.as_str()));
    say(&stage, POD, &to, &Report::Failed("called off".to_owned()));

    let budget: PodDisruptionBudget = get(&stage.within("blue"), POD).unwrap();
    assert_eq!(budget.spec.unwrap().max_unavailable, Some(IntOrString::Int(0)));
    merge(&stage.all::<KubeNode>(), "node-2", json!({"spec": {"unschedulable": true}}));
    let next = asked(&stage);
    assert_ne!(next.uid, to.uid);
    let operations = list::<VirtualMachineOperation>(&stage.within("blue"), &ListParams::default()).unwrap();
    let [evict] = operations.as_slice() else { panic!("{} operations", operations.len()) };
    assert_eq!(evict.spec.r#type, "Evict");
    is(&stage, &evict.name_any(), "InProgress", "MigrationRunning");
    stage.check(&controller);
}
