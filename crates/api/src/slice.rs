//! `ResourceSlice`: what an agent publishes, its devices and its vhci ports.
//!
//! | pool | slices | devices |
//! |---|---|---|
//! | `<node>` | for all nodes | the USB devices plugged into the node |
//! | `<node>-ports` | for this node only | the vhci ports of the node, and a token for each of its devices |
//!
//! A claim of an ordinary pod asks for a device and a port, because the port ties the pod to a node that has one. On the
//! device's own node no port is needed: there the claim takes the device's token instead. While the device of such a claim is
//! in reach of its containers, its port or token carries the claim's uid in the attribute `claim`.
//!
//!
//! A pool may be spread over several slices. It is believed when it is complete: when there are as many slices of its
//! highest generation as each of them says. Until then, what was believed before stays.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device as DraDevice, DeviceAttribute, ResourceSlice};
use patchbay_core::DRIVER;
use patchbay_core::conditions::Seconds;
use patchbay_core::controller::world::Pool;
use patchbay_core::device::{Attributes as CoreAttributes, Device, clean};
use patchbay_core::host_use::HostUse;
use patchbay_core::identity::Published;
use patchbay_core::names::{DeviceName, NodeName, Uid};
use patchbay_core::speed::PortName;

use crate::device_status::Attributes;
use crate::meta::{self, Unreadable};

/// The longest string an attribute may hold, in bytes (`DeviceAttributeMaxValueLength` of the API).
const MAX_STRING: usize = 64;

/// The pool of a node's devices.
pub fn device_pool(node: &NodeName) -> String {
    node.to_string()
}

/// The pool of a node's ports.
pub fn port_pool(node: &NodeName) -> String {
    format!("{node}{PORTS}")
}

const PORTS: &str = "-ports";

/// The node of a pool of ports; None for other pools.
pub(crate) fn node_of_port_pool(pool: &str) -> Option<NodeName> {
    pool.strip_suffix(PORTS).map(NodeName::new)
}

/// The attribute `node`: the node's name, or what stands for one that is too long for an attribute.
pub(crate) fn node_attribute(node: &NodeName) -> String {
    let name = node.as_str();
    if name.len() <= MAX_STRING {
        return name.to_owned();
    }
    // FNV-1a: only to tell apart nodes whose names begin alike.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let (head, _) = name.split_at(name.floor_char_boundary(MAX_STRING - 17));
    format!("{head}-{hash:016x}")
}

/// A device as it is published.
pub fn device(device: &Device, node: &NodeName) -> DraDevice {
    let text = Attributes::from(&device.attributes);
    let attributes = [
        ("id", Some(device.name.to_string())),
        ("node", Some(node_attribute(node))),
        ("vendorID", Some(text.vendor_id)),
        ("productID", Some(text.product_id)),
        ("bcd", Some(text.bcd)),
        ("bus", Some(text.bus)),
        ("deviceNumber", Some(text.device_number)),
        ("serial", text.serial),
        ("manufacturer", text.manufacturer),
        ("product", text.product),
        ("name", Some(text.name)),
        ("speed", Some(text.speed)),
        ("portPath", Some(text.port_path)),
        ("class", Some(text.class)),
        ("hub", Some(device.attributes.speed.hub().to_string())),
        ("notReady", device.not_ready.as_ref().map(ToString::to_string)),
    ];
    let strings = attributes.into_iter().filter_map(|(key, value)| Some((key, clean(&value?, MAX_STRING)?)));
    DraDevice {
        name: device.name.to_string(),
        attributes: Some(strings.map(|(key, value)| (key.to_owned(), string(value))).collect()),
        ..DraDevice::default()
    }
}

/// A vhci port as it is published; `claim` is the pod's claim whose device is behind it, in reach of the containers.
pub fn port(port: &PortName, claim: Option<&Uid>) -> DraDevice {
    let index = DeviceAttribute { int: Some(port.index.into()), ..DeviceAttribute::default() };
    let used = claim.map(|uid| (CLAIM.to_owned(), string(uid.to_string())));
    let attributes = [("hub".to_owned(), string(port.hub.to_string())), ("index".to_owned(), index)];
    DraDevice {
        name: port.to_string(),
        attributes: Some(attributes.into_iter().chain(used).collect()),
        ..DraDevice::default()
    }
}

/// The token of a device, as its home node publishes it; `claim` is the pod's claim that has the device.
pub fn token(device: &DeviceName, node: &NodeName, claim: Option<&Uid>) -> DraDevice {
    let used = claim.map(|uid| (CLAIM, uid.to_string()));
    let attributes = [("hub", LOCAL.to_owned()), ("device", device.to_string()), ("node", node_attribute(node))];
    let attributes = attributes.into_iter().chain(used).map(|(key, value)| (key.to_owned(), string(value)));
    DraDevice { name: token_name(device), attributes: Some(attributes.collect()), ..DraDevice::default() }
}

/// The name of a device's token: of a long name, the end, which tells it from all others.
pub fn token_name(device: &DeviceName) -> String {
    let name = device.as_str();
    let (_, end) = name.split_at(name.ceil_char_boundary(name.len().saturating_sub(63 - TOKEN.len())));
    format!("{TOKEN}{}", end.trim_start_matches('-'))
}

/// Whether an entry of a pool of ports is a token.
pub fn is_token(name: &str) -> bool {
    name.starts_with(TOKEN)
}

const TOKEN: &str = "local-";
/// The attribute `hub` of a token.
pub(crate) const LOCAL: &str = "local";
const CLAIM: &str = "claim";

fn string(value: String) -> DeviceAttribute {
    DeviceAttribute { string: Some(value), ..DeviceAttribute::default() }
}

/// A slice that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// The node whose agent published it.
    pub node: NodeName,
    /// When it was created.
    pub created: Seconds,
    /// The pool's generation.
    pub generation: i64,
    /// How many slices the pool has in this generation.
    pub count: i64,
    /// What it lists.
    pub contents: Contents,
    /// Entries that could not be read: the name and the reason.
    pub skipped: Vec<(String, Unreadable)>,
}

/// What a slice, or a whole pool, lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Of the pool `<node>`.
    Devices(Vec<Device>),
    /// Of the pool `<node>-ports`.
    Ports(Ports),
}

/// What a pool of ports lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The ports.
    pub ports: Vec<PortName>,
    /// The claims of ordinary pods whose device is in reach of their containers.
    pub in_use: BTreeSet<Uid>,
}

impl Slice {
    /// The names this slice gives, and to which ports: what an agent remembers of its names.
    pub fn published(&self) -> Vec<Published> {
        let Contents::Devices(devices) = &self.contents else { return Vec::new() };
        let pair = |d: &Device| Published { name: d.name.clone(), port_path: d.attributes.port_path.clone() };
        devices.iter().map(pair).collect()
    }
}

/// Reads a slice of our driver. Entries that cannot be read are skipped, each with its reason.
pub fn read(slice: &ResourceSlice) -> Result<Slice, Unreadable> {
    let spec = &slice.spec;
    if spec.driver != DRIVER {
        return Err(Unreadable::bad("spec.driver", format!("{} is another driver", spec.driver)));
    }
    let entries = spec.devices.iter().flatten();
    let mut skipped = Vec::new();
    let mut skip = |name: &str, error| skipped.push((name.to_owned(), error));
    let (node, contents) = match &spec.node_name {
        Some(node) => {
            let mut pool = Ports::default();
            for entry in entries {
                let claim = entry.attributes.as_ref().and_then(|a| a.get(CLAIM)?.string.as_deref());
                pool.in_use.extend(claim.map(Uid::new));
                match entry.name.parse() {
                    Ok(port) => pool.ports.push(port),
                    Err(_) if is_token(&entry.name) => {}
                    Err(error) => skip(&entry.name, Unreadable::bad("name", error)),
                }
            }
            (NodeName::new(node), Contents::Ports(pool))
        }
        None => {
            let devices = entries.filter_map(|d| read_device(d).map_err(|e| skip(&d.name, e)).ok());
            (NodeName::new(&spec.pool.name), Contents::Devices(devices.collect()))
        }
    };
    Ok(Slice {
        name: meta::name(&slice.metadata)?.to_owned(),
        node,
        created: slice.metadata.creation_timestamp.as_ref().map_or(0, meta::seconds),
        generation: spec.pool.generation,
        count: spec.pool.resource_slice_count,
        contents,
        skipped,
    })
}

fn read_device(device: &DraDevice) -> Result<Device, Unreadable> {
    // Whoever has written it: what is read here is shown to people.
    let optional = |key: &str| clean(device.attributes.as_ref()?.get(key)?.string.as_deref()?, MAX_STRING);
    let required = |key: &'static str| optional(key).ok_or(Unreadable::Missing(key));
    if required("id")? != device.name {
        return Err(Unreadable::bad("id", "is not the device's name"));
    }
    let text = Attributes {
        vendor_id: required("vendorID")?,
        product_id: required("productID")?,
        bcd: required("bcd")?,
        bus: required("bus")?,
        device_number: required("deviceNumber")?,
        serial: optional("serial"),
        manufacturer: optional("manufacturer"),
        product: optional("product"),
        name: required("name")?,
        speed: required("speed")?,
        port_path: required("portPath")?,
        class: required("class")?,
    };
    let attributes: CoreAttributes =
        text.read().ok_or_else(|| Unreadable::bad("attributes", "not as an agent writes them"))?;
    Ok(Device {
        name: DeviceName::new(&device.name),
        attributes,
        not_ready: optional("notReady").map(|t| HostUse::read(&t)),
    })
}

/// What all agents publish, as far as it is believed.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    devices: BTreeMap<NodeName, Vec<Device>>,
    ports: BTreeMap<NodeName, Ports>,
}

impl Pools {
    /// Takes in all slices there are now. A pool without slices is gone; one that is not complete stays as it was.
    pub fn update<'s>(&mut self, slices: impl IntoIterator<Item = &'s Slice>) -> BTreeMap<NodeName, Pool> {
        let mut pools: BTreeMap<NodeName, Pool> = BTreeMap::new();
        let mut parts: BTreeMap<(&NodeName, bool), Vec<&Slice>> = BTreeMap::new();
        for slice in slices {
            pools.entry(slice.node.clone()).or_default().slices.insert(slice.name.clone(), slice.created);
            parts.entry((&slice.node, matches!(slice.contents, Contents::Ports(_)))).or_default().push(slice);
        }
        self.devices.retain(|node, _| parts.contains_key(&(node, false)));
        self.ports.retain(|node, _| parts.contains_key(&(node, true)));
        for ((node, _), slices) in parts {
            self.believe(node, slices);
        }
        for (node, pool) in &mut pools {
            pool.silent = !(self.devices.contains_key(node) && self.ports.contains_key(node));
            pool.devices = self.devices.get(node).cloned().unwrap_or_default();
            let ports = self.ports.get(node).cloned().unwrap_or_default();
            (pool.ports, pool.in_use) = (ports.ports, ports.in_use);
        }
        pools
    }

    /// Takes in the slices of one pool, if it is complete. Of two entries of one name the first counts.
    fn believe(&mut self, node: &NodeName, mut slices: Vec<&Slice>) {
        let newest = slices.iter().map(|s| s.generation).max();
        slices.retain(|s| Some(s.generation) == newest);
        slices.sort_by(|a, b| a.name.cmp(&b.name));
        let found = i64::try_from(slices.len()).unwrap_or(i64::MAX);
        if slices.iter().any(|s| s.count != found) {
            return;
        }
        let mut devices: BTreeMap<&DeviceName, &Device> = BTreeMap::new();
        let mut pool: Option<Ports> = None;
        for slice in slices {
            match &slice.contents {
                Contents::Devices(list) => list.iter().for_each(|d| {
                    devices.entry(&d.name).or_insert(d);
                }),
                Contents::Ports(part) => {
                    let pool = pool.get_or_insert_default();
                    pool.ports.extend(&part.ports);
                    pool.in_use.extend(part.in_use.iter().cloned());
                }
            }
        }
        if let Some(mut pool) = pool {
            pool.ports.sort();
            pool.ports.dedup();
            self.ports.insert(node.clone(), pool);
        } else {
            self.devices.insert(node.clone(), devices.into_values().cloned().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::samples;

    fn node() -> NodeName {
        NodeName::new("node-1")
    }

    fn device_slice(name: &str, generation: i64, count: i64, devices: &[Device]) -> ResourceSlice {
        let devices: Vec<_> = devices.iter().map(|d| device(d, &node())).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "driver": DRIVER,
                "pool": {"name": device_pool(&node()), "generation": generation, "resourceSliceCount": count},
                "allNodes": true,
                "devices": devices,
            },
        }))
        .unwrap()
    }

    fn named(name: &str) -> Device {
        Device { name: name.into(), ..samples::device() }
    }

    #[test]
    fn a_device_is_published_with_these_attributes() {
        insta::assert_json_snapshot!("slice_device", device(&samples::device(), &node()));
    }

    #[test]
    fn a_port_is_published_with_these_attributes() {
        insta::assert_json_snapshot!("slice_port", port(&"usb3-4".parse().unwrap(), None));
    }

    #[test]
    fn a_token_is_published_with_these_attributes() {
        insta::assert_json_snapshot!("slice_token", token(&"webcam-k3f9a".into(), &node(), Some(&"c1".into())));
    }

    #[test]
    fn names_of_tokens_are_labels_and_stay_different() {
        let long = |end: &str| token_name(&DeviceName::new(format!("{}{end}", "x-".repeat(29))));
        for name in [long("k3f9a"), long("k3f9b"), token_name(&"usb2-23456".into())] {
            assert!(name.len() <= 63 && is_token(&name) && name.parse::<PortName>().is_err(), "{name}");
        }
        assert_ne!(long("k3f9a"), long("k3f9b"));
    }

    #[test]
    fn devices_are_read_back_as_they_were_published() {
        let mut bare = named("usb-23456");
        bare.attributes.serial = None;
        bare.attributes.manufacturer = None;
        bare.attributes.product = None;
        bare.not_ready = Some(HostUse::mounted("/mnt/stick"));
        let slice = read(&device_slice("s", 1, 1, &[samples::device(), bare.clone()])).unwrap();
        assert_eq!(slice.contents, Contents::Devices(vec![samples::device(), bare]));
        assert_eq!(slice.skipped, []);
        assert_eq!(slice.published()[0].port_path.as_str(), "2-1.4");
    }

    #[test]
    fn long_and_dirty_strings_fit_into_attributes() {
        let mut long = samples::device();
        long.attributes.product = Some("\u{e9}".repeat(126));
        long.attributes.serial = Some("\u{7}\u{200b}".to_owned());
        let published = device(&long, &NodeName::new("n".repeat(200)));
        for (key, value) in published.attributes.as_ref().unwrap() {
            let text = value.string.as_deref().unwrap();
            assert!(!text.is_empty() && text.len() <= 64, "{key}: {text}");
        }
        assert_eq!(read_device(&published).unwrap().attributes.serial, None);
    }

    #[test]
    fn long_names_of_nodes_stay_different_as_attributes() {
        let long = |end: &str| node_attribute(&NodeName::new(format!("{}{end}", "n".repeat(100))));
        assert_ne!(long("a"), long("b"));
        assert_eq!((long("a").len(), node_attribute(&node()).as_str()), (64, "node-1"));
    }

    #[test]
    fn an_entry_that_cannot_be_read_costs_only_itself() {
        let mut slice = device_slice("s", 1, 1, &[named("bad"), named("good")]);
        let devices = slice.spec.devices.as_mut().unwrap();
        devices[0].attributes.as_mut().unwrap().remove("speed");
        let slice = read(&slice).unwrap();
        assert_eq!(slice.contents, Contents::Devices(vec![named("good")]));
        assert_eq!(slice.skipped, [("bad".to_owned(), Unreadable::Missing("speed"))]);
    }

    #[test]
    fn ports_are_read_back_and_belong_to_their_node() {
        let names: Vec<PortName> = vec!["usb2-0".parse().unwrap(), "usb3-0".parse().unwrap()];
        let slice: ResourceSlice = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "driver": DRIVER,
                "pool": {"name": port_pool(&node()), "generation": 1, "resourceSliceCount": 1},
                "nodeName": "node-1",
                "devices": [
                    port(&names[0], None),
                    port(&names[1], Some(&"c1".into())),
                    token(&"webcam-k3f9a".into(), &node(), Some(&"c2".into())),
                ],
            },
        }))
        .unwrap();
        let slice = read(&slice).unwrap();
        let in_use = BTreeSet::from(["c1".into(), "c2".into()]);
        let expected = Ports { ports: names.clone(), in_use: in_use.clone() };
        assert_eq!((slice.node.clone(), slice.contents.clone()), (node(), Contents::Ports(expected)));
        assert_eq!(slice.skipped, []);
        let pools = Pools::default().update([&slice]);
        let slices = [("p".to_owned(), 0)].into();
        let expected = Pool { ports: names, in_use, slices, silent: true, ..Pool::default() };
        assert_eq!(pools[&node()], expected, "no word of devices");
        let empty = read(&device_slice("d", 1, 1, &[])).unwrap();
        assert!(!Pools::default().update([&slice, &empty])[&node()].silent);
    }

    #[test]
    fn an_incomplete_pool_stays_as_it_was_and_a_pool_without_slices_is_gone() {
        let old = read(&device_slice("a", 1, 1, &[named("x")])).unwrap();
        let first = read(&device_slice("b", 2, 2, &[named("y")])).unwrap();
        let second = read(&device_slice("c", 2, 2, &[named("z")])).unwrap();
        let mut believed = Pools::default();
        let mut names = |slices: &[&Slice]| {
            let pools = believed.update(slices.iter().copied());
            pools.get(&node()).map(|p| p.devices.iter().map(|d| d.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&[&first]), Some(vec![]), "nothing was believed before");
        assert_eq!(names(&[&old]), Some(vec!["x".to_owned()]));
        assert_eq!(names(&[&old, &first]), Some(vec!["x".to_owned()]));
        assert_eq!(names(&[&old, &first, &second]), Some(vec!["y".to_owned(), "z".to_owned()]));
        assert_eq!(names(&[]), None);
    }
}
