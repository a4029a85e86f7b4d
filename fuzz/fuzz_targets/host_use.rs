//! The tables of what the node itself does with its devices: mounts, swap space, routes and addresses. Whoever formats a disk
//! chooses where desktops and pods mount it. Parts between zero bytes are the tables, in the order below.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use patchbay_core::host_use::HostUse;
use patchbay_fuzz::{same, shown};
use patchbay_usb::fixture::Fixture;
use patchbay_usb::scan;

const TABLES: [&str; 4] = ["proc/1/mountinfo", "proc/swaps", "proc/net/route", "proc/net/if_inet6"];

thread_local! {
    static NODE: RefCell<Fixture> = RefCell::new({
        let node = Fixture::new();
        node.device("1-1").block("sda", "8:0").block("sda/sda1", "8:1").network("eth1");
        node
    });
}

fuzz_target!(|bytes: &[u8]| {
    NODE.with_borrow(|node| {
        let mut parts = bytes.split(|byte| *byte == 0);
        for table in TABLES {
            node.write(table, parts.next().unwrap_or_default());
        }
        let scan = scan::scan(node.root());
        assert_eq!(scan.devices.len(), 1, "{scan:?}");
        for found in scan.devices.iter().filter_map(|device| device.host_use.as_ref()) {
            // It travels as an attribute.
            shown(&found.to_string(), 64);
            same(found, &HostUse::read(&found.to_string()));
        }
    });
});
