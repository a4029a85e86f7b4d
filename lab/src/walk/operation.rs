//! What is done in a step of a walk.

use std::fmt;

use super::things::{Device, Machine, Node, Process, Space};

/// One operation. All but the last are what happens in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// A stick is plugged in.
    Plug(Device, Node),
    /// It is pulled out.
    Unplug(Device),
    /// It is pulled out and at once plugged in again, into this node.
    Replug(Device, Node),
    /// Two sticks of one node are pulled out and plugged in again in the other order: each may be in the other's port then.
    Swap(Device, Device),
    /// A device is given to a namespace, whoever had it before.
    Assign(Device, Space),
    /// A device is taken away from its namespace.
    Unassign(Device),
    /// A machine lists a device.
    Attach(Machine, Device),
    /// A machine lists a device no more.
    Detach(Machine, Device),
    /// A machine that is stopped is started on a node.
    Start(Machine, Node),
    /// A machine is stopped.
    Stop(Machine),
    /// A machine is stopped and started.
    Restart(Machine),
    /// A machine moves to another node while it runs.
    Migrate(Machine, Node),
    /// A process dies, and whoever has started it starts it again.
    Kill(Process),
    /// The pod of a process is deleted, and there is another one then.
    Replace(Process),
    /// Two nodes do not reach each other any more.
    Cut(Node, Node),
    /// They do again.
    Heal(Node, Node),
    /// A node loses its power.
    PowerOff(Node),
    /// It has it again.
    PowerOn(Node),
    /// The API server does not answer for some seconds, in which something happens.
    Silence(Meanwhile),
    /// All links are mended, all nodes on and all lists empty: nothing may be left of any attachment.
    Rest,
}

/// What happens while the API server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Meanwhile {
    /// Nothing.
    Nothing,
    /// A stick is plugged in.
    Plug(Device, Node),
    /// A stick is pulled out.
    Unplug(Device),
    /// The agent of a node dies.
    Kill(Node),
}

impl Meanwhile {
    /// The same, if it happened by itself.
    pub(super) const fn operation(self) -> Option<Operation> {
        match self {
            Self::Nothing => None,
            Self::Plug(device, node) => Some(Operation::Plug(device, node)),
            Self::Unplug(device) => Some(Operation::Unplug(device)),
            Self::Kill(node) => Some(Operation::Kill(Process::Agent(node))),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plug(device, node) => write!(f, "plug {device} into {node}"),
            Self::Unplug(device) => write!(f, "pull {device} out"),
            Self::Replug(device, node) => write!(f, "pull {device} out and plug it into {node}"),
            Self::Swap(one, other) => write!(f, "pull {one} and {other} out and plug {other} and {one} in"),
            Self::Assign(device, space) => write!(f, "assign {device} to {space}"),
            Self::Unassign(device) => write!(f, "assign {device} to nobody"),
            Self::Attach(machine, device) => write!(f, "list {device} in {machine}"),
            Self::Detach(machine, device) => write!(f, "list {device} in {machine} no more"),
            Self::Start(machine, node) => write!(f, "start {machine} on {node}"),
            Self::Stop(machine) => write!(f, "stop {machine}"),
            Self::Restart(machine) => write!(f, "restart {machine}"),
            Self::Migrate(machine, node) => write!(f, "move {machine} to {node}"),
            Self::Kill(process) => write!(f, "kill {process}"),
            Self::Replace(process) => write!(f, "delete the pod of {process}"),
            Self::Cut(one, other) => write!(f, "cut {one} from {other}"),
            Self::Heal(one, other) => write!(f, "mend the link of {one} and {other}"),
            Self::PowerOff(node) => write!(f, "switch {node} off"),
            Self::PowerOn(node) => write!(f, "switch {node} on"),
            Self::Silence(meanwhile) => {
                f.write_str("stop the API server")?;
                meanwhile.operation().map_or(Ok(()), |operation| write!(f, " and {operation}"))?;
                f.write_str(", and let it go on")
            }
            Self::Rest => f.write_str("rest"),
        }
    }
}
