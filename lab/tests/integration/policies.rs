//! Who may do what: attacks on the API, each refused with what to do instead, and beside each its honest twin, which passes.
//!
//! All tries are dry runs: the API server judges them like any other write, and nothing changes.

mod agents;
mod people;

use std::fmt::Debug;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use patchbay_core::speed::Speed;
use patchbay_lab::api::block_on;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{Stage, create};

const BLUE: &str = "blue";
const MACHINE: &str = "vm-linux-vm";

/// What became of a try.
type Answer = Result<(), String>;

/// A cluster in which the machine of node-2 has a device of node-1.
struct Scene {
    stage: Stage,
    controller: Running,
    _nodes: [Node; 2],
}

impl Scene {
    fn set() -> Self {
        let stage = Stage::open();
        let controller = Running::leader(&stage, "controller-1");
        let nodes = ["node-1", "node-2"].map(|name| Node::join(&stage, name));
        nodes[1].ports(8);
        nodes[0].plug(device("webcam", 1, Speed::High));
        stage.namespace(BLUE);
        stage.node_device_is("webcam", "Ready", "Ready");
        stage.assign("webcam", Some(BLUE));
        stage.machine(BLUE, "linux-vm", "node-2", &["webcam"]);
        stage.is_attached(BLUE, "linux-vm", "webcam");
        Self { stage, controller, _nodes: nodes }
    }

    /// The attachment pod of the device, which is on node-2.
    fn attachment(&self) -> String {
        self.stage.attachments(BLUE).unwrap()[0].name_any()
    }

    /// Somebody who has a role in the namespace.
    fn member(&self, name: &str, role: &str) -> Client {
        let binding: RoleBinding = serde_json::from_value(binding(name, role)).unwrap();
        create(&self.stage.within(BLUE), &binding);
        self.stage.person(name)
    }

    /// Somebody who has a role in the whole cluster.
    fn ruler(&self, name: &str, role: &str) -> Client {
        let binding: ClusterRoleBinding = serde_json::from_value(binding(name, role)).unwrap();
        create(&self.stage.all(), &binding);
        self.stage.person(name)
    }
}

fn binding(name: &str, role: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
    })
}

fn answer<T>(tried: impl Future<Output = kube::Result<T>>) -> Answer {
    match block_on(tried) {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("{other}"),
    }
}

fn make<K>(objects: &Api<K>, object: Value) -> Answer
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let object: K = serde_json::from_value(object).unwrap();
    answer(objects.create(&PostParams { dry_run: true, ..PostParams::default() }, &object))
}

fn change<K>(objects: &Api<K>, name: &str, patch: Value) -> Answer
where
    K: Clone + Debug + DeserializeOwned,
{
    answer(objects.patch(name, &PatchParams { dry_run: true, ..PatchParams::default() }, &Patch::Merge(patch)))
}

fn remove<K>(objects: &Api<K>, name: &str) -> Answer
where
    K: Clone + Debug + DeserializeOwned,
{
    answer(objects.delete(name, &DeleteParams { dry_run: true, ..DeleteParams::default() }))
}

/// Reports something in the status, as our programs do.
fn report<K>(objects: &Api<K>, object: &Value) -> Answer
where
    K: Clone + Debug + DeserializeOwned,
{
    let params = PatchParams { dry_run: true, ..PatchParams::apply("somebody").force() };
    let name = object["metadata"]["name"].as_str().unwrap();
    answer(objects.patch_status(name, &params, &Patch::Apply(object)))
}

fn pods(client: &Client) -> Api<Pod> {
    within(client)
}

fn within<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), BLUE)
}

/// An attack, the words with which it is refused, and its honest twin.
type Case<'a> = (&'a str, Answer, &'a str, Answer);

fn judge(cases: Vec<Case<'_>>) {
    let mut wrong = Vec::new();
    for (what, attack, words, twin) in cases {
        match attack {
            Ok(()) => wrong.push(format!("{what}: not refused")),
            Err(said) if said.contains(words) => {}
            Err(said) => wrong.push(format!("{what}: refused with {said:?} and not with {words:?}")),
        }
        if let Err(said) = twin {
            wrong.push(format!("{what}: its twin is refused with {said:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}

/// A condition of a pod.
fn says(pod: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
        "status": {"conditions": [{"type": kind, "status": "False", "reason": "Probe", "message": "probe"}]},
    })
}
