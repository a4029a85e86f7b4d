//! The vocabulary of scenarios: sticks, devices, virtual machines and what is said of them.
//!
//! A case has a namespace of its own. [`Case::end`] takes everything away again, the way a person would.

mod operation;
mod said;
mod why;

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

/// The virtual machine of scenarios that need only one.
pub const VM: &str = "linux-vm";

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
        let at = self.insert(node, stick)?;
        let name = self.appears(node, stick)?;
        Ok((name, at.elapsed()))
    }

    /// Plugs sticks into nodes, one after the other, and then waits for their `NodeUSBDevice`s: the names, in the same order.
    ///
    /// # Errors
    /// When one does not appear in time.
    pub fn plug_all(&self, sticks: &[(&str, Stick)]) -> Result<Vec<String>> {
        for (node, stick) in sticks {
            self.insert(node, stick)?;
        }
        sticks.iter().map(|(node, stick)| self.appears(node, stick)).collect()
    }

    /// Plugs a stick into a node and waits for nothing.
    ///
    /// # Errors
    /// When the node has no free port.
    pub fn insert(&self, node: &str, stick: &Stick) -> Result<Instant> {
        let at = self.lab.node(node)?.plug(stick)?;
        self.plugged.borrow_mut().push((node.to_owned(), stick.clone()));
        Ok(at)
    }

    /// The name of the `NodeUSBDevice` of the device in a port of a node, once there is one and it is ready.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn in_port(&self, node: &str, stick: &Stick) -> Result<String> {
        self.lab.wait_for(&format!("a NodeUSBDevice of the port on {node} that {} is in", stick.name), SOON, || {
            let port = self.lab.node(node).and_then(|node| node.port_of(stick)).map_err(|e| format!("{e:#}"))?;
            let found = self.node_devices().map_err(|e| format!("{e:#}"))?;
            let here = |d: &&NodeUSBDevice| {
                let status = d.status.as_ref();
                let attributes = status.and_then(|s| s.attributes.as_ref());
                attributes.is_some_and(|a| a.port_path == port)
                    && status.and_then(|s| s.node_name.as_deref()) == Some(node)
                    && condition(&json!(d), "Ready").1 == "Ready"
            };
            found.iter().find(here).map(ResourceExt::name_any).ok_or_else(|| format!("{port}: {}", json!(found)))
        })
    }

    fn appears(&self, node: &str, stick: &Stick) -> Result<String> {
        if stick.serial.is_none() {
            return self.in_port(node, stick);
        }
        let serial = stick.serial.as_deref().unwrap_or_default();
        self.lab.wait_for(&format!("a NodeUSBDevice on {node} with serial {serial}"), SOON, || {
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
        })
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
        self.assign_all(&[device], namespace)
    }

    /// Assigns devices to a namespace and waits for their `USBDevice`s.
    ///
    /// # Errors
    /// When one does not appear in time.
    pub fn assign_all(&self, devices: &[&str], namespace: &str) -> Result<()> {
        let object = |device: &&str| {
            format!(
                "apiVersion: virtualization.deckhouse.io/v1alpha2\nkind: NodeUSBDevice\nmetadata: {{name: {device}}}\n\
                 spec: {{assignedNamespace: {namespace}}}\n"
            )
        };
        self.lab.apply_yaml(&devices.iter().map(object).collect::<Vec<_>>().join("---\n"))?;
        devices.iter().try_for_each(|device| {
            self.lab.wait_for(&format!("NodeUSBDevice {device} to be assigned"), SOON, || {
                let seen = condition(&self.json::<NodeUSBDevice>(None, device)?, "Assigned");
                if seen.1 == "Assigned" { Ok(()) } else { Err(format!("{seen:?}")) }
            })
        })
    }

    /// Changes the namespace that a device is assigned to, or takes it away from all, and waits for nothing.
    ///
    /// # Errors
    /// The API server's.
    pub fn reassign(&self, device: &str, namespace: Option<&str>) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"assignedNamespace": namespace}}));
        let devices = Api::<NodeUSBDevice>::all(self.lab.api());
        request("assign a device", devices.patch(device, &PatchParams::default(), &patch)).map(drop)
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

    /// Starts the virtual machine [`VM`] on `importer` with a stick that is plugged into `home`, and waits until its guest
    /// has read it: the device's name, and the guest.
    ///
    /// # Errors
    /// When something does not come in time, or the guest reads anything else.
    pub fn reading(&self, stick: &Stick, home: &str, importer: &str) -> Result<(String, Guest)> {
        let (device, _) = self.plug(home, stick)?;
        self.assign(&device, &self.namespace)?;
        let guest = self.vm(VM, importer, &[&device])?;
        guest.reads(stick, BOOT)?;
        self.wait_status(VM, &device, true)?;
        Ok((device, guest))
    }

    /// Replaces the list of a virtual machine's devices.
    ///
    /// # Errors
    /// The API server's.
    pub fn set_devices(&self, vm: &str, devices: &[&str]) -> Result<Instant> {
        let list: Vec<Value> = devices.iter().map(|d| json!({"name": d})).collect();
        let at = Instant::now();
        self.change_vm(vm, json!({"usbDevices": list}))?;
        Ok(at)
    }

    /// Changes fields of a virtual machine's `spec`.
    ///
    /// # Errors
    /// The API server's.
    pub fn change_vm(&self, vm: &str, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        let machines = Api::<VirtualMachine>::namespaced(self.lab.api(), &self.namespace);
        request("change a machine", machines.patch(vm, &PatchParams::default(), &patch)).map(drop)
    }

    /// Deletes a virtual machine and waits for nothing.
    ///
    /// # Errors
    /// The API server's.
    pub fn delete_vm(&self, vm: &str) -> Result<()> {
        let machines = Api::<VirtualMachine>::namespaced(self.lab.api(), &self.namespace);
        request("delete a machine", machines.delete(vm, &DeleteParams::default())).map(drop)
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
pub(crate) fn condition(object: &Value, kind: &str) -> (String, String, String) {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let found =
        conditions.into_iter().find(|c| c.get("type").and_then(Value::as_str) == Some(kind)).unwrap_or_default();
    let text = |field: &str| found.get(field).and_then(Value::as_str).unwrap_or("(none)").to_owned();
    (text("status"), text("reason"), text("message"))
}
