//! vhci's tables of ports, one for each controller, with a zero byte between them.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::same;
use patchbay_usbip::status::{PortState, parse};

fuzz_target!(|text: &str| {
    let ports = parse(text.split('\0'));
    assert!(ports.len() <= text.split(['\0', '\n']).count(), "{ports:?}");
    // A port has one name and a name is that of one port, whatever else its line says.
    let mut names = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    for port in &ports {
        same(names.entry(port.number).or_insert(port.name), &port.name);
        same(numbers.entry(port.name).or_insert(port.number), &port.number);
        same(&port.name, &port.name.to_string().parse().expect("a port's name"));
        assert_eq!(port.import().is_some(), matches!(port.state, PortState::Used(_)), "{port:?}");
    }
});
