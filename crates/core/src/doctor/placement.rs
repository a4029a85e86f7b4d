//! Why a node has no agent: what the DaemonSet controller goes by, as far as the objects tell.

use super::Remedy;
use super::seen::{DaemonSet, Host, Taint, Toleration};
use crate::names::NodeName;

/// What every pod of a DaemonSet tolerates, with any effect. The last one is for pods with the host's network, which agents
/// have (`pkg/controller/daemon/util/daemonset_util.go`).
const ALWAYS: &[&str] = &[
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/disk-pressure",
    "node.kubernetes.io/memory-pressure",
    "node.kubernetes.io/pid-pressure",
    "node.kubernetes.io/unschedulable",
    "node.kubernetes.io/network-unavailable",
];

/// A taint that does not keep pods away.
const PREFERENCE: &str = "PreferNoSchedule";

/// Why a node has no agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Somebody has decided so.
    Chosen(String),
    /// It shall have one.
    Wrong(String, Remedy),
}

/// Judges a node that has no pod of the DaemonSet.
pub(super) fn absence(name: &NodeName, host: &Host, set: &DaemonSet) -> Absence {
    if let Some((key, value)) = set.selector.iter().find(|(key, value)| host.labels.get(*key) != Some(*value)) {
        return Absence::Chosen(format!("none: the DaemonSet is for nodes with the label {key}={value}"));
    }
    if let Some(taint) = host.taints.iter().find(|taint| !tolerated(taint, &set.tolerations)) {
        let Taint { key, value, effect } = taint;
        let equal = if value.is_empty() { "" } else { "=" };
        let why = format!("none: the DaemonSet does not tolerate the node's taint {key}{equal}{value}:{effect}");
        return Absence::Wrong(why, Remedy::ShowNode(name.clone()));
    }
    if set.affinity {
        return Absence::Chosen("none: the DaemonSet's node affinity may leave the node out".to_owned());
    }
    if !host.ready {
        return Absence::Wrong("none: the node is not ready".to_owned(), Remedy::HealNode(name.clone()));
    }
    let why = "none, though nothing keeps it away".to_owned();
    Absence::Wrong(why, Remedy::Describe("daemonset", "agent".to_owned()))
}

fn tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    let by = |toleration: &Toleration| {
        let is = |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|wanted| wanted == have);
        is(&toleration.key, &taint.key) && is(&toleration.value, &taint.value) && is(&toleration.effect, &taint.effect)
    };
    taint.effect == PREFERENCE || ALWAYS.contains(&taint.key.as_str()) || tolerations.iter().any(by)
}
