//! What must be true of a model when everything has settled, and what may be said of what is not as somebody wants it.

use std::collections::{BTreeMap, BTreeSet};

use super::model::Model;
use super::things::{Device, Machine, Node, Space};

/// What `NodeUSBDevice` and `USBDevice` say of a device's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is in this node and ready.
    Ready(Node),
    /// It is in this node, which is off.
    NotReady(Node),
    /// It is in no node.
    Absent,
    /// The same, and nobody has assigned it: after ten minutes there is no object any more.
    Forgotten,
}

/// Who has a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// No machine.
    Nobody,
    /// One of these. Which is decided by who came first, or whom the controller saw first.
    One(BTreeSet<Machine>),
    /// One of these or nobody: who has come first may not reach the device.
    AtMost(BTreeSet<Machine>),
    /// One of these or nobody, and what is said is of a node that says nothing any more.
    Unsaid(BTreeSet<Machine>),
}

impl Holder {
    /// Those that may have it.
    pub(super) fn candidates(&self) -> BTreeSet<Machine> {
        match self {
            Self::Nobody => BTreeSet::new(),
            Self::One(set) | Self::AtMost(set) | Self::Unsaid(set) => set.clone(),
        }
    }
}

/// What must be true of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OfDevice {
    /// Where it is.
    pub(super) presence: Presence,
    /// The only namespace with a `USBDevice` of it.
    pub(super) space: Option<Space>,
    /// The only machine with it.
    pub(super) holder: Holder,
}

/// Of all devices.
pub(super) fn devices(model: &Model) -> BTreeMap<Device, OfDevice> {
    let of = |device: Device| {
        let space = model.assigned.get(&device).copied();
        OfDevice { presence: presence(model, device), space, holder: holder(model, device) }
    };
    Device::ALL.into_iter().map(|device| (device, of(device))).collect()
}

fn presence(model: &Model, device: Device) -> Presence {
    match model.plugged.get(&device) {
        Some(node) if model.is_on(*node) => Presence::Ready(*node),
        Some(node) => Presence::NotReady(*node),
        None if model.assigned.contains_key(&device) => Presence::Absent,
        None => Presence::Forgotten,
    }
}

fn holder(model: &Model, device: Device) -> Holder {
    let Some(home) = model.plugged.get(&device).copied() else { return Holder::Nobody };
    let asking: BTreeSet<Machine> = model.asking(device).map(|(machine, _)| machine).collect();
    let in_reach: BTreeSet<Machine> =
        model.asking(device).filter(|(_, state)| model.reach(home, state.node)).map(|(machine, _)| machine).collect();
    if model.asking(device).any(|(_, state)| !model.is_on(state.node)) {
        Holder::Unsaid(in_reach)
    } else if in_reach.is_empty() {
        Holder::Nobody
    } else if in_reach == asking {
        Holder::One(asking)
    } else {
        Holder::AtMost(in_reach)
    }
}

/// Machines that list a device and have not got it, each with a word of what `kubectl usb why` says of it; none of those
/// whose node is off. `holder` is who has it.
pub(super) fn reasons(model: &Model, device: Device, holder: Option<Machine>) -> Vec<(Machine, Option<String>)> {
    let waiting = model.listing(device).filter(|(machine, state)| model.is_on(state.node) && holder != Some(*machine));
    waiting.map(|(machine, _)| (machine, reason(model, device, machine, holder))).collect()
}

/// None where it may be one of several.
fn reason(model: &Model, device: Device, machine: Machine, holder: Option<Machine>) -> Option<String> {
    let state = model.machines.get(&machine)?;
    let Some(home) = model.plugged.get(&device).copied() else {
        // One that nobody has assigned may be unknown by now.
        return model.assigned.contains_key(&device).then(|| "absent on the host".to_owned());
    };
    if !model.is_on(home) {
        return Some(format!("node {home} is not ready"));
    }
    match model.assigned.get(&device) {
        None => return Some("No namespace is assigned".to_owned()),
        Some(space) if *space != machine.space() => return Some(format!("assigned to namespace {space}")),
        Some(_) => {}
    }
    if !state.runs {
        return Some("does not run".to_owned());
    }
    match holder {
        Some(holder) => Some(format!("in use by virtual machine {holder}")),
        // It has come first, unless there are others who may have.
        None => (model.asking(device).count() == 1).then(|| format!("the agent of node {home} cannot be called")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::{Pace, Path};
    use super::super::model::tests::after;
    use super::super::operation::Operation;
    use super::*;

    /// Red, of walk-a, is in node-1; first is on node-2, second on node-3, both of walk-a; third, of walk-b, is on node-1.
    const LISTED: [Operation; 3] = [
        Operation::Attach(Machine::First, Device::Red),
        Operation::Attach(Machine::Second, Device::Red),
        Operation::Attach(Machine::Third, Device::Red),
    ];

    fn red(more: &[Operation]) -> (OfDevice, Model) {
        let model = after(&[&LISTED[..], more].concat());
        (devices(&model).remove(&Device::Red).unwrap(), model)
    }

    #[test]
    fn who_has_a_device() {
        use Holder::{AtMost, Nobody, One, Unsaid};
        use Machine::{First, Second, Third};
        let cut = [Operation::Cut(Node::One, Node::Two), Operation::Cut(Node::One, Node::Three)];
        let cases: [(&[Operation], Holder); 10] = [
            (&[], One([First, Second].into())),
            (&[Operation::Stop(First)], One([Second].into())),
            (&[Operation::Detach(Second, Device::Red)], One([First].into())),
            (&[Operation::Assign(Device::Red, Space::B)], One([Third].into())),
            (&[Operation::Unassign(Device::Red)], Nobody),
            (&[Operation::Unplug(Device::Red)], Nobody),
            (&cut[..1], AtMost([Second].into())),
            (&cut, Nobody),
            (&[Operation::PowerOff(Node::Two)], Unsaid([Second].into())),
            (&[Operation::Replug(Device::Red, Node::Two), Operation::PowerOff(Node::Two)], Unsaid([].into())),
        ];
        for (operations, holder) in cases {
            assert_eq!(red(operations).0.holder, holder, "{operations:?}");
        }
        // At home no link is needed.
        let home = [&cut[..], &[Operation::Migrate(First, Node::One)]].concat();
        assert_eq!(red(&home).0.holder, AtMost([First].into()));
    }

    #[test]
    fn where_a_device_is() {
        let cases: [(&[Operation], Presence); 4] = [
            (&[], Presence::Ready(Node::One)),
            (&[Operation::Unplug(Device::Red)], Presence::Absent),
            (&[Operation::Unplug(Device::Red), Operation::Unassign(Device::Red)], Presence::Forgotten),
            (
                &[Operation::Replug(Device::Red, Node::Three), Operation::PowerOff(Node::Three)],
                Presence::NotReady(Node::Three),
            ),
        ];
        for (operations, presence) in cases {
            assert_eq!(red(operations).0.presence, presence, "{operations:?}");
        }
    }

    #[test]
    fn why_a_machine_has_not_got_a_device() {
        use Machine::{First, Second, Third};
        let cut = [Operation::Cut(Node::One, Node::Two), Operation::Detach(Second, Device::Red)];
        type Case<'c> = (&'c [Operation], Machine, Option<Machine>, Option<&'c str>);
        let cases: [Case<'_>; 8] = [
            (&[], Second, Some(First), Some("in use by virtual machine first")),
            (&[], Third, Some(First), Some("assigned to namespace walk-a")),
            (&[Operation::Stop(Second)], Second, Some(First), Some("does not run")),
            (&[Operation::Unplug(Device::Red), Operation::Stop(Second)], Second, None, Some("absent on the host")),
            (&[Operation::Unassign(Device::Red)], First, None, Some("No namespace is assigned")),
            (&cut, First, None, Some("the agent of node node-1 cannot be called")),
            (&cut[..1], First, None, None),
            (&cut[..1], First, Some(Second), Some("in use by virtual machine second")),
        ];
        for (operations, machine, holder, words) in cases {
            let said = reasons(&red(operations).1, Device::Red, holder);
            let of_it = said.into_iter().find(|(it, _)| *it == machine).unwrap().1;
            assert_eq!(of_it.as_deref(), words, "{operations:?} {machine}");
        }
        let (_, model) = red(&[Operation::PowerOff(Node::Two)]);
        let told = reasons(&model, Device::Red, None).into_iter().map(|(machine, _)| machine);
        assert_eq!(told.collect::<Vec<_>>(), [Second, Third], "a machine of a node that is off says nothing");
    }

    #[test]
    fn in_every_walk_only_those_who_ask_and_reach_a_device_may_have_it() {
        for seed in 0..100 {
            let mut path = Path::begin(seed, Pace::Full);
            for step in 1..=200 {
                let operation = path.next();
                for (device, expected) in devices(&path.model) {
                    let asking: BTreeSet<Machine> = path.model.asking(device).map(|(machine, _)| machine).collect();
                    let may = expected.holder.candidates();
                    let what = format!("seed {seed}, step {step}: {operation}, {device}: {expected:?}");
                    assert!(may.is_subset(&asking), "{what}");
                    assert!(may.is_empty() || matches!(expected.presence, Presence::Ready(_)), "{what}");
                    assert!(
                        !matches!(&expected.holder, Holder::One(set) | Holder::AtMost(set) if set.is_empty()),
                        "{what}"
                    );
                    assert!(path.model.off.is_some() || !matches!(expected.holder, Holder::Unsaid(_)), "{what}");
                    // Whoever lists it and has it not can be told why.
                    for holder in may.iter().copied().map(Some).chain([None]) {
                        for (machine, words) in reasons(&path.model, device, holder) {
                            let forgotten = expected.presence == Presence::Forgotten;
                            assert!(words.is_some() || asking.len() > 1 || forgotten, "{what}: {machine}");
                        }
                    }
                }
            }
        }
    }
}
