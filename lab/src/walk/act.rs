//! Does what a step says, as a person or an accident would. What follows from it by itself is waited for elsewhere.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Walk;
use super::model::Model;
use super::operation::Operation;
use super::things::{Device, Machine, Node, Process};
use crate::case::{BOOT, SOON};
use crate::node;

/// For a move: the second pod starts, the guest's memory is sent, and the first one ends.
const MOVED: Duration = Duration::from_secs(150);
/// For a process that was killed before to run again, so that it can be killed once more.
const STARTED: Duration = Duration::from_secs(60);
/// How long the API server does not answer: long enough for agents to notice, and shorter than a lease.
const SILENCE: Duration = Duration::from_secs(4);
/// The label of machines' pods.
const LABEL: &str = "vm.virtualization.deckhouse.io/name";

impl Walk<'_> {
    /// Does it; `before` is the model as it was.
    ///
    /// # Errors
    /// When somebody refuses it, or what it has to wait for does not come.
    pub(super) fn act(&self, step: u32, before: &Model, operation: &Operation) -> Result<()> {
        match *operation {
            Operation::Plug(device, node) => self.plug(device, node),
            Operation::Unplug(device) => self.unplug(before, device),
            Operation::Replug(device, node) => self.unplug(before, device).and_then(|()| self.plug(device, node)),
            Operation::Swap(one, other) => {
                let node = *before.plugged.get(&one).context("it is in no node")?;
                self.unplug(before, one)?;
                self.unplug(before, other)?;
                self.plug(other, node)?;
                self.plug(one, node)
            }
            Operation::Assign(device, space) => self.first.reassign(self.name(device)?, Some(space.name())),
            Operation::Unassign(device) => self.first.reassign(self.name(device)?, None),
            Operation::Attach(machine, _) | Operation::Detach(machine, _) => self.list(machine),
            Operation::Start(machine, node) => {
                self.places(machine, node)?;
                self.operate(step, "Start", machine, BOOT)
            }
            Operation::Stop(machine) => self.operate(step, "Stop", machine, BOOT),
            Operation::Restart(machine) => self.operate(step, "Restart", machine, BOOT),
            Operation::Migrate(machine, node) => {
                self.places(machine, node)?;
                self.operate(step, "Migrate", machine, MOVED)
            }
            Operation::Kill(process) => self.kill(before, process),
            Operation::Replace(process) => self.replace(process),
            Operation::Cut(one, other) => {
                self.node(one)?.cut_from(self.node(other)?);
                Ok(())
            }
            Operation::Heal(one, other) => {
                self.node(one)?.heal_from(self.node(other)?);
                Ok(())
            }
            Operation::PowerOff(node) => self.lab.power_off(node.name()),
            Operation::PowerOn(node) => self.lab.boot(node.name()),
            Operation::Silence(meanwhile) => {
                let frozen = self.lab.freeze_api()?;
                if let Some(operation) = meanwhile.operation() {
                    self.act(step, before, &operation)?;
                }
                // It is not waited for anything: this is how long the outage is.
                sleep(SILENCE);
                drop(frozen);
                Ok(())
            }
            Operation::Rest => {
                for (one, other) in &before.cuts {
                    self.node(*one)?.heal_from(self.node(*other)?);
                }
                before.off.map_or(Ok(()), |node| self.lab.boot(node.name()))?;
                Machine::ALL.into_iter().try_for_each(|machine| self.list(machine))
            }
        }
    }

    fn node(&self, node: Node) -> Result<&node::Node> {
        self.lab.node(node.name())
    }

    fn plug(&self, device: Device, node: Node) -> Result<()> {
        self.first.insert(node.name(), &device.stick()).map(drop)
    }

    fn unplug(&self, before: &Model, device: Device) -> Result<()> {
        let node = before.plugged.get(&device).context("it is in no node")?;
        self.first.unplug(node.name(), &device.stick()).map(drop)
    }

    /// Writes a machine's list as the model has it now.
    fn list(&self, machine: Machine) -> Result<()> {
        let listed = self.path.model.machines.get(&machine).map(|state| state.lists.clone()).unwrap_or_default();
        let names = listed.into_iter().map(|device| self.name(device)).collect::<Result<Vec<_>>>()?;
        self.case(machine.space()).set_devices(machine.name(), &names).map(drop)
    }

    /// Says where a machine is to run from its next pod on.
    fn places(&self, machine: Machine, node: Node) -> Result<()> {
        let selector = json!({"nodeSelector": {"kubernetes.io/hostname": node.name()}});
        self.case(machine.space()).change_vm(machine.name(), selector)
    }

    /// Asks for an operation and waits until it is done; then the object is taken away.
    fn operate(&self, step: u32, kind: &str, machine: Machine, deadline: Duration) -> Result<()> {
        let (case, name) = (self.case(machine.space()), format!("step-{step}"));
        case.operate(&name, kind, machine.name())?;
        case.completes(&name, deadline)?;
        case.cancel(&name)
    }

    fn kill(&self, model: &Model, process: Process) -> Result<()> {
        self.lab.wait_for(&format!("{process} to run, so that it can be killed"), STARTED, || {
            let killed = match process {
                // It is somewhere.
                Process::Controller => model.nodes().find_map(|node| self.lab.kill(node.name(), "controller").ok()),
                Process::Agent(node) => self.lab.kill(node.name(), "agent").ok(),
                Process::Qemu(machine) => {
                    self.kill_qemu(model, machine).map_err(|error| format!("{error:#}"))?;
                    Some(())
                }
            };
            killed.ok_or_else(|| "there is none".to_owned())
        })
    }

    /// A node may have several: the one whose mounts are those of the machine's pod.
    fn kill_qemu(&self, model: &Model, machine: Machine) -> Result<()> {
        let state = model.machines.get(&machine).context("there is no such machine")?;
        let pods = ["get", "pods", "-n", machine.space().name(), "-l", &format!("{LABEL}={machine}")];
        let running = ["--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].metadata.uid}"];
        let uid = self.lab.kubectl(&[&pods[..], &running].concat())?;
        let of_it = format!("grep -qs '{}' /proc/$p/mountinfo /proc/$p/cgroup", uid.trim());
        let script = format!("for p in $(pidof qemu-system-x86_64); do {of_it} && kill -9 $p && exit 0; done; exit 1");
        anyhow::ensure!(
            !uid.trim().is_empty() && !uid.trim().contains(' '),
            "the running pods of {machine} are {uid:?}"
        );
        self.node(state.node)?.run(&script).map(drop)
    }

    /// Deletes the pod of a process and waits until that is on its way out.
    fn replace(&self, process: Process) -> Result<()> {
        let (component, field) = match process {
            Process::Controller => ("controller", String::new()),
            Process::Agent(node) => ("agent", format!("spec.nodeName={node}")),
            Process::Qemu(machine) => anyhow::bail!("the pod of {machine} is not deleted, but its machine restarted"),
        };
        let label = format!("app.kubernetes.io/component={component}");
        let pods = ["pods", "-n", "patchbay", "-l", &label, "--field-selector", &field];
        let uids = || self.lab.kubectl(&[&["get"], &pods[..], &["-o", "jsonpath={.items[*].metadata.uid}"]].concat());
        let former = uids()?;
        self.lab.kubectl(&[&["delete"], &pods[..], &["--wait=false"]].concat())?;
        self.lab.wait_for(&format!("another pod of {process}"), SOON, || {
            let now = uids().map_err(|error| format!("{error:#}"))?;
            if now.is_empty() || former.split_whitespace().any(|uid| now.contains(uid)) { Err(now) } else { Ok(()) }
        })
    }
}
