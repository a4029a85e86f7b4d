//! The plugin as a kubelet sees it: over the sockets, with claims from an API.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use crate::node::{DRIVER, Ground, Node, TestDriver, connect};
use crate::support::{FakeApi, eventually, reaches};
use patchbay_dra::proto::registration::registration_client::RegistrationClient;
use patchbay_dra::proto::registration::{InfoRequest, RegistrationStatus};
use patchbay_dra::proto::{dra, health_v1, health_v1alpha1};
use patchbay_dra::{DeviceHealth, HealthState, Journal, Plugin, Registration, State};
use serde_json::json;
use tokio::sync::watch;

#[tokio::test]
async fn the_kubelet_finds_the_plugin_and_says_what_it_thinks_of_it() {
    let node = Node::start().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(node.ground.socket().parent().unwrap()), 0o750);
    assert_eq!(mode(&node.ground.socket()), 0o600);
    assert_eq!(mode(&node.ground.registration_socket()), 0o600);

    let mut kubelet = RegistrationClient::new(connect(&node.ground.registration_socket()));
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("DRAPlugin", DRIVER));
    assert_eq!(info.endpoint, node.ground.socket().to_string_lossy());
    assert_eq!(info.supported_versions, ["v1.DRAPlugin"]);

    let mut registration = node.plugin.registration();
    assert_eq!(*registration.borrow(), Registration::Pending);
    for (registered, error, expected) in
        [(false, "too old", Registration::Refused("too old".into())), (true, "", Registration::Registered)]
    {
        let status = RegistrationStatus { plugin_registered: registered, error: error.into() };
        kubelet.notify_registration_status(status).await.unwrap();
        reaches(&mut registration, |state| *state == expected).await;
    }

    let (socket, register) = (node.ground.socket(), node.ground.registration_socket());
    node.plugin.stop().await;
    assert!(!socket.exists() && !register.exists());
}

#[tokio::test]
async fn a_driver_name_the_api_would_refuse_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::open(root.path().join("journal.json")).await.unwrap();
    for name in ["", "Upper.example.com", "a..b", &"x".repeat(64)] {
        let plugin = Plugin::builder(name, root.path(), FakeApi::new().client(), journal.clone());
        let error = plugin.serve(TestDriver::new()).await.unwrap_err();
        assert!(error.to_string().contains("DNS name"), "{error}");
    }
}

#[tokio::test]
async fn a_claim_is_prepared_once_however_often_the_kubelet_asks() {
    let node = Node::start().await;
    node.add_claim("c", "u1", "d1");
    let kubelet = node.kubelet();
    let first = kubelet.prepare_one("c", "u1").await.unwrap();
    assert_eq!(
        first,
        [dra::Device {
            request_names: vec!["port".into()],
            pool_name: "pool".into(),
            device_name: "d1".into(),
            cdi_device_ids: vec!["dra.example.com/device=d1".into()],
            share_id: None,
        }]
    );
    assert_eq!(kubelet.prepare_one("c", "u1").await.unwrap(), first);
    assert_eq!(node.driver.calls(), ["prepare c d1"]);
    let records = node.journal.records();
    assert_eq!(records.get("u1").unwrap().data, json!({"labels": {"a": "b"}}));

    assert_eq!(kubelet.unprepare("c", "u1").await, "");
    assert_eq!(kubelet.unprepare("c", "u1").await, "");
    assert_eq!(node.driver.calls()[1..], ["unprepare c known", "unprepare c unknown"]);
    assert_eq!(node.journal.records().iter().count(), 0);
}

#[tokio::test]
async fn every_claim_asked_is_answered_and_errors_are_in_words() {
    let node = Node::start().await;
    node.add_claim("good", "u1", "d1");
    node.add_claim("remade", "u2-new", "d2");
    node.add_claim("broken", "u4", "d4");
    node.add_claim("crashing", "u5", "d5");
    let asked = [("good", "u1"), ("remade", "u2"), ("absent", "u3"), ("broken", "u4"), ("crashing", "u5")];
    let answers = node.kubelet().prepare(&asked).await;
    let uids: Vec<_> = answers.iter().map(|(uid, _)| uid.as_str()).collect();
    assert_eq!(uids, ["u1", "u2", "u3", "u4", "u5"]);
    assert!(answers[0].1.is_ok());
    for (index, words) in [
        (1, "its uid is u2-new, the kubelet asked for u2"),
        (2, "resource claim ns/absent does not exist"),
        (3, "no such cable: plug it in"),
        (4, "failed internally"),
    ] {
        let error = answers[index].1.as_ref().unwrap_err();
        assert!(error.contains(words), "{error}");
    }
    let mut calls = node.driver.calls();
    calls.sort();
    assert_eq!(calls, ["prepare broken d4", "prepare crashing d5", "prepare good d1"]);
}

#[tokio::test]
async fn a_slow_claim_delays_nobody_but_itself() {
    let node = Node::start().await;
    node.add_claim("stuck", "u1", "d1");
    node.add_claim("quick", "u2", "d2");
    let kubelet = node.kubelet();
    let slow = tokio::spawn({
        let kubelet = kubelet.clone();
        async move { kubelet.prepare_one("stuck", "u1").await }
    });
    eventually("the slow claim is being prepared", || !node.driver.calls().is_empty()).await;
    let undo = tokio::spawn({
        let kubelet = kubelet.clone();
        async move { kubelet.unprepare("stuck", "u1").await }
    });
    kubelet.prepare_one("quick", "u2").await.unwrap();
    assert_eq!(kubelet.unprepare("quick", "u2").await, "");
    assert!(!slow.is_finished() && !undo.is_finished());
    node.driver.gate.send_replace(true);
    slow.await.unwrap().unwrap();
    assert_eq!(undo.await.unwrap(), "");
    assert_eq!(
        node.driver.calls(),
        ["prepare stuck d1", "prepare quick d2", "unprepare quick known", "unprepare stuck known"]
    );
}

#[tokio::test]
async fn a_kubelet_that_has_to_wait_waits_for_a_claim_that_is_prepared() {
    let node = Node::start().await;
    node.add_claim("later", "u1", "d1");
    let asked = tokio::spawn({
        let kubelet = node.kubelet();
        async move { kubelet.prepare_one("later", "u1").await }
    });
    eventually("it is prepared", || node.journal.records().prepared().count() == 1).await;
    // Whoever asks again may have lost the first answer, and who wants it undone is in a hurry.
    node.kubelet().prepare_one("later", "u1").await.unwrap();
    assert_eq!(node.kubelet().unprepare("later", "u1").await, "");
    assert!(!asked.is_finished());
    node.driver.gate.send_replace(true);
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn work_cut_off_in_the_middle_is_found_and_done_again() {
    let node = Node::start_on(Ground::new(), Duration::from_millis(300)).await;
    node.add_claim("stuck", "u1", "d1");
    let error = node.kubelet().prepare_one("stuck", "u1").await.unwrap_err();
    assert!(error.starts_with("not finished within"), "{error}");
    assert_eq!(node.driver.calls(), ["prepare stuck d1"]);
    let node = Node::start_on(node.crash(), Duration::from_secs(20)).await;
    let found = node.journal.records();
    let states: Vec<_> = found.unfinished().map(|(uid, r)| (uid, r.state)).collect();
    assert_eq!(states, [("u1", State::Preparing)]);
    assert_eq!(found.get("u1").unwrap().allocated[0].device, "d1");
    node.driver.gate.send_replace(true);
    node.kubelet().prepare_one("stuck", "u1").await.unwrap();
    assert_eq!(node.driver.calls(), ["prepare stuck d1"]);
    assert_eq!(node.journal.records().prepared().count(), 1);
}

#[tokio::test]
async fn a_prepared_claim_needs_no_api_and_a_new_one_says_that_it_does() {
    let node = Node::start().await;
    node.add_claim("c", "u1", "d1");
    let kubelet = node.kubelet();
    let first = kubelet.prepare_one("c", "u1").await.unwrap();
    node.ground.api.set_down(true);
    assert_eq!(kubelet.prepare_one("c", "u1").await.unwrap(), first);
    let error = kubelet.prepare_one("new", "u2").await.unwrap_err();
    assert!(error.contains("ns/new could not be read"), "{error}");
    assert_eq!(kubelet.unprepare("c", "u1").await, "");
    assert_eq!(node.driver.calls(), ["prepare c d1", "unprepare c known"]);
}

#[tokio::test]
async fn a_claim_that_was_allocated_anew_is_undone_first() {
    let node = Node::start().await;
    node.add_claim("c", "u1", "d1");
    let kubelet = node.kubelet();
    kubelet.prepare_one("c", "u1").await.unwrap();
    node.add_claim("c", "u1", "d2");
    let devices = kubelet.prepare_one("c", "u1").await.unwrap();
    assert_eq!(devices[0].device_name, "d2");
    assert_eq!(node.driver.calls(), ["prepare c d1", "unprepare c known", "prepare c d2"]);
    let records = node.journal.records();
    assert_eq!(records.get("u1").unwrap().allocated[0].device, "d2");
}

#[tokio::test]
async fn health_reaches_kubelets_of_both_versions_and_does_not_hold_up_the_stop() {
    let root = tempfile::tempdir().unwrap();
    let journal = Journal::open(root.path().join("journal.json")).await.unwrap();
    let (report, health) = watch::channel(Vec::new());
    let plugin = Plugin::builder(DRIVER, root.path(), FakeApi::new().client(), journal)
        .health(health)
        .serve(TestDriver::new())
        .await
        .unwrap();
    let registry = root.path().join("plugins_registry").join(format!("{DRIVER}-reg.sock"));
    let mut kubelet = RegistrationClient::new(connect(&registry));
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.supported_versions, ["v1.DRAPlugin", "v1alpha1.DRAResourceHealth", "v1.DRAResourceHealth"]);

    let channel = connect(&root.path().join("plugins").join(DRIVER).join("dra.sock"));
    let request = health_v1alpha1::NodeWatchResourcesRequest {};
    let mut old = health_v1alpha1::dra_resource_health_client::DraResourceHealthClient::new(channel.clone());
    let mut new = health_v1::dra_resource_health_client::DraResourceHealthClient::new(channel);
    let mut old = old.node_watch_resources(request).await.unwrap().into_inner();
    let mut new = new.node_watch_resources(request).await.unwrap().into_inner();
    for stream in [&mut old, &mut new] {
        assert!(stream.message().await.unwrap().unwrap().devices.is_empty());
    }
    report.send_replace(vec![DeviceHealth {
        pool: "pool".into(),
        device: "d1".into(),
        state: HealthState::Unhealthy,
        message: "unplugged".into(),
    }]);
    for stream in [&mut old, &mut new] {
        let device = stream.message().await.unwrap().unwrap().devices.remove(0);
        assert_eq!(device.health(), health_v1alpha1::HealthStatus::Unhealthy);
        assert_eq!(device.device.unwrap().device_name, "d1");
        assert_eq!(device.message, "unplugged");
        assert!(device.last_updated_time > 1_600_000_000);
    }
    tokio::time::timeout(Duration::from_secs(5), plugin.stop()).await.unwrap();
    for stream in [&mut old, &mut new] {
        assert!(stream.message().await.is_ok_and(|end| end.is_none()));
    }
}
