//! The metrics of the agent: its node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use patchbay_core::importer::Action;
use patchbay_core::names::Uid;
use patchbay_core::speed::PortName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{Label, durations, gauges, list, registry, sample, samples};

/// The end of a session that this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// The device is plugged in here.
    Home,
    /// It is used here.
    Import,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Import => "import",
        }
    }
}

/// How a call of another node for a device has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With a session.
    Granted,
    /// It was told that it gets none.
    Denied,
    /// It broke off before that.
    Broken,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Granted, Self::Denied, Self::Broken];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Broken => "broken",
        }
    }
}

/// What the node has at the moment of a look. Labels in the order of the metric's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeSight {
    /// By speed and use.
    pub(crate) devices: BTreeMap<(&'static str, &'static str), usize>,
    /// By half and state.
    pub(crate) ports: BTreeMap<(&'static str, &'static str), usize>,
    /// Sessions with the device here, and with the device used here.
    pub(crate) sessions: (usize, usize),
    /// URBs of the devices behind ports.
    pub(crate) port_urbs: BTreeMap<String, u64>,
    /// URBs of lent devices, by place.
    pub(crate) lent_urbs: BTreeMap<String, u64>,
    /// When the certificate expires; 0 without one.
    pub(crate) certificate: i64,
}

/// Takes the numbers. Cheap to clone: clones count together.
#[derive(Clone)]
pub(crate) struct AgentMetrics {
    started: Family<[Label; 1], Counter>,
    reimports: Counter,
    requests: Family<[Label; 1], Counter>,
    steps: Family<[Label; 1], Histogram, fn() -> Histogram>,
    errors: Family<[Label; 1], Counter>,
    /// The claim that each port had its last session for.
    last: Arc<Mutex<BTreeMap<PortName, Uid>>>,
}

impl AgentMetrics {
    /// All at nothing, and where they are read; `look` looks at the node, and may take a moment.
    pub(crate) fn new(node: &str, look: impl Fn() -> NodeSight + Send + Sync + 'static) -> (Self, Registry) {
        let metrics = Self {
            started: Family::default(),
            reimports: Counter::default(),
            requests: Family::default(),
            steps: Family::new_with_constructor(durations),
            errors: Family::default(),
            last: Arc::default(),
        };
        let mut registry = registry(vec![("node", node.to_owned())]);
        list::STARTED.register(&mut registry, metrics.started.clone());
        list::REIMPORTS.register(&mut registry, metrics.reimports.clone());
        list::REQUESTS.register(&mut registry, metrics.requests.clone());
        list::STEP.register(&mut registry, metrics.steps.clone());
        list::STEP_ERRORS.register(&mut registry, metrics.errors.clone());
        registry.register_collector(Box::new(Sight(Box::new(look))));
        for side in [Side::Home, Side::Import] {
            drop(metrics.started.get_or_create(&[("side", side.as_str())]));
        }
        for ending in Ending::ALL {
            drop(metrics.requests.get_or_create(&[("answer", ending.as_str())]));
        }
        for step in ["call", "plug", "unplug", "detach", "report"] {
            drop(metrics.errors.get_or_create(&[("step", step)]));
        }
        (metrics, registry)
    }

    /// Notes that a session was handed to the kernel of the node that the device is plugged into.
    pub(crate) fn lent(&self) {
        self.started.get_or_create(&[("side", Side::Home.as_str())]).inc();
    }

    /// Notes that a session was handed to the kernel for a claim, at a port.
    pub(crate) fn imported(&self, port: PortName, claim: &Uid) {
        self.started.get_or_create(&[("side", Side::Import.as_str())]).inc();
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(port, claim.clone());
        if before.as_ref() == Some(claim) {
            self.reimports.inc();
        }
    }

    /// Notes how the call of another node has ended.
    pub(crate) fn ended(&self, ending: Ending) {
        self.requests.get_or_create(&[("answer", ending.as_str())]).inc();
    }

    /// Notes that a step has ended.
    pub(crate) fn step(&self, action: &Action, done: bool, took: Duration) {
        let step = match action {
            Action::Call { .. } => "call",
            Action::Plug { .. } => "plug",
            Action::Unplug { .. } => "unplug",
            Action::Detach { .. } => "detach",
            Action::Report { .. } => "report",
            // Nothing happens on the node.
            Action::HangUp { .. } | Action::Forget { .. } => return,
        };
        if done {
            self.steps.get_or_create(&[("step", step)]).observe(took.as_secs_f64());
        } else {
            self.errors.get_or_create(&[("step", step)]).inc();
        }
    }
}

/// Looks at the node.
struct Sight(Box<dyn Fn() -> NodeSight + Send + Sync>);

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sight")
    }
}

impl Collector for Sight {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let sight = (self.0)();
        let words =
            |((one, other), n): ((&'static str, &'static str), usize)| (vec![one.to_owned(), other.to_owned()], n);
        samples(&mut encoder, &list::NODE_DEVICES, gauges(sight.devices.into_iter().map(words)))?;
        samples(&mut encoder, &list::NODE_PORTS, gauges(sight.ports.into_iter().map(words)))?;
        let side = |side: Side, n| (vec![side.as_str().to_owned()], n);
        let sessions = [side(Side::Home, sight.sessions.0), side(Side::Import, sight.sessions.1)];
        samples(&mut encoder, &list::SESSIONS, gauges(sessions))?;
        let counts = |counts: BTreeMap<String, u64>| {
            counts.into_iter().map(|(label, n)| (vec![label], ConstCounter::new(n))).collect::<Vec<_>>()
        };
        samples(&mut encoder, &list::PORT_URBS, counts(sight.port_urbs))?;
        samples(&mut encoder, &list::LENT_URBS, counts(sight.lent_urbs))?;
        sample(&mut encoder, &list::CERTIFICATE, ConstGauge::new(sight.certificate))
    }
}
