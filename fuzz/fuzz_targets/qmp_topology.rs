//! The text of QEMU's `info usb`, which holds texts of devices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::same;
use patchbay_qmp::topology::{GuestUsb, parse};

fuzz_target!(|text: &str| {
    let devices = parse(text);
    assert!(devices.len() <= text.matches("  Device ").count(), "{devices:?}");
    for device in &devices {
        assert!(!device.product.contains(char::is_control), "{device:?}");
        for number in [&device.port, &device.speed] {
            assert!(!number.is_empty() && number.chars().all(|c| c.is_ascii_digit() || c == '.'), "{device:?}");
        }
        // Without an id the product may end like one, once it is cleaned: then it has one here.
        let id = device.id.as_deref().unwrap_or("none");
        let (bus, port, speed, product) = (device.bus, &device.port, &device.speed, &device.product);
        let again = format!("  Device {bus}.0, Port {port}, Speed {speed} Mb/s, Product {product}, ID: {id}\r\n");
        same(&vec![GuestUsb { id: Some(id.to_owned()), ..device.clone() }], &parse(&again));
    }
});
