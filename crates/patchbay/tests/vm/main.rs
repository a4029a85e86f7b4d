//! `patchbay vm` with a real QEMU and guests of a few bytes. They fail where no QEMU is installed: what they show is not
//! shown by anything else.

#[cfg(test)]
mod engine;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod moves;

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use serde_json::json;

use engine::{Engine, Image};
use guest::{HELLO, Then};

fn disk(then: Then) -> Image {
    let image = Image::new(&json!({"disk": "disk.img"}));
    image.file("disk.img", &then.disk());
    image
}

fn disk_with_power_button(then: Then) -> Image {
    let image = Image::new(&json!({"disk": "disk.img", "powerdown": true}));
    image.file("disk.img", &then.disk());
    image
}

#[test]
fn the_agent_finds_a_monitor_that_only_the_owner_can_open_also_over_a_stale_socket() {
    let image = disk(Then::Sleep);
    drop(UnixListener::bind(image.run().join("qmp.sock")).unwrap());
    let mut engine = Engine::start(image, &[]);
    engine.wait_for_log("the machine runs");
    assert_eq!(engine.ask("query-status", &json!({}))["status"], "running");
    for socket in ["qmp.sock", "engine.sock", "migration.sock"] {
        let mode = std::fs::metadata(engine.image().run().join(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{socket} has mode {mode:o}");
    }
    let buses = engine.ask("qom-get", &json!({"path": "/machine/peripheral/usb0/usb0.0", "property": "type"}));
    assert_eq!(buses, "usb-bus");
}

#[test]
fn standard_output_is_the_guests_console_and_nothing_else() {
    let mut engine = Engine::start(disk(Then::Sleep), &[]);
    engine.wait_for_console(HELLO);
    engine.signal(Signal::TERM);
    assert!(engine.end().success());
    assert_eq!(engine.console(), format!("{HELLO}\n"));
}

#[test]
fn sigterm_ends_a_guest_without_a_power_button_at_once_and_in_order() {
    let mut engine = Engine::start(disk(Then::Sleep), &[]);
    engine.wait_for_log("the machine runs");
    let asked = Instant::now();
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(engine.log().contains("stopped as asked"), "{}", engine.log());
    assert!(!engine.log().contains("killing"), "{}", engine.log());
}

#[test]
fn sigterm_before_the_machine_runs_ends_it_too() {
    let mut engine = Engine::start(disk(Then::Sleep), &[]);
    engine.wait_for("QEMU", |engine| engine.qemu().is_some());
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
}

#[test]
fn a_guest_that_handles_its_power_button_switches_itself_off() {
    let mut engine = Engine::start(disk_with_power_button(Then::PowerOffWhenAsked), &["--grace=3600"]);
    engine.wait_for_console(HELLO);
    engine.wait_for_log("the machine runs");
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(engine.log().contains("power button"), "{}", engine.log());
}

#[test]
fn a_guest_that_ignores_its_power_button_is_stopped_after_the_grace() {
    let mut engine = Engine::start(disk_with_power_button(Then::Sleep), &["--grace=1"]);
    engine.wait_for_log("the machine runs");
    let asked = Instant::now();
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(engine.log().contains("pulling the plug"), "{}", engine.log());
}

#[test]
fn a_second_signal_skips_the_grace() {
    let mut engine = Engine::start(disk_with_power_button(Then::Sleep), &["--grace=3600"]);
    engine.wait_for_log("the machine runs");
    engine.signal(Signal::TERM);
    engine.wait_for_log("pressing the guest's power button");
    engine.signal(Signal::INT);
    assert!(engine.end().success(), "{}", engine.log());
}

#[test]
fn a_guest_that_switches_itself_off_is_no_failure() {
    let mut engine = Engine::start(disk(Then::PowerOff), &[]);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(engine.log().contains("the guest has switched itself off"), "{}", engine.log());
}

#[test]
fn a_reboot_of_the_guest_stays_inside_qemu() {
    let mut engine = Engine::start(disk(Then::Reset), &[]);
    engine.wait_for_console(HELLO);
    let qemu = engine.qemu();
    engine.wait_for("a second boot", |engine| engine.console().matches(HELLO).count() > 1);
    assert!(qemu.is_some());
    assert_eq!(engine.qemu(), qemu);
}

#[test]
fn the_death_of_qemu_is_a_failure_that_names_the_signal() {
    let mut engine = Engine::start(disk(Then::Sleep), &[]);
    engine.wait_for_log("the machine runs");
    kill_process(engine.qemu().unwrap(), Signal::KILL).unwrap();
    assert_eq!(engine.end().code(), Some(1));
    assert!(engine.log().contains("QEMU was killed by signal 9"), "{}", engine.log());
}

#[test]
fn a_hanging_qemu_is_killed() {
    let mut engine = Engine::start(disk(Then::Sleep), &[]);
    engine.wait_for_log("the machine runs");
    kill_process(engine.qemu().unwrap(), Signal::STOP).unwrap();
    engine.signal(Signal::TERM);
    assert!(engine.end().success(), "{}", engine.log());
    assert!(engine.log().contains("killing"), "{}", engine.log());
}

#[test]
fn what_qemu_says_about_a_machine_it_cannot_make_is_in_the_failure() {
    let image = Image::new(&json!({"kernel": "kernel"}));
    image.file("kernel", b"not a kernel");
    let mut engine = Engine::start(image, &[]);
    assert_eq!(engine.end().code(), Some(1));
    let log = engine.log();
    let (_, words) = log.split_once("QEMU ended with code 1; its last words: ").expect(&log);
    assert!(words.contains("kernel"), "{log}");
}

#[test]
fn an_image_without_qemu_is_told_from_a_broken_machine() {
    let mut engine = Engine::start(disk(Then::Sleep), &["--qemu=/nonexistent/qemu"]);
    assert_eq!(engine.end().code(), Some(1));
    assert!(engine.log().contains("cannot start /nonexistent/qemu"), "{}", engine.log());
}

#[test]
fn a_kernel_comes_before_a_disk_that_could_boot_too() {
    let image = Image::new(&json!({"kernel": "kernel", "disk": "disk.img"}));
    image.file("kernel", &guest::dotting_kernel());
    image.file("disk.img", &Then::Sleep.disk());
    let mut engine = Engine::start(image, &[]);
    engine.wait_for_console("..");
}

#[test]
fn a_saved_machine_goes_on_where_it_was_paused_instead_of_booting() {
    let kernel = guest::dotting_kernel();
    let image = Image::new(&json!({"kernel": "kernel"}));
    image.file("kernel", &kernel);
    let mut first = Engine::start(image, &[]);
    first.wait_for_console("..");
    first.ask("stop", &json!({}));
    let saved = first.image().path("saved");
    first.ask("migrate", &json!({"uri": format!("exec:cat > {}", saved.display())}));
    first.wait_for("the saved state", |first| first.ask("query-migrate", &json!({}))["status"] == "completed");

    let image = Image::new(&json!({"kernel": "kernel", "state": "saved"}));
    image.file("kernel", &kernel);
    image.file("saved", &std::fs::read(&saved).unwrap());
    let mut second = Engine::start(image, &[]);
    second.wait_for_console("..");
    assert_eq!(second.console().replace('.', ""), "");
    second.signal(Signal::TERM);
    assert!(second.end().success(), "{}", second.log());
}
