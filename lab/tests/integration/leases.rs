//! Of several controllers one leads.

use std::time::Duration;

use patchbay_core::speed::Speed;

use crate::node::{Node, device};
use crate::program::Running;
use crate::stage::Stage;

/// A lease lasts 15 s.
const TAKEN_OVER: Duration = Duration::from_secs(25);

/// Words of the log of a controller that has written something.
const WROTE: &str = " took=";

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn when_the_leading_controller_is_killed_another_takes_over() {
    let stage = Stage::open();
    let home = Node::join(&stage, "node-1");
    let mut first = Running::leader(&stage, "controller-1");
    let mut second = Running::controller(&stage, "controller-2");
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    first.process().kill();
    assert!(!second.has_said(WROTE), "only the leader writes");
    home.plug(device("token", 2, Speed::High));
    second.leads(TAKEN_OVER);
    stage.node_device_is("token", "Ready", "Ready");
    stage.check(&second);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_leading_controller_that_was_out_for_too_long_ends_when_it_comes_to() {
    let stage = Stage::open();
    let home = Node::join(&stage, "node-1");
    let mut first = Running::leader(&stage, "controller-1");
    let mut second = Running::controller(&stage, "controller-2");
    first.process().freeze();
    second.leads(TAKEN_OVER);
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    first.process().thaw();
    assert!(!first.ended(Duration::from_secs(15)).success());
    assert!(first.has_said("another controller has taken the lease"), "{:?}", first.complaints());
    assert!(!first.has_said(WROTE), "it does not write on the strength of a lease it has lost");
    stage.check(&second);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_controller_that_ends_in_order_does_not_keep_the_next_one_waiting() {
    let stage = Stage::open();
    let home = Node::join(&stage, "node-1");
    let mut first = Running::leader(&stage, "controller-1");
    let mut second = Running::controller(&stage, "controller-2");
    home.plug(device("webcam", 1, Speed::High));
    stage.node_device_is("webcam", "Ready", "Ready");
    first.stop();
    second.leads(Duration::from_secs(5));
    home.plug(device("token", 2, Speed::High));
    stage.node_device_is("token", "Ready", "Ready");
    stage.check(&second);
}
