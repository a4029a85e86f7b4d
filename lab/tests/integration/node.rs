//! A node that is an object and no more: its kubelet's heartbeat, and its agent's slices, published by the real publisher
//! with the rights of an agent.

use std::cell::RefCell;

use k8s_openapi::api::core::v1 as core_v1;
use k8s_openapi::api::resource::v1::Device as DraDevice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use patchbay_api::slice;
use patchbay_core::DRIVER;
use patchbay_core::device::{Attributes, BusAddress, Device, HexId};
use patchbay_core::names::NodeName;
use patchbay_core::speed::{Hub, PortName, Speed};
use patchbay_dra::{NodeScope, Patience, Pool, PublisherStatus, Publishing, SlicePublisher};
use patchbay_lab::api;
use patchbay_lab::object_node::{self, Heart, condition};
use serde_json::json;
use tokio::sync::watch;

use crate::stage::Stage;

/// A node. Its heart stops when it is dropped.
pub(crate) struct Node {
    name: NodeName,
    nodes: Api<core_v1::Node>,
    agent: kube::Client,
    wanted: watch::Sender<Option<Vec<Pool>>>,
    publisher: RefCell<Option<SlicePublisher>>,
    devices: RefCell<Vec<Device>>,
    ports: RefCell<Vec<PortName>>,
    _heart: Heart,
}

impl Node {
    /// A ready node, and an agent that publishes two empty pools.
    pub(crate) fn join(stage: &Stage, name: &str) -> Self {
        let node = Self::silent(stage, name);
        node.publish();
        node.speak();
        node
    }

    /// A ready node without an agent.
    pub(crate) fn silent(stage: &Stage, name: &str) -> Self {
        let nodes: Api<core_v1::Node> = Api::all(stage.client());
        object_node::create(&nodes, name).unwrap();
        Self {
            name: NodeName::new(name),
            nodes,
            agent: stage.hire(name),
            wanted: watch::channel(None).0,
            publisher: RefCell::new(None),
            devices: RefCell::default(),
            ports: RefCell::default(),
            _heart: Heart::start(stage.client(), name),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &NodeName {
        &self.name
    }

    /// What its agent has to say of its publisher.
    pub(crate) fn publisher(&self) -> PublisherStatus {
        self.publisher.borrow().as_ref().expect("its agent runs").status().borrow().clone()
    }

    /// The node has these devices and no others.
    pub(crate) fn has(&self, devices: Vec<Device>) {
        *self.devices.borrow_mut() = devices;
        self.publish();
    }

    /// Somebody plugs a device in.
    pub(crate) fn plug(&self, device: Device) {
        self.devices.borrow_mut().push(device);
        self.publish();
    }

    /// Somebody pulls it out.
    pub(crate) fn unplug(&self, device: &str) {
        self.devices.borrow_mut().retain(|d| d.name.as_str() != device);
        self.publish();
    }

    /// The node has so many vhci ports of each half.
    pub(crate) fn ports(&self, count: u16) {
        let both = Hub::ALL.into_iter().flat_map(|hub| (0..count).map(move |index| PortName { hub, index }));
        *self.ports.borrow_mut() = both.collect();
        self.publish();
    }

    /// The agent is killed.
    pub(crate) fn silence(&self) {
        self.publisher.borrow_mut().take();
    }

    /// The agent is started.
    pub(crate) fn speak(&self) {
        let publishing = Publishing { driver: DRIVER.to_owned(), node: self.name.to_string() };
        let (client, wanted) = (self.agent.clone(), self.wanted.subscribe());
        let started = api::block_on(async { SlicePublisher::start(client, publishing, wanted, Patience::default()) });
        *self.publisher.borrow_mut() = Some(started);
    }

    /// The kubelet, or somebody on its behalf, says whether the node is ready, and since when (seconds of the epoch).
    pub(crate) fn is_ready(&self, ready: bool, since: i64) {
        let patch = Patch::Strategic(
            json!({"status": {"conditions": [condition(ready, Timestamp::from_second(since).unwrap())]}}),
        );
        let params = PatchParams::default();
        let patched = self.nodes.patch_status(self.name.as_str(), &params, &patch);
        api::request("say whether the node is ready", patched).unwrap();
    }

    fn publish(&self) {
        let devices = published(&self.name, &self.devices.borrow());
        let devices = Pool::new(slice::device_pool(&self.name), NodeScope::AllNodes, devices);
        let ports = self.ports.borrow().iter().map(|port| slice::port(port, None)).collect::<Vec<_>>();
        let ports = Pool::new(slice::port_pool(&self.name), NodeScope::NodeName(self.name.to_string()), ports);
        assert_eq!((devices.1, ports.1), (vec![], vec![]), "left out of the pools");
        self.wanted.send_replace(Some(vec![devices.0, ports.0]));
    }
}

/// What whoever reads the slices of a node shall find, by name.
pub(crate) fn published(node: &NodeName, devices: &[Device]) -> Vec<DraDevice> {
    let mut published: Vec<_> = devices.iter().map(|d| slice::device(d, node)).collect();
    published.sort_by(|a, b| a.name.cmp(&b.name));
    published
}

/// A device without a serial number in the n-th port of its node's bus.
pub(crate) fn device(name: &str, n: u16, speed: Speed) -> Device {
    let attributes = Attributes {
        vendor_id: HexId(0x046d),
        product_id: HexId(0x082d),
        bcd: HexId(0x0011),
        address: BusAddress { bus: 1, device: n },
        serial: None,
        manufacturer: Some("Logitech".to_owned()),
        product: Some("Webcam C920".to_owned()),
        name: "Webcam C920".to_owned(),
        speed,
        port_path: format!("1-{n}").parse().unwrap(),
        class: 0xef,
    };
    Device { name: name.into(), attributes, not_ready: None }
}
