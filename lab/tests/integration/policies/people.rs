//! Attacks by people: with the roles that they have, and with one that a careless administrator gave them.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use patchbay_api::{NodeUSBDevice, USBDevice, VirtualMachine, VirtualMachineOperation, keys};
use patchbay_core::DRIVER;
use patchbay_lab::api::block_on;
use serde_json::{Value, json};

use super::{BLUE, MACHINE, Scene, answer, change, judge, make, pods, remove, report, says, with, within};
use crate::stage::{create, eventually, list};

fn pod(metadata: Value) -> Value {
    json!({"metadata": metadata, "spec": {"containers": [{"name": "it", "image": "none"}]}})
}

fn annotated(key: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

fn labelled(key: &str, value: Value) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}

/// A right to everything that the policies are about, as a careless administrator gives it.
fn careless() -> ClusterRole {
    serde_json::from_value(json!({
        "metadata": {"name": "careless"},
        "rules": [
            {"apiGroups": ["virtualization.deckhouse.io", "", "resource.k8s.io"], "resources": ["*"], "verbs": ["*"]},
        ],
    }))
    .unwrap()
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn attachments_and_pods_of_machines_are_what_the_controller_makes_of_them() {
    let scene = Scene::set();
    let attachment = scene.attachment();
    create(&scene.stage.all(), &careless());
    let editor = pods(&scene.member("editor", "edit"));
    let mighty = pods(&scene.ruler("mighty", "careless"));
    create(&scene.stage.within::<Pod>(BLUE), &serde_json::from_value(pod(json!({"name": "own"}))).unwrap());
    eventually("the roles to be known", || {
        change(&editor, "own", annotated("a", "b"))?;
        change(&mighty, "own", annotated("a", "b"))
    });
    let makes = "only the controller makes pods with labels or annotations of usb.virtualization.deckhouse.io";
    let changes = "only the controller changes labels and annotations of usb.virtualization.deckhouse.io";
    let note = || change(&editor, &attachment, annotated("example.org/note", "mine"));
    let image = json!({"spec": {"containers": [{"name": "hold", "image": "other"}]}});
    let strategic = |pods: &Api<Pod>, name: &str| {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        answer(pods.patch(name, &params, &Patch::Strategic(&image)))
    };
    let own = json!({"spec": {"containers": [{"name": "it", "image": "other"}]}});
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let own_image = answer(editor.patch("own", &params, &Patch::Strategic(&own)));
    judge(vec![
        ("want", change(&editor, &attachment, annotated(keys::WANT, keys::WANT_RESERVED)), changes, note()),
        ("whose it is", change(&editor, &attachment, annotated(keys::VM_POD_UID, "u1")), changes, note()),
        ("the label off", change(&editor, &attachment, labelled(keys::ATTACHMENT, Value::Null)), changes, note()),
        ("the label on", change(&editor, "own", labelled(keys::ATTACHMENT, json!("webcam"))), changes, note()),
        (
            "an annotation on",
            change(&editor, "own", annotated(keys::WANT, keys::WANT_PLUGGED)),
            changes,
            change(&editor, "own", annotated("example.org/note", "mine")),
        ),
        (
            "an attachment",
            make(&editor, pod(json!({"name": "fake", "labels": {keys::ATTACHMENT: "webcam"}}))),
            makes,
            make(&editor, pod(json!({"name": "fake", "labels": {"app": "webcam"}}))),
        ),
        (
            "a pod of a machine",
            make(&editor, pod(json!({"name": "fake", "labels": {keys::VM_NAME: "linux-vm"}}))),
            makes,
            note(),
        ),
        (
            "a move to another pod",
            change(&editor, MACHINE, annotated(keys::MIGRATE_TO, "fake/u1")),
            "make a VirtualMachineOperation",
            change(&editor, MACHINE, annotated("example.org/note", "mine")),
        ),
        ("a decision", change(&editor, MACHINE, annotated(keys::MOVE, "source")), changes, note()),
        (
            "what the attachment runs",
            strategic(&editor, &attachment),
            "change the VirtualMachine and restart it",
            own_image,
        ),
        (
            "that it is plugged",
            report(&editor, &says(&attachment, keys::PLUGGED)),
            "cannot patch resource \"pods/status\"",
            remove(&editor, &attachment),
        ),
        (
            "that it is plugged, by somebody who may write that",
            report(&mighty, &says(&attachment, keys::PLUGGED)),
            "the conditions Plugged and Migrated say what the agent of the pod's node has seen",
            report(&mighty, &says(&attachment, "example.org/Seen")),
        ),
        (
            "want, through the status",
            report(
                &mighty,
                &with(says(&attachment, "example.org/Seen"), "/metadata/annotations", json!({keys::WANT: "x"})),
            ),
            changes,
            remove(&mighty, MACHINE),
        ),
    ]);
    scene.stage.check(&scene.controller);
}

/// A claim of a device with these parameters.
fn claim(parameters: Value) -> Value {
    json!({
        "metadata": {"name": "own"},
        "spec": {"devices": {
            "requests": [{"name": "device", "exactly": {"deviceClassName": keys::DEVICE_CLASS}}],
            "config": [{"opaque": {"driver": DRIVER, "parameters": parameters}}],
        }},
    })
}

fn template(metadata: Value, parameters: Value) -> Value {
    json!({"metadata": metadata, "spec": {"spec": claim(parameters)["spec"]}})
}

fn disks(value: Value) -> Value {
    json!({"apiVersion": "usb.virtualization.deckhouse.io/v1alpha1", "kind": "DeviceParameters", "blockDevices": value})
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn claims_ask_for_what_people_may_ask_for() {
    let scene = Scene::set();
    let editor = scene.member("editor", "edit");
    let (claims, templates) = (within::<ResourceClaim>(&editor), within::<ResourceClaimTemplate>(&editor));
    let good = || make(&claims, claim(disks(json!(true))));
    let good_template = || make(&templates, template(json!({"name": "own"}), disks(json!(false))));
    eventually("the role to be known", good);
    let understood = "with nothing in it but blockDevices, which is true or false: see docs/driver.md";
    let takes = |label: &str| format!("only the controller sets the label {label}");
    let another = json!({"opaque": {"driver": "gpu.example.com", "parameters": {"kind": "Anything"}}});
    judge(vec![
        ("an unknown field", make(&claims, claim(with(disks(json!(true)), "/force", json!(true)))), understood, good()),
        ("not a boolean", make(&claims, claim(disks(json!("yes")))), understood, good()),
        (
            "another kind",
            make(&claims, claim(with(disks(json!(true)), "/kind", json!("AttachmentParameters")))),
            understood,
            good(),
        ),
        (
            "another version",
            make(&claims, claim(with(disks(json!(true)), "/apiVersion", json!("v1")))),
            understood,
            make(&claims, with(claim(json!({})), "/spec/devices/config", json!([another]))),
        ),
        ("nothing", make(&claims, claim(json!({}))), understood, good()),
        (
            "the same in a template",
            make(&templates, template(json!({"name": "own"}), json!({"kind": "Anything"}))),
            understood,
            good_template(),
        ),
        (
            "the claim of a device",
            make(&claims, with(claim(disks(json!(true))), "/metadata/labels", json!({keys::DEVICE: "webcam"}))),
            &takes(keys::DEVICE),
            make(&claims, with(claim(disks(json!(true))), "/metadata/labels", json!({"app": "webcam"}))),
        ),
        (
            "its label off",
            change(&claims, "usb-webcam", labelled(keys::DEVICE, Value::Null)),
            &takes(keys::DEVICE),
            good(),
        ),
        (
            "its label changed",
            change(&claims, "usb-webcam", labelled(keys::DEVICE, json!("token"))),
            &takes(keys::DEVICE),
            change(&claims, "usb-webcam", labelled("app", json!("webcam"))),
        ),
        (
            "the template of a device",
            make(&templates, template(json!({"name": "own", "labels": {keys::TEMPLATE: "own"}}), disks(json!(true)))),
            &takes(keys::TEMPLATE),
            good_template(),
        ),
        (
            "the template of ports",
            make(&templates, template(json!({"name": "own", "labels": {keys::PORT: "usb2"}}), disks(json!(true)))),
            &takes(keys::PORT),
            good_template(),
        ),
    ]);
    scene.stage.check(&scene.controller);
}

fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": keys::API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": {}})
}

/// An account of Kubernetes' own controllers, where each has one.
fn cleaner(name: &str) -> String {
    format!("system:serviceaccount:kube-system:{name}")
}

/// A status that nobody has seen.
fn ready(kind: &str, name: &str) -> Value {
    let condition = json!({
        "type": "Ready", "status": "True", "reason": "Ready", "message": "probe", "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    json!({"apiVersion": keys::API_VERSION, "kind": kind, "metadata": {"name": name}, "status": {"conditions": [condition]}})
}

#[test]
#[ignore = "needs the programs that `lab parts` builds: run with --ignored"]
fn devices_are_made_by_the_controller_and_assigned_by_those_who_may() {
    let scene = Scene::set();
    create(&scene.stage.all(), &careless());
    let viewer = scene.member("viewer", "view");
    let editor = scene.member("editor", "edit");
    let keeper = scene.ruler("keeper", "patchbay-device-admin");
    let mighty = scene.ruler("mighty", "careless");
    let admin = scene.stage.client();
    let nodes = |client: &Client| Api::<NodeUSBDevice>::all(client.clone());
    let assign = |client: &Client| change(&nodes(client), "webcam", json!({"spec": {"assignedNamespace": "green"}}));
    let machine = with(object("VirtualMachine", "second"), "/spec", json!({"image": "none"}));
    let machine = |client: &Client| make(&within::<VirtualMachine>(client), machine.clone());
    let stop = json!({"type": "Stop", "virtualMachineName": "linux-vm"});
    let operation = with(object("VirtualMachineOperation", "stop"), "/spec", stop);
    let operation = |client: &Client| make(&within::<VirtualMachineOperation>(client), operation.clone());
    let sees = |client: &Client| list(&within::<USBDevice>(client), &ListParams::default()).map(drop);
    eventually("the roles to be known", || {
        sees(&viewer)?;
        machine(&editor)?;
        assign(&keeper)?;
        remove(&pods(&mighty), MACHINE)
    });
    let makes = "the controller makes these objects of what the nodes publish";
    let status = "the status is what the controller has seen, and nobody else writes it";
    let deletes = "the controller deletes these objects";
    let fake = object("USBDevice", "fake");
    judge(vec![
        ("machines by who may look", machine(&viewer), "cannot create resource \"virtualmachines\"", machine(&editor)),
        ("operations by who may look", operation(&viewer), "cannot create resource", operation(&editor)),
        ("assignment by an editor", assign(&editor), "cannot patch resource \"nodeusbdevices\"", assign(&keeper)),
        (
            "a device by an editor",
            make(&within::<USBDevice>(&editor), fake.clone()),
            "cannot create resource \"usbdevices\"",
            sees(&editor),
        ),
        ("a device", make(&within::<USBDevice>(&mighty), fake), makes, sees(&viewer)),
        ("a device of a node", make(&nodes(&mighty), object("NodeUSBDevice", "fake")), makes, assign(&mighty)),
        (
            "a device of a node by an administrator",
            make(&nodes(&admin), object("NodeUSBDevice", "fake")),
            makes,
            assign(&admin),
        ),
        (
            "status by an editor",
            report(&within::<USBDevice>(&editor), &ready("USBDevice", "webcam")),
            "cannot patch resource \"usbdevices/status\"",
            change(&within::<VirtualMachine>(&editor), "linux-vm", json!({"spec": {"usbDevices": []}})),
        ),
        (
            "status of a device",
            report(&within::<USBDevice>(&mighty), &ready("USBDevice", "webcam")),
            status,
            sees(&mighty),
        ),
        (
            "status of a device of a node",
            report(&nodes(&mighty), &ready("NodeUSBDevice", "webcam")),
            status,
            assign(&mighty),
        ),
        (
            "status of a machine",
            report(&within::<VirtualMachine>(&mighty), &ready("VirtualMachine", "linux-vm")),
            status,
            machine(&mighty),
        ),
        (
            "deletion by an editor",
            remove(&within::<USBDevice>(&editor), "webcam"),
            "cannot delete resource \"usbdevices\"",
            remove(&within::<VirtualMachine>(&editor), "linux-vm"),
        ),
        (
            "deletion",
            remove(&within::<USBDevice>(&mighty), "webcam"),
            deletes,
            remove(&within::<USBDevice>(&admin), "webcam"),
        ),
        (
            "deletion of a device of a node",
            remove(&nodes(&mighty), "webcam"),
            deletes,
            remove(&nodes(&admin), "webcam"),
        ),
        (
            "deletion by an account that has no business with it, and by the garbage collector",
            remove(&within::<USBDevice>(&scene.stage.acting_as(&cleaner("job-controller"))), "webcam"),
            "cannot delete resource",
            remove(&within::<USBDevice>(&scene.stage.acting_as(&cleaner("generic-garbage-collector"))), "webcam"),
        ),
        (
            "the same, and by the namespace controller",
            remove(&nodes(&scene.stage.acting_as(&cleaner("job-controller"))), "webcam"),
            "cannot delete resource",
            remove(&within::<USBDevice>(&scene.stage.acting_as(&cleaner("namespace-controller"))), "webcam"),
        ),
        ("deletion by who assigns", remove(&nodes(&keeper), "webcam"), "cannot delete resource", assign(&keeper)),
    ]);

    // Those who clean up may: what is left of a namespace goes with it.
    block_on(scene.stage.all::<Namespace>().delete(BLUE, &DeleteParams::default())).unwrap();
    scene.stage.node_device_is("webcam", "Assigned", "InProgress");
    scene.stage.check(&scene.controller);
}
