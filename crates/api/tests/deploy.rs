//! The manifests of the installation agree with the code.

use std::path::PathBuf;

use k8s_openapi::api::resource::v1::DeviceClass;
use patchbay_api::{class, crds};

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
