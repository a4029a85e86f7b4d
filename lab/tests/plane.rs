//! The control plane by itself, without nodes or namespaces, as tests of controllers use it.

#![expect(clippy::unwrap_used, reason = "a test's helper ends the test")]

use std::net::TcpStream;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, PostParams};
use patchbay_lab::api;
use patchbay_lab::parts::Parts;
use patchbay_lab::plane::{Options, Plane};
use patchbay_lab::wait::wait_for;

const SOON: Duration = Duration::from_secs(30);

fn deployment() -> Deployment {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "none"}]}},
        },
    }))
    .unwrap()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_control_plane_without_nodes_runs_its_controllers_and_ends_without_a_trace() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = Options::alone(&Parts::told().unwrap().bin, dir.path()).unwrap();
    let port = options.port;
    let mut plane = Plane::start(options).unwrap();
    let client = api::connect(&plane.admin()).unwrap();

    // Deployment and replica set controller make a pod, the scheduler says why it cannot run.
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    api::request("create", deployments.create(&PostParams::default(), &deployment())).unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client);
    wait_for("a pod that cannot be scheduled", SOON, || {
        let pods = api::request("list", pods.list(&ListParams::default())).map_err(|error| format!("{error:#}"))?;
        let reasons: Vec<_> = pods
            .iter()
            .flat_map(|pod| pod.status.iter().flat_map(|status| status.conditions.iter().flatten()))
            .map(|condition| condition.reason.clone().unwrap_or_default())
            .collect();
        if reasons.contains(&"Unschedulable".to_owned()) { Ok(()) } else { Err(format!("{reasons:?}")) }
    })
    .unwrap();

    // The audit log has the one write of ours, and no reads.
    let log = std::fs::read_to_string(plane.audit_log()).unwrap();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let ours: Vec<_> = lines.filter(|entry| entry["user"]["username"] == "admin").collect();
    assert_eq!(ours.len(), 1, "{ours:#?}");
    assert_eq!(
        (ours[0]["verb"].as_str(), ours[0]["objectRef"]["resource"].as_str()),
        (Some("create"), Some("deployments"))
    );

    // Somebody without rights has none.
    let kubeconfig = dir.path().join("stranger");
    std::fs::write(&kubeconfig, plane.sign_client("stranger", None).unwrap()).unwrap();
    let nodes: Api<Node> = Api::all(api::connect(&kubeconfig).unwrap());
    let error = api::request("list", nodes.list(&ListParams::default())).unwrap_err();
    assert!(format!("{error:#}").contains("\"stranger\" cannot list resource \"nodes\""), "{error:#}");

    plane.check().unwrap();
    let pids = plane.pids();
    assert_eq!(pids.len(), 4);
    plane.stop();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody still listens");
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_program_that_cannot_start_is_reported_with_its_last_words() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut options = Options::alone(&Parts::told().unwrap().bin, dir.path()).unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    options.port = taken.local_addr().unwrap().port();
    let error = format!("{:#}", Plane::start(options).err().unwrap());
    assert!(error.contains("kube-apiserver ended early") && error.contains("address already in use"), "{error}");
}
