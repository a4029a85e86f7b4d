//! Pictures of a sample world.

use patchbay_api::virtual_machine;
use patchbay_core::controller::world::{Allocated, ClaimReport, Moving, PodClaim, PodState, UsbDevice, VmPod};
use patchbay_core::device;
use patchbay_core::names::VmName;
use patchbay_core::speed::Hub;
use serde_json::json;

use super::*;
use crate::samples::world;

/// The sample world, with the machines that the devices are for: one runs and lists all, one is stopped, one asks for what
/// is another namespace's.
fn busy() -> World {
    let mut world = world();
    for namespace in ["blue", "green"] {
        world.namespaces.insert(namespace.into(), false);
    }
    for name in ["webcam", "token"] {
        let device = &world.node_devices[&DeviceName::new(name)];
        let (uid, status) = (device.uid.clone(), device.status.clone());
        let device = UsbDevice { uid, generation: 1, deleting: false, status };
        world.devices.insert(("blue".into(), name.into()), device);
    }
    let published = |name: &str| {
        let attributes = world.node_devices[&DeviceName::new(name)].status.attributes.clone().unwrap();
        device::Device { name: name.into(), attributes, not_ready: None }
    };
    let devices = vec![published("webcam"), published("token")];
    world.pools.get_mut(&"node-1".into()).unwrap().devices = devices;
    world.ports_used.insert(("node-2".into(), Hub::Usb2), 2);
    for (namespace, name, policy, devices) in [
        ("blue", "linux-vm", "AlwaysOn", &["webcam", "token", "slip"][..]),
        ("blue", "spare", "AlwaysOff", &["token"]),
        ("green", "other-vm", "AlwaysOff", &["webcam"]),
    ] {
        let devices: Vec<_> = devices.iter().map(|name| json!({"name": name})).collect();
        let object = serde_json::from_value(json!({
            "apiVersion": "virtualization.deckhouse.io/v1alpha2", "kind": "VirtualMachine",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1},
            "spec": {"image": "none", "runPolicy": policy, "usbDevices": devices},
        }))
        .unwrap();
        let (key, vm, _) = virtual_machine::read(&object).unwrap();
        world.vms.insert(key, vm);
    }
    let pod = VmPod {
        uid: "p".into(),
        vm: "linux-vm".into(),
        vm_uid: "uid-linux-vm".into(),
        node: Some("node-2".into()),
        deleting: false,
        state: PodState::Running,
        trouble: None,
        moving: Moving::default(),
    };
    world.vm_pods.insert(("blue".into(), "vm-linux-vm".into()), pod);
    world
}

/// A picture in few words: what somebody sees who does not read.
fn sketch(picture: &Picture) -> Vec<String> {
    let device = |d: &Device| format!("{:?} {} {}: {:?}", d.node.as_ref(), d.port, d.name, d.state);
    let cable = |c: &Cable| {
        let (device, kind, namespace, machine, state, says) = c.told();
        format!("{device} -> {kind} {namespace}/{machine}: {state:?}, {says}")
    };
    picture.devices.iter().map(device).chain(picture.cables.iter().map(cable)).collect()
}

#[test]
fn all_is_told_that_a_page_draws() {
    insta::assert_json_snapshot!(picture(&busy(), &Scope::Cluster));
}

#[test]
fn each_wish_is_a_cable_with_its_reason() {
    let expected = [
        r#"Some("node-1") 1-2 token: Failed"#,
        r#"Some("node-1") 1-3 disk: Unplugged"#,
        r#"Some("node-1") 1-10 webcam: Attached"#,
        "token -> vm blue/linux-vm: Failed, all 2 USB 2.0 USB/IP ports of node node-2 are in use",
        "token -> vm blue/spare: Off, virtual machine blue/spare does not run",
        "webcam -> vm blue/linux-vm: Attached, guest bus 0 port 9",
        "webcam -> vm green/other-vm: Waiting, it is assigned to namespace blue, and not to green",
    ];
    let sketch = sketch(&picture(&busy(), &Scope::Cluster));
    assert_eq!(sketch.len(), expected.len(), "{sketch:#?}");
    for (drawn, expected) in sketch.iter().zip(expected) {
        assert!(drawn.starts_with(expected), "{drawn}\n{expected}");
    }
}

#[test]
fn what_leaves_a_guest_is_drawn_until_it_is_out() {
    let mut world = busy();
    world.vms.get_mut(&("blue".into(), VmName::new("linux-vm"))).unwrap().usb_devices.clear();
    let sketch = sketch(&picture(&world, &Scope::Cluster));
    assert!(sketch.contains(&"webcam -> vm blue/linux-vm: Waiting, it is leaving the guest".to_owned()), "{sketch:#?}");
}

#[test]
fn a_pod_that_has_a_device_is_drawn_like_a_machine() {
    let mut world = busy();
    let claim = PodClaim {
        uid: "c".into(),
        created: 0,
        made_for: Some("disk".into()),
        pods: vec!["reader".into()],
        allocated: Some(Allocated {
            home: "node-1".into(),
            device: "disk".into(),
            node: Some("node-2".into()),
            port: None,
        }),
        told: Some(ClaimReport { attached: true, message: "in pod green/reader".to_owned(), since: 0 }),
    };
    world.pod_claims.insert(("green".into(), "reader-usb".into()), claim);
    let picture = picture(&world, &Scope::Cluster);
    assert!(sketch(&picture).contains(&"disk -> pod green/reader: Attached, in pod green/reader".to_owned()));
    let pod = picture.machines.iter().find(|m| m.kind == "pod").unwrap();
    assert_eq!((pod.name.as_str(), pod.node.as_ref()), ("reader", Some(&"node-2".into())));
}

#[test]
fn a_namespace_shows_its_own_and_nothing_else() {
    let World { devices, vms, .. } = busy();
    let vms = vms.into_iter().filter(|((namespace, _), _)| *namespace == "blue".into()).collect();
    let world = World { devices, vms, ..World::default() };
    let picture = picture(&world, &Scope::Namespace("blue".into()));
    let names: Vec<_> = picture.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["token", "webcam"]);
    assert_eq!(picture.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["linux-vm", "spare"]);
    assert!(picture.namespaces.is_empty() && picture.nodes.len() == 1 && picture.only.is_some());
}

#[test]
fn an_empty_cluster_says_what_to_do() {
    let picture = picture(&World::default(), &Scope::Cluster);
    assert!(picture.devices.is_empty() && picture.nothing.contains("Plug one in"), "{}", picture.nothing);
}
