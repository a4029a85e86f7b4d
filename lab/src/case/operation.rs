//! Operations on machines.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kube::api::{Api, DeleteParams};
use patchbay_api::VirtualMachineOperation;
use serde_json::{Value, json};

use super::{Case, Scoped, condition};
use crate::api::request;

impl Case<'_> {
    /// Asks for an operation on a machine, and waits for nothing.
    ///
    /// # Errors
    /// The API server's.
    pub fn operate(&self, name: &str, kind: &str, vm: &str) -> Result<()> {
        let operation = json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2",
            "kind": "VirtualMachineOperation",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"type": kind, "virtualMachineName": vm},
        });
        self.lab.apply_yaml(&operation.to_string())
    }

    /// Deletes an operation and waits for nothing.
    ///
    /// # Errors
    /// The API server's.
    pub fn cancel(&self, operation: &str) -> Result<()> {
        let operations = Api::<VirtualMachineOperation>::namespaced(self.lab.api(), &self.namespace);
        request("delete an operation", operations.delete(operation, &DeleteParams::default())).map(drop)
    }

    /// Waits until an operation has completed; gives the message.
    ///
    /// # Errors
    /// When it fails, or after the deadline.
    pub fn completes(&self, operation: &str, deadline: Duration) -> Result<String> {
        match self.ends(operation, deadline)? {
            (phase, _, message) if phase == "Completed" => Ok(message),
            (_, reason, message) => bail!("operation {operation} has failed: {reason}: {message}"),
        }
    }

    /// Waits until an operation has failed with this reason; gives the message.
    ///
    /// # Errors
    /// When it completes or has another reason, or after the deadline.
    pub fn fails(&self, operation: &str, reason: &str, deadline: Duration) -> Result<String> {
        let (phase, seen, message) = self.ends(operation, deadline)?;
        ensure!(
            (phase.as_str(), seen.as_str()) == ("Failed", reason),
            "operation {operation} should fail with {reason}: {phase}, {seen}: {message}"
        );
        Ok(message)
    }

    /// Waits until an operation is in progress with this reason; gives the message.
    ///
    /// # Errors
    /// After the deadline.
    pub fn proceeds(&self, operation: &str, reason: &str, deadline: Duration) -> Result<String> {
        self.lab.wait_for(&format!("operation {operation} to be in progress with reason {reason}"), deadline, || {
            let (phase, seen, message) = self.operation(operation)?;
            let there = phase == "InProgress" && seen == reason;
            if there { Ok(message) } else { Err(format!("{phase}, {seen}: {message}")) }
        })
    }

    fn ends(&self, operation: &str, deadline: Duration) -> Result<(String, String, String)> {
        self.lab.wait_for(&format!("operation {operation} to come to its end"), deadline, || {
            let said = self.operation(operation)?;
            let ended = said.0 == "Completed" || said.0 == "Failed";
            if ended { Ok(said) } else { Err(format!("{}, {}: {}", said.0, said.1, said.2)) }
        })
    }

    /// An operation's phase, and reason and message of its condition `Completed`.
    fn operation(&self, name: &str) -> Result<(String, String, String), String> {
        let object = self.json::<VirtualMachineOperation>(Some(&self.namespace), name)?;
        let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or("(none)").to_owned();
        let (_, reason, message) = condition(&object, "Completed");
        Ok((phase, reason, message))
    }
}

impl Scoped for Api<VirtualMachineOperation> {
    fn of(client: kube::Client, namespace: Option<&str>) -> Self {
        Self::namespaced(client, namespace.unwrap_or("default"))
    }
}
