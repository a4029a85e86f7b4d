//! What is said of devices and machines: conditions, status, Events.

use std::collections::BTreeSet;

use anyhow::Result;
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine};
use serde_json::{Value, json};

use super::{Case, SOON, condition};
use crate::events::{self, Told, times};

impl Case<'_> {
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

    /// What has been told so far of an object of the case's namespace, `USBDevice/name`.
    ///
    /// # Errors
    /// When the Events cannot be listed.
    pub fn told(&self, object: &str) -> Result<Vec<Told>> {
        let about = format!("{}/{object}", self.namespace);
        Ok(events::all(self.lab.api())?.into_iter().filter(|told| told.about == about).collect())
    }

    /// Waits until each of these reasons has been told of an object of the case's namespace more often than `before`.
    ///
    /// # Errors
    /// After the deadline: what was told until then.
    pub fn wait_told(&self, object: &str, before: &[Told], reasons: &[&str]) -> Result<()> {
        self.lab.wait_for(&format!("Events about {object} with the reasons {reasons:?}"), SOON, || {
            let told = self.told(object).map_err(|e| format!("{e:#}"))?;
            if reasons.iter().all(|reason| times(&told, reason) > times(before, reason)) {
                return Ok(());
            }
            Err(told.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })
    }

    /// Waits until a `NodeUSBDevice` has a condition with this reason; gives its message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_node_condition(&self, device: &str, kind: &str, reason: &str) -> Result<String> {
        self.lab.wait_for(&format!("NodeUSBDevice {device} to have {kind} with reason {reason}"), SOON, || {
            let (_, seen, message) = condition(&self.json::<NodeUSBDevice>(None, device)?, kind);
            if seen == reason { Ok(message) } else { Err(format!("{kind} is {seen}: {message}")) }
        })
    }

    /// Waits until `NodeUSBDevice`, `USBDevice` and the machine's status say that a device is not ready for this reason, and
    /// not attached.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_away(&self, vm: &str, device: &str, reason: &str) -> Result<()> {
        self.lab.wait_for(&format!("all to say that {device} is {reason} and not attached"), SOON, || {
            let objects =
                [self.json::<NodeUSBDevice>(None, device)?, self.json::<USBDevice>(Some(&self.namespace), device)?];
            let entry = self.entry(vm, device)?;
            let away = objects.iter().all(|object| {
                let (ready, attached) = (condition(object, "Ready"), condition(object, "Attached"));
                (ready.0.as_str(), ready.1.as_str(), attached.0.as_str()) == ("False", reason, "False")
            });
            let told = ["ready", "attached"].map(|field| entry.get(field).and_then(Value::as_bool));
            if away && told == [Some(false), Some(false)] {
                Ok(())
            } else {
                let said = objects.map(|object| object.pointer("/status/conditions").cloned());
                Err(format!("{vm}: {entry}; NodeUSBDevice and USBDevice: {}", json!(said)))
            }
        })
    }

    /// Waits until the column USB of a machine says this, for example 2/3; nothing stands for a machine without devices.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_usb(&self, vm: &str, count: &str) -> Result<()> {
        self.lab.wait_for(&format!("{vm} to have {count:?} devices"), SOON, || {
            let machine = self.json::<VirtualMachine>(Some(&self.namespace), vm)?;
            let seen = machine.pointer("/status/usb").and_then(Value::as_str).unwrap_or_default();
            if seen == count { Ok(()) } else { Err(machine.pointer("/status").unwrap_or(&Value::Null).to_string()) }
        })
    }

    /// Waits until a machine's status is about exactly these devices, and says of each that it is attached.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_attached(&self, vm: &str, devices: &[&str]) -> Result<()> {
        let wanted: BTreeSet<&str> = devices.iter().copied().collect();
        self.lab.wait_for(&format!("{vm} to have exactly {wanted:?}"), SOON, || {
            let machine = self.json::<VirtualMachine>(Some(&self.namespace), vm)?;
            let entries = machine.pointer("/status/usbDevices").and_then(Value::as_array).cloned().unwrap_or_default();
            let told: BTreeSet<&str> = entries.iter().filter_map(|e| e.get("name").and_then(Value::as_str)).collect();
            let attached = entries.iter().all(|e| e.get("attached").and_then(Value::as_bool) == Some(true));
            if told == wanted && attached { Ok(()) } else { Err(json!(entries).to_string()) }
        })?;
        self.wait_usb(vm, &format!("{0}/{0}", wanted.len()))
    }

    /// Waits until an object of the case's namespace, `usbdevice/name`, is gone.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_gone(&self, object: &str) -> Result<()> {
        self.lab.wait_for(&format!("{object} to be gone"), SOON, || {
            let arguments = ["get", object, "-n", &self.namespace, "--ignore-not-found", "-o", "yaml"];
            let left = self.lab.kubectl(&arguments).map_err(|e| format!("{e:#}"))?;
            if left.trim().is_empty() { Ok(()) } else { Err(left) }
        })
    }

    /// Waits until a machine's status says of a device that it is attached, or not; gives the message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_status(&self, vm: &str, device: &str, attached: bool) -> Result<String> {
        self.wait_message(vm, device, attached, "")
    }

    /// The same, and the message has these words in it.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_message(&self, vm: &str, device: &str, attached: bool, words: &str) -> Result<String> {
        let what = format!("the status of {vm} to say attached={attached} {words:?} of {device}");
        self.lab.wait_for(&what, SOON, || {
            let entry = self.entry(vm, device)?;
            let message = entry.get("message").and_then(Value::as_str).unwrap_or_default();
            if entry.get("attached").and_then(Value::as_bool) == Some(attached) && message.contains(words) {
                Ok(message.to_owned())
            } else {
                Err(entry.to_string())
            }
        })
    }

    /// Waits until `NodeUSBDevice`, `USBDevice` and the machine's status say of a device that it is not attached, the
    /// conditions with this reason, and all of them with all of these words, as `kubectl usb why` has them; gives the
    /// condition's message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn wait_refused(&self, vm: &str, device: &str, reason: &str, words: &[&str]) -> Result<String> {
        let what = format!("{device} to be refused with {reason} in the words {words:?}");
        let message = self.lab.wait_for(&what, SOON, || {
            let (of_node, of_namespace) = (
                condition(&self.json::<NodeUSBDevice>(None, device)?, "Attached"),
                condition(&self.json::<USBDevice>(Some(&self.namespace), device)?, "Attached"),
            );
            let entry = self.entry(vm, device)?;
            let told = entry.get("message").and_then(Value::as_str).unwrap_or_default();
            let fits = |message: &str| words.iter().all(|word| message.contains(word));
            let refused = |(status, because, message): &(String, String, String)| {
                status == "False" && because == reason && fits(message)
            };
            let attached = entry.get("attached").and_then(Value::as_bool) != Some(false);
            if refused(&of_node) && refused(&of_namespace) && !attached && fits(told) {
                Ok(of_namespace.2)
            } else {
                Err(format!("NodeUSBDevice: {of_node:?}; USBDevice: {of_namespace:?}; {vm}: {entry}"))
            }
        })?;
        self.explained(vm, device, words)?;
        Ok(message)
    }

    /// All conditions of the `NodeUSBDevice`s and `USBDevice`s of these names, times included.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn conditions(&self, devices: &[&str]) -> Result<Vec<Value>> {
        let read = |device: &&str| -> Result<Value> {
            let objects = [
                self.json::<NodeUSBDevice>(None, device).map_err(anyhow::Error::msg)?,
                self.json::<USBDevice>(Some(&self.namespace), device).map_err(anyhow::Error::msg)?,
            ];
            Ok(json!([device, objects.map(|object| object.pointer("/status/conditions").cloned())]))
        };
        devices.iter().map(read).collect()
    }

    /// What a machine's status says of a device.
    fn entry(&self, vm: &str, device: &str) -> Result<Value, String> {
        let machine = self.json::<VirtualMachine>(Some(&self.namespace), vm)?;
        let entries = machine.pointer("/status/usbDevices").and_then(Value::as_array).cloned().unwrap_or_default();
        let entry = entries.into_iter().find(|e| e.get("name").and_then(Value::as_str) == Some(device));
        entry.ok_or_else(|| format!("no entry: {machine}"))
    }
}
