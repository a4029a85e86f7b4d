//! The controller dies, the API server dies, a connection dies.

use std::time::{Duration, Instant};

use patchbay_api::NodeUSBDevice;
use patchbay_core::speed::Speed;
use patchbay_lab::wait::{INTERVAL, wait_for};

use crate::audit::Tail;
use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::{SOON, Stage, eventually, get};
use crate::wire::Wire;

/// What happened first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// So many writes, and the controller was killed.
    Killed,
    /// Everything was done with fewer.
    Done,
}

/// Kills the controller as soon as it has written `count` times, unless `done` comes first.
fn kill_after(mut tail: Tail, controller: &mut Running, count: usize, done: impl Fn() -> bool) -> First {
    let end = Instant::now() + SOON;
    let (mut left, mut asked) = (count, Instant::now());
    while Instant::now() < end {
        // The log is read without a pause: writes follow each other within milliseconds.
        while let Some(write) = tail.next() {
            left -= usize::from(write.is_of("controller"));
            if left == 0 {
                controller.process().kill();
                return First::Killed;
            }
        }
        if asked.elapsed() > INTERVAL {
            asked = Instant::now();
            if done() {
                controller.process().kill();
                return First::Done;
            }
        }
        std::thread::yield_now();
    }
    panic!("neither were there {count} writes, nor was it done");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_controller_that_is_killed_after_any_write_goes_on_where_it_was() {
    let stage = Stage::open();
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    home.plug(device("webcam", 1, Speed::High));
    stage.namespace("blue");
    stage.machine("blue", "linux-vm", "node-2", &[]);
    let attached = || stage.entries("blue", "linux-vm").is_ok_and(|e| e.iter().any(|e| e.attached));
    let empty = || {
        stage.entries("blue", "linux-vm").is_ok_and(|entries| entries.is_empty())
            && stage.attachments("blue").is_ok_and(|pods| pods.is_empty())
    };
    let mut first = [First::Killed; 2];
    let mut count = 1;
    // The first round begins before there is any object of ours in the namespace.
    while first != [First::Done; 2] {
        let mut controller = Running::leader(&stage, "controller-1");
        if count == 1 {
            stage.node_device_is("webcam", "Ready", "Ready");
            stage.assign("webcam", Some("blue"));
        }
        let tail = stage.tail();
        stage.list("blue", "linux-vm", &["webcam"]);
        first[0] = kill_after(tail, &mut controller, count, attached);
        let mut controller = Running::leader(&stage, "controller-1");
        stage.is_attached("blue", "linux-vm", "webcam");
        assert_eq!(stage.attachments("blue").unwrap().len(), 1);

        let tail = stage.tail();
        stage.list("blue", "linux-vm", &[]);
        first[1] = kill_after(tail, &mut controller, count, empty);
        let _controller = Running::leader(&stage, "controller-1");
        stage.nothing_is_attached("blue");
        stage.device_is("blue", "webcam", "Attached", "Available");
        eventually("the machine's status to be empty", || if empty() { Ok(()) } else { Err("it is not".to_owned()) });
        count += 1;
    }
    assert!(count > 4, "a cycle takes more writes than {count}");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_api_server_that_was_away_finds_the_controller_as_it_left_it() {
    let mut stage = Stage::open();
    let mut controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(8);
    for (name, n) in [("webcam", 1), ("token", 2)] {
        home.plug(device(name, n, Speed::High));
    }
    stage.namespace("blue");
    for name in ["webcam", "token"] {
        stage.node_device_is(name, "Ready", "Ready");
        stage.assign(name, Some("blue"));
    }
    stage.machine("blue", "linux-vm", "node-2", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");

    // It dies in the middle of the work.
    stage.list("blue", "linux-vm", &["webcam", "token"]);
    stage.plane().server().unwrap().kill();
    stage.plane().restart_server().unwrap();
    stage.is_attached("blue", "linux-vm", "token");
    stage.is_attached("blue", "linux-vm", "webcam");

    // It hangs, for so long that the controller does not know any more whether it leads.
    stage.list("blue", "linux-vm", &["token"]);
    stage.plane().server().unwrap().freeze();
    controller.says("lease is not renewed", Duration::from_secs(30));
    stage.plane().server().unwrap().thaw();
    stage.device_is("blue", "webcam", "Attached", "Available");
    stage.list("blue", "linux-vm", &["webcam"]);
    stage.is_attached("blue", "linux-vm", "webcam");
    stage.device_is("blue", "token", "Attached", "Available");
    stage.list("blue", "linux-vm", &[]);
    stage.nothing_is_attached("blue");
    assert_eq!(controller.process().exited(), None, "it has never ended");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_connection_that_dies_without_a_word_is_noticed() {
    let stage = Stage::open();
    let wire = Wire::new(&stage, "controller");
    let controller = Running::leader_with(&stage, wire.kubeconfig(), "controller-1");
    let home = Node::join(&stage, "node-1");
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    wire.cut();
    home.plug(device("token", 2, Speed::High));
    // A watch lasts half a minute, and is given up a little later.
    wait_for("the controller to hear of the token", Duration::from_secs(60), || {
        get(&stage.all::<NodeUSBDevice>(), "token").map(drop)
    })
    .unwrap();
    assert!(!controller.has_said("has taken the lease"));
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_controller_with_nothing_to_do_writes_nothing_but_its_lease() {
    let stage = Stage::open();
    let controller = Running::leader(&stage, "controller-1");
    let (home, importer) = (Node::join(&stage, "node-1"), Node::join(&stage, "node-2"));
    importer.ports(1);
    let names = ["attached", "without-port", "free"];
    for (name, n) in names.iter().zip(1..) {
        home.plug(device(name, n, Speed::High));
    }
    stage.namespace("blue");
    for name in names {
        stage.node_device_is(name, "Ready", "Ready");
        stage.assign(name, Some("blue"));
    }
    // One device is attached, one waits for a port, one for its machine, one does not exist, one is gone.
    stage.machine("blue", "linux-vm", "node-2", &["attached"]);
    stage.is_attached("blue", "linux-vm", "attached");
    stage.list("blue", "linux-vm", &["attached", "without-port"]);
    stage.device_is("blue", "without-port", "Attached", "NoFreeUSBIPPort");
    stage.machine("blue", "elsewhere", "no-such-node", &["free", "no-such-device"]);
    stage.entry("blue", "elsewhere", "free", |e| e.message.contains("waiting for the virtual machine"));
    home.unplug("free");
    stage.device_is("blue", "free", "Ready", "NotFound");
    // What is under way for longer than two seconds is written down.
    stage.passes(Duration::from_secs(3));

    let (before, renewals) = (stage.writes("controller"), stage.renewals());
    stage.passes(Duration::from_secs(21));
    let after: Vec<_> = stage.writes("controller").split_off(before.len()).iter().map(ToString::to_string).collect();
    assert_eq!(after, Vec::<String>::new());
    assert!((4..=7).contains(&(stage.renewals() - renewals)), "the lease is renewed each four seconds");
    stage.check(&controller);
}
