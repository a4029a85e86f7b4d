//! `VirtualMachineOperation`: something that is done to a machine once.

#![expect(unreachable_pub, reason = "the derived schema repeats the struct inside a function")]
#![expect(clippy::duplicated_attributes, reason = "columns of a table have the same type")]

use kube::{CustomResource, KubeSchema, Resource};
use patchbay_core::conditions::ConditionType;
use patchbay_core::controller::world::{Operation, OperationKind, OperationPhase, OperationStatus};
use patchbay_core::names::{Namespace, OperationName, Uid, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device_status::Condition;
use crate::meta::{self, Unreadable};
use crate::{VirtualMachine, keys, rules};

/// What is to be done.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "VirtualMachineOperation",
    plural = "virtualmachineoperations",
    singular = "virtualmachineoperation",
    shortname = "vmop",
    category = "virtualization",
    namespaced,
    doc = "Something that is done to a virtual machine once. It stays when it is done, and says what has come of it.",
    status = "VirtualMachineOperationStatus",
    derive = "PartialEq",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "VirtualMachine", type_ = "string", json_path = ".spec.virtualMachineName"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Completed')].message",
        priority = "1"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::immutable())]
pub struct VirtualMachineOperationSpec {
    /// What is done: `Start`, `Stop`, `Restart`, `Migrate` or `Evict`.
    #[schemars(length(max = 63))]
    #[x_kube(validation = rules::operation_type())]
    pub r#type: String,
    /// The `VirtualMachine` of the same namespace it is done to.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::machine_name())]
    pub virtual_machine_name: String,
}

/// How it is going, or how it has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineOperationStatus {
    /// Pending, InProgress, Completed or Failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub phase: Option<String>,
    /// The uid of the pod that ran the machine when the operation began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub pod_uid: Option<String>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub start_time: Option<String>,
    /// When the machine was seen to be paused for a move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub pause_time: Option<String>,
    /// The generation of the object that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// Whether it is done, and what it waits for or why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Condition>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Option<Vec<Condition>>,
}

/// Reads an object.
pub fn read(object: &VirtualMachineOperation) -> Result<((Namespace, OperationName), Operation), Unreadable> {
    let (meta, spec) = (&object.metadata, &object.spec);
    let kind = OperationKind::ALL.iter().find(|kind| kind.as_str() == spec.r#type);
    let operation = Operation {
        uid: meta::uid(meta)?,
        created: meta.creation_timestamp.as_ref().map_or(0, meta::seconds),
        generation: meta.generation.unwrap_or(0),
        deleting: meta.deletion_timestamp.is_some(),
        held: meta.finalizers.iter().flatten().any(|f| f == keys::MOVING),
        kind: *kind.ok_or_else(|| Unreadable::bad("spec.type", format!("{:?} is no operation", spec.r#type)))?,
        vm: VmName::new(&spec.virtual_machine_name),
        status: object.status.as_ref().map(OperationStatus::from).unwrap_or_default(),
    };
    Ok(((Namespace::new(meta::namespace(meta)?), OperationName::new(meta::name(meta)?)), operation))
}

/// An operation on a machine with this uid, which goes with it.
pub fn build(
    namespace: &Namespace,
    name: &OperationName,
    kind: OperationKind,
    vm: &VmName,
    owner: &Uid,
) -> VirtualMachineOperation {
    let spec = VirtualMachineOperationSpec { r#type: kind.as_str().to_owned(), virtual_machine_name: vm.to_string() };
    let mut operation = VirtualMachineOperation::new(name.as_str(), spec);
    operation.metadata.namespace = Some(namespace.to_string());
    let owner = meta::owner(keys::API_VERSION, &VirtualMachine::kind(&()), vm.as_str(), owner);
    operation.metadata.owner_references = Some(vec![owner]);
    operation
}

/// The merge patch that keeps an operation when it is deleted, or lets it go; None when that is so. It applies to this very
/// version of the object.
pub fn hold_patch(object: &VirtualMachineOperation, hold: bool) -> Option<Value> {
    let meta = &object.metadata;
    let all = meta.finalizers.clone().unwrap_or_default();
    let held = all.iter().any(|f| f == keys::MOVING);
    let others = all.into_iter().filter(|f| f != keys::MOVING);
    let finalizers: Vec<String> = others.chain(hold.then(|| keys::MOVING.to_owned())).collect();
    let (uid, version) = (&meta.uid, &meta.resource_version);
    (held != hold).then(|| json!({"metadata": {"uid": uid, "resourceVersion": version, "finalizers": finalizers}}))
}

/// The apply patch that publishes a status.
pub fn status_patch(namespace: &Namespace, name: &OperationName, uid: Option<&Uid>, status: &OperationStatus) -> Value {
    json!({
        "apiVersion": keys::API_VERSION,
        "kind": VirtualMachineOperation::kind(&()),
        "metadata": meta::patch_meta(Some(namespace.as_str()), name.as_str(), uid),
        "status": VirtualMachineOperationStatus::from(status),
    })
}

impl From<&OperationStatus> for VirtualMachineOperationStatus {
    fn from(status: &OperationStatus) -> Self {
        Self {
            phase: status.phase.map(|phase| phase.as_str().to_owned()),
            pod_uid: status.pod.as_ref().map(ToString::to_string),
            start_time: status.begun.map(meta::timestamp),
            pause_time: status.paused.map(meta::timestamp),
            observed_generation: Some(status.observed_generation),
            conditions: Some(status.conditions.iter().map(Condition::from).collect()),
        }
    }
}

impl From<&VirtualMachineOperationStatus> for OperationStatus {
    fn from(status: &VirtualMachineOperationStatus) -> Self {
        let phase = OperationPhase::ALL.iter().find(|phase| Some(phase.as_str()) == status.phase.as_deref());
        let conditions = status.conditions.iter().flatten();
        Self {
            phase: phase.copied(),
            pod: status.pod_uid.as_deref().map(Uid::new),
            begun: status.start_time.as_deref().and_then(meta::parse_timestamp),
            paused: status.pause_time.as_deref().and_then(meta::parse_timestamp),
            observed_generation: status.observed_generation.unwrap_or(0),
            conditions: conditions.filter_map(|c| c.read(ConditionType::OF_OPERATION)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::{Condition as CoreCondition, Reason};

    use super::*;
    use crate::samples;

    fn object(kind: &str) -> VirtualMachineOperation {
        let object = json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "VirtualMachineOperation",
            "metadata": {"name": "restart", "namespace": "my-project"},
            "spec": {"type": kind, "virtualMachineName": "linux-vm"},
        });
        samples::created(&serde_json::from_value(object).unwrap(), "u1")
    }

    #[test]
    fn every_type_is_read_and_nothing_else() {
        for kind in OperationKind::ALL {
            let ((namespace, name), operation) = read(&object(kind.as_str())).unwrap();
            assert_eq!((namespace.as_str(), name.as_str()), ("my-project", "restart"));
            assert_eq!((operation.kind, operation.vm.as_str(), operation.created), (*kind, "linux-vm", 1_700_000_000));
        }
        assert_eq!(read(&object("Clone")).unwrap_err().to_string(), "spec.type: \"Clone\" is no operation");
    }

    #[test]
    fn a_published_status_is_read_back() {
        for phase in OperationPhase::ALL {
            let status = OperationStatus {
                phase: Some(*phase),
                pod: Some("pod-uid".into()),
                begun: Some(1_700_000_001),
                paused: Some(1_700_000_002),
                observed_generation: 1,
                conditions: vec![CoreCondition {
                    kind: ConditionType::Completed,
                    reason: Reason::RestartInProgress,
                    message: "so it is".to_owned(),
                    since: 1_700_000_000,
                }],
            };
            let patch = status_patch(&"my-project".into(), &"restart".into(), Some(&"u1".into()), &status);
            let mut object = object("Restart");
            object.status = serde_json::from_value(patch["status"].clone()).unwrap();
            assert_eq!(read(&object).unwrap().1.status, status);
        }
    }

    #[test]
    fn an_operation_of_ours_is_read_back() {
        let (namespace, name) = (Namespace::new("my-project"), OperationName::new("evict-linux-vm-a1b2c3"));
        let built = build(&namespace, &name, OperationKind::Evict, &"linux-vm".into(), &"vm-uid".into());
        let (key, operation) = read(&samples::created(&built, "u1")).unwrap();
        assert_eq!((key, operation.kind, operation.vm), ((namespace, name), OperationKind::Evict, "linux-vm".into()));
    }

    #[test]
    fn an_operation_is_held_and_let_go_beside_others_who_hold_it() {
        let mut object = object("Migrate");
        object.metadata.finalizers = Some(vec!["example.org/other".to_owned()]);
        assert!(!read(&object).unwrap().1.held && hold_patch(&object, false).is_none());
        let patch = hold_patch(&object, true).unwrap();
        object.metadata.finalizers = serde_json::from_value(patch["metadata"]["finalizers"].clone()).unwrap();
        assert!(read(&object).unwrap().1.held && hold_patch(&object, true).is_none());
        let patch = hold_patch(&object, false).unwrap();
        assert_eq!(patch["metadata"]["finalizers"], json!(["example.org/other"]));
    }

    #[test]
    fn the_status_as_it_is_written() {
        let status = OperationStatus {
            phase: Some(OperationPhase::Failed),
            pod: None,
            begun: Some(1_700_000_001),
            paused: None,
            observed_generation: 1,
            conditions: vec![CoreCondition {
                kind: ConditionType::Completed,
                reason: Reason::VirtualMachineNotFound,
                message: "so it is".to_owned(),
                since: 1_700_000_000,
            }],
        };
        let patch = status_patch(&"my-project".into(), &"restart".into(), Some(&"u1".into()), &status);
        insta::assert_json_snapshot!("operation_status", patch);
    }
}
