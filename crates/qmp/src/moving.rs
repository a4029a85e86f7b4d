//! Migrations between two real QEMUs.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::fake::{Fake, PATIENCE, done, refused};
use crate::migration::{self, Pace, Phase};
use crate::real::Qemu;
use crate::usb::{self, bus_id};
use crate::{Monitor, QmpError};

const WAITS: [&str; 3] = ["-incoming", "defer", "-S"];

fn pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = UnixStream::pair().unwrap();
    (one.into(), other.into())
}

/// Waits until QEMU is in one of these phases.
async fn phase(monitor: &Monitor, wanted: &[Phase]) -> Phase {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = migration::progress(monitor).await.unwrap();
        if wanted.contains(&seen.phase) {
            return seen.phase;
        }
        assert!(Instant::now() < deadline, "{seen:?} instead of {wanted:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn status(monitor: &Monitor) -> String {
    monitor.query_status().await.unwrap().status
}

/// Waits until the guest runs: QEMU says that a migration is cancelled a moment before it resumes the guest.
async fn runs(monitor: &Monitor) {
    let deadline = Instant::now() + PATIENCE;
    while !monitor.query_status().await.unwrap().running {
        assert!(Instant::now() < deadline, "{}", status(monitor).await);
        sleep(Duration::from_millis(10)).await;
    }
}

async fn ended(qemu: &mut Qemu) -> ExitStatus {
    timeout(PATIENCE, qemu.child.wait()).await.unwrap().unwrap()
}

/// A source in the moment before the switch, and its target.
async fn paused() -> (Qemu, Qemu) {
    let (source, target) = (Qemu::with(&[]).await, Qemu::with(&WAITS).await);
    again(&source, &target).await;
    (source, target)
}

async fn again(source: &Qemu, target: &Qemu) {
    let (ours, theirs) = pair();
    migration::receive(&target.monitor, theirs).await.unwrap();
    migration::send(&source.monitor, ours).await.unwrap();
    migration::go(&source.monitor, Pace::Run).await.unwrap();
    phase(&source.monitor, &[Phase::PreSwitchover]).await;
}

#[tokio::test]
async fn a_guest_moves_and_runs_only_when_told() {
    let (source, target) = paused().await;
    assert_eq!(status(&source.monitor).await, "finish-migrate");
    migration::proceed(&source.monitor).await.unwrap();
    phase(&source.monitor, &[Phase::Completed]).await;
    phase(&target.monitor, &[Phase::Completed]).await;
    assert_eq!(status(&source.monitor).await, "postmigrate");
    assert_eq!(status(&target.monitor).await, "paused");
    target.monitor.cont().await.unwrap();
    assert_eq!(status(&target.monitor).await, "running");
    assert_eq!(target.monitor.usb_topology().await.unwrap(), []);
    // A cancel that comes too late changes nothing.
    migration::cancel(&source.monitor).await.unwrap();
    assert_eq!(status(&source.monitor).await, "postmigrate");
    // What has moved can move on.
    let third = Qemu::with(&WAITS).await;
    again(&target, &third).await;
    migration::proceed(&target.monitor).await.unwrap();
    phase(&third.monitor, &[Phase::Completed]).await;
}

#[tokio::test]
async fn the_connection_is_never_a_blocking_one() {
    let (source, target) = (Qemu::with(&[]).await, Qemu::with(&WAITS).await);
    let (ours, theirs) = pair();
    let same = ours.try_clone().unwrap();
    let blocks = || !rustix::fs::fcntl_getfl(&same).unwrap().contains(rustix::fs::OFlags::NONBLOCK);
    migration::receive(&target.monitor, theirs).await.unwrap();
    migration::send(&source.monitor, ours).await.unwrap();
    assert!(!blocks());
    migration::go(&source.monitor, Pace::Run).await.unwrap();
    phase(&source.monitor, &[Phase::PreSwitchover]).await;
    assert!(!blocks());
    migration::proceed(&source.monitor).await.unwrap();
    phase(&target.monitor, &[Phase::Completed]).await;
    assert!(!blocks());
}

#[tokio::test]
async fn a_guest_with_a_device_cannot_be_loaded_where_there_is_none() {
    let (source, mut target) = (Qemu::with(&[]).await, Qemu::with(&WAITS).await);
    source.monitor.device_add("usb-kbd", "usb-keys", json!({"bus": bus_id(1), "port": "3"})).await.unwrap();
    again(&source, &target).await;
    migration::proceed(&source.monitor).await.unwrap();
    assert_eq!(ended(&mut target).await.code(), Some(1));
    phase(&source.monitor, &[Phase::Failed, Phase::Completed]).await;
}

#[tokio::test]
async fn what_is_switched_off_on_the_way_is_not_sent_and_its_name_can_be_used_again() {
    let (source, target) = (Qemu::with(&[]).await, Qemu::with(&WAITS).await);
    let monitor = &source.monitor;
    let keyboard = json!({"bus": bus_id(1), "port": "3"});
    monitor.device_add("usb-kbd", "usb-keys", keyboard.clone()).await.unwrap();
    let (ours, theirs) = pair();
    migration::receive(&target.monitor, theirs).await.unwrap();
    migration::send(monitor, ours).await.unwrap();
    phase(monitor, &[Phase::Active]).await;
    let refused = monitor.device_del("usb-keys").await.unwrap_err();
    assert!(refused.to_string().contains("not allowed while migrating"), "{refused}");
    assert!(usb::any(monitor).await.unwrap() && !usb::any_off(monitor).await.unwrap());
    assert_eq!(usb::switch_off(monitor).await.unwrap(), ["keys"]);
    assert_eq!(usb::switch_off(monitor).await.unwrap(), Vec::<String>::new());
    assert!(!usb::any(monitor).await.unwrap() && usb::any_off(monitor).await.unwrap());
    assert_eq!((monitor.usb_topology().await.unwrap(), usb::plugged(monitor).await.unwrap()), (vec![], vec![]));
    assert!(monitor.query_status().await.unwrap().running, "there is time for it at this pace");
    // It comes to nothing: the id is lost, the name is not.
    migration::cancel(monitor).await.unwrap();
    phase(monitor, &[Phase::Cancelled]).await;
    usb::unplug(monitor, "keys").await.unwrap();
    monitor.device_add("usb-kbd", "usb-keys.1", keyboard).await.unwrap();
    let back = usb::plugged(monitor).await.unwrap();
    assert_eq!(back.iter().map(|p| (p.name.as_str(), p.bus, p.port.as_str())).collect::<Vec<_>>(), [("keys", 1, "3")]);
    // And now it comes to its end.
    let target = Qemu::with(&WAITS).await;
    let (ours, theirs) = pair();
    migration::receive(&target.monitor, theirs).await.unwrap();
    migration::send(monitor, ours).await.unwrap();
    phase(monitor, &[Phase::Active]).await;
    assert_eq!(usb::switch_off(monitor).await.unwrap(), ["keys"]);
    migration::go(monitor, Pace::Run).await.unwrap();
    phase(monitor, &[Phase::PreSwitchover]).await;
    migration::proceed(monitor).await.unwrap();
    phase(&target.monitor, &[Phase::Completed]).await;
    assert_eq!(target.monitor.usb_topology().await.unwrap(), []);
}

#[tokio::test]
async fn after_a_cancel_the_guest_runs_on_and_can_be_moved_again() {
    let (source, mut target) = paused().await;
    let monitor = &source.monitor;
    migration::cancel(monitor).await.unwrap();
    phase(monitor, &[Phase::Cancelled]).await;
    runs(monitor).await;
    assert_eq!(ended(&mut target).await.code(), Some(1));
    let target = Qemu::with(&WAITS).await;
    again(&source, &target).await;
    migration::proceed(monitor).await.unwrap();
    phase(&target.monitor, &[Phase::Completed]).await;
    target.monitor.cont().await.unwrap();
    target.monitor.device_add("usb-kbd", "usb-keys", json!({"bus": bus_id(0), "port": "1"})).await.unwrap();
    usb::unplug(&target.monitor, "keys").await.unwrap();
}

#[tokio::test]
async fn a_cancel_while_the_guest_runs_leaves_it_running() {
    let (source, target) =
        (Qemu::with(&["-m", "1024"]).await, Qemu::with(&["-m", "1024", WAITS[0], WAITS[1], WAITS[2]]).await);
    let (ours, theirs) = pair();
    migration::send(&source.monitor, ours).await.unwrap();
    phase(&source.monitor, &[Phase::Active]).await;
    assert!(source.monitor.query_status().await.unwrap().running);
    assert!(migration::progress(&source.monitor).await.unwrap().percent.is_some_and(|percent| percent < 100));
    let (more, _theirs) = pair();
    let twice = migration::send(&source.monitor, more).await;
    assert!(matches!(twice, Err(QmpError::Refused { .. })), "{twice:?}");
    migration::cancel(&source.monitor).await.unwrap();
    phase(&source.monitor, &[Phase::Cancelled]).await;
    assert!(source.monitor.query_status().await.unwrap().running);
    drop((theirs, target));
}

#[tokio::test]
async fn when_the_target_dies_the_guest_runs_on_at_the_source() {
    let (source, mut target) = paused().await;
    target.child.kill().await.unwrap();
    // Nothing is sent while the guest is paused, so QEMU does not know yet.
    assert_eq!(phase(&source.monitor, &[Phase::PreSwitchover]).await, Phase::PreSwitchover);
    migration::proceed(&source.monitor).await.unwrap();
    phase(&source.monitor, &[Phase::Failed]).await;
    runs(&source.monitor).await;
}

#[tokio::test]
async fn when_the_source_dies_the_target_ends_and_never_runs_the_guest() {
    let (mut source, mut target) = paused().await;
    assert_eq!(status(&target.monitor).await, "inmigrate");
    source.child.kill().await.unwrap();
    assert_eq!(ended(&mut target).await.code(), Some(1));
}

#[tokio::test]
async fn what_the_guest_has_written_to_its_disk_goes_along() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.img");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let drive = format!("file={},if=none,id=disk,format=raw,snapshot=on", image.display());
    let disk = ["-drive", drive.as_str(), "-device", "virtio-blk-pci,drive=disk"];
    let source = Qemu::with(&disk).await;
    let target = Qemu::with(&[disk.as_slice(), &WAITS].concat()).await;
    // What it finds is told on standard output only.
    let io = async |qemu: &Qemu, order: &str| -> String {
        let line = json!({"command-line": format!("qemu-io disk \"{order}\"")});
        let _nothing: String = qemu.monitor.ask("human-monitor-command", line, None).await.unwrap();
        std::fs::read_to_string(qemu.folder.path().join("output")).unwrap()
    };
    io(&source, "write -P 0x5a 1M 64k").await;
    again(&source, &target).await;
    migration::proceed(&source.monitor).await.unwrap();
    phase(&target.monitor, &[Phase::Completed]).await;
    target.monitor.cont().await.unwrap();
    let same = io(&target, "read -P 0x5a 1M 64k").await;
    assert!(same.contains("read 65536/65536 bytes at offset 1048576") && !same.contains("failed"), "{same}");
    let other = io(&target, "read -P 0x5b 1M 64k").await;
    assert!(other.contains("Pattern verification failed"), "{other}");
    assert!(target.monitor.query_status().await.unwrap().running);
}

/// A monitor that refuses one command; what it was told, and how many descriptors came along.
async fn refusing(command: &'static str) -> (Monitor, Arc<Mutex<Vec<String>>>, Fake) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&log);
    let fake = Fake::answering(move |execute, _, descriptor| {
        told.lock().unwrap().push(format!("{execute}{}", if descriptor.is_some() { " with a descriptor" } else { "" }));
        match execute {
            _ if execute == command => vec![refused("GenericError", "no")],
            "query-block" => vec![done(&json!([]))],
            _ => vec![done(&json!({}))],
        }
    });
    let monitor = fake.connect(PATIENCE).await.unwrap();
    (monitor, log, fake)
}

#[tokio::test]
async fn a_socket_that_is_not_used_is_taken_back_and_the_first_error_told() {
    let (monitor, log, _fake) = refusing("migrate").await;
    let error = migration::send(&monitor, pair().0).await.unwrap_err();
    assert!(matches!(error, QmpError::Refused { command: "migrate", .. }), "{error:?}");
    let told = [
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "query-block",
        "getfd with a descriptor",
        "migrate",
        "closefd",
    ];
    assert_eq!(*log.lock().unwrap(), told);

    let (monitor, log, _fake) = refusing("getfd").await;
    let error = migration::receive(&monitor, pair().0).await.unwrap_err();
    assert!(matches!(error, QmpError::Refused { command: "getfd", .. }), "{error:?}");
    assert_eq!(*log.lock().unwrap(), ["migrate-set-capabilities", "getfd with a descriptor"]);
}
