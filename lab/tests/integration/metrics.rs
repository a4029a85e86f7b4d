//! What controller and agent tell in numbers, while things happen.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use patchbay_core::speed::Speed;
use patchbay_lab::process::free_port;
use patchbay_usb::fixture::Fixture;

use crate::agent;
use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{SOON, Stage, eventually};

/// The answer of a program of this machine.
fn get(port: u16, path: &str) -> Result<String, String> {
    let read = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection.set_read_timeout(Some(SOON))?;
        write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        connection.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| error.to_string())
}

/// Waits until a program tells these numbers.
fn tells(port: u16, wanted: &[(&str, u64)]) -> String {
    eventually(&format!("the metrics {wanted:?}"), || {
        let text = get(port, "/metrics")?;
        let value = |sample: &str| {
            let number = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
            number.trim().parse::<f64>().ok()
        };
        let other: Vec<_> = wanted.iter().map(|(sample, _)| (*sample, value(sample))).collect();
        let fits = |((_, wanted), (_, seen)): (&(&str, u64), &(&str, Option<f64>))| {
            seen.is_some_and(|seen| (seen - f64::from(u32::try_from(*wanted).unwrap())).abs() < f64::EPSILON)
        };
        if wanted.iter().zip(&other).all(fits) { Ok(text.clone()) } else { Err(format!("{other:?}")) }
    })
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_controller_counts_devices_ports_and_attachments_and_measures_how_long_they_take() {
    let stage = Stage::open();
    let port = free_port().unwrap();
    let address = format!("--metrics=127.0.0.1:{port}");
    let mut controller = Running::start(
        &stage,
        "controller",
        "controller-1",
        &["controller", "--image=none", "--namespace=patchbay", "--identity=controller-1", &address],
    );
    controller.leads(SOON);
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    stage.namespace("blue");
    stage.assign("webcam", Some("blue"));
    stage.device_is("blue", "webcam", "Ready", "Ready");
    tells(
        port,
        &[
            ("patchbay_controller_leader", 1),
            ("patchbay_devices{condition=\"Ready\",reason=\"Ready\"}", 1),
            ("patchbay_devices{condition=\"Assigned\",reason=\"Assigned\"}", 1),
            ("patchbay_devices{condition=\"Attached\",reason=\"AttachedToVirtualMachine\"}", 0),
            ("patchbay_ports{node=\"node-2\",hub=\"usb2\",state=\"free\"}", 8),
            ("patchbay_attach_duration_seconds_count{step=\"all\"}", 0),
        ],
    );

    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    tells(
        port,
        &[
            ("patchbay_devices{condition=\"Attached\",reason=\"AttachedToVirtualMachine\"}", 1),
            ("patchbay_virtual_machines{condition=\"USBDevicesAttached\",reason=\"AllAttached\"}", 1),
            ("patchbay_attachments{node=\"node-2\",stage=\"plugged\"}", 1),
            ("patchbay_ports{node=\"node-2\",hub=\"usb2\",state=\"used\"}", 1),
            ("patchbay_ports{node=\"node-2\",hub=\"usb2\",state=\"free\"}", 7),
            ("patchbay_attach_duration_seconds_count{step=\"schedule\"}", 1),
            ("patchbay_attach_duration_seconds_count{step=\"plug\"}", 1),
            ("patchbay_attach_duration_seconds_count{step=\"all\"}", 1),
            ("patchbay_controller_api_writes_total{action=\"create attachment\",outcome=\"done\"}", 1),
            ("patchbay_detach_duration_seconds_count{step=\"all\"}", 0),
        ],
    );

    home.unplug("webcam");
    stage.node_device_is("webcam", "Ready", "NotFound");
    tells(port, &[("patchbay_assigned_devices_unusable{node=\"node-1\",reason=\"NotFound\"}", 1)]);
    stage.device_is("blue", "webcam", "Attached", "Available");
    home.plug(device("webcam", 1, Speed::High));
    stage.device_is("blue", "webcam", "Attached", "AttachedToVirtualMachine");
    stage.list("blue", "linux-vm", &[]);
    stage.nothing_is_attached("blue");
    let text = tells(
        port,
        &[
            ("patchbay_attachments{node=\"node-2\",stage=\"plugged\"}", 0),
            ("patchbay_ports{node=\"node-2\",hub=\"usb2\",state=\"free\"}", 8),
            ("patchbay_detach_duration_seconds_count{step=\"all\"}", 1),
            ("patchbay_attach_duration_seconds_count{step=\"all\"}", 1),
        ],
    );
    // Whoever may read numbers need not be one who may read objects.
    for word in ["webcam", "blue", "linux-vm"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    assert!(get(port, "/healthz").unwrap().starts_with("HTTP/1.1 404"));
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_counts_the_devices_of_its_node_and_says_how_long_its_certificate_lasts() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let _node = Node::silent(&stage, "node-1");
    let fixture = Fixture::new();
    fixture.device("1-2").strings("Logitech", "Webcam C920", "ABC123456");
    let port = free_port().unwrap();
    let mut agent =
        agent::start_with(&stage, &fixture, free_port().unwrap(), &[&format!("--metrics=127.0.0.1:{port}")]);
    agent.says("this node has a certificate", SOON);
    let text = tells(
        port,
        &[
            ("patchbay_node_devices{node=\"node-1\",speed=\"480\",use=\"open\"}", 1),
            ("patchbay_node_sessions{node=\"node-1\",side=\"home\"}", 0),
            ("patchbay_node_reimports_total{node=\"node-1\"}", 0),
        ],
    );
    let expires = "patchbay_node_certificate_expiry_timestamp_seconds{node=\"node-1\"} ";
    let expires: i64 = text.lines().find_map(|line| line.strip_prefix(expires)).unwrap().trim().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let left = expires - i64::try_from(now.as_secs()).unwrap();
    assert!((23 * 3_600..=24 * 3_600).contains(&left), "{left} s");
    for word in ["ABC123456", "logitech", "C920"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    agent.stop();
    stage.check(&controller);
}
