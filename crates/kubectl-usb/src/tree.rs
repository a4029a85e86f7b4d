//! `tree`: nodes, their USB/IP ports, the devices plugged into them, and who has those.

use patchbay_core::conditions::{ConditionType, PluggedState, Reason, find};
use patchbay_core::controller::world::{NodeDevice, World};
use patchbay_core::names::{DeviceName, Namespace, NodeName};

use crate::nodes::{self, Health, Ports};
use crate::style::{BAD, FAINT, GOOD, STRONG, WAITING, paint};

/// A line, and what hangs on it.
#[derive(Debug)]
struct Branch {
    text: String,
    twigs: Vec<Branch>,
}

impl Branch {
    fn leaf(text: String) -> Self {
        Self { text, twigs: Vec::new() }
    }

    fn draw(&self, first: &str, rest: &str, text: &mut String) {
        text.push_str(&format!("{first}{}\n", self.text));
        for (n, twig) in self.twigs.iter().enumerate() {
            let last = n + 1 == self.twigs.len();
            let (own, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            twig.draw(&format!("{rest}{own}"), &format!("{rest}{below}"), text);
        }
    }
}

/// The tree; with a namespace, only its devices and their nodes. Empty when there is nothing.
pub(crate) fn tree(world: &World, only: Option<&Namespace>) -> String {
    let mut text = String::new();
    for node in nodes::all(world) {
        let devices = devices(world, node, only);
        if only.is_some() && devices.is_empty() {
            continue;
        }
        let ports = (only.is_none() && world.pools.contains_key(node)).then(|| ports(world, node));
        let twigs = ports.into_iter().chain(devices).collect();
        Branch { text: title(world, node), twigs }.draw("", "", &mut text);
    }
    text
}

fn title(world: &World, node: &NodeName) -> String {
    let name = paint(STRONG, node.as_str());
    let health = nodes::health(world, node);
    let style = if health == Health::Silent { FAINT } else { BAD };
    health.words().map_or(name.clone(), |words| format!("{name} {}", paint(style, words)))
}

/// The node's vhci ports, and who has them.
fn ports(world: &World, node: &NodeName) -> Branch {
    let counts = nodes::ports(world, node);
    if counts.is_empty() {
        return Branch::leaf(paint(FAINT, nodes::NO_PORTS));
    }
    let count = |ports: &Ports| {
        let text = format!("{} of {} {}", ports.used, ports.all, ports.hub.title());
        if ports.used > 0 && ports.used >= ports.all { paint(WAITING, &text) } else { text }
    };
    // Who cannot be scheduled has no port, and waits for one.
    let placed = world.attachments.values().filter(|a| a.node == *node && !a.is_unschedulable());
    let machines = placed.filter_map(|a| {
        let vm = format!("{} in vm {}/{}", a.device, a.vm_pod.namespace, a.vm);
        a.hub.map(|hub| format!("{}: {vm}", hub.title()))
    });
    let pods = world.pod_claims.iter().filter_map(|((namespace, name), claim)| {
        let allocated = claim.allocated.as_ref().filter(|a| a.node.as_ref() == Some(node))?;
        let pod =
            claim.pods.first().map_or_else(|| format!("claim {namespace}/{name}"), |p| format!("pod {namespace}/{p}"));
        Some(format!("{}: {} in {pod}", allocated.port?.hub.title(), allocated.device))
    });
    let mut users: Vec<String> = machines.chain(pods).collect();
    users.sort();
    let text = format!("USB/IP ports in use: {}", counts.iter().map(count).collect::<Vec<_>>().join(", "));
    Branch { text, twigs: users.into_iter().map(Branch::leaf).collect() }
}

/// The devices of a node, in the order of its ports.
fn devices(world: &World, node: &NodeName, only: Option<&Namespace>) -> Vec<Branch> {
    let mut found = nodes::devices(world, node);
    found.retain(|(_, d)| only.is_none() || d.assigned.as_ref() == only);
    let port = |d: &NodeDevice| d.status.attributes.as_ref().map_or(0, |a| a.port_path.as_str().len());
    let width = found.iter().map(|(_, d)| port(d)).max().unwrap_or(0);
    found.into_iter().map(|(name, device)| branch(world, name, device, width)).collect()
}

fn branch(world: &World, name: &DeviceName, device: &NodeDevice, width: usize) -> Branch {
    let known = device.status.attributes.as_ref();
    let port = known.map_or("", |k| k.port_path.as_str());
    let product = known.map_or_else(String::new, |k| {
        let maker = k.manufacturer.as_ref().map(|m| format!("{m} ")).unwrap_or_default();
        format!(": {maker}{}, {} Mbit/s", k.name, k.speed)
    });
    let state = match find(&device.status.conditions, ConditionType::Ready) {
        Some(ready) if ready.reason == Reason::NotFound => paint(BAD, " (unplugged)"),
        Some(ready) if !ready.reason.is_true() => paint(BAD, &format!(" ({})", ready.message)),
        _ => String::new(),
    };
    let text = format!("{port:width$} {}{product}{state}", paint(STRONG, name.as_str()));
    Branch { text, twigs: vec![Branch::leaf(user(world, name, device))] }
}

/// Who has a device, or whose it is.
fn user(world: &World, name: &DeviceName, device: &NodeDevice) -> String {
    for held in world.attachments.values().filter(|a| a.device == *name) {
        if let Some(PluggedState::Plugged(port)) = &held.plugged {
            let vm = format!("vm {}/{} on node {}, {port}", held.vm_pod.namespace, held.vm, held.node);
            return paint(GOOD, &vm);
        }
    }
    let Some(namespace) = &device.assigned else { return paint(FAINT, "not assigned") };
    let assigned = find(&device.status.conditions, ConditionType::Assigned);
    if let Some(waits) = assigned.filter(|c| !c.reason.is_true()) {
        return format!("namespace {namespace}: {}", paint(WAITING, &waits.message));
    }
    match find(&device.status.conditions, ConditionType::Attached) {
        Some(attached) if attached.reason.is_true() => paint(GOOD, &attached.message),
        Some(attached) if attached.reason != Reason::Available => {
            format!("namespace {namespace}: {}", paint(BAD, &attached.message))
        }
        Some(attached) => format!("namespace {namespace}: {}", attached.message),
        None => format!("namespace {namespace}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{plain, world};

    #[test]
    fn devices_hang_on_the_ports_of_their_nodes() {
        let expected = "\
node-1
├─ no USB/IP ports: devices of other nodes cannot be used here
├─ 1-2  token: Logitech Webcam C920, 480 Mbit/s
│  └─ namespace blue: Device is available for attachment
├─ 1-3  disk: Logitech Webcam C920, 480 Mbit/s (unplugged)
│  └─ not assigned
└─ 1-10 webcam: Logitech Webcam C920, 480 Mbit/s
   └─ vm blue/linux-vm on node node-2, guest bus 0 port 9
node-2
└─ USB/IP ports in use: 1 of 2 USB 2.0, 0 of 1 USB 3.0
   └─ USB 2.0: webcam in vm blue/linux-vm
node-3 publishes nothing: no agent runs there
";
        assert_eq!(plain(&tree(&world(), None)), expected);
    }

    #[test]
    fn of_a_namespace_only_its_devices_are_shown() {
        let text = plain(&tree(&world(), Some(&"blue".into())));
        assert!(text.contains("token") && text.contains("webcam"), "{text}");
        assert!(!text.contains("disk") && !text.contains("ports in use") && !text.contains("node-3"), "{text}");
        assert_eq!(tree(&world(), Some(&"green".into())), "");
    }

    #[test]
    fn nodes_that_are_not_well_say_so() {
        let mut world = world();
        world.nodes.remove(&"node-1".into());
        world.nodes.get_mut(&"node-2".into()).unwrap().ready = false;
        let text = plain(&tree(&world, None));
        assert!(text.contains("node-1 is no node of the cluster any more\n"), "{text}");
        assert!(text.contains("node-2 is not ready\n"), "{text}");
    }
}
