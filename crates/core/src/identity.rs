//! Which name a device has.
//!
//! # Rules
//!
//! * A device with a plausible serial number is known by (vendor, product, serial): its name is the same in any port of
//!   any node. A device without one is known by (node, port, vendor, product).
//! * The name is the slug of what people call it and five characters of the key's hash: `logitech-webcam-c920-k3f9a`.
//! * Names stick. Of several devices that claim one serial, the one that was published first keeps the name made from it;
//!   each twin is known by its port, and keeps that name when the first one is gone.
//! * Bus and device numbers never enter a name.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::device::{Attributes, PortPath};
use crate::names::{DeviceName, NodeName};

/// A name that this node has published, and for which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The name.
    pub name: DeviceName,
    /// Where the device was when it was published last.
    pub port_path: PortPath,
}

/// Lower-case base 32 without the letters and digits that people mix up (0, 1, l, o).
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// A DNS label holds 63 bytes; the hash and its dash take 6.
const MAX_SLUG: usize = 57;

/// Names every scanned device of `node`. The result has one name for each input, in its order, no name twice.
pub fn assign(node: &NodeName, scanned: &[Attributes], published: &[Published]) -> Vec<DeviceName> {
    let published: BTreeSet<_> = published.iter().map(|p| (&p.name, &p.port_path)).collect();
    let was = |name: &DeviceName, path: &PortPath| published.contains(&(name, path));

    // Devices that claim the same serial, by the name that serial makes.
    let mut claimants: BTreeMap<DeviceName, Vec<usize>> = BTreeMap::new();
    for (index, device) in scanned.iter().enumerate() {
        let Some(name) = by_serial(device) else { continue };
        if !was(&by_port(node, device), &device.port_path) {
            claimants.entry(name).or_default().push(index);
        }
    }
    let holders: BTreeSet<usize> = claimants
        .iter()
        .filter_map(|(name, indices)| {
            let incumbent = indices.iter().find(|i| scanned.get(**i).is_some_and(|d| was(name, &d.port_path)));
            let first = indices.iter().min_by_key(|i| scanned.get(**i).map(|d| &d.port_path));
            incumbent.or(first).copied()
        })
        .collect();

    scanned
        .iter()
        .enumerate()
        .map(|(index, device)| match by_serial(device) {
            Some(name) if holders.contains(&index) => name,
            _ => by_port(node, device),
        })
        .collect()
}

/// The name of a device known by its serial number; None when it has no plausible one.
pub fn by_serial(device: &Attributes) -> Option<DeviceName> {
    let serial = device.serial.as_deref().filter(|s| plausible(s))?;
    Some(name(device, &["serial", &device.vendor_id.to_string(), &device.product_id.to_string(), serial]))
}

/// The name of a device known by the port it is in.
pub fn by_port(node: &NodeName, device: &Attributes) -> DeviceName {
    let (vendor, product) = (device.vendor_id.to_string(), device.product_id.to_string());
    name(device, &["port", node.as_str(), device.port_path.as_str(), &vendor, &product])
}

/// Whether a serial number tells devices apart: makers who number nothing write zeros, a run of digits, or words.
pub fn plausible(serial: &str) -> bool {
    let text = serial.trim().to_ascii_lowercase();
    let mut bytes = text.bytes();
    let first = bytes.next();
    let uniform = bytes.all(|b| Some(b) == first);
    let filler = "0123456789abcdef0123456789".contains(text.as_str())
        || "1234567890".starts_with(text.as_str())
        || ["none", "n/a", "default", "default string", "serial", "serialnumber", "serial number", "unknown", "empty"]
            .contains(&text.as_str());
    text.len() >= 3 && !uniform && !filler
}

/// The slug and five characters of the key's hash. Fields are separated by NUL, which no cleaned string contains.
fn name(device: &Attributes, key: &[&str]) -> DeviceName {
    let mut text = slug(device);
    text.push('-');
    for byte in Sha256::digest(key.join("\0")).into_iter().take(5) {
        let digit = ALPHABET.get(usize::from(byte % 32)).copied().unwrap_or(b'2');
        text.push(char::from(digit));
    }
    DeviceName::new(text)
}

/// Manufacturer and product in the characters of a DNS label, without saying the manufacturer twice.
fn slug(device: &Attributes) -> String {
    let maker = device.manufacturer.as_deref().map(label).unwrap_or_default();
    let product = label(device.product.as_deref().unwrap_or(&device.name));
    let mut words: Vec<&str> = Vec::new();
    if !maker.is_empty() && product != maker && !product.starts_with(&format!("{maker}-")) {
        words.push(&maker);
    }
    if !product.is_empty() {
        words.push(&product);
    }
    let joined = words.join("-");
    let (cut, _) = joined.split_at(joined.floor_char_boundary(MAX_SLUG.min(joined.len())));
    let cut = cut.trim_end_matches('-');
    // A DNS label of Kubernetes may begin with a digit, but not be empty.
    if cut.is_empty() { "usb".to_owned() } else { cut.to_owned() }
}

/// Lower-case ASCII letters and digits, everything else as single dashes.
fn label(text: &str) -> String {
    let dashed: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    dashed.split('-').filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::device::{BusAddress, HexId};
    use crate::speed::Speed;

    fn device(port: &str, serial: Option<&str>) -> Attributes {
        Attributes {
            vendor_id: HexId(0x046d),
            product_id: HexId(0x082d),
            bcd: HexId(0x0011),
            address: BusAddress { bus: 1, device: 2 },
            serial: serial.map(str::to_owned),
            manufacturer: Some("Logitech".to_owned()),
            product: Some("Webcam C920".to_owned()),
            name: "Webcam C920".to_owned(),
            speed: Speed::High,
            port_path: port.parse().unwrap(),
            class: 0xef,
        }
    }

    fn node() -> NodeName {
        NodeName::new("node-1")
    }

    fn published(scanned: &[Attributes], names: &[DeviceName]) -> Vec<Published> {
        let pair = |(d, n): (&Attributes, &DeviceName)| Published { name: n.clone(), port_path: d.port_path.clone() };
        scanned.iter().zip(names).map(pair).collect()
    }

    #[test]
    fn a_serial_makes_the_same_readable_name_in_every_port_of_every_node() {
        let here = assign(&node(), &[device("1-1", Some("ABC123456"))], &[]);
        let there = assign(&NodeName::new("node-2"), &[device("3-2.1", Some("ABC123456"))], &[]);
        assert_eq!(here, there);
        assert!(here[0].as_str().starts_with("logitech-webcam-c920-"), "{here:?}");
    }

    #[test]
    fn without_a_serial_the_port_and_the_node_make_the_name() {
        let names = assign(&node(), &[device("1-1", None), device("1-2", Some("000000"))], &[]);
        assert_ne!(names[0], names[1]);
        assert_ne!(names, assign(&NodeName::new("node-2"), &[device("1-1", None), device("1-2", None)], &[]));
    }

    #[test]
    fn bus_and_device_number_never_enter_a_name() {
        let mut again = device("1-1", None);
        again.address = BusAddress { bus: 7, device: 99 };
        assert_eq!(assign(&node(), &[device("1-1", None)], &[]), assign(&node(), &[again], &[]));
    }

    #[test]
    fn a_twin_never_renames_the_first_one_and_keeps_its_own_name_when_alone() {
        let first = [device("1-2", Some("CLONE1"))];
        let before = assign(&node(), &first, &[]);
        let both = [device("1-1", Some("CLONE1")), device("1-2", Some("CLONE1"))];
        let names = assign(&node(), &both, &published(&first, &before));
        assert_eq!(names[1], before[0], "the incumbent is in 1-2");
        assert_ne!(names[0], names[1]);
        let alone = [device("1-1", Some("CLONE1"))];
        assert_eq!(assign(&node(), &alone, &published(&both, &names)), [names[0].clone()]);
    }

    #[test]
    fn a_device_with_a_serial_keeps_its_name_when_it_changes_ports() {
        let before = [device("1-1", Some("ABC123456"))];
        let names = assign(&node(), &before, &[]);
        assert_eq!(assign(&node(), &[device("1-4", Some("ABC123456"))], &published(&before, &names)), names);
    }

    #[test]
    fn serials_that_number_nothing_are_not_believed() {
        for bad in ["", "  ", "0", "00000000", "123456", "0123456789ABCDEF", "None", "x", "Default string"] {
            assert!(!plausible(bad), "{bad:?}");
        }
        for good in ["ABC123456", "4C530001", "201006010301", "E1"] {
            assert_eq!(plausible(good), good.len() > 2, "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_a_dns_label_and_no_two_are_equal(
            serials in proptest::collection::vec(proptest::option::of("\\PC{0,20}"), 1..6),
            product in "\\PC{0,126}",
        ) {
            let scanned: Vec<_> = serials.iter().enumerate().map(|(i, serial)| {
                let mut d = device(&format!("1-{}", i + 1), serial.as_deref());
                d.product = Some(product.clone());
                d
            }).collect();
            let names = assign(&node(), &scanned, &[]);
            let distinct: BTreeSet<_> = names.iter().collect();
            prop_assert_eq!(distinct.len(), scanned.len());
            for name in &names {
                let text = name.as_str();
                prop_assert!(text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-'));
                prop_assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            }
            // Naming is stable under its own memory.
            prop_assert_eq!(assign(&node(), &scanned, &published(&scanned, &names)), names);
        }
    }
}
