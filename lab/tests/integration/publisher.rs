//! The publisher of slices, with the rights of an agent, and three hundred devices.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use kube::ResourceExt;
use patchbay_api::claim::{self, NewClaim, Target};
use patchbay_api::{NodeUSBDevice, keys};
use patchbay_core::device::Device;
use patchbay_core::names::NodeName;
use patchbay_core::speed::Speed;
use serde_json::json;

use crate::audit;
use crate::node::{Node, device, published};
use crate::program::Running;
use crate::reader::{self, Reader};
use crate::stage::{SOON, Stage, create, eventually, get, list, merge};

/// Devices of a node; each with strings that are too long, dirty, or both.
fn cameras(count: u16) -> Vec<Device> {
    let strings = [
        ("a".repeat(63) + "\u{e9}", "exactly a character too long"),
        ("\u{e9}".repeat(126), "two bytes each"),
        ("\u{1f4f7}".repeat(20), "four bytes each"),
        (" C\u{0}9\u{1b}[31m2\u{7f}0\r\n\t\u{202e}\u{feff} ".to_owned(), "control characters"),
    ];
    (1..=count)
        .map(|n| {
            let mut camera = device(&format!("camera-{n:03}"), n, Speed::High);
            let (text, what) = &strings[usize::from(n) % strings.len()];
            // Devices of one serial number would speak of each other in their status.
            camera.attributes.serial = Some(format!("{n:03}{text}"));
            camera.attributes.product = Some((*what).to_owned());
            camera.attributes.manufacturer = Some(text.chars().rev().collect());
            camera
        })
        .collect()
}

fn slice_writes(stage: &Stage) -> usize {
    let writes = stage.writes("agent");
    assert!(writes.iter().all(|write| write.code < 400), "{writes:?}");
    writes.iter().filter(|write| write.what.ends_with(" resourceslices")).count()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn whoever_reads_the_slices_of_three_hundred_devices_sees_all_of_them_or_none() {
    let stage = Stage::open();
    let node = Node::silent(&stage, "node-1");
    let reader = Reader::new(&stage, "node-1");
    // One write too many is noticed at the next step.
    let show = |devices: Vec<Device>, writes: usize| {
        let count = devices.len();
        reader.expect(published(node.name(), &devices));
        node.has(devices);
        reader.sees_the_last();
        eventually(&format!("{writes} writes of slices in all, the last for {count} devices"), || {
            match slice_writes(&stage) {
                all if all == writes => Ok(()),
                all => Err(format!("{all} writes")),
            }
        });
    };
    node.speak();
    // One more for the pool of ports, which is empty, and there.
    let mut writes = 3 + 1;
    show(cameras(300), writes);
    assert_eq!(stage.slices("node-1-ports").unwrap().len(), 1);
    is_allocated(&stage, node.name(), "camera-217");

    let mut changed = cameras(300);
    changed[216].attributes.address.device = 99;
    // What is written: all slices of the new generation, and those that are no longer needed.
    let steps = [
        (changed, 3),
        (cameras(299), 3),
        (cameras(120), 1 + 2),
        (cameras(0), 1),
        (cameras(129), 2),
        (cameras(1), 1 + 1),
    ];
    for (devices, more) in steps {
        let count = devices.len();
        writes += more;
        show(devices, writes);
        if count == 0 {
            assert_eq!(stage.slices("node-1").unwrap().len(), 1, "an empty slice says that nothing is there");
        }
    }
    assert!(reader.was_never_misled() >= writes - 1, "each write is an event");
    // Wanting the same again, and being restarted, is no reason to write.
    node.has(cameras(1));
    node.silence();
    node.speak();
    content(&node);
    assert_eq!(slice_writes(&stage), writes);
}

/// Has kube-scheduler allocate one device to a pod.
fn is_allocated(stage: &Stage, node: &NodeName, device: &str) {
    let (namespace, name) = ("default".into(), "wanted".into());
    let (object, owner) = (device.into(), "nobody".into());
    let new = NewClaim { namespace: &namespace, name: &name, device: &object, dra_name: &object, node, owner: &owner };
    let mut claim = claim::build(new);
    (claim.metadata.owner_references, claim.metadata.labels) = (None, None);
    create(&stage.within::<ResourceClaim>("default"), &claim);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "user"},
        "spec": {
            "resourceClaims": [{"name": "device", "resourceClaimName": "wanted"}],
            "containers": [{"name": "user", "image": "none", "resources": {"claims": [{"name": "device"}]}}],
        },
    }))
    .unwrap();
    create(&stage.within("default"), &pod);
    eventually("kube-scheduler to bind the pod", || {
        let pod: Pod = get(&stage.within("default"), "user")?;
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        bound.ok_or_else(|| format!("{:?}", pod.status.and_then(|status| status.conditions)))
    });
    let claim = get(&stage.within("default"), "wanted").unwrap();
    let targets: Vec<_> = claim::allocated(&claim).into_iter().map(|allocated| allocated.target).collect();
    assert_eq!(targets, [Target::Device { node: node.clone(), device: object }]);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn three_hundred_devices_are_three_hundred_objects_and_one_that_changes_is_one_write() {
    let stage = Stage::open();
    let mut controller = Running::leader(&stage, "controller-1");
    // A Secret and a ConfigMap, before anything else.
    let authority = 2;
    controller.says("agents are told whom to believe", SOON);
    let node = Node::join(&stage, "node-1");
    node.has(cameras(300));
    let ready = |wanted: usize| {
        eventually(&format!("{wanted} devices to be ready"), || {
            let objects = list::<NodeUSBDevice>(&stage.all(), &kube::api::ListParams::default())?;
            let conditions = objects.iter().filter_map(|o| o.status.as_ref()?.conditions.as_ref());
            let ready = conditions.flatten().filter(|c| c.type_ == "Ready" && c.status == "True").count();
            if ready == wanted { Ok(()) } else { Err(format!("{ready} of {}", objects.len())) }
        });
    };
    ready(300);
    let before = stage.writes("controller").len();
    assert_eq!(before - authority, 2 * 300, "each is made, and its status is written");
    let mut changed = cameras(300);
    changed[216].attributes.address.device = 99;
    node.has(changed);
    eventually("the change to be seen", || {
        let object: NodeUSBDevice = get(&stage.all(), "camera-217")?;
        let number = object.status.and_then(|s| s.attributes).map(|a| a.device_number);
        if number.as_deref() == Some("099") { Ok(()) } else { Err(format!("{number:?}")) }
    });
    node.unplug("camera-001");
    stage.node_device_is("camera-001", "Ready", "NotFound");
    ready(299);
    assert_eq!(stage.writes("controller").len() - before, 2);
    stage.check(&controller);
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_api_server_that_was_away_finds_the_newest_devices_when_it_is_back() {
    let mut stage = Stage::open();
    let node = Node::silent(&stage, "node-1");
    let reader = Reader::new(&stage, "node-1");
    reader.expect(published(node.name(), &cameras(200)));
    node.has(cameras(200));
    node.speak();
    reader.sees_the_last();
    let problem =
        || eventually("the publisher to notice", || node.publisher().problem.ok_or_else(|| "no problem".to_owned()));

    // It is dead: calls are refused.
    stage.plane().server().unwrap().kill();
    node.has(cameras(150));
    problem();
    node.has(cameras(300));
    reader.expect(published(node.name(), &cameras(300)));
    stage.plane().restart_server().unwrap();
    reader.sees_the_last();
    eventually("the publisher to be content", || node.publisher().problem.map_or(Ok(()), Err));

    // It hangs: calls are not answered.
    stage.plane().server().unwrap().freeze();
    node.has(cameras(5));
    problem();
    reader.expect(published(node.name(), &cameras(5)));
    reader.expect(published(node.name(), &cameras(130)));
    node.has(cameras(130));
    stage.plane().server().unwrap().thaw();
    reader.sees_the_last();
    eventually("the publisher to be content", || node.publisher().problem.map_or(Ok(()), Err));
    reader.was_never_misled();
    let slices = stage.slices("node-1").unwrap();
    assert_eq!(reader::read(&slices).unwrap().map(|devices| devices.len()), Some(130));
    assert_eq!(slices.len(), 2, "nothing outdated is left");
}

/// Waits until the publisher of a node is content.
fn content(node: &Node) {
    eventually("the publisher to be content", || {
        let status = node.publisher();
        if status.in_sync { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

/// Waits until a pool has so many slices, all with this label; gives their uids.
fn labelled(stage: &Stage, pool: &str, label: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} slices of {pool} with their label"), || {
        let slices = stage.slices(pool)?;
        let ours = |slice: &ResourceSlice| slice.labels().get(keys::NODE).is_some_and(|value| value == label);
        match slices.len() == count && slices.iter().all(ours) {
            true => Ok(slices.iter().filter_map(ResourceExt::uid).collect()),
            false => Err(format!("{:?}", slices.iter().map(|s| s.labels().clone()).collect::<Vec<_>>())),
        }
    })
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn slices_of_a_former_version_which_have_no_label_are_taken_over() {
    let stage = Stage::open();
    let nodes = ["node-1", "node-2"].map(|name| Node::join(&stage, name));
    nodes[0].has(cameras(129));
    let former = labelled(&stage, "node-1", "node-1", 2);
    nodes.iter().for_each(content);
    nodes.iter().for_each(Node::silence);
    for slice in ["node-1", "node-1-ports", "node-2"].into_iter().flat_map(|pool| stage.slices(pool).unwrap()) {
        merge(&stage.all::<ResourceSlice>(), &slice.name_any(), json!({"metadata": {"labels": null}}));
    }
    let writes = slice_writes(&stage);
    nodes[0].has(cameras(1));
    nodes[0].speak();
    let after = labelled(&stage, "node-1", "node-1", 1);
    assert!(former.contains(&after[0]), "the object has stayed");
    labelled(&stage, "node-1-ports", "node-1", 1);
    content(&nodes[0]);
    assert_eq!(
        slice_writes(&stage) - writes,
        3,
        "the pool of ports, the first slice of devices, and the second is deleted"
    );
    assert!(stage.slices("node-2").unwrap()[0].labels().is_empty(), "what is another node's is left alone");
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn an_agent_is_told_of_no_slices_but_those_of_its_node() {
    let stage = Stage::open();
    let nodes = ["node-1", "node-2"].map(|name| Node::join(&stage, name));
    nodes.iter().for_each(content);
    let own = ["node-1", "node-2"].map(|node| format!("{}={node}", keys::NODE)).to_vec();
    let expected = [own, vec![format!("!{}", keys::NODE)]].concat();
    // Each is listed and watched, the last one by both agents.
    let selectors = eventually("all lists and watches to be in the audit log", || {
        let uris = audit::looks_at_slices(&stage.audit_log());
        let plain = |uri: String| uri.replace("%2F", "/").replace("%3D", "=").replace("%21", "!");
        let queries: Vec<String> = uris.into_iter().map(plain).collect();
        if queries.len() >= 8 { Ok(queries) } else { Err(format!("{queries:?}")) }
    });
    for query in &selectors {
        let (_, selector) = query.split_once("labelSelector=").unwrap_or_else(|| panic!("no label selector: {query}"));
        let selector = selector.split_once('&').map_or(selector, |(selector, _)| selector);
        assert!(expected.iter().any(|expected| expected == selector), "{query}");
    }
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn a_node_whose_name_is_too_long_for_a_label_finds_its_slices() {
    let stage = Stage::open();
    let name = format!("{}.example.com", "n".repeat(64));
    let node = Node::join(&stage, &name);
    node.has(cameras(1));
    let slices = || stage.slices(&name).unwrap();
    eventually("the slice", || slices().first().map(drop).ok_or_else(|| "none".to_owned()));
    let label = slices()[0].labels()[keys::NODE].clone();
    assert!(label.len() == 63 && label.starts_with(&name[..46]), "{label}");
    labelled(&stage, &name, &label, 1);
    content(&node);
    let writes = slice_writes(&stage);
    node.silence();
    node.speak();
    content(&node);
    assert_eq!(slice_writes(&stage), writes, "the next publisher finds what there is");
    node.has(cameras(129));
    labelled(&stage, &name, &label, 2);
    labelled(&stage, &format!("{name}-ports"), &label, 1);
}
