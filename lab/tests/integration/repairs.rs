//! What others do to the slices of a node, and how they are put right.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use patchbay_api::keys;
use patchbay_core::speed::Speed;
use patchbay_lab::api::request;
use patchbay_lab::object_node;
use patchbay_lab::wait::wait_for;

use crate::node::{Node, device, published};
use crate::reader;
use crate::stage::{Stage, create, delete, eventually, get, merge};

/// The pause before a repair doubles, up to half a minute, with each that was needed a short time before.
const REPAIRED: Duration = Duration::from_secs(60);

/// A node with so many devices that they take three slices, and what its slices shall hold.
fn node(stage: &Stage) -> (Node, impl Fn() -> Vec<ResourceSlice>) {
    let node = Node::join(stage, "node-1");
    let devices: Vec<_> = (1..=260).map(|n| device(&format!("camera-{n:03}"), n, Speed::High)).collect();
    let wanted = published(node.name(), &devices);
    node.has(devices);
    let whole = move || {
        let whole = wait_for("the pool to be whole and right", REPAIRED, || {
            let slices = stage.slices("node-1")?;
            let right = reader::read(&slices)?.as_ref() == Some(&wanted) && slices.len() == 3;
            let owned = |slice: &ResourceSlice| slice.owner_references().len() == 1;
            let labelled = |slice: &ResourceSlice| slice.labels().get(keys::NODE).is_some_and(|node| node == "node-1");
            if right && slices.iter().all(|slice| owned(slice) && labelled(slice)) {
                Ok(slices)
            } else {
                Err(format!("{} slices", slices.len()))
            }
        });
        whole.unwrap()
    };
    (node, whole)
}

fn replace(stage: &Stage, slice: &ResourceSlice) {
    let slices: Api<ResourceSlice> = stage.all();
    request("edit a slice", slices.replace(&slice.name_any(), &PostParams::default(), slice)).unwrap();
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn what_others_do_to_the_slices_is_put_right() {
    let stage = Stage::open();
    let (node, whole) = node(&stage);
    let before = whole();

    // Somebody deletes one.
    delete(&stage.all::<ResourceSlice>(), &before[1].name_any());
    let completed = whole();
    let generation = |slices: &[ResourceSlice]| slices[0].spec.pool.generation;
    assert_eq!(generation(&completed), generation(&before), "only what is missing is written");

    // Somebody changes one, and what whoever reads it believes.
    let mut edited = completed[0].clone();
    edited.spec.devices.as_mut().unwrap().truncate(1);
    replace(&stage, &edited);
    let repaired = whole();
    assert!(generation(&repaired) > generation(&completed), "the edit has been read");

    // Somebody loses a field.
    let mut dropped = repaired[2].clone();
    dropped.spec.devices.as_mut().unwrap()[0].attributes.as_mut().unwrap().remove("speed");
    dropped.metadata.owner_references = None;
    replace(&stage, &dropped);
    let repaired = whole();

    // Somebody publishes into the pool.
    let mut stranger = repaired[0].clone();
    stranger.metadata = serde_json::from_value(serde_json::json!({"name": "stranger"})).unwrap();
    stranger.spec.pool.generation += 50;
    stranger.spec.pool.resource_slice_count = 1;
    create(&stage.all(), &stranger);
    let repaired = whole();
    assert!(generation(&repaired) > stranger.spec.pool.generation);
    assert_eq!(node.publisher().problem, None);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_label_that_was_taken_away_or_changed_is_put_right() {
    let stage = Stage::open();
    let (node, whole) = node(&stage);
    let before = whole();
    for label in [None, Some("node-2")] {
        merge(
            &stage.all::<ResourceSlice>(),
            &before[1].name_any(),
            serde_json::json!({"metadata": {"labels": {keys::NODE: label}}}),
        );
        let after = whole();
        let same = |(a, b): (&ResourceSlice, &ResourceSlice)| {
            a.uid() == b.uid() && a.spec.pool.generation == b.spec.pool.generation
        };
        assert!(before.iter().zip(&after).all(same), "the same objects, and no new generation");
    }
    eventually("the publisher to be content", || {
        let status = node.publisher();
        if status.in_sync && status.problem.is_none() { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn slices_go_with_the_node_object_and_come_back_with_the_next() {
    let stage = Stage::open();
    let (node, whole) = node(&stage);
    let before = whole();
    let nodes: Api<NodeObject> = stage.all();
    delete(&nodes, "node-1");
    eventually("the garbage collector to remove the slices", || {
        let left = stage.slices("node-1")?;
        if left.is_empty() { Ok(()) } else { Err(format!("{} slices", left.len())) }
    });
    let problem =
        eventually("the publisher to say why", || node.publisher().problem.ok_or_else(|| "no problem".to_owned()));
    assert!(problem.contains("node node-1 does not exist"), "{problem}");

    object_node::create(&nodes, "node-1").unwrap();
    let after = whole();
    let owner =
        |slices: &[ResourceSlice]| slices.iter().map(|s| s.owner_references()[0].uid.clone()).collect::<Vec<_>>();
    let uid = get(&nodes, "node-1").unwrap().uid().unwrap();
    assert_eq!(owner(&after), [uid.clone(), uid.clone(), uid]);
    let generation = |slices: &[ResourceSlice]| slices[0].spec.pool.generation;
    assert!(generation(&after) >= generation(&before), "whoever reads the pool has seen the old one");

    // Deleted and made again before anybody could look.
    delete(&nodes, "node-1");
    object_node::create(&nodes, "node-1").unwrap();
    let uid = get(&nodes, "node-1").unwrap().uid().unwrap();
    eventually("slices of the newest object", || {
        let owners = owner(&stage.slices("node-1")?);
        if owners == [uid.clone(), uid.clone(), uid.clone()] { Ok(()) } else { Err(format!("{owners:?}")) }
    });
    whole();
}
