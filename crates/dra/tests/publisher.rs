//! The publisher against an API in memory.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1::Device;
use patchbay_dra::{NodeScope, Patience, Pool, PublisherStatus, Publishing, SlicePublisher};
use serde_json::{Value, json};
use support::{FakeApi, eventually, reaches};
use tokio::sync::watch;
use tokio::task::yield_now;

const SLICES: &str = "resourceslices";

struct Fixture {
    api: FakeApi,
    wanted: watch::Sender<Option<Vec<Pool>>>,
    publisher: SlicePublisher,
    status: watch::Receiver<PublisherStatus>,
}

impl Fixture {
    fn start(api: FakeApi, pools: Option<Vec<Pool>>) -> Self {
        Self::start_with(api, pools, Duration::from_secs(600))
    }

    fn start_with(api: FakeApi, pools: Option<Vec<Pool>>, resync: Duration) -> Self {
        let (first, longest) = (Duration::from_millis(5), Duration::from_millis(40));
        let patience = Patience { first, longest, resync, ..Patience::default() };
        Self::start_patient(api, pools, patience)
    }

    fn start_patient(api: FakeApi, pools: Option<Vec<Pool>>, patience: Patience) -> Self {
        let (wanted, receiver) = watch::channel(pools);
        let publishing = Publishing { driver: "dra.example.com".into(), node: "node-1".into() };
        let publisher = SlicePublisher::start(api.client(), publishing, receiver, patience);
        let status = publisher.status();
        Self { api, wanted, publisher, status }
    }

    async fn in_sync(&mut self) -> PublisherStatus {
        reaches(&mut self.status, |status| status.in_sync).await
    }

    /// Sets what is wanted and waits until readers of the API see it.
    async fn publish(&self, pools: Vec<Pool>) {
        self.wanted.send_replace(Some(pools.clone()));
        self.shows(&pools).await;
    }

    async fn shows(&self, pools: &[Pool]) {
        eventually("the pools are in the API", || {
            let slices = self.api.state().all(SLICES);
            pools.iter().all(|pool| {
                let wanted: BTreeSet<_> = pool.devices().iter().map(|d| d.name.clone()).collect();
                read(&slices, pool.name()) == (true, wanted)
            })
        })
        .await;
    }
}

/// What readers take for a pool's state: complete or not, names of devices.
fn read(slices: &[Value], pool: &str) -> (bool, BTreeSet<String>) {
    let generation = |slice: &Value| slice["spec"]["pool"]["generation"].as_i64().unwrap();
    let of_pool: Vec<_> = slices
        .iter()
        .filter(|s| s["spec"]["driver"] == "dra.example.com" && s["spec"]["pool"]["name"] == pool)
        .collect();
    let highest = of_pool.iter().map(|s| generation(s)).max();
    let latest: Vec<_> = of_pool.iter().filter(|s| Some(generation(s)) == highest).collect();
    let mut names = BTreeSet::new();
    for device in latest.iter().filter_map(|s| s["spec"]["devices"].as_array()).flatten() {
        let name = device["name"].as_str().unwrap().to_owned();
        assert!(names.insert(name), "a device is there twice");
    }
    let complete =
        latest.iter().all(|s| s["spec"]["pool"]["resourceSliceCount"].as_u64() == u64::try_from(latest.len()).ok());
    (complete && !latest.is_empty(), names)
}

fn api() -> FakeApi {
    let api = FakeApi::new();
    api.put("nodes", node("n1"));
    api
}

fn node(uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "uid": uid}})
}

fn pool(name: &str, devices: std::ops::Range<usize>) -> Pool {
    let devices = devices.map(|n| Device { name: format!("d{n}"), ..Device::default() });
    Pool::new(name, NodeScope::AllNodes, devices).0
}

#[tokio::test]
async fn pools_are_published_and_a_change_of_one_device_is_one_write() {
    let mut fixture = Fixture::start(api(), None);
    let local = NodeScope::NodeName("node-1".into());
    let ports = Pool::new("node-1-ports", local, []).0;
    fixture.publish(vec![pool("node-1", 0..2), ports.clone()]).await;
    assert_eq!(fixture.in_sync().await.writes, 2);
    for slice in fixture.api.state().all(SLICES) {
        assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "n1");
        let local = slice["spec"]["pool"]["name"] == "node-1-ports";
        assert_eq!(slice["spec"]["allNodes"] == json!(true), !local);
        assert_eq!(slice["spec"]["nodeName"] == "node-1", local);
    }
    fixture.publish(vec![pool("node-1", 0..3), ports]).await;
    let state = fixture.api.state();
    assert_eq!((state.writes(), state.count("POST"), state.count("PUT")), (3, 2, 1));
}

#[tokio::test]
async fn nothing_is_touched_before_the_driver_has_spoken() {
    let api = api();
    Fixture::start(api.clone(), Some(vec![pool("node-1", 0..2)])).in_sync().await;
    let requests = api.state().requests.len();
    let fixture = Fixture::start(api.clone(), None);
    tokio::task::yield_now().await;
    assert_eq!(api.state().requests.len(), requests);
    drop(fixture.wanted);
    eventually("the publisher has ended", || fixture.status.has_changed().is_err()).await;
    assert_eq!(api.state().requests.len(), requests);
    assert_eq!(api.state().all(SLICES).len(), 1, "slices outlive the publisher");
}

#[tokio::test]
async fn a_restart_and_resyncs_write_nothing() {
    let api = api();
    let wanted = vec![pool("node-1", 0..200)];
    let mut first = Fixture::start(api.clone(), Some(wanted.clone()));
    first.in_sync().await;
    drop(first);
    let writes = api.state().writes();
    let mut second = Fixture::start_with(api.clone(), Some(wanted), Duration::from_millis(20));
    second.in_sync().await;
    eventually("several resyncs", || api.state().count("GET resourceslices") > 5).await;
    assert_eq!(api.state().writes(), writes);
}

#[tokio::test]
async fn edits_deletions_and_strangers_are_repaired() {
    let mut fixture = Fixture::start(api(), Some(vec![pool("node-1", 0..2)]));
    fixture.in_sync().await;
    let wanted = vec![pool("node-1", 0..2)];
    let slice = fixture.api.state().all(SLICES).remove(0);
    let name = slice["metadata"]["name"].as_str().unwrap().to_owned();

    let mut edited = slice.clone();
    edited["spec"]["devices"] = json!([{"name": "other"}]);
    fixture.api.put(SLICES, edited);
    fixture.shows(&wanted).await;

    fixture.api.delete(SLICES, &name);
    fixture.shows(&wanted).await;

    let mut stranger = slice;
    stranger["metadata"] = json!({"name": "stranger"});
    fixture.api.put(SLICES, stranger);
    eventually("the stranger is gone", || fixture.api.state().get(SLICES, "stranger").is_none()).await;
    fixture.shows(&wanted).await;
    drop(fixture.publisher);
}

/// Edits the labels of all slices, as somebody would, or as a version without them has left them.
fn relabel(api: &FakeApi, labels: &Value) {
    let slices = api.state().all(SLICES);
    for mut slice in slices {
        slice["metadata"]["labels"] = labels.clone();
        api.put(SLICES, slice);
    }
}

/// Waits until all slices have the label of the node; gives their uids.
async fn labelled(api: &FakeApi) -> Vec<Value> {
    let slices = || api.state().all(SLICES);
    eventually("slices with their label", || {
        slices().iter().all(|slice| slice["metadata"]["labels"]["dra.example.com/node"] == "node-1")
    })
    .await;
    slices().iter().map(|slice| slice["metadata"]["uid"].clone()).collect()
}

#[tokio::test]
async fn slices_of_a_former_version_get_their_label_or_go() {
    let api = api();
    let wanted = vec![pool("node-1", 0..200)];
    let mut former = Fixture::start(api.clone(), Some(vec![pool("node-1", 0..200), pool("old", 0..1)]));
    former.in_sync().await;
    drop(former);
    relabel(&api, &Value::Null);
    let before = api.state().all(SLICES);
    let writes = api.state().writes();
    let mut fixture = Fixture::start(api.clone(), Some(wanted.clone()));
    fixture.shows(&wanted).await;
    eventually("the former pool is gone", || api.state().all(SLICES).len() == 2).await;
    let uids = labelled(&api).await;
    fixture.in_sync().await;
    assert_eq!(api.state().writes() - writes, 3, "two labels, one deletion");
    assert!(uids.iter().all(|uid| before.iter().any(|slice| slice["metadata"]["uid"] == *uid)), "the same objects");
}

#[tokio::test]
async fn a_label_that_was_taken_away_or_changed_comes_back() {
    let mut fixture = Fixture::start(api(), Some(vec![pool("node-1", 0..200)]));
    fixture.in_sync().await;
    let before = labelled(&fixture.api).await;
    for labels in [json!({"other": "stays"}), json!({"dra.example.com/node": "node-2"}), Value::Null] {
        relabel(&fixture.api, &labels);
        assert_eq!(labelled(&fixture.api).await, before, "the same objects, after {labels}");
        for slice in fixture.api.state().all(SLICES) {
            assert_eq!(slice["metadata"]["labels"]["other"], labels["other"]);
            assert_eq!(slice["spec"]["pool"]["generation"], 1, "no reason for a new generation");
        }
    }
    fixture.publish(vec![pool("node-1", 0..3)]).await;
}

#[tokio::test]
async fn nothing_is_told_of_slices_of_other_nodes() {
    let api = api();
    let other = |version: usize| {
        json!({"metadata": {"name": "node-2-slice", "labels": {"dra.example.com/node": "node-2"}},
               "spec": {"driver": "dra.example.com", "allNodes": true,
               "pool": {"name": "node-2", "generation": version, "resourceSliceCount": 1}}})
    };
    api.put(SLICES, other(1));
    let resync = Duration::from_millis(20);
    let mut fixture = Fixture::start_with(api.clone(), Some(vec![pool("node-1", 0..1)]), resync);
    fixture.in_sync().await;
    for version in 2..5 {
        api.put(SLICES, other(version));
        fixture.publish(vec![pool("node-1", 0..version)]).await;
    }
    let resyncs = api.state().count("GET resourceslices");
    eventually("another resync", || api.state().count("GET resourceslices") > resyncs + 2).await;
    assert!(!api.state().told.iter().any(|name| name == "node-2-slice"), "{:?}", api.state().told);
    assert!(api.state().told.iter().any(|name| name.starts_with("node-1-")));
}

#[tokio::test]
async fn what_somebody_else_did_is_repaired_after_a_pause_and_what_the_driver_wants_at_once() {
    let hour = Duration::from_secs(3600);
    let patience = Patience { first: hour, longest: hour, resync: hour, ..Patience::default() };
    let mut fixture = Fixture::start_patient(api(), Some(vec![pool("node-1", 0..2)]), patience);
    fixture.in_sync().await;
    let mut edited = fixture.api.state().all(SLICES).remove(0);
    edited["spec"]["devices"] = json!([{"name": "other"}]);
    fixture.api.put(SLICES, edited);
    // It has seen the edit, and does not fight.
    reaches(&mut fixture.status, |status| !status.in_sync).await;
    assert_eq!(fixture.api.state().writes(), 1);
    fixture.publish(vec![pool("node-1", 0..3)]).await;
    assert_eq!(fixture.in_sync().await.writes, 2);
}

#[tokio::test]
async fn a_driver_that_changes_its_mind_all_the_time_is_slowed_down_and_its_last_word_counts() {
    let patience = Patience { burst: 3, interval: Duration::from_secs(1), ..Patience::default() };
    let mut fixture = Fixture::start_patient(api(), Some(vec![pool("node-1", 0..1)]), patience);
    fixture.in_sync().await;
    let (begin, deadline) = (Instant::now(), Duration::from_secs(30));
    let mut number = 0;
    // The first three are at once, and one of them is over.
    while fixture.status.borrow().writes < 6 {
        assert!(begin.elapsed() < deadline, "{:?}", fixture.status.borrow());
        number += 1;
        fixture.wanted.send_replace(Some(vec![pool("node-1", 0..(2 + number % 5))]));
        yield_now().await;
    }
    assert!(begin.elapsed() >= Duration::from_secs(2), "three seconds' worth in {:?}", begin.elapsed());
    fixture.publish(vec![pool("node-1", 0..9)]).await;
}

#[tokio::test]
async fn slices_of_others_are_left_alone() {
    let api = api();
    let foreign = |name: &str, driver: &str, pool: &str| {
        json!({"metadata": {"name": name}, "spec": {"driver": driver, "allNodes": true,
               "pool": {"name": pool, "generation": 9, "resourceSliceCount": 1}}})
    };
    api.put(SLICES, foreign("node-2-slice", "dra.example.com", "node-2"));
    api.put(SLICES, foreign("other-driver", "other.example.com", "node-1"));
    let mut fixture = Fixture::start(api.clone(), Some(vec![pool("node-1", 0..1), pool("old", 0..1)]));
    fixture.in_sync().await;
    fixture.publish(vec![pool("node-1", 0..2)]).await;
    eventually("the pool that is not wanted is gone", || api.state().all(SLICES).len() == 3).await;
    let names: Vec<_> = api.state().all(SLICES).iter().map(|s| s["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("node-2-slice")) && names.contains(&json!("other-driver")));
}

#[tokio::test]
async fn an_api_that_was_away_finds_everything_when_it_is_back() {
    let api = api();
    let mut fixture = Fixture::start(api.clone(), Some(vec![pool("node-1", 0..1)]));
    fixture.in_sync().await;
    api.set_down(true);
    fixture.wanted.send_replace(Some(vec![pool("node-1", 0..5)]));
    let status = reaches(&mut fixture.status, |status| status.problem.is_some()).await;
    assert!(!status.in_sync);
    let name = api.state().all(SLICES)[0]["metadata"]["name"].clone();
    api.delete(SLICES, name.as_str().unwrap());
    api.set_down(false);
    fixture.shows(&[pool("node-1", 0..5)]).await;
    assert_eq!(fixture.in_sync().await.problem, None);
}

#[tokio::test]
async fn slices_go_and_come_with_the_node_object() {
    let api = FakeApi::new();
    let mut fixture = Fixture::start(api.clone(), Some(vec![pool("node-1", 0..1)]));
    let status = reaches(&mut fixture.status, |status| status.problem.is_some()).await;
    assert!(status.problem.unwrap().contains("node node-1 does not exist"));
    assert!(api.state().all(SLICES).is_empty());
    for uid in ["n1", "n2"] {
        api.put("nodes", node(uid));
        eventually("a slice of this node object", || {
            let slices = api.state().all(SLICES);
            slices.iter().any(|s| s["metadata"]["ownerReferences"][0]["uid"] == uid)
        })
        .await;
        // What the garbage collector does when the node object is deleted.
        api.delete("nodes", "node-1");
        let name = api.state().all(SLICES)[0]["metadata"]["name"].clone();
        api.delete(SLICES, name.as_str().unwrap());
    }
}

#[tokio::test]
async fn a_field_the_server_does_not_know_is_not_written_for_ever() {
    let api = api();
    api.state().unknown_field = Some("bindsToNode");
    let device = |bus: i64| Device { name: format!("d{bus}"), binds_to_node: Some(true), ..Device::default() };
    let wanted = |bus| Pool::new("node-1", NodeScope::AllNodes, [device(bus)]).0;
    let mut fixture = Fixture::start_with(api.clone(), Some(vec![wanted(1)]), Duration::from_millis(20));
    fixture.in_sync().await;
    for (bus, writes, resyncs) in [(1, 1, 5), (2, 2, 10)] {
        fixture.publish(vec![wanted(bus)]).await;
        eventually("several resyncs", || api.state().count("GET resourceslices") > resyncs).await;
        assert_eq!(api.state().writes(), writes);
    }
}

#[tokio::test]
async fn whoever_watches_sees_whole_pools_only() {
    let mut fixture = Fixture::start(api(), Some(vec![pool("node-1", 0..300)]));
    fixture.in_sync().await;
    let sizes = [300, 299, 120, 0, 129, 1];
    for size in sizes {
        fixture.publish(vec![pool("node-1", 0..size)]).await;
    }
    let mut seen: Vec<usize> = Vec::new();
    for slices in fixture.api.state().history() {
        let (complete, names) = read(&slices, "node-1");
        if complete {
            seen.push(names.len());
        }
    }
    seen.dedup();
    assert_eq!(seen, sizes);
}
