//! The metrics of the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patchbay_core::conditions::{ConditionType, Reason};
use patchbay_core::controller::census::{Census, Presence, Stage};
use patchbay_core::controller::stopwatch::Lap;
use patchbay_core::messages;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Label, durations, gauges, list, moments, registry, samples};

/// What becomes of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Telling {
    /// It was made.
    Told,
    /// It was counted in the series of another.
    Counted,
    /// Too much happens to the object.
    Held,
    /// Too many wait.
    Dropped,
    /// The API server has not taken it.
    Failed,
}

impl Telling {
    const ALL: [Self; 5] = [Self::Told, Self::Counted, Self::Held, Self::Dropped, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Counted => "counted",
            Self::Held => "held",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// Takes the numbers. Cheap to clone: clones count together.
#[derive(Clone)]
pub(crate) struct ControllerMetrics {
    leader: Gauge,
    census: Arc<Mutex<Option<Census>>>,
    attach: Family<[Label; 1], Histogram, fn() -> Histogram>,
    detach: Family<[Label; 1], Histogram, fn() -> Histogram>,
    plan: Histogram,
    writes: Family<[Label; 2], Counter>,
    write: Histogram,
    events: Family<[Label; 1], Counter>,
}

impl ControllerMetrics {
    /// All at nothing, and where they are read.
    pub(crate) fn new() -> (Self, Registry) {
        let metrics = Self {
            leader: Gauge::default(),
            census: Arc::default(),
            attach: Family::new_with_constructor(durations),
            detach: Family::new_with_constructor(durations),
            plan: moments(),
            writes: Family::default(),
            write: durations(),
            events: Family::default(),
        };
        let mut registry = registry(Vec::new());
        list::LEADER.register(&mut registry, metrics.leader.clone());
        list::ATTACH.register(&mut registry, metrics.attach.clone());
        list::DETACH.register(&mut registry, metrics.detach.clone());
        list::PLAN.register(&mut registry, metrics.plan.clone());
        list::WRITES.register(&mut registry, metrics.writes.clone());
        list::WRITE.register(&mut registry, metrics.write.clone());
        list::EVENTS.register(&mut registry, metrics.events.clone());
        registry.register_collector(Box::new(Cluster(metrics.census.clone())));
        for lap in [Lap::Schedule, Lap::Plug, Lap::Attach, Lap::Unplug, Lap::Detach] {
            drop(metrics.lap(lap));
        }
        for telling in Telling::ALL {
            drop(metrics.events.get_or_create(&[("outcome", telling.as_str())]));
        }
        (metrics, registry)
    }

    /// Notes what a plan was made of, and how long that took.
    pub(crate) fn planned(&self, census: Census, laps: Vec<(Lap, Duration)>, took: Duration) {
        self.leader.set(1);
        self.plan.observe(took.as_secs_f64());
        for (lap, took) in laps {
            self.lap(lap).observe(took.as_secs_f64());
        }
        *self.census.lock().unwrap_or_else(PoisonError::into_inner) = Some(census);
    }

    /// Notes that this controller does not lead: another one tells what is in the cluster.
    pub(crate) fn stands_by(&self) {
        self.leader.set(0);
        *self.census.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that a write has ended.
    pub(crate) fn wrote(&self, action: &'static str, outcome: &'static str, took: Duration) {
        self.writes.get_or_create(&[("action", action), ("outcome", outcome)]).inc();
        self.write.observe(took.as_secs_f64());
    }

    /// Notes what has become of an Event.
    pub(crate) fn tells(&self, telling: Telling) {
        self.events.get_or_create(&[("outcome", telling.as_str())]).inc();
    }

    fn lap(&self, lap: Lap) -> Histogram {
        let (family, step) = match lap {
            Lap::Schedule => (&self.attach, "schedule"),
            Lap::Plug => (&self.attach, "plug"),
            Lap::Attach => (&self.attach, "all"),
            Lap::Unplug => (&self.detach, "unplug"),
            Lap::Detach => (&self.detach, "all"),
        };
        family.get_or_create_owned(&[("step", step)])
    }
}

/// Tells the numbers of the cluster, while this controller leads.
#[derive(Debug)]
struct Cluster(Arc<Mutex<Option<Census>>>);

impl Collector for Cluster {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let census = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(census) = census else { return Ok(()) };
        // What is known to be none is told as well: a line that is not there says nothing.
        let by_reason = |counts: &BTreeMap<(ConditionType, Reason), usize>, kinds: &[ConditionType]| {
            let all = kinds.iter().flat_map(|kind| messages::of(*kind).map(|entry| (entry.kind, entry.reason)));
            let number = |(kind, reason): (ConditionType, Reason)| {
                let labels = vec![kind.as_str().to_owned(), reason.as_str().to_owned()];
                (labels, counts.get(&(kind, reason)).copied().unwrap_or_default())
            };
            all.map(number).collect::<Vec<_>>()
        };
        let devices = by_reason(&census.devices, ConditionType::OF_DEVICE);
        samples(&mut encoder, &list::DEVICES, gauges(devices))?;
        let machines = by_reason(&census.machines, ConditionType::OF_VM);
        samples(&mut encoder, &list::MACHINES, gauges(machines))?;
        let troubled = census.troubled.iter();
        let troubled = troubled.map(|((node, reason), n)| (vec![node.to_string(), reason.as_str().to_owned()], *n));
        samples(&mut encoder, &list::TROUBLED, gauges(troubled))?;
        let nodes: BTreeSet<_> =
            census.attachments.keys().map(|(node, _)| node).chain(census.ports.keys().map(|(node, _)| node)).collect();
        let attachments = nodes.into_iter().flat_map(|node| Stage::ALL.iter().map(move |stage| (node, *stage)));
        let attachments = attachments.map(|(node, stage)| {
            let number = census.attachments.get(&(node.clone(), stage)).copied().unwrap_or_default();
            (vec![node.to_string(), stage.as_str().to_owned()], number)
        });
        samples(&mut encoder, &list::ATTACHMENTS, gauges(attachments))?;
        let ports = census.ports.iter().flat_map(|((node, hub), ports)| {
            let labels = |state: &str| vec![node.to_string(), hub.as_str().to_owned(), state.to_owned()];
            [(labels("used"), ports.used), (labels("free"), ports.free)]
        });
        samples(&mut encoder, &list::PORTS, gauges(ports))?;
        let nodes = Presence::ALL.iter().map(|presence| {
            (vec![presence.as_str().to_owned()], census.nodes.get(presence).copied().unwrap_or_default())
        });
        samples(&mut encoder, &list::NODES, gauges(nodes))
    }
}
