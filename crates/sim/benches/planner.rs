//! What a plan of the controller costs, and how that grows with the fleet: `cargo bench -p patchbay-sim`.
//!
//! Each size has ten devices in each node, as many virtual machines as nodes, and two devices in each of these.

use divan::Bencher;
use patchbay_core::controller::{World, plan};
use patchbay_sim::fleet::{Fleet, settled};

/// Devices of the fleets.
const SIZES: &[usize] = &[100, 1_000, 10_000, 100_000];

fn main() {
    divan::main();
}

#[expect(clippy::expect_used, reason = "without a world there is nothing to measure")]
fn world(devices: usize) -> World {
    settled(Fleet::of_devices(devices)).expect("a fleet at rest")
}

/// Nothing is to be done.
#[divan::bench(args = SIZES)]
fn at_rest(bencher: Bencher<'_, '_>, devices: usize) {
    let world = world(devices);
    bencher.bench_local(|| plan(&world));
}

/// The cable of a device that is in a machine was pulled.
#[divan::bench(args = SIZES)]
fn one_change(bencher: Bencher<'_, '_>, devices: usize) {
    let mut world = world(devices);
    let attached = Fleet::of_devices(devices).assignments().next();
    for pool in world.pools.values_mut() {
        pool.devices.retain(|device| attached.as_ref().is_none_or(|(name, _)| device.name != *name));
    }
    bencher.bench_local(|| plan(&world));
}
