//! Which step comes next: chosen by the seed among those that make sense, whatever time anything takes.

use super::chance::Chance;
use super::model::Model;
use super::operation::{Meanwhile, Operation};
use super::things::{Device, Machine, Node, Process, Space};

/// All comes to rest after so many steps.
pub(super) const REST: u32 = 50;
/// A process is killed so often before its pod is replaced: a kubelet starts it at once, then after 10 s, then after longer.
const KILLS: u8 = 2;
/// For so many steps a node is off at most: in five minutes Kubernetes gives its pods up.
const OFF: u32 = 2;
/// For so many steps a link is cut at most.
const APART: u32 = 6;

/// What a walk has time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Everything.
    Full,
    /// Nothing that takes a minute: no node loses its power, and no machine moves.
    Quick,
}

/// A walk as far as it has come: the model, and the choices.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// What has been made of the cluster.
    pub(super) model: Model,
    chance: Chance,
    pace: Pace,
    step: u32,
    off_for: u32,
    apart_for: u32,
}

/// The operations of a kind that make sense, and how likely the kind is.
type Kind = (u64, fn(&Model) -> Vec<Operation>);

/// What always has time.
const QUICK: &[Kind] = &[
    (18, plugs),
    (7, unplugs),
    (8, replugs),
    (3, swaps),
    (7, assignments),
    (2, unassignments),
    (26, fulfilled_attachments),
    (3, attachments),
    (6, detachments),
    (10, starts),
    (3, stops),
    (3, restarts),
    (7, kills),
    (3, replacements),
    (3, cuts),
    (5, heals),
    (3, silences),
];

/// What takes long.
const SLOW: &[Kind] = &[(4, moves), (2, switches_off), (12, switches_on)];

impl Path {
    /// Before the first step.
    pub(super) fn begin(seed: u64, pace: Pace) -> Self {
        let (model, chance) = (Model::begin(), Chance::new(seed));
        Self { model, chance, pace, step: 0, off_for: 0, apart_for: 0 }
    }

    /// Goes one step further: what is done in it.
    pub(super) fn next(&mut self) -> Operation {
        self.step += 1;
        let operation = if self.step.is_multiple_of(REST) { Operation::Rest } else { self.choose() };
        self.model.apply(&operation);
        self.off_for = self.model.off.map_or(0, |_| self.off_for + 1);
        self.apart_for = if self.model.cuts.is_empty() { 0 } else { self.apart_for + 1 };
        operation
    }

    fn choose(&mut self) -> Operation {
        let due: fn(&Model) -> Vec<Operation> = match (self.off_for, self.apart_for) {
            (OFF.., _) => switches_on,
            (_, APART..) => heals,
            _ => |_| Vec::new(),
        };
        if let Some(operation) = self.chance.pick(&due(&self.model)) {
            return operation;
        }
        let slow = if self.pace == Pace::Full { SLOW } else { &[] };
        let kinds = QUICK.iter().chain(slow).map(|(weight, of)| (*weight, of(&self.model)));
        let kinds: Vec<(u64, Vec<Operation>)> = kinds.filter(|(_, operations)| !operations.is_empty()).collect();
        let chosen = self.chance.weighted(&kinds).map(Vec::as_slice).unwrap_or_default();
        // Agents can always be killed, so there is always something.
        self.chance.pick(chosen).unwrap_or(Operation::Rest)
    }
}

/// The devices that depend on no node that is off.
fn free(model: &Model) -> impl Iterator<Item = Device> + '_ {
    Device::ALL.into_iter().filter(|device| !model.is_entangled(*device))
}

/// The machines whose nodes are on.
fn machines(model: &Model) -> impl Iterator<Item = Machine> + '_ {
    model.machines.iter().filter(|(_, state)| model.is_on(state.node)).map(|(machine, _)| *machine)
}

fn running(model: &Model) -> Vec<Machine> {
    machines(model).filter(|machine| model.machines.get(machine).is_some_and(|state| state.runs)).collect()
}

fn plugs(model: &Model) -> Vec<Operation> {
    let out = free(model).filter(|device| !model.plugged.contains_key(device));
    out.flat_map(|device| model.nodes().map(move |node| Operation::Plug(device, node))).collect()
}

fn unplugs(model: &Model) -> Vec<Operation> {
    free(model).filter(|device| model.plugged.contains_key(device)).map(Operation::Unplug).collect()
}

fn replugs(model: &Model) -> Vec<Operation> {
    let plugged = free(model).filter(|device| model.plugged.contains_key(device));
    plugged.flat_map(|device| model.nodes().map(move |node| Operation::Replug(device, node))).collect()
}

fn swaps(model: &Model) -> Vec<Operation> {
    let place = |device: Device| model.plugged.get(&device);
    let pairs =
        free(model).flat_map(|one| free(model).filter(move |other| one < *other).map(move |other| (one, other)));
    let together = pairs.filter(|(one, other)| place(*one).is_some() && place(*one) == place(*other));
    together.map(|(one, other)| Operation::Swap(one, other)).collect()
}

/// One that is neither plugged in nor assigned may be forgotten: it is plugged in first.
fn assignments(model: &Model) -> Vec<Operation> {
    let known = |device: &Device| model.plugged.contains_key(device) || model.assigned.contains_key(device);
    let to = |device: Device| Space::ALL.map(|space| (device, space));
    let other =
        free(model).filter(known).flat_map(to).filter(|(device, space)| model.assigned.get(device) != Some(space));
    other.map(|(device, space)| Operation::Assign(device, space)).collect()
}

fn unassignments(model: &Model) -> Vec<Operation> {
    free(model).filter(|device| model.assigned.contains_key(device)).map(Operation::Unassign).collect()
}

fn lists(model: &Model, machine: Machine, device: Device) -> bool {
    model.machines.get(&machine).is_some_and(|state| state.lists.contains(&device))
}

fn attachments(model: &Model) -> Vec<Operation> {
    let to = |machine: Machine| free(model).map(move |device| (machine, device));
    let new = machines(model).flat_map(to).filter(|(machine, device)| !lists(model, *machine, *device));
    new.map(|(machine, device)| Operation::Attach(machine, device)).collect()
}

/// Those of devices of the machine's namespace.
fn fulfilled_attachments(model: &Model) -> Vec<Operation> {
    let mut all = attachments(model);
    all.retain(|operation| match operation {
        Operation::Attach(machine, device) => model.assigned.get(device) == Some(&machine.space()),
        _ => false,
    });
    all
}

fn detachments(model: &Model) -> Vec<Operation> {
    let from = |machine: Machine| free(model).map(move |device| (machine, device));
    let listed = machines(model).flat_map(from).filter(|(machine, device)| lists(model, *machine, *device));
    listed.map(|(machine, device)| Operation::Detach(machine, device)).collect()
}

/// A machine lists nothing that depends on a node that is off.
fn is_free(model: &Model, machine: Machine) -> bool {
    let state = model.machines.get(&machine);
    state.is_some_and(|state| !state.lists.iter().any(|device| model.is_entangled(*device)))
}

fn starts(model: &Model) -> Vec<Operation> {
    let stopped = model.machines.iter().filter(|(machine, state)| !state.runs && is_free(model, **machine));
    stopped.flat_map(|(machine, _)| model.nodes().map(|node| Operation::Start(*machine, node))).collect()
}

fn stops(model: &Model) -> Vec<Operation> {
    running(model).into_iter().filter(|machine| is_free(model, *machine)).map(Operation::Stop).collect()
}

fn restarts(model: &Model) -> Vec<Operation> {
    running(model).into_iter().filter(|machine| is_free(model, *machine)).map(Operation::Restart).collect()
}

fn moves(model: &Model) -> Vec<Operation> {
    let moving = model.machines.iter().filter(|(_, state)| state.runs && model.off.is_none());
    let to = |(machine, state): (&Machine, &super::model::State)| {
        let (machine, from) = (*machine, state.node);
        let others = Node::ALL.into_iter().filter(move |node| *node != from && model.reach(from, *node));
        others.map(move |node| Operation::Migrate(machine, node)).collect::<Vec<_>>()
    };
    moving.flat_map(to).collect()
}

/// Our processes that run.
fn processes(model: &Model) -> Vec<Process> {
    let agents = model.nodes().map(Process::Agent);
    let machines = running(model).into_iter().map(Process::Qemu);
    std::iter::once(Process::Controller).chain(agents).chain(machines).collect()
}

fn killed(model: &Model, process: Process) -> u8 {
    model.killed.get(&process).copied().unwrap_or_default()
}

fn kills(model: &Model) -> Vec<Operation> {
    processes(model).into_iter().filter(|process| killed(model, *process) < KILLS).map(Operation::Kill).collect()
}

fn replacements(model: &Model) -> Vec<Operation> {
    let ours = |process: &Process| !matches!(process, Process::Qemu(_)) && killed(model, *process) > 0;
    processes(model).into_iter().filter(ours).map(Operation::Replace).collect()
}

fn cuts(model: &Model) -> Vec<Operation> {
    let pairs = [(Node::One, Node::Two), (Node::One, Node::Three), (Node::Two, Node::Three)];
    let whole = pairs.into_iter().filter(|(one, other)| model.off.is_none() && model.reach(*one, *other));
    whole.filter(|_| model.cuts.len() < 2).map(|(one, other)| Operation::Cut(one, other)).collect()
}

fn heals(model: &Model) -> Vec<Operation> {
    model.cuts.iter().map(|(one, other)| Operation::Heal(*one, *other)).collect()
}

fn switches_off(model: &Model) -> Vec<Operation> {
    let whole = model.off.is_none() && model.cuts.is_empty();
    [Node::Two, Node::Three].into_iter().filter(|_| whole).map(Operation::PowerOff).collect()
}

fn switches_on(model: &Model) -> Vec<Operation> {
    model.off.into_iter().map(Operation::PowerOn).collect()
}

fn silences(model: &Model) -> Vec<Operation> {
    if model.off.is_some() {
        return Vec::new();
    }
    let meanwhile = plugs(model).into_iter().chain(unplugs(model)).chain(kills(model)).filter_map(|operation| {
        Some(match operation {
            Operation::Plug(device, node) => Meanwhile::Plug(device, node),
            Operation::Unplug(device) => Meanwhile::Unplug(device),
            Operation::Kill(Process::Agent(node)) => Meanwhile::Kill(node),
            _ => return None,
        })
    });
    std::iter::once(Meanwhile::Nothing).chain(meanwhile).map(Operation::Silence).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::mem::discriminant;

    use super::*;

    fn walk(seed: u64, pace: Pace, steps: usize) -> Vec<Operation> {
        let mut path = Path::begin(seed, pace);
        (0..steps).map(|_| path.next()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_walk_and_another_one_another() {
        assert_eq!(walk(7, Pace::Full, 500), walk(7, Pace::Full, 500));
        assert_ne!(walk(7, Pace::Full, 500), walk(8, Pace::Full, 500));
        // The beginning does not depend on the end: a failed step is seen again by going just as far.
        assert_eq!(walk(7, Pace::Full, 23), walk(7, Pace::Full, 500)[..23]);
    }

    /// What makes no sense: doing what is done already, or what nobody can do.
    fn makes_sense(model: &Model, operation: &Operation) -> bool {
        let on = |machine: Machine| model.is_on(model.machines[&machine].node);
        let runs = |machine: Machine| on(machine) && model.machines[&machine].runs;
        let plugged = |device: Device| model.plugged.get(&device).is_some_and(|node| model.is_on(*node));
        match *operation {
            Operation::Plug(device, node) => !model.plugged.contains_key(&device) && model.is_on(node),
            Operation::Unplug(device) => plugged(device),
            Operation::Replug(device, node) => plugged(device) && model.is_on(node),
            Operation::Swap(one, other) => one != other && plugged(one) && model.plugged[&one] == model.plugged[&other],
            Operation::Assign(device, space) => {
                model.assigned.get(&device) != Some(&space) && !model.is_entangled(device)
            }
            Operation::Unassign(device) => model.assigned.contains_key(&device) && !model.is_entangled(device),
            Operation::Attach(machine, device) => on(machine) && !lists(model, machine, device),
            Operation::Detach(machine, device) => on(machine) && lists(model, machine, device),
            Operation::Start(machine, node) => !model.machines[&machine].runs && model.is_on(node),
            Operation::Stop(machine) | Operation::Restart(machine) => runs(machine),
            Operation::Migrate(machine, node) => {
                let from = model.machines[&machine].node;
                runs(machine) && from != node && model.reach(from, node)
            }
            Operation::Kill(process) => processes(model).contains(&process) && killed(model, process) < KILLS,
            Operation::Replace(process) => processes(model).contains(&process) && !matches!(process, Process::Qemu(_)),
            Operation::Cut(one, other) => one != other && model.reach(one, other),
            Operation::Heal(one, other) => !model.reach(one, other),
            Operation::PowerOff(node) => node != Node::One && model.off.is_none(),
            Operation::PowerOn(node) => model.off == Some(node),
            Operation::Silence(meanwhile) => meanwhile.operation().is_none_or(|it| makes_sense(model, &it)),
            Operation::Rest => true,
        }
    }

    #[test]
    fn every_step_of_every_walk_makes_sense() {
        for seed in 0..200 {
            let mut path = Path::begin(seed, Pace::Full);
            let (mut off_for, mut apart_for) = (0, 0);
            for step in 1..=300 {
                let before = path.model.clone();
                let operation = path.next();
                assert!(makes_sense(&before, &operation), "seed {seed}, step {step}: {operation}\n{before}");
                assert_eq!(operation == Operation::Rest, step % REST == 0, "seed {seed}, step {step}");
                off_for = if path.model.off.is_some() { off_for + 1 } else { 0 };
                apart_for = if path.model.cuts.is_empty() { 0 } else { apart_for + 1 };
                // A link that is mended may leave another one cut.
                assert!(off_for <= OFF && apart_for <= APART + 1, "seed {seed}, step {step}: {operation}");
            }
        }
    }

    #[test]
    fn a_long_walk_has_every_kind_of_step_and_a_quick_one_nothing_that_takes_long() {
        let kinds = |operations: &[Operation]| operations.iter().map(discriminant).collect::<Vec<_>>().len();
        let distinct = |operations: &[Operation]| {
            let mut seen: Vec<_> = Vec::new();
            for kind in operations.iter().map(discriminant) {
                if !seen.contains(&kind) {
                    seen.push(kind);
                }
            }
            seen.len()
        };
        for seed in 0..20 {
            let full = walk(seed, Pace::Full, 500);
            assert_eq!((kinds(&full), distinct(&full)), (500, 20), "seed {seed}");
            let killed: BTreeSet<_> =
                full.iter().filter_map(|it| if let Operation::Kill(it) = it { Some(*it) } else { None }).collect();
            assert!(killed.len() >= 6, "seed {seed} kills only {killed:?}");
            let slow =
                |it: &Operation| matches!(it, Operation::Migrate(..) | Operation::PowerOff(_) | Operation::PowerOn(_));
            assert!(!walk(seed, Pace::Quick, 500).iter().any(slow), "seed {seed}");
        }
    }
}
