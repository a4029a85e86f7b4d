//! Every metric there is.
//!
//! Names of counters are without the `_total` that they are read with.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric as RegisteredMetric, Registry};

/// What kind of numbers it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows, until the program or what it counts begins anew.
    Counter,
    /// What it is now.
    Gauge,
    /// How long things took, in seconds.
    Histogram,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric {
    /// As it is registered.
    pub(super) name: &'static str,
    /// What it tells.
    pub(super) kind: Kind,
    /// Its labels, beside those of the program.
    pub(super) labels: &'static [&'static str],
    /// What it tells, in a line.
    pub(super) help: &'static str,
}

impl Metric {
    /// Has a registry tell it.
    pub(super) fn register(&self, registry: &mut Registry, metric: impl RegisteredMetric) {
        registry.register(self.name, self.help, metric);
    }

    /// As it is read; of a histogram without `_bucket`, `_sum` and `_count`.
    #[cfg(test)]
    pub(super) fn read_as(&self) -> String {
        let suffix = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{suffix}", self.name)
    }
}

const fn metric(kind: Kind, name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind, labels, help }
}

pub(super) const BUILD: Metric =
    metric(Kind::Gauge, "patchbay_build_info", &["version"], "Always 1; which version of Patchbay this is");
pub(super) const MEMORY: Metric =
    metric(Kind::Gauge, "process_resident_memory_bytes", &[], "Memory of the program that is in use now");
pub(super) const PROCESSOR: Metric =
    metric(Kind::Counter, "process_cpu_seconds", &[], "Time of a processor that the program has used");

/// Those of both programs.
#[cfg(test)]
pub(super) const PROCESS: &[Metric] = &[BUILD, MEMORY, PROCESSOR];

pub(super) const LEADER: Metric = metric(
    Kind::Gauge,
    "patchbay_controller_leader",
    &[],
    "1 if this controller leads; all numbers of the cluster are told by that one",
);
pub(super) const DEVICES: Metric = metric(
    Kind::Gauge,
    "patchbay_devices",
    &["condition", "reason"],
    "NodeUSBDevices whose condition has this reason (docs/messages.md)",
);
pub(super) const TROUBLED: Metric = metric(
    Kind::Gauge,
    "patchbay_assigned_devices_unusable",
    &["node", "reason"],
    "Devices that are given to a namespace and are not Ready, by the node that they are or were last plugged into",
);
pub(super) const MACHINES: Metric = metric(
    Kind::Gauge,
    "patchbay_virtual_machines",
    &["condition", "reason"],
    "VirtualMachines whose condition has this reason (docs/messages.md)",
);
pub(super) const ATTACHMENTS: Metric = metric(
    Kind::Gauge,
    "patchbay_attachments",
    &["node", "stage"],
    "Attachments, by the node of their machine and by how far they are: scheduling, no_place (no free port, mostly), \
     starting, waiting, failed, reserved (for a machine that moves), plugged, leaving",
);
pub(super) const PORTS: Metric = metric(
    Kind::Gauge,
    "patchbay_ports",
    &["node", "hub", "state"],
    "USB/IP ports that a node offers, of the half for USB 2.0 or 3.0, used (allocated to a claim) or free",
);
pub(super) const NODES: Metric = metric(
    Kind::Gauge,
    "patchbay_nodes",
    &["state"],
    "Nodes: publishing (ready, and the agent tells what is there), silent (ready, and none does), not_ready",
);
pub(super) const ATTACH: Metric = metric(
    Kind::Histogram,
    "patchbay_attach_duration_seconds",
    &["step"],
    "How long attaching took: schedule (from the attachment to its node), plug (from there into the guest), all",
);
pub(super) const DETACH: Metric = metric(
    Kind::Histogram,
    "patchbay_detach_duration_seconds",
    &["step"],
    "How long detaching took: unplug (from the deletion until it is out of the guest), all (until the attachment is gone)",
);
pub(super) const PLAN: Metric = metric(
    Kind::Histogram,
    "patchbay_controller_plan_duration_seconds",
    &[],
    "How long one plan took, the snapshot of the world included",
);
pub(super) const WRITES: Metric = metric(
    Kind::Counter,
    "patchbay_controller_api_writes",
    &["action", "outcome"],
    "Writes to the API server that have ended, by what was done, as the log calls it; the outcome is done, or why not: \
     the reason of the API server, Late, Unreachable, Unreadable or Other",
);
pub(super) const WRITE: Metric = metric(
    Kind::Histogram,
    "patchbay_controller_api_write_duration_seconds",
    &[],
    "How long a write to the API server took, failed ones included",
);
pub(super) const EVENTS: Metric = metric(
    Kind::Counter,
    "patchbay_controller_events",
    &["outcome"],
    "Events: told, counted (in the series of one that was told), held (too much happens to one object), dropped (too many \
     wait), failed",
);

/// Those of the controller.
#[cfg(test)]
pub(super) const CONTROLLER: &[Metric] =
    &[LEADER, DEVICES, TROUBLED, MACHINES, ATTACHMENTS, PORTS, NODES, ATTACH, DETACH, PLAN, WRITES, WRITE, EVENTS];

pub(super) const NODE_DEVICES: Metric = metric(
    Kind::Gauge,
    "patchbay_node_devices",
    &["speed", "use"],
    "USB devices that are plugged into the node, by their speed in Mbit/s: lent (to another node), kept (the node uses it \
     itself), open (neither)",
);
pub(super) const NODE_PORTS: Metric = metric(
    Kind::Gauge,
    "patchbay_node_ports",
    &["hub", "state"],
    "USB/IP ports that the kernel of the node has: used (by us), foreign (somebody else uses it), free",
);
pub(super) const SESSIONS: Metric = metric(
    Kind::Gauge,
    "patchbay_node_sessions",
    &["side"],
    "USB/IP sessions that the kernel carries: home (the device is plugged in here), import (it is used here)",
);
pub(super) const STARTED: Metric = metric(
    Kind::Counter,
    "patchbay_node_sessions_started",
    &["side"],
    "USB/IP sessions that were handed to the kernel",
);
pub(super) const REIMPORTS: Metric = metric(
    Kind::Counter,
    "patchbay_node_reimports",
    &[],
    "Sessions that were started for a claim that had one at the same port before: that one had broken, or its guest had ended",
);
pub(super) const REQUESTS: Metric = metric(
    Kind::Counter,
    "patchbay_node_requests",
    &["answer"],
    "Calls of other nodes for a device of this one that have ended: granted, denied, or broken off before that",
);
pub(super) const STEP: Metric = metric(
    Kind::Histogram,
    "patchbay_node_step_duration_seconds",
    &["step"],
    "How long a step of the agent took, if it was done: call (from the call of the home node to the device's port, the \
     wait for its turn included), plug, unplug, detach, report",
);
pub(super) const STEP_ERRORS: Metric = metric(
    Kind::Counter,
    "patchbay_node_step_errors",
    &["step"],
    "Steps of the agent that have failed; each is tried again",
);
pub(super) const PORT_URBS: Metric = metric(
    Kind::Counter,
    "patchbay_node_port_urbs",
    &["port"],
    "URBs that the device behind a port of this node was sent since it came (sysfs urbnum)",
);
pub(super) const LENT_URBS: Metric = metric(
    Kind::Counter,
    "patchbay_node_lent_device_urbs",
    &["place"],
    "URBs that a lent device was sent since it was plugged in, by the kernel's name for its place (sysfs urbnum)",
);
pub(super) const CERTIFICATE: Metric = metric(
    Kind::Gauge,
    "patchbay_node_certificate_expiry_timestamp_seconds",
    &[],
    "When the certificate of the node expires, in seconds since 1970; 0 without one",
);

/// Those of the agent.
#[cfg(test)]
pub(super) const AGENT: &[Metric] = &[
    NODE_DEVICES,
    NODE_PORTS,
    SESSIONS,
    STARTED,
    REIMPORTS,
    REQUESTS,
    STEP,
    STEP_ERRORS,
    PORT_URBS,
    LENT_URBS,
    CERTIFICATE,
];
