//! The agent's hand on devices that are not lent: whether the drivers of their node have them.

use std::collections::BTreeSet;

use patchbay_core::custody::{Idle, Keeper, Returned, Step, step};
use patchbay_core::importer::{Action, used_here};
use patchbay_core::names::{DeviceName, NodeName};

use crate::cluster::Cluster;
use crate::importer::observe;
use crate::kernel::{Local, Node};
use crate::scenario::Scenario;
use crate::steps::Steps;

/// Devices are withheld, and returned.
pub fn steps(cluster: &Cluster, scenario: &Scenario, steps: &mut Steps) {
    if !scenario.custody {
        return;
    }
    for (home, node) in &cluster.nodes {
        for (device, local) in node.plugged.iter().filter(|(_, l)| l.binding.is_none()) {
            let withheld = match decide(cluster, (home, node), device, local) {
                Step::Leave => continue,
                Step::Withhold => true,
                Step::Return => false,
            };
            let mut next = cluster.clone();
            next.change(home, |n| {
                if let Some(local) = n.plugged.get_mut(device) {
                    local.withheld = withheld;
                }
            });
            let verb = if withheld { "withholds" } else { "returns" };
            steps.quiet(|| format!("{home}'s agent {verb} {device}"), next);
        }
    }
}

/// Whether a device that is being released is withheld.
pub fn withheld(cluster: &Cluster, scenario: &Scenario, home: &NodeName, device: &DeviceName) -> bool {
    let node = cluster.node(home);
    let local = node.and_then(|n| Some((n, n.plugged.get(device)?)));
    scenario.custody && local.is_some_and(|(node, l)| decide(cluster, (home, node), device, l) == Step::Withhold)
}

fn decide(cluster: &Cluster, (home, node): (&NodeName, &Node), device: &DeviceName, local: &Local) -> Step {
    let plugging = |action: &Action| match action {
        Action::Plug { address, .. } => Some(*address),
        _ => None,
    };
    let plugging: BTreeSet<_> = node.agent.queue.iter().filter_map(plugging).collect();
    let used = used_here(&observe(cluster, home, node), &plugging);
    let idle = Idle {
        assigned: Some(cluster.api.assigned(home, device).is_some()),
        used_here: Some(used.contains(device)),
        host_uses: false,
        keeper: if local.withheld { Keeper::Ours } else { Keeper::Drivers },
    };
    step(&idle, Returned::Unassigned)
}
