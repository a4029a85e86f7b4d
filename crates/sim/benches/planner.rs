//! What a plan of the controller costs, and how that grows with the fleet: `cargo bench -p patchbay-sim`.
//!
//! Each size has ten devices in each node, as many virtual machines as nodes, and two devices in each of these.

use divan::Bencher;
use patchbay_core::controller::world::Pool;
use patchbay_core::controller::{Planner, World, plan};
use patchbay_core::names::NodeName;
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

/// A planner that has nothing to do.
fn planner(world: &World) -> Planner {
    let mut planner = Planner::default();
    planner.follow(world);
    planner.plan(world.now);
    planner
}

/// The pool of a device that is in a machine, as it is, and with its cable pulled.
fn cable(world: &World, devices: usize) -> Option<(NodeName, [Pool; 2])> {
    let (device, _) = Fleet::of_devices(devices).assignments().next()?;
    let has = |pool: &Pool| pool.devices.iter().any(|d| d.name == device);
    let (node, pool) = world.pools.iter().find(|(_, pool)| has(pool))?;
    let mut pulled = pool.clone();
    pulled.devices.retain(|d| d.name != device);
    Some((node.clone(), [pulled, pool.clone()]))
}

/// The whole world is planned for, and nothing is to be done.
#[divan::bench(args = SIZES)]
fn whole(bencher: Bencher<'_, '_>, devices: usize) {
    let world = world(devices);
    bencher.bench_local(|| plan(&world));
}

/// A controller starts, and has seen everything.
#[divan::bench(args = SIZES, sample_count = 10)]
fn start(bencher: Bencher<'_, '_>, devices: usize) {
    let world = world(devices);
    let follow = || {
        let mut planner = Planner::default();
        planner.follow(&world);
        planner
    };
    bencher.with_inputs(follow).bench_local_values(|mut planner| planner.plan(world.now));
}

/// The cable of a device that is in a machine is pulled, and put back.
#[divan::bench(args = SIZES)]
fn one_change(bencher: Bencher<'_, '_>, devices: usize) {
    let world = world(devices);
    let mut planner = planner(&world);
    let Some((node, states)) = cable(&world, devices) else { return };
    let mut states = states.iter().cycle();
    bencher.bench_local(|| {
        planner.pool(&node, states.next());
        planner.plan(world.now)
    });
}
