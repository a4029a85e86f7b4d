//! What a device says of itself: the attributes that the kernel makes of its descriptors. Parts between zero bytes are the
//! attributes, in the order below; the device is plugged in beside one that is as it should be.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use patchbay_core::device::BusAddress;
use patchbay_core::identity;
use patchbay_core::names::NodeName;
use patchbay_fuzz::{dns_label, shown};
use patchbay_usb::fixture::Fixture;
use patchbay_usb::{nodes, scan};

const ATTRIBUTES: [&str; 10] = [
    "manufacturer",
    "product",
    "serial",
    "idVendor",
    "idProduct",
    "bcdDevice",
    "bDeviceClass",
    "speed",
    "busnum",
    "devnum",
];

/// The folder of the device.
const ODD: &str = "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1";

thread_local! {
    static NODE: RefCell<Fixture> = RefCell::new({
        let node = Fixture::new();
        node.device("1-1");
        node.device("2-1").strings("Maker", "Stick", "0815A");
        node.link("sys/dev/char/189:4", ODD);
        node
    });
}

fuzz_target!(|bytes: &[u8]| {
    NODE.with_borrow(|node| {
        let mut parts = bytes.split(|byte| *byte == 0);
        for attribute in ATTRIBUTES {
            node.write(&format!("{ODD}/{attribute}"), parts.next().unwrap_or_default());
        }
        node.write(&format!("{ODD}/1-1:1.0/uevent"), parts.next().unwrap_or_default());
        check(node);
    });
});

fn check(node: &Fixture) {
    let scan = scan::scan(node.root());
    // The odd one costs no other one, and is either there or named.
    assert!(scan.devices.iter().any(|device| device.sysfs_name == "2-1"), "{scan:?}");
    let odd = scan.devices.iter().any(|device| device.sysfs_name == "1-1");
    assert_eq!(odd, scan.problems.is_empty() && scan.devices.len() == 2, "{scan:?}");
    let attributes: Vec<_> = scan.devices.iter().map(|device| device.attributes.clone()).collect();
    for device in &attributes {
        assert!(!device.name.is_empty());
        let strings = [&device.manufacturer, &device.product, &device.serial];
        strings.into_iter().flatten().chain([&device.name]).for_each(|text| shown(text, 504));
    }
    let names = identity::assign(&NodeName::new("node-1"), &attributes, &[]);
    names.iter().for_each(|name| dns_label(name.as_str()));
    assert!(names.iter().enumerate().all(|(i, name)| !names[..i].contains(name)), "{names:?}");
    for found in nodes::nodes(node.root(), BusAddress { bus: 1, device: 5 }).nodes {
        let plain = |part: &str| !matches!(part, "" | "." | "..");
        assert!(found.name.split('/').all(plain), "{found:?} is not below /dev");
    }
}
