//! What is done before the chart is uninstalled, and why it may be refused.
//!
//! An agent takes a device out of a guest or a pod; without agents nothing does, and the kubelets could not end the pods that
//! have one. So nothing is uninstalled while somebody uses it. What stays is what people have decided: which device is whose,
//! and their machines.

use std::collections::BTreeSet;

use crate::names::{Namespace, PodName, VmName};

/// What the cluster tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Machines that have a pod.
    pub machines: BTreeSet<(Namespace, VmName)>,
    /// Pods that people have made and that have something of our driver.
    pub pods: BTreeSet<(Namespace, PodName)>,
    /// How many attachment pods there are.
    pub attachments: usize,
    /// Whether our Deployment or our DaemonSet is there.
    pub installed: bool,
    /// How many pods of theirs there are.
    pub running: usize,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: somebody has to do something first, and this is said to them.
    Refuse(String),
    /// Wait for this, and look again.
    Await(String),
    /// Delete the Deployment and the DaemonSet.
    Stop,
    /// Delete what our programs have made and nobody has decided about. That is all.
    Sweep,
}

/// Says what is to be done next.
pub fn next(seen: &Seen) -> Step {
    let machines = seen.machines.iter().map(|(namespace, name)| format!("virtual machine {namespace}/{name}"));
    let pods = seen.pods.iter().map(|(namespace, name)| format!("pod {namespace}/{name}"));
    let users = machines.chain(pods).collect::<Vec<_>>();
    if !users.is_empty() {
        return Step::Refuse(format!(
            "Patchbay is in use and stays: stop or delete these first, and uninstall it again: {}",
            users.join(", ")
        ));
    }
    if seen.installed {
        return match seen.attachments {
            0 => Step::Stop,
            count => Step::Await(format!("devices to be taken out of machines that are gone: {count}")),
        };
    }
    match seen.running {
        0 => Step::Sweep,
        count => Step::Await(format!("pods of Patchbay to end: {count}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stops_while_somebody_uses_it() {
        let mut seen = Seen { installed: true, running: 4, attachments: 1, ..Seen::default() };
        seen.machines.insert(("blue".into(), "linux-vm".into()));
        seen.pods.insert(("green".into(), "scanner".into()));
        let words = "Patchbay is in use and stays: stop or delete these first, and uninstall it again: \
                     virtual machine blue/linux-vm, pod green/scanner";
        assert_eq!(next(&seen), Step::Refuse(words.to_owned()));
        // Nor when it is tried again and the agents are gone: without them nobody could end these pods.
        assert_eq!(next(&Seen { installed: false, ..seen }), Step::Refuse(words.to_owned()));
    }

    #[test]
    fn one_step_follows_the_other() {
        let steps = [
            ((true, 1, 4), Step::Await("devices to be taken out of machines that are gone: 1".to_owned())),
            ((true, 0, 4), Step::Stop),
            ((false, 0, 3), Step::Await("pods of Patchbay to end: 3".to_owned())),
            ((false, 0, 0), Step::Sweep),
        ];
        for ((installed, attachments, running), step) in steps {
            assert_eq!(next(&Seen { installed, attachments, running, ..Seen::default() }), step);
        }
    }
}
