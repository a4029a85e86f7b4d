//! What comes from the kernel's netlink socket.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchbay_fuzz::same;
use patchbay_usb::uevents::parse;

fuzz_target!(|bytes: &[u8]| {
    let Some(event) = parse(bytes) else { return };
    assert!(event.devpath.starts_with('/') && !event.action.is_empty(), "{event:?}");
    let mut again = format!("{}@{}\0", event.action, event.devpath);
    for (key, value) in [("SUBSYSTEM", &event.subsystem), ("DEVTYPE", &event.devtype), ("DEVNAME", &event.devname)] {
        again += &value.as_ref().map_or(String::new(), |value| format!("{key}={value}\0"));
    }
    same(&event, &parse(again.as_bytes()).expect("a message of ours"));
    let _ = event.concerns_usb();
});
