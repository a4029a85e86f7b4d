//! The vocabulary of scenarios: sticks, devices, virtual machines and what is said of them.
//!
//! A case has a namespace of its own. [`Case::end`] takes everything away again, the way a person would.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine};
use serde_json::{Value, json};

use crate::api::request;
use crate::cluster::Lab;
use crate::guest::Guest;
use crate::stick::Stick;

/// For what the system does by itself.
pub const SOON: Duration = Duration::from_secs(30);
/// For the start of a virtual machine: its guest boots in software emulation inside an emulated node.
pub const BOOT: Duration = Duration::from_secs(120);

/// The image of the test guest.
const GUEST: &str = "localhost/patchbay/guest:lab";

/// One scenario's belongings.
pub struct Case<'l> {
    /// The lab.
    pub lab: &'l Lab,
    /// The case's namespace.
    pub namespace: String,
    plugged: RefCell<Vec<(String, Stick)>>,
}

impl<'l> Case<'l> {
    /// Makes the namespace.
    ///
    /// # Errors
    /// The API server's.
    pub fn begin(lab: &'l Lab, namespace: &str) -> Result<Self> {
        lab.apply_yaml(&format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"))?;
        Ok(Self { lab, namespace: namespace.to_owned(), plugged: RefCell::default() })
    }

    /// Plugs a stick into a node and waits for its `NodeUSBDevice`: its name, and how long that took.
    ///
    /// # Errors
    /// When it does not appear in time.
    pub fn plug(&self, node: &str, stick: &Stick) -> Result<(String, Duration)> {
        let at = self.lab.node(node)?.plug(stick)?;
        self.plugged.borrow_mut().push((node.to_owned(), stick.clone()));
        let serial = stick.serial.as_deref().unwrap_or_default();
        let name = self.lab.wait_for(&format!("a NodeUSBDevice on {node} with serial {serial}"), SOON, || {
            let found = self.node_devices().map_err(|e| format!("{e:#}"))?;
            let here = |d: &&NodeUSBDevice| {
                let status = d.status.as_ref();
                let attributes = status.and_then(|s| s.attributes.as_ref());
                attributes.and_then(|a| a.serial.as_deref()) == Some(serial)
                    && status.and_then(|s| s.node_name.as_deref()) == Some(node)
                    && condition(&json!(d), "Ready").1 == "Ready"
            };
            let names: Vec<_> = found.iter().map(ResourceExt::name_any).collect();
            found.iter().find(here).map(ResourceExt::name_any).ok_or_else(|| format!("there are: {}", names.join(", ")))
        })?;
        Ok((name, at.elapsed()))
    }

    /// Pulls a stick out.
    ///
    /// # Errors
    /// When the node does not let go of it.
    pub fn unplug(&self, node: &str, stick: &Stick) -> Result<Instant> {
        let at = self.lab.node(node)?.unplug(stick)?;
        self.plugged.borrow_mut().retain(|(n, s)| n != node || s.name != stick.name);
        Ok(at)
    }

    /// Assigns a device to a namespace and waits for the `USBDevice`.
    ///
    /// # Errors
    /// When it does not appear in time.
    pub fn assign(&self, device: &str, namespace: &str) -> Result<()> {
        self.lab.apply_yaml(&format!(
            "apiVersion: virtualization.deckhouse.io/v1alpha2\nkind: NodeUSBDevice\nmetadata: {{name: {device}}}\n\
             spec: {{assignedNamespace: {namespace}}}\n"
        ))?;
        self.lab.wait_for(&format!("NodeUSBDevice {device} to be assigned"), SOON, || {
            let seen = condition(&self.json::<NodeUSBDevice>(None, device)?, "Assigned");
            if seen.1 == "Assigned" { Ok(()) } else { Err(format!("{seen:?}")) }
        })
    }

    /// Starts a virtual machine on a node and waits until its guest has booted.
    ///
    /// # Errors
    /// When it does not boot in time.
    pub fn vm(&self, name: &str, node: &str, devices: &[&str]) -> Result<Guest> {
        let list: Vec<Value> = devices.iter().map(|d| json!({"name": d})).collect();
        let machine = json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "cpu": {"cores": 1},
                "memory": {"size": "128Mi"},
                "image": GUEST,
                "nodeSelector": {"kubernetes.io/hostname": node},
                "usbDevices": list,
            },
        });
        self.lab.apply_yaml(&machine.to_string())?;
        let guest = self.lab.guest(&self.namespace, name);
        guest.wait_line("that it has booted", BOOT, |line| line.text.contains("guest: booted").then_some(()))?;
        Ok(guest)
    }

    /// Replaces the list of a virtual machine's devices.
    ///
    /// # Errors
    /// The API server's.
    pub fn set_devices(&self, vm: &str, devices: &[&str]) -> Result<Instant> {
        let list: Vec<Value> = devices.iter().map(|d| json!({"name": d})).collect();
        let patch = Patch::Merge(json!({"spec": {"usbDevices": list}}));
        let machines = Api::<VirtualMachine>::namespaced(self.lab.api(), &self.namespace);
        let at = Instant::now();
        request("change the list of devices", machines.patch(vm, &PatchParams::default(), &patch))?;
        Ok(at)
    }

    /// Waits until a `USBDevice` of the case's namespace has a condition with this reason; gives its message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_condition(&self, device: &str, kind: &str, reason: &str) -> Result<String> {
        self.lab.wait_for(&format!("USBDevice {device} to have {kind} with reason {reason}"), SOON, || {
            let (_, seen, message) = condition(&self.json::<USBDevice>(Some(&self.namespace), device)?, kind);
            if seen == reason { Ok(message) } else { Err(format!("{kind} is {seen}: {message}")) }
        })
    }

    /// Waits until a machine's status says of a device that it is attached, or not; gives the message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_status(&self, vm: &str, device: &str, attached: bool) -> Result<String> {
        self.lab.wait_for(&format!("the status of {vm} to say attached={attached} of {device}"), SOON, || {
            let machine = self.json::<VirtualMachine>(Some(&self.namespace), vm)?;
            let entries = machine.pointer("/status/usbDevices").and_then(Value::as_array).cloned().unwrap_or_default();
            let entry = entries.into_iter().find(|e| e.get("name").and_then(Value::as_str) == Some(device));
            let entry = entry.ok_or_else(|| format!("no entry: {machine}"))?;
            if entry.get("attached").and_then(Value::as_bool) == Some(attached) {
                Ok(entry.get("message").and_then(Value::as_str).unwrap_or_default().to_owned())
            } else {
                Err(entry.to_string())
            }
        })
    }

    /// Takes everything away: machines, namespace, sticks, devices.
    ///
    /// # Errors
    /// When something does not go away in time.
    pub fn end(self) -> Result<()> {
        let machines = Api::<VirtualMachine>::namespaced(self.lab.api(), &self.namespace);
        for machine in request("list the machines", machines.list(&ListParams::default()))? {
            request("delete a machine", machines.delete(&machine.name_any(), &DeleteParams::default()))?;
        }
        for (node, stick) in self.plugged.take() {
            self.lab.node(&node)?.unplug(&stick)?;
        }
        let devices = Api::<NodeUSBDevice>::all(self.lab.api());
        let absent = self.lab.wait_for("every device to be absent", SOON, || {
            let found = self.node_devices().map_err(|e| format!("{e:#}"))?;
            let here = found.iter().find(|d| condition(&json!(d), "Ready").1 != "NotFound");
            here.map_or(Ok(()), |d| Err(format!("{} is {:?}", d.name_any(), condition(&json!(d), "Ready"))))
        });
        absent.context("after unplugging")?;
        for device in self.node_devices()? {
            request("delete a device", devices.delete(&device.name_any(), &DeleteParams::default()))?;
        }
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.lab.api());
        request("delete the namespace", namespaces.delete(&self.namespace, &DeleteParams::default()))?;
        self.lab.wait_for("the namespace to be gone", Duration::from_secs(60), || {
            match request("look at the namespace", namespaces.get_opt(&self.namespace)) {
                Ok(None) => Ok(()),
                Ok(Some(left)) => Err(json!(left.status).to_string()),
                Err(error) => Err(format!("{error:#}")),
            }
        })
    }

    fn node_devices(&self) -> Result<Vec<NodeUSBDevice>> {
        let devices = Api::<NodeUSBDevice>::all(self.lab.api());
        Ok(request("list the devices", devices.list(&ListParams::default()))?.items)
    }

    /// An object as JSON.
    fn json<K>(&self, namespace: Option<&str>, name: &str) -> Result<Value, String>
    where
        K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
        Api<K>: Scoped,
    {
        let objects = <Api<K> as Scoped>::of(self.lab.api(), namespace);
        let object = request("read an object", objects.get(name)).map_err(|e| format!("{e:#}"))?;
        serde_json::to_value(object).map_err(|e| e.to_string())
    }
}

/// An API of objects that live in a namespace, or of such that do not.
trait Scoped {
    fn of(client: kube::Client, namespace: Option<&str>) -> Self;
}

impl Scoped for Api<NodeUSBDevice> {
    fn of(client: kube::Client, _: Option<&str>) -> Self {
        Self::all(client)
    }
}

impl Scoped for Api<USBDevice> {
    fn of(client: kube::Client, namespace: Option<&str>) -> Self {
        Self::namespaced(client, namespace.unwrap_or("default"))
    }
}

impl Scoped for Api<VirtualMachine> {
    fn of(client: kube::Client, namespace: Option<&str>) -> Self {
        Self::namespaced(client, namespace.unwrap_or("default"))
    }
}

/// Status, reason and message of a condition.
fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found =
        conditions.into_iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind)).unwrap_or_default();
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or("(none)").to_owned();
    (text("status"), text("reason"), text("message"))
}
