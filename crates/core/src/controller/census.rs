//! How many there are of what: the world in numbers, for metrics.
//!
//! Nothing here names a device, a machine or a namespace: whoever may read the numbers of a cluster need not be one who may
//! read its objects. What is counted is bounded by the number of nodes and of [`Reason`]s.

use std::collections::BTreeMap;

use crate::conditions::{Condition, ConditionType, PluggedState, Reason, find};
use crate::controller::world::{Attachment, Want, World};
use crate::names::NodeName;
use crate::speed::Hub;

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// It waits for the scheduler.
    Scheduling,
    /// The scheduler finds no place for it; for most: the node has no free port.
    NoPlace,
    /// It has a node, and the agent has said nothing of it yet.
    Starting,
    /// The agent waits for something.
    Waiting,
    /// The agent's last try has failed.
    Failed,
    /// The device is held for a machine that is about to arrive.
    Reserved,
    /// The device is in the guest.
    Plugged,
    /// It is being taken away.
    Leaving,
}

impl Stage {
    /// All, in the order in which they are reached.
    pub const ALL: &[Self] = &[
        Self::Scheduling,
        Self::NoPlace,
        Self::Starting,
        Self::Waiting,
        Self::Failed,
        Self::Reserved,
        Self::Plugged,
        Self::Leaving,
    ];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduling => "scheduling",
            Self::NoPlace => "no_place",
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Reserved => "reserved",
            Self::Plugged => "plugged",
            Self::Leaving => "leaving",
        }
    }

    /// That of an attachment.
    pub fn of(attachment: &Attachment) -> Self {
        match &attachment.plugged {
            _ if attachment.deleting => Self::Leaving,
            Some(PluggedState::Plugged(_)) => Self::Plugged,
            _ if attachment.is_unschedulable() => Self::NoPlace,
            _ if !attachment.is_placed() => Self::Scheduling,
            _ if attachment.want == Want::Reserved => Self::Reserved,
            Some(PluggedState::Failed(_) | PluggedState::ClaimLost) => Self::Failed,
            Some(PluggedState::Waiting(_) | PluggedState::Unplugged) => Self::Waiting,
            None => Self::Starting,
        }
    }
}

/// The ports of one half of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Those that are allocated to a claim.
    pub used: usize,
    /// The others.
    pub free: usize,
}

/// What a node is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// It is ready, and its agent has published all it has.
    Publishing,
    /// It is ready, and no agent has published anything, or not all.
    Silent,
    /// It is not ready.
    NotReady,
}

impl Presence {
    /// All.
    pub const ALL: &[Self] = &[Self::Publishing, Self::Silent, Self::NotReady];

    /// As in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Silent => "silent",
            Self::NotReady => "not_ready",
        }
    }
}

/// The numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// `NodeUSBDevice`s, by what each of their conditions says.
    pub devices: BTreeMap<(ConditionType, Reason), usize>,
    /// Assigned devices that cannot be used, by the node that they are, or were last, plugged into.
    pub troubled: BTreeMap<(NodeName, Reason), usize>,
    /// Virtual machines, by what each of their conditions says.
    pub machines: BTreeMap<(ConditionType, Reason), usize>,
    /// Attachments, by the node of their machine.
    pub attachments: BTreeMap<(NodeName, Stage), usize>,
    /// Ports.
    pub ports: BTreeMap<(NodeName, Hub), Ports>,
    /// Nodes.
    pub nodes: BTreeMap<Presence, usize>,
}

/// Counts.
pub fn count(world: &World) -> Census {
    let mut census = Census::default();
    for device in world.node_devices.values() {
        add(&mut census.devices, &device.status.conditions);
        let ready = find(&device.status.conditions, ConditionType::Ready).filter(|c| !c.reason.is_true());
        if let (Some(ready), Some(node), Some(_)) = (ready, &device.status.node, &device.assigned) {
            *census.troubled.entry((node.clone(), ready.reason)).or_default() += 1;
        }
    }
    for vm in world.vms.values() {
        add(&mut census.machines, &vm.status.conditions);
    }
    for attachment in world.attachments.values() {
        *census.attachments.entry((attachment.node.clone(), Stage::of(attachment))).or_default() += 1;
    }
    for (node, pool) in &world.pools {
        for hub in Hub::ALL {
            let offered = pool.ports.iter().filter(|port| port.hub == hub).count();
            let used = world.ports_used.get(&(node.clone(), hub)).copied().unwrap_or_default();
            if offered > 0 || used > 0 {
                census.ports.insert((node.clone(), hub), Ports { used, free: offered.saturating_sub(used) });
            }
        }
    }
    for (name, node) in &world.nodes {
        let presence = match world.pools.get(name) {
            _ if !node.ready => Presence::NotReady,
            Some(pool) if !pool.silent => Presence::Publishing,
            _ => Presence::Silent,
        };
        *census.nodes.entry(presence).or_default() += 1;
    }
    census
}

fn add(counts: &mut BTreeMap<(ConditionType, Reason), usize>, conditions: &[Condition]) {
    for condition in conditions {
        *counts.entry((condition.kind, condition.reason)).or_default() += 1;
    }
}
