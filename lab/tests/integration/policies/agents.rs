//! Attacks with the token of an agent.

use std::path::PathBuf;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use patchbay_api::{certificate_request, keys};
use patchbay_core::DRIVER;
use patchbay_core::trust::SIGNER;
use patchbay_lab::api::connect;
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::{MACHINE, Scene, answer, change, judge, make, pods, remove, report, says, with, within};
use crate::stage::{Stage, eventually, get};

/// A slice of the pool `pool`, with a device that says it is plugged into `node`.
fn slice(pool: &str, node: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "probe"},
        "spec": {
            "driver": DRIVER, "allNodes": true,
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "token", "attributes": {"id": {"string": "token"}, "node": {"string": node}}}],
        },
    })
}

/// A slice for ports, to be used on `node`.
fn ports(pool: &str, node: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": "probe"},
        "spec": {
            "driver": DRIVER, "nodeName": node,
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "usb2-0", "attributes": {"hub": {"string": "usb2"}}}],
        },
    })
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn agents_publish_what_is_plugged_into_their_own_node_and_nothing_else() {
    let scene = Scene::set();
    let slices = |kubeconfig: PathBuf| Api::<ResourceSlice>::all(connect(&kubeconfig).unwrap());
    let agent = slices(scene.stage.agent_of("node-1"));
    let unbound = slices(scene.stage.account("agent"));
    let [own, foreign] = ["node-1", "node-2"].map(|pool| {
        eventually(&format!("a slice of the pool {pool}"), || {
            let slices = scene.stage.slices(pool)?;
            slices.first().map(ResourceExt::name_any).ok_or_else(|| "none".to_owned())
        })
    });
    let own_pool = || make(&agent, slice("node-1", "node-1"));
    let empty_pool = || make(&agent, with(slice("node-1", "node-1"), "/spec/devices", json!([])));
    let own_ports = || make(&agent, ports("node-1-ports", "node-1"));
    let emptied = || json!({"spec": {"devices": []}});
    let only = "the agent of node node-1 writes slices of the pools node-1 and node-1-ports only";
    let long = "n".repeat(70);
    let far = slices(scene.stage.agent_of(&long));
    let shortened = format!("{}-{}", "n".repeat(47), "0".repeat(16));
    judge(vec![
        ("another node's devices", make(&agent, slice("node-2", "node-2")), only, own_pool()),
        ("another node's ports", make(&agent, ports("node-2-ports", "node-2")), only, own_ports()),
        ("a pool of no node", make(&agent, slice("everywhere", "node-1")), "pool everywhere is for", empty_pool()),
        (
            "another driver",
            make(&agent, with(slice("node-1", "node-1"), "/spec/driver", json!("gpu.example.com"))),
            "other drivers publish their own",
            own_pool(),
        ),
        ("devices for one node", make(&agent, ports("node-1", "node-1")), "publish them with allNodes", own_pool()),
        ("ports for all nodes", make(&agent, slice("node-1-ports", "node-1")), "with its nodeName", own_ports()),
        (
            "own ports for another node",
            make(&agent, ports("node-1-ports", "node-2")),
            "can be used on node node-1 only",
            own_ports(),
        ),
        (
            "a device of another node",
            make(&agent, slice("node-1", "node-2")),
            "a device is published by the node it is plugged into",
            own_pool(),
        ),
        (
            "the same with the attribute's full name",
            make(
                &agent,
                with(
                    slice("node-1", "node-1"),
                    "/spec/devices/0/attributes",
                    json!({(format!("{DRIVER}/node")): {"string": "node-2"}}),
                ),
            ),
            "without domains in the names of attributes",
            own_pool(),
        ),
        (
            "a device of another node with a long name",
            make(&far, slice(&long, &shortened.replace('n', "m"))),
            "a device is published by the node it is plugged into",
            make(&far, slice(&long, &shortened)),
        ),
        (
            "a slice for another agent to look at",
            make(&agent, with(slice("node-1", "node-1"), "/metadata/labels", json!({keys::NODE: "node-2"}))),
            "labels its slices with that node",
            make(&agent, with(slice("node-1", "node-1"), "/metadata/labels", json!({keys::NODE: "node-1"}))),
        ),
        (
            "the same of a node with a long name",
            make(&far, with(slice(&long, &shortened), "/metadata/labels", json!({keys::NODE: "n"}))),
            "labels its slices with that node",
            make(&far, with(slice(&long, &shortened), "/metadata/labels", json!({keys::NODE: &shortened[1..]}))),
        ),
        ("a change of another node's slice", change(&agent, &foreign, emptied()), "cannot patch resource", own_pool()),
        ("deletion of another node's slice", remove(&agent, &foreign), only, remove(&agent, &own)),
        (
            "a token of no pod",
            make(&unbound, slice("node-1", "node-1")),
            "the token of this agent names no node",
            own_pool(),
        ),
        ("a token of no pod, deleting", remove(&unbound, &own), "names no node", remove(&agent, &own)),
    ]);

    // A whole slice anew, as the publisher does it.
    let replace = |name: &str| {
        let slice = get(&scene.stage.all::<ResourceSlice>(), name).unwrap();
        answer(agent.replace(name, &PostParams { dry_run: true, ..PostParams::default() }, &slice))
    };
    judge(vec![("another node's slice replaced", replace(&foreign), only, replace(&own))]);
    scene.stage.check(&scene.controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn agents_report_their_condition_on_pods_of_their_own_node_and_nothing_else() {
    let scene = Scene::set();
    let attachment = scene.attachment();
    let of_node = |node| connect(&scene.stage.agent_of(node)).unwrap();
    let (agent, foreign) = (of_node("node-2"), of_node("node-1"));
    let unbound = connect(&scene.stage.account("agent")).unwrap();
    let plugged = || report(&pods(&agent), &says(&attachment, keys::PLUGGED));
    let elsewhere = "the agent of node node-1 reports on pods of its own node only: this one is on node node-2";
    let only = format!("reports the condition {} of this pod only", keys::PLUGGED);
    let with_metadata = |key: &str, value: Value| {
        report(&pods(&agent), &with(says(&attachment, keys::PLUGGED), &format!("/metadata/{key}"), value))
    };
    let others: Api<Pod> = Api::namespaced(agent.clone(), "patchbay");
    judge(vec![
        ("another node's attachment", report(&pods(&foreign), &says(&attachment, keys::PLUGGED)), elsewhere, plugged()),
        (
            "another node's machine",
            report(&pods(&foreign), &says(MACHINE, keys::MIGRATED)),
            elsewhere,
            report(&pods(&agent), &says(MACHINE, keys::MIGRATED)),
        ),
        ("a token of no pod", report(&pods(&unbound), &says(&attachment, keys::PLUGGED)), "names no node", plugged()),
        ("a condition of the kubelet", report(&pods(&agent), &says(&attachment, "Ready")), &only, plugged()),
        ("a condition of machines", report(&pods(&agent), &says(&attachment, keys::MIGRATED)), &only, plugged()),
        (
            "a condition of attachments",
            report(&pods(&agent), &says(MACHINE, keys::PLUGGED)),
            "Migrated of this pod only",
            plugged(),
        ),
        (
            "the phase",
            report(&pods(&agent), &with(says(&attachment, keys::PLUGGED), "/status/phase", json!("Failed"))),
            "its other status is the kubelet's",
            plugged(),
        ),
        (
            "what is wanted",
            with_metadata("annotations", json!({keys::WANT: keys::WANT_RESERVED})),
            "labels and annotations",
            plugged(),
        ),
        (
            "any label",
            with_metadata("labels", json!({"example.org/mine": "yes"})),
            "its labels and annotations are the controller's",
            plugged(),
        ),
        (
            "a pod that is not ours",
            report(&others, &says("agent-node-2", keys::PLUGGED)),
            "on attachment pods and on pods of virtual machines only",
            plugged(),
        ),
        (
            "a claim",
            report(
                &within::<ResourceClaim>(&agent),
                &json!({
                    "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
                    "metadata": {"name": "usb-webcam"}, "status": {},
                }),
            ),
            "cannot patch resource \"resourceclaims/status\"",
            plugged(),
        ),
        ("deletion of a pod", remove(&pods(&agent), &attachment), "cannot delete resource \"pods\"", plugged()),
    ]);
    scene.stage.check(&scene.controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn agents_ask_for_certificates_of_agents_and_nothing_else() {
    let stage = Stage::open();
    let requests = Api::<CertificateSigningRequest>::all(connect(&stage.agent_of("node-1")).unwrap());
    let text = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
    let ask = |signer: &str| {
        let mut object = certificate_request::build("probe", &text);
        object.spec.signer_name = signer.to_owned();
        make(&requests, serde_json::to_value(object).unwrap())
    };
    let words = "those of kubernetes.io/kube-apiserver-client are for others";
    let approve = || {
        let status = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "Mine"}]}});
        answer(requests.patch_subresource("approval", "probe", &PatchParams::default(), &Patch::Merge(status)))
    };
    judge(vec![
        ("a user of the API server", ask("kubernetes.io/kube-apiserver-client"), words, ask(SIGNER)),
        ("its own approval", approve(), "cannot patch resource \"certificatesigningrequests/approval\"", ask(SIGNER)),
    ]);
}
