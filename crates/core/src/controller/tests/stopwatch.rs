//! How long attaching and detaching take.

use std::time::Duration;

use super::builder::{Builder, world};
use crate::conditions::{GuestPort, PluggedState};
use crate::controller::stopwatch::{Lap, Stopwatch};
use crate::controller::world::Placement;

/// A machine with nothing, seen by a stopwatch at time 0.
fn begun() -> (Builder, Stopwatch) {
    let mut it = world().node("node-1").node("node-2").device("stick", "node-1").assigned("stick", "blue");
    it = it.vm("blue", "vm-a", "node-2", &[]).settled();
    let mut watch = Stopwatch::default();
    assert_eq!(watch.look(&it.world, Duration::ZERO), []);
    (it, watch)
}

/// The laps that end at a time, in seconds.
fn look(watch: &mut Stopwatch, it: &Builder, at: u64) -> Vec<(Lap, u64)> {
    watch.look(&it.world, Duration::from_secs(at)).into_iter().map(|(lap, took)| (lap, took.as_secs())).collect()
}

fn plugged() -> Option<PluggedState> {
    Some(PluggedState::Plugged(GuestPort { bus: 0, port: "1".to_owned() }))
}

#[test]
fn each_step_is_measured_once_from_its_beginning_to_its_end() {
    let (mut it, mut watch) = begun();
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    assert_eq!(look(&mut watch, &it, 10), []);
    it.attachment().placement = Placement::Placed(0);
    assert_eq!(look(&mut watch, &it, 12), [(Lap::Schedule, 2)]);
    it.attachment().plugged = Some(PluggedState::Waiting("for node-1".to_owned()));
    assert_eq!(look(&mut watch, &it, 13), []);
    it.attachment().plugged = plugged();
    assert_eq!(look(&mut watch, &it, 17), [(Lap::Plug, 5), (Lap::Attach, 7)]);
    it.attachment().plugged = Some(PluggedState::Waiting("for the device".to_owned()));
    assert_eq!(look(&mut watch, &it, 20), []);
    it.attachment().plugged = plugged();
    assert_eq!(look(&mut watch, &it, 30), [], "a device that comes back is not attached anew");
    it.attachment().deleting = true;
    assert_eq!(look(&mut watch, &it, 40), []);
    it.attachment().plugged = Some(PluggedState::Unplugged);
    assert_eq!(look(&mut watch, &it, 41), [(Lap::Unplug, 1)]);
    assert_eq!(look(&mut watch, &it, 42), []);
    it.sweep();
    assert_eq!(look(&mut watch, &it, 44), [(Lap::Detach, 4)]);
    assert_eq!(look(&mut watch, &it, 45), []);
}

#[test]
fn what_has_begun_before_the_first_look_is_not_measured() {
    let (mut it, mut watch) = begun();
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    watch.stop();
    assert_eq!(look(&mut watch, &it, 10), []);
    it.attachment().placement = Placement::Placed(0);
    it.attachment().plugged = plugged();
    assert_eq!(look(&mut watch, &it, 12), []);
    it.attachment().deleting = true;
    watch.stop();
    assert_eq!(look(&mut watch, &it, 14), []);
    it.sweep();
    assert_eq!(look(&mut watch, &it, 15), []);
}

#[test]
fn an_attachment_that_ends_before_the_device_was_in_the_guest_detaches_nothing() {
    let (mut it, mut watch) = begun();
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    assert_eq!(look(&mut watch, &it, 10), []);
    it.attachment().deleting = true;
    assert_eq!(look(&mut watch, &it, 11), []);
    it.sweep();
    assert_eq!(look(&mut watch, &it, 12), []);
}

#[test]
fn a_device_that_is_out_of_the_guest_before_its_deletion_is_seen_is_detached_all_the_same() {
    let (mut it, mut watch) = begun();
    it.list("blue", "vm-a", &["stick"]);
    it.act();
    assert_eq!(look(&mut watch, &it, 10), []);
    it.attachment().placement = Placement::Placed(0);
    it.attachment().plugged = plugged();
    assert_eq!(look(&mut watch, &it, 12), [(Lap::Schedule, 2), (Lap::Plug, 0), (Lap::Attach, 2)]);
    it.attachment().deleting = true;
    it.attachment().plugged = Some(PluggedState::Unplugged);
    assert_eq!(look(&mut watch, &it, 14), [(Lap::Unplug, 0)]);
    it.sweep();
    assert_eq!(look(&mut watch, &it, 15), [(Lap::Detach, 1)]);
}
