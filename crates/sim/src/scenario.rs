//! A small world to start from, and what may happen in it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use patchbay_core::controller::world::{self, NodeDevice, Pool, Vm};
use patchbay_core::controller::{Action, Planner};
use patchbay_core::device::{Attributes, BusAddress, Device, HexId};
use patchbay_core::names::{DeviceName, Namespace, NodeName, VmName};
use patchbay_core::speed::{Hub, PortName, Speed};

use crate::api::Api;
use crate::cluster::Cluster;
use crate::fault::FaultKind;
use crate::kernel::{Node, VhciPort};
use crate::steps::Kind;
use crate::user::{Edit, apply};

/// How much a party does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// One action, then others may act.
    Action,
    /// Its whole plan.
    Plan,
}

/// Plans of the controller, by the hash of what it saw.
pub type Plans = RefCell<HashMap<u64, Arc<VecDeque<Action>>>>;

/// A small world and its rules.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Every device, as it is published.
    pub devices: BTreeMap<DeviceName, Device>,
    /// The node each machine has to run on.
    pub pins: BTreeMap<(Namespace, VmName), NodeName>,
    /// The edits people may make.
    pub edits: Vec<Edit>,
    /// The accidents that may happen.
    pub faults: Vec<FaultKind>,
    /// How much a party does at once.
    pub grain: Grain,
    /// Kubernetes and the kernels do what they have to before anybody else acts.
    pub prompt: bool,
    /// Ordinary pods use devices too.
    pub pods: bool,
    /// Devices that are assigned are kept from the drivers of their nodes while nobody uses them.
    pub custody: bool,
    /// What the controller has planned so far, by the hash of what it saw.
    pub plans: Plans,
    /// It sees one after the other of the worlds that were planned for, and has to plan the same for what has changed.
    pub planner: RefCell<Planner>,
    /// The world it starts from.
    pub start: Cluster,
}

impl Scenario {
    /// Two nodes, two namespaces (`blue`, `green`), no devices, no machines.
    pub fn new() -> Self {
        let mut api = Api::default();
        api.seen.namespaces = ["blue", "green"].into_iter().map(|n| (Namespace::new(n), false)).collect();
        let start = Cluster {
            api: Arc::new(api),
            nodes: BTreeMap::new(),
            controller: Arc::default(),
            in_hand: Default::default(),
            edits: 0,
            faults: 0,
        };
        let empty = Self {
            devices: BTreeMap::new(),
            pins: BTreeMap::new(),
            edits: Vec::new(),
            faults: Vec::new(),
            grain: Grain::Action,
            prompt: false,
            pods: false,
            custody: false,
            plans: Plans::default(),
            planner: RefCell::default(),
            start,
        };
        empty.node("node-1").node("node-2")
    }

    /// Adds a node with one port for each half.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        let name = NodeName::new(name);
        let ports: Vec<PortName> = Hub::ALL.into_iter().map(|hub| PortName { hub, index: 0 }).collect();
        let state = Node { ports: ports.iter().map(|p| (*p, VhciPort::default())).collect(), ..Node::default() };
        self.start.nodes.insert(name.clone(), Arc::new(state));
        let seen = &mut self.start.api_mut().seen;
        seen.nodes.insert(name.clone(), world::Node { ready: true, since: 0, cordoned: false });
        seen.pools.insert(name.clone(), Pool { ports, slices: [(format!("{name}-0"), 0)].into(), ..Pool::default() });
        self
    }

    /// Adds a high-speed device with a serial number, plugged into `node`.
    #[must_use]
    pub fn device(mut self, name: &str, node: &str) -> Self {
        let Ok(port_path) = "1-1".parse() else { return self };
        let attributes = Attributes {
            vendor_id: HexId(0x0951),
            product_id: HexId(0x1666),
            bcd: HexId(0x0100),
            address: BusAddress { bus: 1, device: 2 },
            serial: Some(name.to_owned()),
            manufacturer: None,
            product: None,
            name: name.to_owned(),
            speed: Speed::High,
            port_path,
            class: 0,
        };
        let device = Device { name: DeviceName::new(name), attributes, not_ready: None };
        self.devices.insert(device.name.clone(), device.clone());
        self.start.plug(&NodeName::new(node), device);
        self
    }

    /// Adds a machine that lists `devices` and has to run on `node`.
    #[must_use]
    pub fn vm(mut self, namespace: &str, name: &str, node: &str, devices: &[&str]) -> Self {
        let key = (Namespace::new(namespace), VmName::new(name));
        let vm = Vm {
            uid: patchbay_core::names::Uid::new(format!("{name}#0")),
            generation: 1,
            deleting: false,
            policy: world::RunPolicy::AlwaysOn,
            usb_devices: devices.iter().map(|d| DeviceName::new(*d)).collect(),
            status: Default::default(),
        };
        self.start.api_mut().seen.vms.insert(key.clone(), vm);
        self.start.api_mut().seen.budgets.insert(key.clone());
        self.pins.insert(key, NodeName::new(node));
        self
    }

    /// Lets people make pods that use devices.
    #[must_use]
    pub fn pods(mut self) -> Self {
        self.pods = true;
        self
    }

    /// Lets agents keep devices that nobody uses from the drivers of their nodes.
    #[must_use]
    pub fn custody(mut self) -> Self {
        self.custody = true;
        self
    }

    /// Assigns a device before it is first seen.
    #[must_use]
    pub fn assigned(mut self, device: &str, namespace: &str) -> Self {
        let object = NodeDevice {
            uid: patchbay_core::names::Uid::new(format!("nusb-{device}#0")),
            generation: 1,
            deleting: false,
            assigned: Some(Namespace::new(namespace)),
            status: Default::default(),
        };
        self.start.api_mut().seen.node_devices.insert(DeviceName::new(device), object);
        self
    }

    /// Lets everybody come to rest before it starts.
    #[must_use]
    pub fn settled(mut self) -> Self {
        for _ in 0..1_000 {
            match self.next_quiet() {
                Some(next) => self.start = next,
                None => break,
            }
        }
        self
    }

    /// Makes an edit before it starts.
    #[must_use]
    pub fn made(mut self, edit: &Edit) -> Self {
        apply(&mut self.start, edit);
        self
    }

    fn next_quiet(&self) -> Option<Cluster> {
        let steps = self.start.steps(self, false);
        if steps.rest {
            return None;
        }
        steps.into_vec().into_iter().find(|s| s.kind == Kind::Quiet).map(|s| s.next)
    }

    /// Allows so many of these edits on each path.
    #[must_use]
    pub fn edits(mut self, budget: u8, edits: impl IntoIterator<Item = Edit>) -> Self {
        self.edits = edits.into_iter().collect();
        self.start.edits = budget;
        self
    }

    /// Allows so many of these accidents on each path.
    #[must_use]
    pub fn faults(mut self, budget: u8, faults: impl IntoIterator<Item = FaultKind>) -> Self {
        self.faults = faults.into_iter().collect();
        self.start.faults = budget;
        self
    }

    /// Lets parties carry out whole plans at once: fewer worlds, for longer paths.
    #[must_use]
    pub fn coarse(mut self) -> Self {
        self.grain = Grain::Plan;
        self
    }

    /// Makes Kubernetes and the kernels quicker than everybody else: fewer worlds, for longer paths.
    #[must_use]
    pub fn prompt(mut self) -> Self {
        self.prompt = true;
        self
    }

    /// Whether nothing is deleted by force and no step of an agent fails, so that every device leaves its guest in order.
    pub fn is_orderly(&self) -> bool {
        let rude = [FaultKind::ForceDelete, FaultKind::ClaimLost, FaultKind::AgentFails];
        !rude.into_iter().any(|kind| self.has(kind))
    }

    /// Whether a device of this world needs a port of this half.
    pub fn uses(&self, hub: Hub) -> bool {
        self.devices.values().any(|d| d.attributes.speed.hub() == hub)
    }

    /// Whether this kind of accident may happen.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.faults.contains(&kind)
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self::new()
    }
}
