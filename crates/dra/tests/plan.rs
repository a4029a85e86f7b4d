//! The plan of slices: what every reader of the API may rely on while it is
//! carried out, cut off, and made again.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, ResourcePool, ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use patchbay_dra::slices::{Action, PoolPlan, plan};
use patchbay_dra::{NodeScope, Pool, Publishing};
use proptest::prelude::*;

fn publishing() -> Publishing {
    Publishing { driver: "dra.example.com".into(), node: "node-1".into() }
}

fn owner(uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: "node-1".into(),
        uid: uid.into(),
        ..OwnerReference::default()
    }
}

fn device(number: usize, version: u32) -> Device {
    let attribute = DeviceAttribute { int: Some(version.into()), ..DeviceAttribute::default() };
    Device {
        name: format!("d{number:03}"),
        attributes: Some([("v".to_owned(), attribute)].into()),
        ..Device::default()
    }
}

fn pool(name: &str, devices: impl IntoIterator<Item = Device>) -> Pool {
    let (pool, left_out) = Pool::new(name, NodeScope::AllNodes, devices);
    assert_eq!(left_out, []);
    pool
}

fn devices(count: usize, version: u32) -> Vec<Device> {
    (0..count).map(|n| device(n, version)).collect()
}

/// The API's slices, as strict as the API is.
#[derive(Default, Clone)]
struct World {
    slices: BTreeMap<String, ResourceSlice>,
    floors: BTreeMap<String, i64>,
    version: u64,
}

impl World {
    fn put(&mut self, mut slice: ResourceSlice) {
        self.version += 1;
        slice.metadata.resource_version = Some(self.version.to_string());
        let uid = self.version.to_string();
        slice.metadata.uid.get_or_insert(uid);
        let floor = self.floors.entry(slice.spec.pool.name.clone()).or_default();
        *floor = slice.spec.pool.generation.max(*floor);
        let name = slice.metadata.name.clone().unwrap();
        self.slices.insert(name, slice);
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Create(slice) => {
                assert!(!self.slices.contains_key(slice.metadata.name.as_ref().unwrap()));
                self.put((**slice).clone());
            }
            Action::Update(slice) => {
                let old = &self.slices[slice.metadata.name.as_ref().unwrap()];
                assert_eq!(old.metadata.resource_version, slice.metadata.resource_version);
                assert_eq!(old.spec.node_name, slice.spec.node_name, "immutable");
                assert_ne!(old, &**slice, "a write that changes nothing");
                self.put((**slice).clone());
            }
            Action::Delete { name, uid } => {
                let old = self.slices.remove(name).expect("deletes what is there");
                assert_eq!(&old.metadata.uid, uid);
            }
        }
    }

    fn plan(&self, wanted: &[Pool]) -> Vec<PoolPlan> {
        plan(&publishing(), &owner("n1"), wanted, &self.slices, &self.floors)
    }

    /// Carries out the plan and returns the number of writes.
    fn converge(&mut self, wanted: &[Pool]) -> usize {
        let plans = self.plan(wanted);
        let actions: Vec<_> = plans.iter().flat_map(|plan| &plan.actions).collect();
        actions.iter().for_each(|action| self.act(action));
        assert_eq!(self.plan(wanted), [], "a second plan has nothing to do");
        actions.len()
    }

    /// What a reader takes for the pool's latest state: generation, whether it is
    /// complete, and the devices.
    fn read(&self, pool: &str) -> (i64, bool, Vec<Device>) {
        let of_pool = || self.slices.values().filter(|s| s.spec.pool.name == pool);
        let highest = of_pool().map(|s| s.spec.pool.generation).max().unwrap_or(0);
        let latest: Vec<_> = of_pool().filter(|s| s.spec.pool.generation == highest).collect();
        let counts: BTreeSet<_> = latest.iter().map(|s| s.spec.pool.resource_slice_count).collect();
        assert!(counts.len() <= 1, "slices of one generation disagree: {counts:?}");
        let count = counts.first().copied().unwrap_or(-1);
        let present = i64::try_from(latest.len()).unwrap();
        assert!(present <= count || count == -1, "more slices than announced");
        let mut devices: Vec<_> = latest.iter().flat_map(|s| s.spec.devices.clone().unwrap_or_default()).collect();
        devices.sort_by(|a, b| a.name.cmp(&b.name));
        let names: BTreeSet<_> = devices.iter().map(|d| d.name.clone()).collect();
        assert_eq!(names.len(), devices.len(), "a device is there twice");
        (highest, present == count, devices)
    }
}

#[test]
fn the_number_of_writes_is_the_least_that_readers_need() {
    // devices before, devices after, version after, writes
    for (before, after, version, writes) in [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (5, 5, 0, 0),
        (5, 6, 0, 1),
        (128, 127, 0, 1),
        (128, 129, 0, 2),
        (129, 128, 0, 2),
        (300, 300, 1, 3),
        (300, 300, 0, 0),
        (300, 0, 0, 3),
        (0, 300, 0, 3),
    ] {
        let mut world = World::default();
        world.converge(&[pool("p", devices(before, 0))]);
        let generation = world.read("p").0;
        let wanted = pool("p", devices(after, version));
        let did = world.converge(std::slice::from_ref(&wanted));
        assert_eq!(did, writes, "{before} -> {after}");
        let expected = generation + i64::from(writes > 0);
        assert_eq!(world.read("p"), (expected, true, wanted.devices().to_vec()));
    }
}

#[test]
fn a_pool_without_devices_keeps_one_empty_slice() {
    let mut world = World::default();
    assert_eq!(world.converge(&[pool("p", [])]), 1);
    assert_eq!(world.read("p"), (1, true, vec![]));
    assert_eq!(world.converge(&[]), 1, "a pool that is not wanted goes");
    assert!(world.slices.is_empty());
}

#[test]
fn a_change_of_a_single_slice_is_one_update_of_the_same_object() {
    let mut world = World::default();
    world.converge(&[pool("p", devices(2, 0)), pool("q", devices(1, 0))]);
    let plans = world.plan(&[pool("p", devices(2, 1)), pool("q", devices(1, 0))]);
    let [plan] = plans.as_slice() else { panic!("{plans:?}") };
    let [Action::Update(slice)] = plan.actions.as_slice() else { panic!("{plan:?}") };
    assert_eq!(slice.spec.pool.generation, 2);
}

#[test]
fn a_deleted_slice_costs_one_write() {
    let mut world = World::default();
    let wanted = [pool("p", devices(300, 0))];
    world.converge(&wanted);
    let name = publishing().slice_name("p", 1);
    world.slices.remove(&name);
    assert_eq!(world.converge(&wanted), 1);
    assert_eq!(world.read("p").0, 1, "the same content, so the same generation");
}

#[test]
fn generations_are_not_used_again_after_everything_was_deleted() {
    let mut world = World::default();
    world.converge(&[pool("p", devices(1, 0))]);
    world.converge(&[pool("p", devices(1, 1))]);
    world.slices.clear();
    world.converge(&[pool("p", devices(1, 2))]);
    assert_eq!(world.read("p").0, 3);
}

#[test]
fn a_foreign_edit_is_undone_with_a_new_generation_and_strangers_go() {
    let mut world = World::default();
    let wanted = [pool("p", devices(2, 0))];
    world.converge(&wanted);
    let mut edited = world.slices.values().next().unwrap().clone();
    edited.spec.devices = None;
    world.put(edited.clone());
    let mut stranger = edited;
    stranger.metadata = ObjectMeta { name: Some("stranger".into()), ..ObjectMeta::default() };
    stranger.spec.pool.generation = 7;
    world.put(stranger);
    assert_eq!(world.converge(&wanted), 2);
    assert_eq!(world.read("p"), (8, true, devices(2, 0)));
    assert_eq!(world.slices.len(), 1);
}

#[test]
fn a_new_node_object_becomes_the_owner_without_a_new_generation() {
    let mut world = World::default();
    let wanted = [pool("p", devices(1, 0))];
    world.converge(&wanted);
    let plans = plan(&publishing(), &owner("n2"), &wanted, &world.slices, &world.floors);
    let [Action::Update(slice)] = plans[0].actions.as_slice() else { panic!("{plans:?}") };
    assert_eq!(slice.metadata.owner_references, Some(vec![owner("n2")]));
    assert_eq!(slice.spec.pool.generation, 1);
}

#[test]
fn a_label_that_is_missing_or_wrong_is_put_right_without_a_new_generation() {
    let (key, wanted) = (publishing().label(), [pool("p", devices(300, 0))]);
    for labels in [None, Some([(key.clone(), "node-2".to_owned())].into()), Some([("a".into(), "b".into())].into())] {
        let mut world = World::default();
        world.converge(&wanted);
        let mut edited = world.slices.values().next().unwrap().clone();
        edited.metadata.labels = labels.clone();
        world.put(edited);
        let plans = world.plan(&wanted);
        let [Action::Update(slice)] = plans[0].actions.as_slice() else { panic!("{plans:?}") };
        let mut right: BTreeMap<String, String> = labels.unwrap_or_default();
        right.insert(key.clone(), "node-1".into());
        assert_eq!(slice.metadata.labels, Some(right), "other labels stay");
        assert_eq!((slice.spec.pool.generation, world.converge(&wanted)), (1, 1));
    }
}

#[test]
fn a_slice_that_moves_to_another_scope_is_made_again() {
    let mut world = World::default();
    world.converge(&[pool("p", devices(1, 0))]);
    let local = Pool::new("p", NodeScope::NodeName("node-1".into()), devices(1, 0)).0;
    assert_eq!(world.converge(&[local]), 2);
    let slice = world.slices.values().next().unwrap();
    assert_eq!(slice.spec.node_name.as_deref(), Some("node-1"));
    assert_eq!(slice.spec.all_nodes, None);
}

#[test]
fn names_tell_node_and_driver_apart_from_any_other_combination() {
    let name = |driver: &str, node: &str, pool: &str| {
        let publishing = Publishing { driver: driver.into(), node: node.into() };
        publishing.slice_name(pool, 0)
    };
    assert!(name("dra.example.com", "node-1", "p").starts_with("node-1-dra-"));
    let names: BTreeSet<_> =
        [name("a.x", "n", "p"), name("a.y", "n", "p"), name("a.x", "n-a", "p"), name("a.x", "n", "p2")].into();
    assert_eq!(names.len(), 4);
    let long = name(&format!("{}.x", "d".repeat(60)), &"n.".repeat(126), "p");
    assert!(long.len() <= 253 && !long.contains(".-"), "{long}");
}

#[test]
fn slices_of_other_nodes_and_drivers_are_not_ours() {
    let mut world = World::default();
    world.converge(&[pool("p", devices(1, 0))]);
    let slice = world.slices.into_values().next().unwrap();
    assert!(publishing().made(&slice));
    let mut other = publishing();
    other.node = "node".into();
    assert!(!other.made(&slice));
    other = publishing();
    other.driver = "dra.example.org".into();
    assert!(!other.made(&slice));
}

/// Some devices of some version.
fn any_devices() -> impl Strategy<Value = Vec<Device>> {
    let count = prop_oneof![0..4usize, 126..131usize, 250..300usize];
    (count, 0..2u32, 0..3usize).prop_map(|(count, version, skip)| (skip..count).map(|n| device(n, version)).collect())
}

/// A slice of pool `p` that somebody left there.
fn any_slice() -> impl Strategy<Value = ResourceSlice> {
    let name = prop_oneof![(0..4usize).prop_map(|n| publishing().slice_name("p", n)), "stranger-[ab]",];
    let content = (any_devices(), 1..4i64, 1..4i64, any::<bool>());
    let label = prop::option::of(prop_oneof!["node-1", "node-2"]);
    (name, label, content).prop_map(|(name, label, (devices, generation, count, local))| ResourceSlice {
        metadata: ObjectMeta {
            name: Some(name),
            labels: label.map(|node| [(publishing().label(), node)].into()),
            ..ObjectMeta::default()
        },
        spec: ResourceSliceSpec {
            driver: publishing().driver,
            pool: ResourcePool { name: "p".into(), generation, resource_slice_count: count },
            devices: Some(devices),
            all_nodes: (!local).then_some(true),
            node_name: local.then(|| "node-1".to_owned()),
            ..ResourceSliceSpec::default()
        },
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// The driver changes its mind at any moment, also in the middle of writes, as
    /// a crash or a failed request leaves them. What readers have seen of a
    /// generation only grows, up to all of what was wanted when it was completed.
    #[test]
    fn a_generation_only_grows_whatever_is_cut_off(
        steps in prop::collection::vec((any_devices(), 0..6usize), 1..8),
    ) {
        let mut world = World::default();
        let mut before = (0, false, Vec::new());
        for (devices, writes) in steps {
            let wanted = [pool("p", devices)];
            let plans = world.plan(&wanted);
            for action in plans.iter().flat_map(|plan| &plan.actions).take(writes) {
                world.act(action);
                let (generation, complete, devices) = world.read("p");
                prop_assert!(generation >= before.0);
                if generation == before.0 {
                    prop_assert!(before.2.iter().all(|device| devices.contains(device)));
                    prop_assert!(!before.1 || before.2 == devices, "changed after it was complete");
                }
                prop_assert!(devices.iter().all(|device| wanted[0].devices().contains(device)));
                if complete {
                    prop_assert_eq!(&devices, wanted[0].devices());
                }
                before = (generation, complete, devices);
            }
        }
        let last = [pool("p", devices(2, 9))];
        world.converge(&last);
        prop_assert_eq!(world.read("p").2, devices(2, 9));
    }

    /// Whatever is there at the start: the first write already makes readers see
    /// only what is wanted, and the last one all of it.
    #[test]
    fn any_state_is_repaired(
        left in prop::collection::vec(any_slice(), 0..5),
        devices in any_devices(),
    ) {
        let mut world = World::default();
        left.into_iter().for_each(|slice| world.put(slice));
        let wanted = [pool("p", devices)];
        for action in world.plan(&wanted).iter().flat_map(|plan| &plan.actions) {
            world.act(action);
            let deletes = matches!(action, Action::Delete { .. });
            if !deletes {
                let (_, _, seen) = world.read("p");
                prop_assert!(seen.iter().all(|device| wanted[0].devices().contains(device)));
            }
        }
        prop_assert_eq!(world.plan(&wanted), []);
        let (_, complete, seen) = world.read("p");
        prop_assert!(complete);
        prop_assert_eq!(seen, wanted[0].devices().to_vec());
    }
}
