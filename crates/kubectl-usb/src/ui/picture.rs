//! What the page draws, made from a world: nodes, the devices in them, machines, and a cable for each wish that a device be
//! in a machine. Why a cable is as it is comes from the chain of `why`, in its words.

mod cable;
mod state;

use std::collections::BTreeSet;

use patchbay_core::controller::why::{self as chain, Finding};
use patchbay_core::controller::world::{DeviceStatus, World};
use patchbay_core::names::{DeviceName, Namespace, NodeName};
use serde::Serialize;

use crate::advice::{self, Line};
use crate::nodes::{self, Health};
use crate::{list, why};

use cable::Cable;
use state::State;

use super::Scope;

/// All that is drawn. Two that are equal look the same.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Picture {
    /// Nodes by name.
    nodes: Vec<Node>,
    /// Devices by node and port.
    devices: Vec<Device>,
    /// Machines, and pods that have a device, by namespace and name.
    machines: Vec<Machine>,
    /// Cables by device.
    cables: Vec<Cable>,
    /// Namespaces that a device may be given to; empty where nobody may see them.
    namespaces: Vec<Namespace>,
    /// The one namespace that this is a picture of.
    only: Option<Namespace>,
    /// What to do where there is no device.
    nothing: String,
}

/// A node.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Node {
    name: NodeName,
    /// It is as it should be.
    good: bool,
    /// What is said of it.
    says: Option<String>,
    /// Its USB/IP ports.
    ports: Vec<Ports>,
}

/// USB/IP ports of one kind.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Ports {
    title: &'static str,
    used: usize,
    all: usize,
}

/// A device.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Device {
    name: DeviceName,
    node: Option<NodeName>,
    /// Where it is plugged in, or was.
    port: String,
    /// What it is called.
    product: String,
    /// Vendor, product, serial number and speed, each with what it is.
    facts: Vec<(&'static str, String)>,
    /// Whose it is.
    namespace: Option<Namespace>,
    state: State,
    why: Chain,
}

/// A virtual machine, or a pod that has a device.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Machine {
    /// `vm` or `pod`.
    kind: &'static str,
    namespace: Namespace,
    name: String,
    node: Option<NodeName>,
    /// It runs.
    runs: bool,
    /// Whether it runs, or why it does not.
    says: String,
    /// Names on its list that are no devices.
    unknown: Vec<DeviceName>,
}

/// The chain of a device, link by link.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Chain {
    /// The end of it in a sentence.
    says: String,
    links: Vec<Step>,
    /// What to do.
    todo: Vec<Line>,
}

/// A link.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Step {
    title: &'static str,
    /// None where it was not reached.
    holds: Option<bool>,
    says: String,
}

impl Chain {
    fn new(found: &[Finding], partial: bool) -> Self {
        let link = |finding: &Finding| Step {
            title: finding.link.title(),
            holds: Some(finding.state.is_ok()),
            says: finding.state.as_ref().map_or_else(|trouble| trouble.why.clone(), Clone::clone),
        };
        let beyond = found.last().into_iter().flat_map(|last| why::beyond(last, partial));
        let beyond = beyond.map(|link| Step { title: link.title(), holds: None, says: String::new() });
        let links: Vec<Step> = found.iter().map(link).collect();
        Self {
            says: links.last().map_or_else(String::new, |last| last.says.clone()),
            links: links.into_iter().chain(beyond).collect(),
            todo: why::trouble(found).map_or_else(Vec::new, |trouble| advice::lines(&trouble.remedy)),
        }
    }
}

/// Draws a world; in the scope of a namespace only what that shows.
pub(crate) fn picture(world: &World, scope: &Scope) -> Picture {
    let only = match scope {
        Scope::Cluster => None,
        Scope::Namespace(namespace) => Some(namespace),
    };
    let known = known(world, only);
    let names: BTreeSet<&DeviceName> = known.iter().map(|(name, ..)| *name).collect();
    let cables = cable::all(world, only, &names);
    Picture {
        nodes: nodes(world, only, &known),
        devices: known.iter().map(|known| device(world, only, known)).collect(),
        machines: machines(world, only, &names, &cables),
        cables,
        namespaces: world.namespaces.iter().filter(|(_, leaving)| !**leaving).map(|(name, _)| name.clone()).collect(),
        only: only.cloned(),
        nothing: list::nothing(only.map(Namespace::as_str)),
    }
}

/// A device that is there or was: its name, its namespace, and what is said of it.
type Known<'w> = (&'w DeviceName, Option<&'w Namespace>, &'w DeviceStatus);

fn known<'w>(world: &'w World, only: Option<&Namespace>) -> Vec<Known<'w>> {
    let mut known: Vec<Known<'w>> = match only {
        None => world.node_devices.iter().map(|(name, d)| (name, d.assigned.as_ref(), &d.status)).collect(),
        Some(_) => world.devices.iter().map(|((namespace, name), d)| (name, Some(namespace), &d.status)).collect(),
    };
    known.sort_by_key(|(name, _, status)| (&status.node, nodes::order(status), *name));
    known
}

fn nodes(world: &World, only: Option<&Namespace>, known: &[Known<'_>]) -> Vec<Node> {
    if only.is_some() {
        let names: BTreeSet<&NodeName> = known.iter().filter_map(|(.., status)| status.node.as_ref()).collect();
        let node = |name: &NodeName| Node { name: name.clone(), good: true, says: None, ports: Vec::new() };
        return names.into_iter().map(node).collect();
    }
    let node = |name: &NodeName| {
        let health = nodes::health(world, name);
        let ports = nodes::ports(world, name);
        let portless = Some(nodes::NO_PORTS).filter(|_| ports.is_empty());
        Node {
            name: name.clone(),
            good: matches!(health, Health::Good | Health::Silent),
            says: health.words().or(portless).map(str::to_owned),
            ports: ports.iter().map(|p| Ports { title: p.hub.title(), used: p.used, all: p.all }).collect(),
        }
    };
    nodes::all(world).into_iter().map(node).collect()
}

fn device(world: &World, only: Option<&Namespace>, (name, namespace, status): &Known<'_>) -> Device {
    let found = match only {
        None => chain::device(world, name, None),
        Some(only) => chain::told::device(world, only, name, None),
    };
    let known = status.attributes.as_ref();
    let facts = known.into_iter().flat_map(|k| {
        [
            ("ID", Some(format!("{}:{}", k.vendor_id, k.product_id))),
            ("Serial", k.serial.clone()),
            ("Speed", Some(format!("{} Mbit/s", k.speed))),
        ]
    });
    Device {
        name: (*name).clone(),
        node: status.node.clone(),
        port: known.map_or_else(String::new, |k| k.port_path.to_string()),
        product: known.map_or_else(String::new, |k| {
            k.manufacturer.as_ref().map(|m| format!("{m} ")).unwrap_or_default() + &k.name
        }),
        facts: facts.filter_map(|(what, fact)| Some((what, fact?))).collect(),
        namespace: namespace.cloned(),
        state: State::of_device(&found, status, namespace.is_some()),
        why: Chain::new(&found, only.is_some()),
    }
}

fn machines(world: &World, only: Option<&Namespace>, names: &BTreeSet<&DeviceName>, cables: &[Cable]) -> Vec<Machine> {
    let shown = world.vms.iter().filter(|((namespace, _), _)| only.is_none_or(|only| only == namespace));
    let machines = shown.map(|((namespace, name), vm)| {
        let runs = match only {
            None => chain::machine(world, namespace, name, vm),
            Some(_) => chain::told::machine(namespace, name, vm),
        };
        Machine {
            kind: cable::VM,
            namespace: namespace.clone(),
            name: name.to_string(),
            node: vm.status.node.clone(),
            runs: runs.is_ok(),
            says: runs.unwrap_or_else(|trouble| trouble.why),
            unknown: vm.usb_devices.iter().filter(|device| !names.contains(device)).cloned().collect(),
        }
    });
    let mut machines: Vec<Machine> = machines.chain(cable::pods(world, cables)).collect();
    machines.sort_by(|a, b| (&a.namespace, &a.name, a.kind).cmp(&(&b.namespace, &b.name, b.kind)));
    machines
}

#[cfg(test)]
mod tests;
