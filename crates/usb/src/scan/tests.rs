//! Every oddity of sysfs that was seen, and any other.

use proptest::prelude::*;

use super::*;
use crate::fixture::Fixture;
use patchbay_core::speed::Speed;

mod host_use;

fn places(scan: &Scan) -> Vec<&str> {
    scan.devices.iter().map(|d| d.sysfs_name.as_str()).collect()
}

fn only(node: &Fixture) -> Scanned {
    let mut scan = scan(node.root());
    assert_eq!(scan.problems, Vec::<String>::new());
    assert_eq!(scan.devices.len(), 1);
    scan.devices.remove(0)
}

#[test]
fn a_device_is_read_with_all_it_says() {
    let node = Fixture::new();
    let stick = node.device("1-2.4");
    stick
        .strings("Acme", "Stick  3", "AB12")
        .set("devnum", "17\n")
        .set("bDeviceClass", "ef\n")
        .set("bcdDevice", "0110\n");
    let found = only(&node);
    let expected = Attributes {
        vendor_id: HexId(0x46f4),
        product_id: HexId(0x0001),
        bcd: HexId(0x0110),
        address: BusAddress { bus: 1, device: 17 },
        serial: Some("AB12".to_owned()),
        manufacturer: Some("Acme".to_owned()),
        product: Some("Stick 3".to_owned()),
        name: "Stick 3".to_owned(),
        speed: Speed::High,
        port_path: "1-2.4".parse().unwrap(),
        class: 0xef,
    };
    assert_eq!(found.attributes, expected);
    assert_eq!(found.driver.as_deref(), Some("usb"));
    assert_eq!(found.host_use, None);
    assert_eq!(address(node.root(), &expected.port_path).unwrap(), expected.address);
}

#[test]
fn of_a_device_that_was_found_before_only_what_changes_is_read_until_it_is_another_one() {
    let node = Fixture::new();
    let stick = node.device("1-2");
    stick.strings("Acme", "Stick", "AB12").set("devnum", "17\n");
    let mut known = scan(node.root()).devices;
    let mut again = || {
        let scan = scan_with(node.root(), &Keyboards::Free, &known);
        assert_eq!((scan.problems.len(), scan.devices.len()), (0, 1));
        known = scan.devices;
        let device = known[0].clone();
        (device.attributes.product.unwrap_or_default(), device.driver.unwrap_or_default(), device.authorized)
    };
    let is = |product: &str, driver: &str, authorized| (product.to_owned(), driver.to_owned(), authorized);
    assert_eq!(again(), is("Stick", "usb", true));
    // The kernel does not do the first of these.
    stick.set("product", "Disk\n").set("authorized", "0\n").driver(Some("usbip-host"));
    assert_eq!(again(), is("Stick", "usbip-host", false));
    stick.set("devnum", "18\n");
    assert_eq!(again(), is("Disk", "usbip-host", false));
    // Another folder of the same name.
    let folder = node.root().path(stick.folder());
    std::fs::rename(&folder, folder.with_extension("former")).unwrap();
    node.device("1-2").strings("Acme", "Mouse", "AB13").set("devnum", "18\n");
    assert_eq!(again(), is("Mouse", "usb", true));
}

#[test]
fn what_could_not_be_read_is_read_again() {
    let node = Fixture::new();
    let stick = node.device("1-2");
    // Reading a folder is an error, and no sign that there is nothing.
    node.write(&format!("{}/serial/folder", stick.folder()), "");
    let known = scan(node.root()).devices;
    assert_eq!(known[0].attributes.serial, None);
    std::fs::remove_dir_all(node.root().path(stick.folder()).join("serial")).unwrap();
    stick.set("serial", "AB12\n");
    let found = scan_with(node.root(), &Keyboards::Free, &known).devices;
    assert_eq!(found[0].attributes.serial.as_deref(), Some("AB12"));
}

#[test]
fn hubs_root_hubs_and_interfaces_are_left_out_and_what_is_behind_a_hub_is_not() {
    let node = Fixture::new();
    node.device("1-1").set("bDeviceClass", "09\n");
    node.device("1-1.3");
    let found = scan(node.root());
    assert_eq!(places(&found), ["1-1.3"]);
    assert_eq!((found.imported, found.problems), (vec![], vec![]));
}

#[test]
fn imported_devices_are_never_the_node_s_own() {
    let node = Fixture::new();
    node.device("1-1");
    node.imported(0, "3-2").set("devnum", "9\n");
    node.imported(1, "5-1.4").unset("devnum");
    let found = scan(node.root());
    assert_eq!(places(&found), ["1-1"]);
    let first = Imported {
        bus_id: "3-2".parse().unwrap(),
        address: Some(BusAddress { bus: 3, device: 9 }),
        controller: Some(0),
        root_port: Some(2),
    };
    let behind_a_hub =
        Imported { bus_id: "5-1.4".parse().unwrap(), address: None, controller: Some(1), root_port: Some(1) };
    assert_eq!(found.imported, [first, behind_a_hub]);
    let imported = |place: &str| is_imported(node.root(), &place.parse().unwrap());
    assert_eq!((imported("1-1").unwrap(), imported("3-2").unwrap()), (false, true));
    assert!(imported("1-9").unwrap_err().is_gone());
}

#[test]
fn devices_come_in_the_order_of_their_ports_as_people_count() {
    let node = Fixture::new();
    for port in ["1-10", "2-1", "1-2", "1-2.10", "1-2.9"] {
        node.device(port);
    }
    assert_eq!(places(&scan(node.root())), ["1-2", "1-2.9", "1-2.10", "1-10", "2-1"]);
}

#[test]
fn every_speed_is_known_also_one_and_a_half() {
    for speed in Speed::ALL {
        let node = Fixture::new();
        node.device("1-1").set("speed", format!("{speed}\n"));
        assert_eq!(only(&node).attributes.speed, speed);
    }
}

#[test]
fn a_device_without_strings_has_a_name_all_the_same() {
    let node = Fixture::new();
    node.device("1-1").set("idVendor", "fffe\n").set("idProduct", "0104\n");
    let attributes = only(&node).attributes;
    assert_eq!((attributes.serial, attributes.manufacturer, attributes.product), (None, None, None));
    assert_eq!(attributes.name, "USB device fffe:0104");
}

#[test]
fn blank_strings_are_absent() {
    let node = Fixture::new();
    node.device("1-1").strings(" ", "\u{feff}", "").set("idVendor", "fffe\n");
    let attributes = only(&node).attributes;
    assert_eq!((attributes.serial, attributes.manufacturer, attributes.product), (None, None, None));
}

#[test]
fn the_longest_strings_and_those_that_are_no_utf_8_are_kept_readable() {
    let node = Fixture::new();
    let longest = "猫".repeat(126);
    node.device("1-1")
        .set("product", &longest)
        .set("manufacturer", b"M\xfc\xdfig\xff AG\n")
        .set("serial", b"\x1b[2JAB12");
    let attributes = only(&node).attributes;
    assert_eq!(attributes.product, Some(longest));
    assert_eq!(attributes.manufacturer.as_deref(), Some("M ig AG"));
    assert_eq!(attributes.serial.as_deref(), Some("[2JAB12"));
}

#[test]
fn a_missing_attribute_costs_that_attribute() {
    let node = Fixture::new();
    let stick = node.device("1-1");
    stick.strings("Acme", "Stick", "AB12").unset("bcdDevice").unset("bDeviceClass").unset("serial").driver(None);
    let found = only(&node);
    assert_eq!((found.attributes.bcd, found.attributes.class), (HexId(0), 0));
    assert_eq!((found.attributes.serial, found.driver), (None, None));
}

#[test]
fn a_device_that_cannot_be_told_or_used_costs_itself_and_a_line() {
    for attribute in ["idVendor", "idProduct", "busnum", "devnum", "speed"] {
        for odd in [None, Some("unknown\n"), Some("")] {
            let node = Fixture::new();
            node.device("1-2");
            let broken = node.device("1-1");
            match odd {
                None => broken.unset(attribute),
                Some(text) => broken.set(attribute, text),
            };
            let found = scan(node.root());
            assert_eq!(places(&found), ["1-2"]);
            let [line] = found.problems.as_slice() else { panic!("{:?}", found.problems) };
            assert!(line.starts_with("device 1-1 left out") && line.contains(attribute), "{line}");
        }
    }
}

#[test]
fn the_address_of_a_device_that_is_being_reset_is_waited_for() {
    let node = Fixture::new();
    let stick = node.device("1-1");
    let (place, before) = ("1-1".parse().unwrap(), address(node.root(), &"1-1".parse().unwrap()).unwrap());
    // As in the kernel, who reads this is kept until the reset is over.
    let configuration = node.root().path(stick.folder()).join("bConfigurationValue");
    rustix::fs::mknodat(rustix::fs::CWD, &configuration, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    stick.set("devnum", "0\n");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| address(node.root(), &place));
        let over = std::fs::OpenOptions::new().write(true).open(&configuration).unwrap();
        stick.set("devnum", format!("{}\n", before.device));
        drop(over);
        assert_eq!(waiting.join().unwrap().unwrap(), before);
    });
}

#[test]
fn a_device_that_has_no_address_for_good_is_named() {
    let node = Fixture::new();
    node.device("1-1").set("devnum", "0\n");
    let error = address(node.root(), &"1-1".parse().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("1-1/devnum holds \"0\", which is not understood"), "{error}");
}

#[test]
fn a_device_that_vanishes_during_the_scan_costs_nobody_else() {
    let node = Fixture::new();
    node.device("1-2");
    // The link is still listed, its device is gone.
    node.link("sys/bus/usb/devices/1-1", "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1");
    let found = scan(node.root());
    assert_eq!(places(&found), ["1-2"]);
    assert_eq!(found.problems.len(), 1);
}

#[test]
fn an_empty_entry_is_no_device() {
    let node = Fixture::new();
    node.write("sys/bus/usb/devices/1-7/uevent", "");
    let found = scan(node.root());
    assert_eq!((places(&found).len(), found.problems.len()), (0, 1));
}

#[test]
fn names_that_are_no_place_are_left_out_with_a_line() {
    let node = Fixture::new();
    node.device("1-1");
    node.write("sys/bus/usb/devices/1-1\u{1b}x/idVendor", "46f4");
    let found = scan(node.root());
    assert_eq!(places(&found), ["1-1"]);
    assert!(found.problems[0].contains("1-1\\u{1b}x"), "{:?}", found.problems);
}

#[test]
fn a_kernel_without_usb_is_an_empty_scan_with_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let found = scan(&SysRoot::new(folder.path()));
    assert_eq!((found.devices, found.imported, found.problems.len()), (vec![], vec![], 1));
}

#[test]
fn an_exported_device_keeps_its_name_and_shows_its_driver() {
    let node = Fixture::new();
    node.usbip_host();
    let stick = node.device("1-1");
    let before = only(&node);
    stick.exported("1-1", 1);
    let after = only(&node);
    assert_eq!(after.driver.as_deref(), Some("usbip-host"));
    assert_eq!(after.attributes, before.attributes);
}

const ATTRIBUTES: [&str; 10] = [
    "idVendor",
    "idProduct",
    "bcdDevice",
    "bDeviceClass",
    "busnum",
    "devnum",
    "speed",
    "manufacturer",
    "product",
    "serial",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_device_holds_the_others_are_unharmed(
        values in proptest::collection::vec(
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), ATTRIBUTES.len()..=ATTRIBUTES.len()
        ),
    ) {
        let node = Fixture::new();
        node.device("1-2").strings("Acme", "Stick", "AB12");
        let alone = scan(node.root());
        let odd = node.device("1-1");
        odd.strings("", "", "");
        for (attribute, value) in ATTRIBUTES.iter().zip(values) {
            match value {
                Some(bytes) => odd.set(attribute, bytes),
                None => odd.unset(attribute),
            };
        }
        let both = scan(node.root());
        prop_assert!(both.devices.ends_with(&alone.devices));
        prop_assert!(both.devices.len() + both.problems.len() <= alone.devices.len() + 1);
        prop_assert!(both.devices.iter().all(|d| !d.attributes.name.is_empty()));
    }

    #[test]
    fn whatever_the_tables_of_the_host_hold_the_scan_ends(
        mounts in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,200}",
    ) {
        let node = Fixture::new();
        node.device("1-1").block("sda", "8:0").network("eth0");
        node.write("proc/1/mountinfo", mounts);
        for table in ["proc/swaps", "proc/net/route", "proc/net/if_inet6"] {
            node.write(table, &text);
        }
        prop_assert_eq!(scan(node.root()).devices.len(), 1);
    }
}
