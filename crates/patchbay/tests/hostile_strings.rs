//! What a device says of itself may be made to deceive. From the descriptor to what people read: the name, the attributes
//! of the DRA device, the status of the `NodeUSBDevice` with its conditions, and the Events.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use patchbay_api::{device_status::DeviceStatus, event, slice};
use patchbay_core::controller::events::notices;
use patchbay_core::controller::world::Node;
use patchbay_core::controller::{Action, World, plan};
use patchbay_core::device::{Device, is_invisible};
use patchbay_core::names::NodeName;
use patchbay_core::{DRIVER, identity};
use patchbay_usb::fixture::Fixture;
use patchbay_usb::scan::scan;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The longest attribute of a DRA device, in bytes.
const ATTRIBUTE: usize = 64;

/// What is read of two devices that say the same of themselves.
#[derive(Debug)]
struct Seen {
    names: Vec<String>,
    attributes: BTreeMap<String, String>,
    /// The statuses and the Events.
    objects: Vec<Value>,
}

/// Two devices with these bytes as manufacturer, product, serial number and as the mount point of the second one's disk
/// (which those who mount by label take from the disk).
fn seen(strings: [&[u8]; 3], label: &[u8]) -> Seen {
    let (fixture, node) = (Fixture::new(), NodeName::new("node-1"));
    for port in ["1-1", "1-2"] {
        let device = fixture.device(port);
        for (attribute, bytes) in ["manufacturer", "product", "serial"].into_iter().zip(strings) {
            device.set(attribute, bytes);
        }
    }
    fixture.device("1-2").block("sda", "8:0");
    let escaped: Vec<u8> = label.iter().copied().filter(|b| !b" \n\t\\".contains(b)).collect();
    fixture.write("proc/1/mountinfo", [b"90 22 8:0 / /media/", &*escaped, b" rw - vfat /dev/sda rw\n"].concat());

    let devices = scan(fixture.root()).devices;
    let attributes: Vec<_> = devices.iter().map(|d| d.attributes.clone()).collect();
    let names = identity::assign(&node, &attributes, &[]);
    let published = names.iter().zip(devices).map(|(name, scanned)| {
        let device = Device { name: name.clone(), attributes: scanned.attributes, not_ready: scanned.host_use };
        slice::device(&device, &node)
    });
    let published: Vec<_> = published.collect();
    let texts = published.iter().flat_map(|d| d.attributes.iter().flatten());
    let texts = texts.filter_map(|(key, value)| Some((key.clone(), value.string.clone()?))).collect();

    let of_pool = |name: &str, devices: Value, field: (&str, Value)| {
        let pool = json!({"name": name, "generation": 1, "resourceSliceCount": 1});
        let mut object =
            json!({"metadata": {"name": name}, "spec": {"driver": DRIVER, "pool": pool, "devices": devices}});
        object["spec"][field.0] = field.1;
        slice::read(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let slices = [
        of_pool("node-1", json!(published), ("allNodes", json!(true))),
        of_pool("node-1-ports", json!([]), ("nodeName", json!("node-1"))),
    ];
    assert_eq!(slices[0].skipped, [], "an agent publishes what the controller can read");
    let world = World {
        now: 1_000,
        nodes: BTreeMap::from([(node, Node { ready: true, since: 0, cordoned: false })]),
        pools: slice::Pools::default().update(&slices),
        ..World::default()
    };
    let mut objects = Vec::new();
    for action in plan(&world).actions {
        if let Action::CreateNodeDevice { status, .. } = &action {
            objects.push(json!(DeviceStatus::from(status)));
        }
        let told = notices(&action, &world);
        objects.extend(told.iter().map(|n| json!(event::build(n, &"u".into(), jiff::Timestamp::UNIX_EPOCH, "pod"))));
    }
    Seen { names: names.iter().map(ToString::to_string).collect(), attributes: texts, objects }
}

/// Every text in an object, however deep.
fn texts<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is wrong with it; None when nothing is.
fn wrong(seen: &Seen) -> Option<String> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let mut all: Vec<&str> = seen.attributes.values().map(String::as_str).collect();
    seen.objects.iter().for_each(|object| texts(object, &mut all));
    let name = |n: &&String| n.len() > 63 || n.starts_with('-') || n.ends_with('-') || !n.chars().all(label);
    if let Some(name) = seen.names.iter().find(name) {
        return Some(format!("{name:?} is no name"));
    }
    if seen.names.len() != 2 || seen.names[0] == seen.names[1] || seen.objects.len() != 4 {
        return Some(format!("not two devices with an Event each: {seen:?}"));
    }
    if let Some(long) = seen.attributes.values().find(|text| text.len() > ATTRIBUTE) {
        return Some(format!("{long:?} is too long"));
    }
    all.iter()
        .find(|text| text.chars().any(|c| c.is_control() || is_invisible(c)))
        .map(|t| format!("{t:?} is not clean"))
}

/// What the kernel makes of a string descriptor: UTF-8 of its units, those that stand for nothing left out
/// (`utf16s_to_utf8s` in `fs/nls/nls_base.c`).
fn kernel(units: &[u16]) -> Vec<u8> {
    let characters = char::decode_utf16(units.iter().copied()).filter_map(Result::ok);
    let mut line: String = characters.collect();
    line.push('\n');
    line.into_bytes()
}

#[test]
fn strings_that_were_made_to_deceive_are_clean_wherever_they_are_read() {
    let long = "x".repeat(ATTRIBUTE);
    let table: &[(&str, Vec<u8>, Option<&str>)] = &[
        ("control characters", b"Key\x00\x01\x7fboard\r\n".to_vec(), Some("Key board")),
        ("an escape sequence", b"\x1b[2J\x1b]0;root\x07Stick\n".to_vec(), Some("[2J ]0;root Stick")),
        ("another direction", "\u{202e}kcitS\u{2066}\n".as_bytes().to_vec(), Some("kcitS")),
        ("markup", b"<script>alert(1)</script>\n".to_vec(), Some("<script>alert(1)</script>")),
        ("a template", b"{{.Name}} ${x} `id`\n".to_vec(), Some("{{.Name}} ${x} `id`")),
        ("126 units of three bytes", kernel(&[0x732b; 126]), Some("猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫猫")),
        ("126 units of one byte", kernel(&[0x78; 126]), Some(&long)),
        ("pairs of units", kernel(&[0xd83d, 0xde00].repeat(63)), Some("😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀😀")),
        ("half a pair", kernel(&[0x41, 0xd83d, 0x42]), Some("AB")),
        ("bytes that are no UTF-8", b"M\xfc\xdfig\xff\xed\xa0\x80\n".to_vec(), Some("M ig")),
        ("an overlong slash", b"..\xc0\xaf..\xe0\x80\xafetc\n".to_vec(), Some(".. .. etc")),
        ("nothing that can be seen", "\u{200b}\u{3164}\u{feff}\n".as_bytes().to_vec(), None),
    ];
    for (what, bytes, product) in table {
        let seen = seen([bytes, bytes, bytes], bytes);
        assert_eq!(wrong(&seen), None, "{what}");
        match product {
            Some(text) => assert_eq!(seen.attributes["product"], *text, "{what}"),
            None => assert!(!seen.attributes["name"].is_empty(), "{what}"),
        }
    }
}

#[test]
fn the_warning_about_twins_and_the_reason_of_the_host_are_clean_too() {
    let evil = b"\x1b[31mEVIL42\xe2\x80\xae\n";
    let seen = seen([b"A", b"B", evil], evil);
    assert_eq!(wrong(&seen), None);
    let all: String = seen.objects.iter().map(Value::to_string).collect();
    assert!(all.contains("same serial number") && all.contains("is mounted at /media/ [31mEVIL42"), "{all}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_units_a_descriptor_holds_people_read_clean_text(
        units in proptest::collection::vec(prop_oneof![any::<u16>(), 0u16..0x100, 0x2000u16..0x2070], 0..=126),
    ) {
        let bytes = kernel(&units);
        let seen = seen([&bytes, &bytes, &bytes], &bytes);
        prop_assert_eq!(wrong(&seen), None);
    }

    #[test]
    fn whatever_bytes_the_kernel_shows_people_read_clean_text(
        strings in proptest::array::uniform3(proptest::collection::vec(any::<u8>(), 0..200)),
        label in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let [a, b, c] = &strings;
        let seen = seen([a, b, c], &label);
        prop_assert_eq!(wrong(&seen), None);
    }
}
