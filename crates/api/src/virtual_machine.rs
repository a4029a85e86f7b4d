//! `VirtualMachine`: a machine of the built-in engine.

#![expect(unreachable_pub, reason = "the derived schema repeats the struct inside a function")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema, Resource};
use patchbay_core::conditions::{ConditionType, GuestPort};
use patchbay_core::controller::world::{self, Power, Vm, VmPhase, VmStatus, VmUsbStatus};
use patchbay_core::names::{DeviceName, Namespace, NodeName, Uid, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device_status::Condition;
use crate::meta::{self, Unreadable};
use crate::{keys, quantity, rules};

/// The machine as its owner wants it.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "virtualization.deckhouse.io",
    version = "v1alpha2",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    singular = "virtualmachine",
    shortname = "vm",
    category = "virtualization",
    namespaced,
    doc = "A virtual machine.",
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.size() <= 63")
        .message("the name has at most 63 characters, because it becomes a label"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.nodeName"),
    printcolumn(name = "USB", type_ = "string", json_path = ".status.usb"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Processors.
    #[serde(default)]
    pub cpu: Cpu,
    /// Memory.
    #[serde(default)]
    pub memory: Memory,
    /// The machine's image: an OCI reference of a container image that holds the engine and a description of the machine.
    #[schemars(length(max = 512))]
    #[x_kube(validation = rules::image())]
    pub image: String,
    /// When the machine runs. `Manual` and `AlwaysOnUnlessStoppedManually` leave it to `VirtualMachineOperation`s to start and
    /// stop it.
    #[serde(default)]
    pub run_policy: RunPolicy,
    /// Labels of the nodes the machine may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 253}))]
    #[x_kube(validation = rules::node_labels())]
    pub node_selector: BTreeMap<String, String>,
    /// USB devices of the machine, by the names of `USBDevice`s of its namespace: at most 16, which may be changed while it
    /// runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    #[x_kube(validation = rules::few_devices(), validation = rules::different_devices())]
    pub usb_devices: Vec<UsbDeviceRef>,
}

/// Processors of a virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    /// How many.
    #[schemars(range(min = 1, max = 64))]
    pub cores: i32,
    /// The share of each that is guaranteed, for example 20%. Default 10%.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("pattern" = "^([1-9][0-9]?|100)%$"))]
    pub core_fraction: Option<String>,
}

impl Default for Cpu {
    fn default() -> Self {
        Self { cores: 1, core_fraction: None }
    }
}

/// Memory of a virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Memory {
    /// How much, for example 512Mi.
    #[schemars(extend("pattern" = "^[1-9][0-9]{0,14}([KMGT]i|[kMGT])?$"))]
    pub size: String,
}

impl Default for Memory {
    fn default() -> Self {
        Self { size: "512Mi".to_owned() }
    }
}

/// When a virtual machine runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunPolicy {
    /// Always.
    AlwaysOn,
    /// Never.
    AlwaysOff,
    /// As operations say; until there is one, it goes on with what it does.
    Manual,
    /// Always, unless an operation has stopped it.
    #[default]
    AlwaysOnUnlessStoppedManually,
}

/// A USB device of a virtual machine.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UsbDeviceRef {
    /// The name of a `USBDevice` of the machine's namespace.
    #[schemars(length(max = 253))]
    #[x_kube(validation = rules::device_name())]
    pub name: String,
}

/// The machine as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// Pending, Starting, Running, Migrating, Stopping or Stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub phase: Option<String>,
    /// On or Off: what operations have asked for last, where spec.runPolicy leaves it to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub power: Option<String>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub node_name: Option<String>,
    /// The generation of the object that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "i64")]
    pub observed_generation: Option<i64>,
    /// How many of its USB devices are attached, and how many there are: 2/3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub usb: Option<String>,
    /// Its USB devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<UsbDeviceStatus>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub usb_devices: Option<Vec<UsbDeviceStatus>>,
    /// Whether it runs, and whether all its USB devices are attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Vec<Condition>",
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Option<Vec<Condition>>,
}

/// The state of a USB device of a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsbDeviceStatus {
    /// The device.
    pub name: String,
    /// It is in the guest.
    pub attached: bool,
    /// The device itself is ready to use.
    pub ready: bool,
    /// Where the guest has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UsbAddress")]
    pub address: Option<UsbAddress>,
    /// For people.
    pub message: String,
}

/// A place on a guest's USB.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsbAddress {
    /// The bus.
    #[schemars(with = "i32")]
    pub bus: u16,
    /// The port on it; 2.1 is the first port of a hub in port 2.
    pub port: String,
}

/// What the engine needs to know to run a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The machine's uid.
    pub uid: Uid,
    /// `spec.image`.
    pub image: String,
    /// Processors.
    pub cpus: u32,
    /// The guaranteed share of each, in percent.
    pub core_percent: u32,
    /// Memory, in bytes.
    pub memory: u64,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
}

const POWERS: [(Power, &str); 2] = [(Power::On, "On"), (Power::Off, "Off")];

const PHASES: [(VmPhase, &str); 6] = [
    (VmPhase::Pending, "Pending"),
    (VmPhase::Starting, "Starting"),
    (VmPhase::Running, "Running"),
    (VmPhase::Migrating, "Migrating"),
    (VmPhase::Stopping, "Stopping"),
    (VmPhase::Stopped, "Stopped"),
];

/// Reads an object: what the planner needs, and what the engine needs.
pub fn read(object: &VirtualMachine) -> Result<((Namespace, VmName), Vm, Machine), Unreadable> {
    let (meta, spec) = (&object.metadata, &object.spec);
    let uid = meta::uid(meta)?;
    let status = object.status.as_ref().map(VmStatus::from).unwrap_or_default();
    let vm = Vm {
        uid: uid.clone(),
        generation: meta.generation.unwrap_or(0),
        deleting: meta.deletion_timestamp.is_some(),
        policy: spec.run_policy.into(),
        usb_devices: spec.usb_devices.iter().map(|d| DeviceName::new(&d.name)).collect(),
        status,
    };
    let fraction = spec.cpu.core_fraction.as_deref().unwrap_or("10%");
    let percent = fraction.strip_suffix('%').and_then(|p| p.parse().ok());
    let machine = Machine {
        uid,
        image: spec.image.clone(),
        cpus: u32::try_from(spec.cpu.cores).map_err(|e| Unreadable::bad("spec.cpu.cores", e))?.max(1),
        core_percent: percent.ok_or_else(|| Unreadable::bad("spec.cpu.coreFraction", "no percentage such as 20%"))?,
        memory: quantity::bytes(&spec.memory.size).map_err(|e| Unreadable::bad("spec.memory.size", e))?,
        node_selector: spec.node_selector.clone(),
    };
    Ok(((Namespace::new(meta::namespace(meta)?), VmName::new(meta::name(meta)?)), vm, machine))
}

impl From<RunPolicy> for world::RunPolicy {
    fn from(policy: RunPolicy) -> Self {
        match policy {
            RunPolicy::AlwaysOn => Self::AlwaysOn,
            RunPolicy::AlwaysOff => Self::AlwaysOff,
            RunPolicy::Manual => Self::Manual,
            RunPolicy::AlwaysOnUnlessStoppedManually => Self::AlwaysOnUnlessStoppedManually,
        }
    }
}

/// The apply patch that publishes a status.
pub fn status_patch(namespace: &Namespace, name: &VmName, uid: Option<&Uid>, status: &VmStatus) -> Value {
    json!({
        "apiVersion": keys::API_VERSION,
        "kind": VirtualMachine::kind(&()),
        "metadata": meta::patch_meta(Some(namespace.as_str()), name.as_str(), uid),
        "status": VirtualMachineStatus::from(status),
    })
}

impl From<&VmStatus> for VirtualMachineStatus {
    fn from(status: &VmStatus) -> Self {
        let attached = status.usb_devices.iter().filter(|d| d.attached).count();
        let phase = PHASES.iter().find(|(phase, _)| Some(*phase) == status.phase);
        let power = POWERS.iter().find(|(power, _)| Some(*power) == status.power);
        Self {
            phase: phase.map(|(_, text)| (*text).to_owned()),
            power: power.map(|(_, text)| (*text).to_owned()),
            node_name: status.node.as_ref().map(ToString::to_string),
            observed_generation: Some(status.observed_generation),
            usb: Some(format!("{attached}/{}", status.usb_devices.len())).filter(|_| !status.usb_devices.is_empty()),
            usb_devices: Some(status.usb_devices.iter().map(UsbDeviceStatus::from).collect()),
            conditions: Some(status.conditions.iter().map(Condition::from).collect()),
        }
    }
}

impl From<&VirtualMachineStatus> for VmStatus {
    fn from(status: &VirtualMachineStatus) -> Self {
        let phase = PHASES.iter().find(|(_, text)| Some(*text) == status.phase.as_deref());
        let conditions = status.conditions.iter().flatten();
        let mut conditions: Vec<_> = conditions.filter_map(|c| c.read(ConditionType::OF_VM)).collect();
        conditions.sort_by_key(|c| c.kind);
        Self {
            conditions,
            phase: phase.map(|(phase, _)| *phase),
            power: POWERS.iter().find(|(_, text)| Some(*text) == status.power.as_deref()).map(|(power, _)| *power),
            node: status.node_name.as_deref().map(NodeName::new),
            observed_generation: status.observed_generation.unwrap_or(0),
            usb_devices: status.usb_devices.iter().flatten().map(VmUsbStatus::from).collect(),
        }
    }
}

impl From<&VmUsbStatus> for UsbDeviceStatus {
    fn from(device: &VmUsbStatus) -> Self {
        Self {
            name: device.name.to_string(),
            attached: device.attached,
            ready: device.ready,
            address: device.address.as_ref().map(|a| UsbAddress { bus: a.bus, port: a.port.clone() }),
            message: device.message.clone(),
        }
    }
}

impl From<&UsbDeviceStatus> for VmUsbStatus {
    fn from(device: &UsbDeviceStatus) -> Self {
        Self {
            name: DeviceName::new(&device.name),
            attached: device.attached,
            ready: device.ready,
            address: device.address.as_ref().map(|a| GuestPort { bus: a.bus, port: a.port.clone() }),
            message: device.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use patchbay_core::conditions::{Condition as CoreCondition, Reason};

    use super::*;
    use crate::samples;

    fn object(spec: Value) -> VirtualMachine {
        let object = json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "VirtualMachine",
            "metadata": {"name": "linux-vm", "namespace": "my-project"},
            "spec": spec,
        });
        samples::created(&serde_json::from_value(object).unwrap(), "u1")
    }

    #[test]
    fn the_shortest_manifest_gets_the_defaults() {
        let ((namespace, name), vm, machine) = read(&object(json!({"image": "example/guest:1"}))).unwrap();
        assert_eq!((namespace.as_str(), name.as_str()), ("my-project", "linux-vm"));
        assert!(vm.run() && vm.usb_devices.is_empty());
        assert_eq!((machine.cpus, machine.core_percent, machine.memory), (1, 10, 512 << 20));
    }

    #[test]
    fn a_manual_machine_goes_on_with_what_it_does() {
        let mut vm = object(json!({"image": "example/guest:1", "runPolicy": "Manual"}));
        assert!(!read(&vm).unwrap().1.run());
        vm.status = Some(VirtualMachineStatus { phase: Some("Running".to_owned()), ..VirtualMachineStatus::default() });
        assert!(read(&vm).unwrap().1.run());
    }

    #[test]
    fn memory_that_is_no_size_makes_the_machine_unreadable() {
        let error = read(&object(json!({"image": "example/guest:1", "memory": {"size": "lots"}}))).unwrap_err();
        assert_eq!(error.to_string(), "spec.memory.size: \"lots\" is no size of memory such as 512Mi or 2Gi");
    }

    #[test]
    fn a_published_status_is_read_back() {
        let usb = |name: &str, address: Option<GuestPort>| VmUsbStatus {
            name: name.into(),
            attached: address.is_some(),
            ready: true,
            address,
            message: "so it is".to_owned(),
        };
        let condition =
            |kind, reason| CoreCondition { kind, reason, message: "so it is".to_owned(), since: 1_700_000_000 };
        let status = VmStatus {
            phase: Some(VmPhase::Running),
            power: Some(Power::Off),
            node: Some("node-2".into()),
            observed_generation: 7,
            usb_devices: vec![usb("webcam", Some(GuestPort { bus: 0, port: "2.1".to_owned() })), usb("token", None)],
            conditions: vec![
                condition(ConditionType::Running, Reason::Running),
                condition(ConditionType::USBDevicesAttached, Reason::InUse),
            ],
        };
        let patch = status_patch(&"my-project".into(), &"linux-vm".into(), Some(&"u1".into()), &status);
        insta::assert_json_snapshot!("vm_status", patch);
        let mut object = object(json!({"image": "example/guest:1"}));
        object.status = serde_json::from_value(patch["status"].clone()).unwrap();
        assert_eq!(read(&object).unwrap().1.status, status);
    }
}
