//! Machines that come from another pod, and go to one.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use patchbay_qmp::Monitor;
use patchbay_qmp::migration::{self, Phase};
use rustix::process::{Signal, kill_process};
use serde_json::json;
use tokio::time::sleep;

use crate::engine::{Engine, Image};
use crate::guest::{HELLO, Then, dotting_kernel};

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that prints dots for ever, and does not hear its power button.
fn dots() -> Image {
    let image = Image::new(&json!({"kernel": "kernel", "powerdown": true}));
    image.file("kernel", &dotting_kernel());
    image
}

fn target(image: Image) -> Engine {
    let mut target = Engine::start(image, &["--incoming", "--grace=3600"]);
    target.wait_for_log("waiting for the machine to arrive");
    target
}

async fn monitor(engine: &Engine) -> Monitor {
    Monitor::connect(&engine.image().run().join("migration.sock"), PATIENCE).await.unwrap()
}

async fn until(monitor: &Monitor, phase: Phase) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = migration::progress(monitor).await.unwrap();
        if seen.phase == phase {
            return;
        }
        assert!(Instant::now() < deadline, "{seen:?} instead of {phase:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Moves the machine and lets it run at the target.
fn move_over(source: &Engine, target: &Engine) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (from, to) = (monitor(source).await, monitor(target).await);
        let (one, other) = UnixStream::pair().unwrap();
        migration::receive(&to, other.into()).await.unwrap();
        migration::send(&from, one.into()).await.unwrap();
        until(&from, Phase::PreSwitchover).await;
        migration::proceed(&from).await.unwrap();
        until(&to, Phase::Completed).await;
        until(&from, Phase::Completed).await;
        assert_eq!(target.console(), "", "it must not run before it is told to");
        to.cont().await.unwrap();
    });
}

fn ends_at_once(engine: &mut Engine) {
    let asked = Instant::now();
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(!engine.log().contains("power button"), "{}", engine.log());
}

#[test]
fn a_machine_goes_on_in_another_pod_and_the_old_pod_ends_at_once() {
    let mut source = Engine::start(dots(), &["--grace=3600"]);
    source.wait_for_console("..");
    let mut target = target(dots());
    move_over(&source, &target);
    target.wait_for_console("..");
    assert!(!target.console().contains(HELLO), "it has booted instead");
    ends_at_once(&mut source);
    // The power button is for machines that run; this one does not handle it.
    target.signal(Signal::TERM);
    target.wait_for_log("pressing the guest's power button");
    target.signal(Signal::TERM);
    assert!(target.end().success(), "{}", target.log());
}

#[test]
fn a_pod_that_waits_in_vain_ends_at_once_and_never_boots_by_itself() {
    let mut target = target(dots());
    assert_eq!(target.ask("query-status", &json!({}))["status"], "inmigrate");
    kill_process(target.qemu().unwrap(), Signal::KILL).unwrap();
    target.again(&["--incoming", "--grace=3600"]);
    target.wait_for_log("waiting for the machine to arrive");
    ends_at_once(&mut target);
    assert_eq!(target.console(), "");
}

#[test]
fn a_machine_that_has_arrived_starts_anew_after_a_crash() {
    let image = dots();
    std::fs::write(image.run().join("arrived"), "").unwrap();
    let mut target = Engine::start(image, &["--incoming"]);
    target.wait_for_console(HELLO);
    target.wait_for_log("the machine runs");
}

#[test]
fn a_machine_that_has_left_is_not_started_until_it_is_known_to_stay() {
    let image = Image::new(&json!({"disk": "disk.img"}));
    image.file("disk.img", &Then::Sleep.disk());
    let mark = image.run().join("left");
    std::os::unix::fs::symlink("/nowhere", &mark).unwrap();
    let mut source = Engine::start(image, &[]);
    source.wait_for_log("not starting it");
    assert_eq!(source.qemu(), None);
    ends_at_once(&mut source);
    source.again(&[]);
    source.wait_for_log("not starting it");
    std::fs::remove_file(mark).unwrap();
    source.wait_for_console(HELLO);
}

#[test]
fn a_saved_machine_comes_by_the_network_and_not_from_its_image_when_it_moves() {
    let image = || {
        let image = Image::new(&json!({"kernel": "kernel", "state": "saved"}));
        image.file("kernel", &dotting_kernel());
        image.file("saved", b"not a state");
        image
    };
    let mut source = Engine::start(dots(), &[]);
    source.wait_for_console("..");
    let mut target = target(image());
    move_over(&source, &target);
    target.wait_for_console("..");
}
