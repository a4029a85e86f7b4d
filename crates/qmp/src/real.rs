//! Tests against a real QEMU. They fail where none is installed: what they show is not shown by anything else.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep_until, timeout};

use crate::fake::PATIENCE;
use crate::usb::{self, PORTS, bus_id};
use crate::{FdSet, Monitor, QmpError};

/// A machine without a guest, but with the controllers of our virtual machines.
pub(crate) struct Qemu {
    pub(crate) child: Child,
    pub(crate) monitor: Monitor,
    pub(crate) folder: tempfile::TempDir,
}

impl Qemu {
    async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With more arguments.
    pub(crate) async fn with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp.sock");
        let child = Command::new("qemu-system-x86_64")
            .args([
                "-M",
                "q35,accel=tcg,suppress-vmdesc=on",
                "-m",
                "32",
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-device", "qemu-xhci,id=usb0,p2=15,p3=15", "-device", "qemu-xhci,id=usb1,p2=15,p3=15", "-qmp"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(folder.path().join("output")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("qemu-system-x86_64 is needed for this test (Debian: apt-get install qemu-system-x86)");
        let monitor = connect(&socket).await;
        Self { child, monitor, folder }
    }
}

/// Connects as soon as QEMU listens.
async fn connect(socket: &Path) -> Monitor {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Monitor::connect(socket, PATIENCE).await {
            Ok(monitor) => return monitor,
            Err(error @ (QmpError::Open { .. } | QmpError::Connect { .. })) if Instant::now() > deadline => {
                panic!("{error:?}")
            }
            Err(QmpError::Open { .. } | QmpError::Connect { .. }) => {
                sleep_until(Instant::now() + PATIENCE / 1000).await
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn qemu_takes_a_descriptor_shows_its_note_and_gives_it_back() {
    let qemu = Qemu::start().await;
    let null = File::open("/dev/null").unwrap();
    assert_eq!(qemu.monitor.query_fdsets().await.unwrap(), []);
    let (set, other) = (FdSet(3), FdSet(7));
    qemu.monitor.add_fd(null.as_fd(), set, "patchbay:a:005-002").await.unwrap();
    qemu.monitor.add_fd(null.as_fd(), other, "patchbay:b:005-003").await.unwrap();
    let mut sets = qemu.monitor.query_fdsets().await.unwrap();
    sets.sort_by_key(|info| info.id);
    let notes: Vec<_> = sets.iter().map(|info| (info.id, info.fds[0].opaque.as_deref().unwrap())).collect();
    assert_eq!(notes, [(set, "patchbay:a:005-002"), (other, "patchbay:b:005-003")]);
    qemu.monitor.remove_fd(set).await.unwrap();
    qemu.monitor.remove_fd(other).await.unwrap();
    assert_eq!(qemu.monitor.query_fdsets().await.unwrap(), []);
    assert!(matches!(qemu.monitor.remove_fd(set).await, Err(QmpError::Refused { .. })));
}

#[tokio::test]
async fn devices_come_and_go_and_are_seen_where_they_are() {
    let qemu = Qemu::start().await;
    let monitor = &qemu.monitor;
    assert!(monitor.query_status().await.unwrap().running);
    assert_eq!(monitor.usb_topology().await.unwrap(), []);
    for (driver, id, bus, port) in [("usb-kbd", "usb-a", bus_id(0), "7"), ("usb-tablet", "usb-b", bus_id(1), "3")] {
        monitor.device_add(driver, id, json!({"bus": bus, "port": port})).await.unwrap();
    }
    let mut seen = monitor.usb_topology().await.unwrap();
    seen.sort_by(|a, b| a.id.cmp(&b.id));
    let places: Vec<_> = seen.iter().map(|usb| (usb.id.as_deref().unwrap(), usb.bus, usb.port.as_str())).collect();
    assert_eq!(places, [("usb-a", 0, "7"), ("usb-b", 1, "3")]);
    assert_eq!(seen[0].product, "QEMU USB Keyboard");
    let again = monitor.device_add("usb-kbd", "usb-a", json!({"bus": bus_id(0)})).await;
    assert!(matches!(again, Err(QmpError::Refused { .. })), "{again:?}");

    let plugged = usb::plugged(monitor).await.unwrap();
    let shown: Vec<_> =
        plugged.iter().map(|p| (p.name.as_str(), p.tag.as_str(), p.port.as_str(), p.attached)).collect();
    assert_eq!(shown, [("a", "", "7", true), ("b", "", "3", true)]);

    monitor.device_del("usb-a").await.unwrap();
    assert!(!monitor.peripherals().await.unwrap().contains(&"usb-a".to_owned()));
    monitor.device_del("usb-a").await.unwrap();
    usb::unplug(monitor, "b").await.unwrap();
    assert_eq!(monitor.usb_topology().await.unwrap(), []);
    assert_eq!(monitor.peripherals().await.unwrap(), ["usb0", "usb1"]);
}

#[tokio::test]
async fn sixteen_devices_have_a_port_of_their_own_and_none_is_behind_a_hub() {
    let qemu = Qemu::start().await;
    for number in 0..16 {
        let (bus, port) = usb::free_port(&qemu.monitor.usb_topology().await.unwrap(), 0).unwrap();
        let place = json!({"bus": bus_id(bus), "port": port.to_string()});
        qemu.monitor.device_add("usb-kbd", &format!("usb-{number}"), place).await.unwrap();
    }
    let seen = qemu.monitor.usb_topology().await.unwrap();
    let mut places: Vec<_> = seen.iter().map(|usb| (usb.bus, usb.port.parse::<u32>().unwrap())).collect();
    places.sort_unstable();
    let expected: Vec<_> = (1..=PORTS).map(|port| (0, port)).chain([(1, 1)]).collect();
    assert_eq!(places, expected);
}

#[tokio::test]
async fn a_descriptor_that_is_no_usb_device_is_refused_and_taken_back() {
    let qemu = Qemu::start().await;
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let refused = usb::plug(&qemu.monitor, "stick", null.as_fd(), "005-002").await;
    assert!(matches!(refused, Err(QmpError::Refused { command: "device_add", .. })), "{refused:?}");
    // QEMU 7.2 forgets to close its own copy here, so the set stays, empty. What we gave must be gone.
    let sets = qemu.monitor.query_fdsets().await.unwrap();
    assert!(sets.iter().all(|info| info.fds.is_empty()), "{sets:?}");
    assert_eq!(qemu.monitor.peripherals().await.unwrap(), ["usb0", "usb1"]);
}

#[tokio::test]
async fn a_second_client_waits_until_the_first_has_gone() {
    let Qemu { child: _child, monitor, folder } = Qemu::start().await;
    let socket = folder.path().join("qmp.sock");
    let second = Monitor::connect(&socket, PATIENCE / 100).await;
    assert!(matches!(second, Err(QmpError::Timeout { command: "greeting", .. })), "{second:?}");
    drop(monitor);
    assert!(connect(&socket).await.query_status().await.unwrap().running);
}

#[tokio::test]
async fn quit_ends_qemu_and_the_connection() {
    let Qemu { mut child, monitor, folder: _folder } = Qemu::start().await;
    monitor.quit().await.unwrap();
    timeout(PATIENCE, monitor.closed()).await.unwrap();
    assert!(timeout(PATIENCE, child.wait()).await.unwrap().unwrap().success());
}
