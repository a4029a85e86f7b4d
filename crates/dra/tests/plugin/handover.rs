//! Two processes of one driver alive on a node: during an update of the
//! DaemonSet, or after its pod was deleted by force.

use std::time::Duration;

use crate::node::{Ground, Node, TestDriver};
use crate::support::{DEADLINE, eventually};
use patchbay_dra::{Fault, Journal};
use tokio::time::timeout;

const CALL: Duration = Duration::from_secs(20);
const PROBE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_successor_waits_until_the_former_has_finished_and_knows_what_it_did() {
    let former = Node::start().await;
    let (ground, kubelet, driver) = (former.ground.clone(), former.kubelet(), former.driver.clone());
    ground.add_claim("c", "u1", "d1");
    ground.add_claim("stuck", "u2", "d2");
    kubelet.prepare_one("c", "u1").await.unwrap();

    let successor = tokio::spawn(Node::start_on(ground.clone(), CALL));
    let call = tokio::spawn({
        let kubelet = kubelet.clone();
        async move { kubelet.prepare_one("stuck", "u2").await }
    });
    eventually("the call is under way", || driver.calls().len() == 2).await;
    assert!(!successor.is_finished(), "two processes with one journal");

    // The former is told to end while a call is under way.
    let Node { plugin, journal, .. } = former;
    drop(journal);
    let stopping = tokio::spawn(plugin.stop());
    eventually("the kubelet is told to send nothing more", || !ground.registration_socket().exists()).await;
    assert!(!successor.is_finished() && !call.is_finished());
    driver.gate.send_replace(true);
    call.await.unwrap().unwrap();
    timeout(DEADLINE, stopping).await.unwrap().unwrap();

    let successor = timeout(DEADLINE, successor).await.unwrap().unwrap();
    assert_eq!(successor.journal.records().prepared().count(), 2);
    // The kubelet's connection finds the successor by the path.
    for (claim, uid) in [("c", "u1"), ("stuck", "u2")] {
        kubelet.prepare_persistently(claim, uid).await;
    }
    assert!(successor.driver.calls().is_empty(), "what the former has prepared stays prepared");
    successor.plugin.probe().check(PROBE).await.unwrap();
}

#[tokio::test]
async fn a_successor_takes_over_at_once_when_the_former_was_killed() {
    let former = Node::start().await;
    former.add_claim("c", "u1", "d1");
    former.kubelet().prepare_one("c", "u1").await.unwrap();
    let successor = Node::start_on(former.crash(), CALL).await;
    // It has replaced the stale sockets.
    successor.kubelet().prepare_one("c", "u1").await.unwrap();
    assert!(successor.driver.calls().is_empty());
    successor.plugin.probe().check(PROBE).await.unwrap();
}

#[tokio::test]
async fn sockets_that_were_taken_over_serve_both_kubelet_connections_and_outlive_the_former() {
    // Two processes that do not share a journal: nothing keeps them apart.
    let ground = Ground::new();
    ground.add_claim("stuck", "u1", "d1");
    ground.add_claim("c", "u2", "d2");
    let open = |name: &str| Journal::open(ground.root().join(name));
    let (old_driver, new_driver) = (TestDriver::new(), TestDriver::new());
    let old = ground.serve(open("old.json").await.unwrap(), old_driver.clone(), CALL).await;
    let connected = ground.kubelet();
    let call = tokio::spawn(async move { connected.prepare_one("stuck", "u1").await });
    eventually("the call is under way", || !old_driver.calls().is_empty()).await;

    let new = ground.serve(open("new.json").await.unwrap(), new_driver.clone(), CALL).await;
    ground.kubelet().prepare_one("c", "u2").await.unwrap();
    assert_eq!(new_driver.calls(), ["prepare c d2"]);
    new.probe().check(PROBE).await.unwrap();
    let replaced = old.probe().check(PROBE).await.unwrap_err();
    assert!(matches!(replaced.fault, Fault::Replaced), "{replaced}");

    // The former leaves in an orderly way, after the call it has.
    let stopping = tokio::spawn(old.stop());
    assert!(!call.is_finished());
    old_driver.gate.send_replace(true);
    call.await.unwrap().unwrap();
    timeout(DEADLINE, stopping).await.unwrap().unwrap();
    new.probe().check(PROBE).await.unwrap();
    ground.kubelet().prepare_one("c", "u2").await.unwrap();

    timeout(DEADLINE, new.stop()).await.unwrap();
    assert!(!ground.socket().exists() && !ground.registration_socket().exists());
}
