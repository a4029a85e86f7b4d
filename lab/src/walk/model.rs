//! What a walk has made of its cluster: a pure model, which knows nothing of time, of objects and of processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::operation::Operation;
use super::things::{Device, Machine, Node, Process, Space};

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Where it runs, or will run when it is started.
    pub(super) node: Node,
    /// Whether it runs.
    pub(super) runs: bool,
    /// What it lists.
    pub(super) lists: BTreeSet<Device>,
}

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Model {
    /// The node that a stick is plugged into.
    pub(super) plugged: BTreeMap<Device, Node>,
    /// The namespace that a device is assigned to.
    pub(super) assigned: BTreeMap<Device, Space>,
    /// The machines.
    pub(super) machines: BTreeMap<Machine, State>,
    /// Pairs of nodes that do not reach each other, the lower one first.
    pub(super) cuts: BTreeSet<(Node, Node)>,
    /// The node that is off.
    pub(super) off: Option<Node>,
    /// How often a process was killed since its pod is there: a kubelet pauses before each further start.
    pub(super) killed: BTreeMap<Process, u8>,
}

impl Model {
    /// The beginning: all sticks are plugged in, all machines run, and nothing is listed.
    pub(super) fn begin() -> Self {
        use Device::{Blue, Green, Red, White};
        let machine = |node| State { node, runs: true, lists: BTreeSet::new() };
        Self {
            plugged: [(Red, Node::One), (Green, Node::One), (Blue, Node::Two), (White, Node::Three)].into(),
            assigned: [(Red, Space::A), (Green, Space::A), (Blue, Space::B)].into(),
            machines: [
                (Machine::First, machine(Node::Two)),
                (Machine::Second, machine(Node::Three)),
                (Machine::Third, machine(Node::One)),
            ]
            .into(),
            cuts: BTreeSet::new(),
            off: None,
            killed: BTreeMap::new(),
        }
    }

    /// Whether a node is on.
    pub(super) fn is_on(&self, node: Node) -> bool {
        self.off != Some(node)
    }

    /// Whether two nodes reach each other. Each reaches itself.
    pub(super) fn reach(&self, one: Node, other: Node) -> bool {
        self.is_on(one) && self.is_on(other) && !self.cuts.contains(&pair(one, other))
    }

    /// The nodes that are on.
    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        Node::ALL.into_iter().filter(|node| self.is_on(*node))
    }

    /// Machines that list a device.
    pub(super) fn listing(&self, device: Device) -> impl Iterator<Item = (Machine, &State)> + '_ {
        self.machines.iter().filter(move |(_, state)| state.lists.contains(&device)).map(|(m, state)| (*m, state))
    }

    /// Machines that run, list a device, and are of the namespace it is assigned to: those that may have it.
    pub(super) fn asking(&self, device: Device) -> impl Iterator<Item = (Machine, &State)> + '_ {
        let space = self.assigned.get(&device).copied();
        self.listing(device).filter(move |(machine, state)| state.runs && Some(machine.space()) == space)
    }

    /// Whether what becomes of a device depends on a node that is off: it is plugged in there, or a machine there lists it.
    pub(super) fn is_entangled(&self, device: Device) -> bool {
        let Some(off) = self.off else { return false };
        self.plugged.get(&device) == Some(&off) || self.listing(device).any(|(_, state)| state.node == off)
    }

    /// Whether a step disturbs a device in a guest: for a moment it may not be there, though it is before and after.
    pub(super) fn may_blink(&self, operation: &Operation, machine: Machine, device: Device) -> bool {
        let home = self.plugged.get(&device).copied();
        let node = self.machines.get(&machine).map(|state| state.node);
        let of_node = |at: Node| home == Some(at) || node == Some(at);
        match *operation {
            Operation::Plug(it, _)
            | Operation::Unplug(it)
            | Operation::Replug(it, _)
            | Operation::Assign(it, _)
            | Operation::Unassign(it)
            | Operation::Detach(_, it) => it == device,
            Operation::Swap(one, other) => one == device || other == device,
            Operation::Start(it, _)
            | Operation::Stop(it)
            | Operation::Restart(it)
            | Operation::Migrate(it, _)
            | Operation::Kill(Process::Qemu(it)) => it == machine,
            Operation::Cut(one, other) | Operation::Heal(one, other) => of_node(one) && of_node(other),
            Operation::PowerOff(at) | Operation::PowerOn(at) => of_node(at),
            Operation::Silence(meanwhile) => {
                meanwhile.operation().is_some_and(|operation| self.may_blink(&operation, machine, device))
            }
            Operation::Attach(..) | Operation::Kill(_) | Operation::Replace(_) => false,
            Operation::Rest => true,
        }
    }

    /// Whether a guest starts anew in a step.
    pub(super) fn may_boot(&self, operation: &Operation, machine: Machine) -> bool {
        match *operation {
            Operation::Start(it, _) | Operation::Restart(it) | Operation::Kill(Process::Qemu(it)) => it == machine,
            Operation::PowerOn(node) => self.machines.get(&machine).is_some_and(|state| state.node == node),
            Operation::Rest => self.off.is_some_and(|node| self.may_boot(&Operation::PowerOn(node), machine)),
            _ => false,
        }
    }

    /// What a step makes of it.
    pub(super) fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Plug(device, node) | Operation::Replug(device, node) => {
                self.plugged.insert(device, node);
            }
            Operation::Unplug(device) => {
                self.plugged.remove(&device);
            }
            Operation::Swap(..) => {}
            Operation::Assign(device, space) => {
                self.assigned.insert(device, space);
            }
            Operation::Unassign(device) => {
                self.assigned.remove(&device);
            }
            Operation::Attach(machine, device) => self.change(machine, |state| {
                state.lists.insert(device);
            }),
            Operation::Detach(machine, device) => self.change(machine, |state| {
                state.lists.remove(&device);
            }),
            Operation::Start(machine, node) | Operation::Migrate(machine, node) => self.change(machine, |state| {
                (state.runs, state.node) = (true, node);
            }),
            Operation::Stop(machine) => self.change(machine, |state| state.runs = false),
            Operation::Restart(_) => {}
            Operation::Kill(process) => {
                *self.killed.entry(process).or_default() += 1;
            }
            Operation::Replace(process) => {
                self.killed.remove(&process);
            }
            Operation::Cut(one, other) => {
                self.cuts.insert(pair(one, other));
            }
            Operation::Heal(one, other) => {
                self.cuts.remove(&pair(one, other));
            }
            Operation::PowerOff(node) => self.off = Some(node),
            Operation::PowerOn(_) => self.off = None,
            Operation::Silence(meanwhile) => {
                if let Some(operation) = meanwhile.operation() {
                    self.apply(&operation);
                }
            }
            Operation::Rest => {
                (self.off, self.cuts) = (None, BTreeSet::new());
                self.machines.values_mut().for_each(|state| state.lists.clear());
            }
        }
        // These have given the machine another pod.
        if let Operation::Start(machine, _) | Operation::Restart(machine) | Operation::Migrate(machine, _) = *operation
        {
            self.killed.remove(&Process::Qemu(machine));
        }
    }

    fn change(&mut self, machine: Machine, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.machines.get_mut(&machine) {
            change(state);
        }
    }
}

/// Two nodes, the lower one first.
fn pair(one: Node, other: Node) -> (Node, Node) {
    (one.min(other), one.max(other))
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |set: &BTreeSet<Device>| set.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
        for device in Device::ALL {
            let place = self.plugged.get(&device).map_or("in no node", |node| node.name());
            let space = self.assigned.get(&device).map_or("nobody", |space| space.name());
            writeln!(f, "{device:<7} {place}, assigned to {space}")?;
        }
        for (machine, state) in &self.machines {
            let runs = if state.runs { "runs on" } else { "stopped, of" };
            writeln!(f, "{machine:<7} {}, {runs} {}, lists [{}]", machine.space(), state.node, names(&state.lists))?;
        }
        for (one, other) in &self.cuts {
            writeln!(f, "{one} and {other} do not reach each other")?;
        }
        self.off.map_or(Ok(()), |node| writeln!(f, "{node} is off"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The model after these operations.
    pub(in super::super) fn after(operations: &[Operation]) -> Model {
        let mut model = Model::begin();
        operations.iter().for_each(|operation| model.apply(operation));
        model
    }

    #[test]
    fn what_is_done_and_undone_leaves_everything_as_it_was() {
        let done = [
            [Operation::Unplug(Device::Red), Operation::Plug(Device::Red, Node::One)],
            [Operation::Assign(Device::White, Space::B), Operation::Unassign(Device::White)],
            [Operation::Attach(Machine::First, Device::Red), Operation::Detach(Machine::First, Device::Red)],
            [Operation::Stop(Machine::Third), Operation::Start(Machine::Third, Node::One)],
            [Operation::Migrate(Machine::First, Node::One), Operation::Migrate(Machine::First, Node::Two)],
            [Operation::Cut(Node::Two, Node::One), Operation::Heal(Node::One, Node::Two)],
            [Operation::PowerOff(Node::Three), Operation::PowerOn(Node::Three)],
            [Operation::Kill(Process::Controller), Operation::Replace(Process::Controller)],
            [Operation::Kill(Process::Qemu(Machine::First)), Operation::Restart(Machine::First)],
        ];
        for operations in done {
            assert_eq!(after(&operations), Model::begin(), "{operations:?}");
        }
    }

    #[test]
    fn only_running_machines_of_the_devices_namespace_ask_for_it() {
        let listed = Machine::ALL.map(|machine| Operation::Attach(machine, Device::Red));
        let asking = |more: &[Operation]| {
            let model = after(&[&listed[..], more].concat());
            model.asking(Device::Red).map(|(machine, _)| machine).collect::<Vec<_>>()
        };
        assert_eq!(asking(&[]), [Machine::First, Machine::Second]);
        assert_eq!(asking(&[Operation::Stop(Machine::First)]), [Machine::Second]);
        assert_eq!(asking(&[Operation::Assign(Device::Red, Space::B)]), [Machine::Third]);
        assert_eq!(asking(&[Operation::Unassign(Device::Red)]), []);
    }

    #[test]
    fn a_cut_is_between_two_nodes_and_a_node_reaches_itself() {
        let model = after(&[Operation::Cut(Node::Three, Node::One)]);
        assert!(!model.reach(Node::One, Node::Three) && !model.reach(Node::Three, Node::One));
        assert!(model.reach(Node::One, Node::Two) && model.reach(Node::Three, Node::Three));
        let model = after(&[Operation::PowerOff(Node::Three)]);
        assert!(!model.reach(Node::Three, Node::Three) && model.reach(Node::One, Node::Two));
    }

    #[test]
    fn a_step_disturbs_what_it_is_about_and_nothing_else() {
        // Red is in node-1, the first machine on node-2, the third on node-1.
        let model = Model::begin();
        let blinks = |operation, machine| model.may_blink(&operation, machine, Device::Red);
        for operation in [
            Operation::Replug(Device::Red, Node::Three),
            Operation::Restart(Machine::First),
            Operation::Migrate(Machine::First, Node::One),
            Operation::Cut(Node::One, Node::Two),
            Operation::PowerOff(Node::Two),
            Operation::Silence(super::super::operation::Meanwhile::Unplug(Device::Red)),
        ] {
            assert!(blinks(operation, Machine::First), "{operation}");
        }
        for operation in [
            Operation::Replug(Device::Green, Node::One),
            Operation::Restart(Machine::Second),
            Operation::Cut(Node::Two, Node::Three),
            Operation::PowerOff(Node::Three),
            Operation::Kill(Process::Controller),
            Operation::Kill(Process::Agent(Node::One)),
            Operation::Replace(Process::Agent(Node::Two)),
            Operation::Attach(Machine::Second, Device::Red),
            Operation::Silence(super::super::operation::Meanwhile::Kill(Node::Two)),
        ] {
            assert!(!blinks(operation, Machine::First), "{operation}");
        }
        // At home no link is needed.
        assert!(!blinks(Operation::Cut(Node::One, Node::Two), Machine::Third));
    }

    #[test]
    fn a_guest_starts_anew_when_it_is_started_or_its_node_is_and_never_when_it_moves() {
        let off = after(&[Operation::PowerOff(Node::Two)]);
        for (operation, boots) in [
            (Operation::Restart(Machine::First), true),
            (Operation::Kill(Process::Qemu(Machine::First)), true),
            (Operation::PowerOn(Node::Two), true),
            (Operation::Rest, true),
            (Operation::Migrate(Machine::First, Node::One), false),
            (Operation::Restart(Machine::Second), false),
            (Operation::Kill(Process::Agent(Node::Two)), false),
        ] {
            assert_eq!(off.may_boot(&operation, Machine::First), boots, "{operation}");
        }
        assert!(!Model::begin().may_boot(&Operation::Rest, Machine::First));
    }
}
