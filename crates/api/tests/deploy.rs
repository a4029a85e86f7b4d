//! The manifests of the installation agree with the code.

use std::path::PathBuf;

use k8s_openapi::api::resource::v1::DeviceClass;
use patchbay_api::{class, crds, keys};
use patchbay_core::DRIVER;
use serde_json::Value;

fn manifest(name: &str) -> std::io::Result<String> {
    std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(name))
}

#[test]
fn the_definitions_that_are_checked_in_are_those_of_the_code() {
    let generated = crds::yaml().unwrap();
    assert!(
        manifest("00-crds.yaml").unwrap() == generated,
        "deploy/00-crds.yaml is out of date: write it anew with `cargo run -p patchbay -- crds > deploy/00-crds.yaml`"
    );
}

#[test]
fn the_device_classes_that_are_checked_in_are_those_of_the_code() {
    let text = manifest("30-classes.yaml").unwrap();
    let written: Vec<DeviceClass> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(written, class::all());
}

#[test]
fn device_names_of_one_virtual_machine_are_unique_and_few() {
    let vm = &crds::all()[2].spec.versions[0];
    let json = serde_json::to_value(&vm.schema).unwrap();
    let list = &json["openAPIV3Schema"]["properties"]["spec"]["properties"]["usbDevices"];
    let rules: Vec<_> = list["x-kubernetes-validations"].as_array().unwrap().iter().map(|r| &r["rule"]).collect();
    assert_eq!(rules, ["self.size() <= 16", "self.all(d, self.exists_one(e, e.name == d.name))"]);
    assert_eq!(list["x-kubernetes-list-type"], "map");
    assert_eq!(list["x-kubernetes-list-map-keys"], serde_json::json!(["name"]));
}

#[test]
fn conditions_are_lists_that_several_writers_can_share() {
    for crd in &crds::all() {
        let json = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
        let list = &json["openAPIV3Schema"]["properties"]["status"]["properties"]["conditions"];
        assert_eq!(list["x-kubernetes-list-map-keys"], serde_json::json!(["type"]), "{list}");
    }
}

#[test]
fn agents_can_watch_the_devices_of_their_own_node() {
    let fields = crds::all()[0].spec.versions[0].selectable_fields.clone().unwrap();
    assert_eq!(fields.iter().map(|f| f.json_path.as_str()).collect::<Vec<_>>(), [".status.nodeName"]);
}

/// What pods have in their metadata that programs of ours act upon.
const ON_PODS: &[&str] = &[
    keys::ATTACHMENT,
    keys::WANT,
    keys::VM,
    keys::VM_POD,
    keys::VM_POD_UID,
    keys::HUB,
    keys::VM_NAME,
    keys::VM_UID,
    keys::MIGRATE_FROM,
    keys::MIGRATE_TO,
    keys::MOVE,
    keys::ARRIVED,
];

#[test]
fn policies_protect_what_the_code_names() {
    let text = manifest("40-policies.yaml").unwrap();
    let prefixes = ["usb.virtualization.deckhouse.io/", "vm.virtualization.deckhouse.io/"];
    for key in ON_PODS {
        assert!(prefixes.iter().any(|prefix| key.starts_with(prefix)), "{key}");
    }
    let compared = prefixes.iter().map(|prefix| format!("k.startsWith(\"{prefix}\")"));
    let conditions = format!("[\"{}\", \"{}\"]", keys::PLUGGED, keys::MIGRATED);
    let reported = [
        format!("\"{}\" in oldObject.metadata.?labels", keys::ATTACHMENT),
        format!("? \"{}\"", keys::PLUGGED),
        format!("\"{}\" in oldObject.metadata.?labels", keys::VM_NAME),
        format!("? \"{}\"", keys::MIGRATED),
    ];
    let labels = [format!("[\"{}\"]", keys::DEVICE), format!("[\"{}\", \"{}\"]", keys::TEMPLATE, keys::PORT)];
    let drivers = [format!("s.spec.driver == '{DRIVER}'"), format!("== \"{DRIVER}\"")];
    for words in compared.chain([conditions]).chain(reported).chain(labels).chain(drivers) {
        assert!(text.contains(&words), "{words}");
    }
    let statuses = crds::all().iter().map(|crd| format!("{}/status", crd.spec.names.plural)).collect::<Vec<_>>();
    assert!(text.contains(&format!("[{}]", statuses.join(", "))), "{statuses:?}");
}

#[test]
fn every_policy_is_bound_denies_and_fails_closed() {
    let text = manifest("40-policies.yaml").unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let of_kind = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).cloned().collect::<Vec<_>>();
    let policies = of_kind("ValidatingAdmissionPolicy");
    let bindings = of_kind("ValidatingAdmissionPolicyBinding");
    assert_eq!((policies.len(), objects.len()), (4, 8));
    for (policy, binding) in policies.iter().zip(&bindings) {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        assert_eq!(binding["spec"]["policyName"], policy["metadata"]["name"]);
        assert_eq!(binding["spec"]["validationActions"], serde_json::json!(["Deny"]));
        for validation in policy["spec"]["validations"].as_array().unwrap() {
            let says = validation.get("message").or(validation.get("messageExpression"));
            assert!(says.is_some() && validation.get("reason").is_some(), "{validation}");
        }
    }
}
