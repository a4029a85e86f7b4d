//! What is: the objects of the API and the guests, compared with what must be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::expected::{Holder, OfDevice, Presence};
use super::model::Model;
use super::things::{Device, Machine, Space};
use super::witness::Witness;
use crate::case::condition;

/// What the API server says.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// `NodeUSBDevice`s.
    pub(super) node_devices: Vec<Value>,
    /// `USBDevice`s of all namespaces.
    pub(super) devices: Vec<Value>,
    /// `VirtualMachine`s of all namespaces.
    pub(super) machines: Vec<Value>,
}

/// How a device is called, and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Label {
    /// The name of its objects.
    pub(super) name: String,
    /// Its serial number.
    pub(super) serial: String,
    /// The checksum of its content.
    pub(super) checksum: String,
}

/// Labels of all devices.
pub(super) type Labels = BTreeMap<Device, Label>;
/// Guests of all machines.
pub(super) type Witnesses = BTreeMap<Machine, Witness>;

/// What is other than it must be, a sentence each; and who has which device.
pub(super) fn compare(
    model: &Model,
    expected: &BTreeMap<Device, OfDevice>,
    labels: &Labels,
    seen: &Seen,
    guests: &Witnesses,
) -> (Vec<String>, BTreeMap<Device, Machine>) {
    let (mut wrong, mut holders) = (Vec::new(), BTreeMap::new());
    for (device, expected) in expected {
        let Some(label) = labels.get(device) else { continue };
        let mut complain = |what: String| wrong.push(format!("{device}: {what}"));
        let said = of_device(model, expected, label, seen, &mut complain);
        let with: BTreeSet<Machine> = of_guests(model, label, guests);
        let unsaid = matches!(expected.holder, Holder::Unsaid(_));
        if with.len() > 1 || (!unsaid && with != said.iter().copied().collect()) {
            complain(format!("in the guests {with:?}, said to be in {said:?}"));
        }
        for machine in &with {
            let read = guests.get(machine).and_then(|guest| guest.read(&label.serial));
            match read {
                None => complain(format!("{machine} has not read it yet")),
                Some(read) if read != label.checksum => {
                    complain(format!("{machine} reads {read}, it holds {}", label.checksum))
                }
                Some(_) => drop(holders.insert(*device, *machine)),
            }
        }
        if !with.is_subset(&expected.holder.candidates()) {
            complain(format!("in the guests {with:?}, of which only {:?} may have it", expected.holder.candidates()));
        }
    }
    let on = model.machines.iter().filter(|(_, state)| model.is_on(state.node));
    for (machine, _) in on {
        let mut complain = |what: String| wrong.push(format!("{machine}: {what}"));
        of_machine(model, *machine, &holders, labels, seen, guests, &mut complain);
    }
    (wrong, holders)
}

fn text<'v>(object: &'v Value, path: &str) -> &'v str {
    object.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn named<'v>(objects: &'v [Value], name: &'v str) -> impl Iterator<Item = &'v Value> {
    objects.iter().filter(move |object| text(object, "/metadata/name") == name)
}

/// What the objects of a device say; the machine that has it, by them.
fn of_device(
    model: &Model,
    expected: &OfDevice,
    label: &Label,
    seen: &Seen,
    complain: &mut impl FnMut(String),
) -> Option<Machine> {
    let spaces: BTreeSet<&str> = named(&seen.devices, &label.name).map(|it| text(it, "/metadata/namespace")).collect();
    if spaces != expected.space.map(Space::name).into_iter().collect() {
        complain(format!("USBDevices in {spaces:?}, expected in {:?}", expected.space));
    }
    let Some(object) = named(&seen.node_devices, &label.name).next() else {
        if expected.presence != Presence::Forgotten {
            complain("no NodeUSBDevice".to_owned());
        }
        return None;
    };
    let (ready, node) = match expected.presence {
        Presence::Ready(node) => ("Ready", Some(node)),
        Presence::NotReady(node) => ("NotReady", Some(node)),
        Presence::Absent | Presence::Forgotten => ("NotFound", None),
    };
    if node.is_some_and(|node| text(object, "/status/nodeName") != node.name()) {
        complain(format!("in {}, expected in {node:?}", text(object, "/status/nodeName")));
    }
    let (_, assigned, why) = condition(object, "Assigned");
    if assigned != if expected.space.is_some() { "Assigned" } else { "Available" } {
        complain(format!("Assigned is {assigned}: {why}"));
    }
    let mut holders = BTreeSet::new();
    for object in std::iter::once(object).chain(named(&seen.devices, &label.name)) {
        let kind = text(object, "/kind");
        let (_, reason, why) = condition(object, "Ready");
        if reason != ready {
            complain(format!("Ready of {kind} is {reason}, expected {ready}: {why}"));
        }
        let (attached, reason, why) = condition(object, "Attached");
        let place = |machine: &Machine| {
            let node = model.machines.get(machine).map_or("", |state| state.node.name());
            why.contains(&format!("Attached to virtual machine {}/{machine} on node {node}, ", machine.space()))
        };
        let holder = Machine::ALL.into_iter().find(place).filter(|_| attached == "True");
        holders.insert(holder);
        let fits = match (&expected.holder, holder) {
            (Holder::Unsaid(_), _) => true,
            (Holder::Nobody | Holder::AtMost(_), None) => attached == "False" && reason == "Available",
            (Holder::One(set) | Holder::AtMost(set), Some(holder)) => set.contains(&holder),
            (Holder::One(_), None) | (Holder::Nobody, Some(_)) => false,
        };
        if !fits {
            complain(format!("Attached of {kind} is {attached}, {reason}: {why}; expected {:?}", expected.holder));
        }
    }
    if holders.len() > 1 {
        complain(format!("its objects name different machines: {holders:?}"));
    }
    holders.into_iter().flatten().next()
}

/// The guests that have a device; one whose node is off has nothing.
fn of_guests(model: &Model, label: &Label, guests: &Witnesses) -> BTreeSet<Machine> {
    let on = |machine: &Machine| model.machines.get(machine).is_some_and(|state| state.runs && model.is_on(state.node));
    let with = guests.iter().filter(|(machine, guest)| on(machine) && guest.has(&label.serial));
    with.map(|(machine, _)| *machine).collect()
}

/// What a machine says of itself and of its devices.
fn of_machine(
    model: &Model,
    machine: Machine,
    holders: &BTreeMap<Device, Machine>,
    labels: &Labels,
    seen: &Seen,
    guests: &Witnesses,
    complain: &mut impl FnMut(String),
) {
    let Some(state) = model.machines.get(&machine) else { return };
    let here = |it: &&Value| text(it, "/metadata/namespace") == machine.space().name();
    let Some(object) = named(&seen.machines, machine.name()).find(here) else {
        return complain("it does not exist".to_owned());
    };
    let phase = text(object, "/status/phase");
    if phase != if state.runs { "Running" } else { "Stopped" } {
        complain(format!("it is {phase}: {}", condition(object, "Running").2));
    }
    if state.runs && text(object, "/status/nodeName") != state.node.name() {
        complain(format!("on {}, expected on {}", text(object, "/status/nodeName"), state.node));
    }
    if state.runs && !guests.get(&machine).is_some_and(Witness::booted) {
        complain("its guest has not started yet".to_owned());
    }
    let entries = object.pointer("/status/usbDevices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |device: &Device| labels.get(device).map_or("", |label| label.name.as_str());
    let wanted: BTreeMap<&str, bool> =
        state.lists.iter().map(|device| (name(device), holders.get(device) == Some(&machine))).collect();
    let attached = |entry: &Value| entry.get("attached").and_then(Value::as_bool).unwrap_or_default();
    let told: BTreeMap<&str, bool> = entries.iter().map(|entry| (text(entry, "/name"), attached(entry))).collect();
    if told != wanted {
        complain(format!("its status says {}, expected {wanted:?}", Value::from(entries.to_vec())));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::expected::devices;
    use super::super::operation::Operation;
    use super::super::things::Node;
    use super::*;

    fn labels() -> Labels {
        let label = |device: Device| Label {
            name: format!("stick-{device}"),
            serial: device.name().to_uppercase(),
            checksum: format!("sum-{device}"),
        };
        Device::ALL.into_iter().map(|device| (device, label(device))).collect()
    }

    /// What is when all is as the model says; red, if a machine lists it, is in the first.
    fn truth(model: &Model) -> (Seen, Witnesses) {
        let mut seen = Seen::default();
        let holder = |device: Device| model.asking(device).next().filter(|_| model.plugged.contains_key(&device));
        for (device, label) in labels() {
            let attached = match holder(device) {
                Some((machine, state)) => {
                    let place = format!("{}/{machine} on node {}", machine.space(), state.node);
                    json!({"type": "Attached", "status": "True", "reason": "AttachedToVirtualMachine",
                        "message": format!("Attached to virtual machine {place}, guest bus 0 port 1")})
                }
                None => json!({"type": "Attached", "status": "False", "reason": "Available", "message": ""}),
            };
            let home = model.plugged.get(&device);
            let ready = json!({"type": "Ready", "reason": if home.is_some() { "Ready" } else { "NotFound" }});
            let space = model.assigned.get(&device);
            let assigned =
                json!({"type": "Assigned", "reason": if space.is_some() { "Assigned" } else { "Available" }});
            let status = json!({"nodeName": home.map(|node| node.name()), "conditions": [ready, assigned, attached]});
            let object = json!({"kind": "NodeUSBDevice", "metadata": {"name": label.name}, "status": status});
            seen.node_devices.push(object);
            if let Some(space) = space {
                let metadata = json!({"name": label.name, "namespace": space.name()});
                seen.devices.push(json!({"kind": "USBDevice", "metadata": metadata, "status": status}));
            }
        }
        let mut guests = Witnesses::new();
        for (machine, state) in &model.machines {
            let has = |device: Device| holder(device).is_some_and(|(it, _)| it == *machine);
            let entry = |device: &Device| json!({"name": labels()[device].name, "attached": has(*device)});
            let status = json!({"phase": if state.runs { "Running" } else { "Stopped" }, "nodeName": state.node.name(),
                "usbDevices": state.lists.iter().map(entry).collect::<Vec<_>>()});
            let metadata = json!({"name": machine.name(), "namespace": machine.space().name()});
            seen.machines.push(json!({"metadata": metadata, "status": status}));
            let mut guest = Witness::default();
            guest.hear("guest: booted up=1");
            for (device, label) in labels().into_iter().filter(|(device, _)| has(*device)) {
                guest.hear(&format!("guest: usb add 2-{device} serial={}", label.serial));
                guest.hear(&format!("guest: disk add sd{device} serial={}", label.serial));
                guest.hear(&format!("guest: disk sd{device} sha256={}", label.checksum));
            }
            guests.insert(*machine, guest);
        }
        (seen, guests)
    }

    fn model() -> Model {
        let mut model = Model::begin();
        for operation in [
            Operation::Attach(Machine::First, Device::Red),
            Operation::Attach(Machine::Second, Device::Red),
            Operation::Attach(Machine::Third, Device::White),
            Operation::Unplug(Device::Blue),
            Operation::Stop(Machine::Third),
        ] {
            model.apply(&operation);
        }
        model
    }

    fn differences(model: &Model, seen: &Seen, guests: &Witnesses) -> String {
        compare(model, &devices(model), &labels(), seen, guests).0.join("\n")
    }

    #[test]
    fn nothing_is_wrong_with_what_is_as_it_should_be() {
        let model = model();
        let (seen, guests) = truth(&model);
        let (wrong, holders) = compare(&model, &devices(&model), &labels(), &seen, &guests);
        assert_eq!(wrong, Vec::<String>::new());
        assert_eq!(holders, [(Device::Red, Machine::First)].into());
    }

    #[test]
    fn whatever_differs_is_told() {
        let before = model();
        for (operation, words) in [
            (Operation::Plug(Device::Blue, Node::One), "blue: Ready of NodeUSBDevice is NotFound, expected Ready"),
            (Operation::Unplug(Device::White), "white: Ready of NodeUSBDevice is Ready, expected NotFound"),
            (Operation::Replug(Device::White, Node::One), "white: in node-3, expected in Some(One)"),
            (Operation::Assign(Device::White, Space::A), "white: USBDevices in {}, expected in Some(A)"),
            (Operation::Assign(Device::White, Space::A), "white: Assigned is Available"),
            (Operation::Unassign(Device::Red), "red: USBDevices in {\"walk-a\"}, expected in None"),
            (Operation::Unassign(Device::Red), "red: in the guests {First}, of which only {} may have it"),
            (Operation::Stop(Machine::First), "first: it is Running"),
            (Operation::Stop(Machine::First), "expected One({Second})"),
            (Operation::Start(Machine::Third, Node::One), "third: it is Stopped"),
            (Operation::Migrate(Machine::First, Node::One), "first: on node-2, expected on node-1"),
            (Operation::Migrate(Machine::First, Node::One), "red: Attached of USBDevice is True"),
            (Operation::Attach(Machine::First, Device::Green), "first: its status says"),
            (Operation::Attach(Machine::First, Device::Green), "green: Attached of NodeUSBDevice is False"),
            (Operation::Detach(Machine::First, Device::Red), "expected One({Second})"),
            (Operation::PowerOff(Node::One), "red: Ready of NodeUSBDevice is Ready, expected NotReady"),
        ] {
            let (seen, guests) = truth(&before);
            let mut after = before.clone();
            after.apply(&operation);
            let told = differences(&after, &seen, &guests);
            assert!(told.contains(words), "{operation}: {words:?} is not in\n{told}");
        }
    }

    #[test]
    fn what_guests_say_counts_as_much_as_what_objects_say() {
        let model = model();
        let told = |change: &dyn Fn(&mut Witnesses)| {
            let (seen, mut guests) = truth(&model);
            change(&mut guests);
            differences(&model, &seen, &guests)
        };
        let red = |machine: Machine| {
            move |guests: &mut Witnesses| drop(guests.get_mut(&machine).unwrap().hear("guest: usb add 2-9 serial=RED"))
        };
        assert!(told(&red(Machine::Second)).contains("red: in the guests {First, Second}"));
        assert!(
            told(&|guests| guests.get_mut(&Machine::First).unwrap().doubts(None)).contains("said to be in Some(First)")
        );
        assert!(
            told(&|guests| guests.get_mut(&Machine::Second).unwrap().restarts()).contains("second: its guest has not")
        );
        let other =
            |guests: &mut Witnesses| drop(guests.get_mut(&Machine::First).unwrap().hear("guest: disk sdred sha256=xx"));
        assert!(told(&other).contains("red: first reads xx, it holds sum-red"));
        // One that does not run may have said anything.
        assert_eq!(told(&red(Machine::Third)), "");
    }

    #[test]
    fn of_a_machine_on_a_node_that_is_off_nothing_is_asked() {
        let before = model();
        let (seen, mut guests) = truth(&before);
        let mut after = before;
        after.apply(&Operation::PowerOff(Node::Two));
        guests.get_mut(&Machine::First).unwrap().restarts();
        assert_eq!(differences(&after, &seen, &guests), "");
    }
}
