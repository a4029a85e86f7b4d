//! The chart agrees with the code. What of it is filled in when it is installed is compared by `lab/tests/chart.rs`.

use std::path::PathBuf;

use k8s_openapi::api::resource::v1::DeviceClass;
use patchbay_api::{class, crds, installation, keys, rights};
use patchbay_core::DRIVER;
use patchbay_core::trust::SIGNER;
use serde_json::{Value, json};

/// A template in which nothing is filled in.
fn manifest(name: &str) -> std::io::Result<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../charts/patchbay/templates");
    std::fs::read_to_string(folder.join(name))
}

#[test]
fn the_definitions_that_are_checked_in_are_those_of_the_code() {
    let generated = crds::yaml().unwrap();
    assert!(
        manifest("crds.yaml").unwrap() == generated,
        "charts/patchbay/templates/crds.yaml is out of date: write it anew with `cargo run -p patchbay -- crds`"
    );
}

#[test]
fn definitions_stay_with_what_people_have_decided_when_the_chart_goes() {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&manifest("crds.yaml").unwrap()).unwrap();
    assert_eq!(objects.len(), crds::all().len());
    for object in objects {
        assert_eq!(object["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
}

#[test]
fn in_what_is_compared_here_nothing_is_filled_in() {
    for name in ["crds.yaml", "rbac.yaml", "user-roles.yaml", "classes.yaml", "policies.yaml"] {
        assert!(!manifest(name).unwrap().contains("{{"), "{name}");
    }
}

#[test]
fn the_device_classes_that_are_checked_in_are_those_of_the_code() {
    let text = manifest("classes.yaml").unwrap();
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
    let text = manifest("policies.yaml").unwrap();
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
    let signer = format!("object.spec.signerName == \"{SIGNER}\"");
    for words in compared.chain([conditions, signer]).chain(reported).chain(labels).chain(drivers) {
        assert!(text.contains(&words), "{words}");
    }
    let statuses = crds::all().iter().map(|crd| format!("{}/status", crd.spec.names.plural)).collect::<Vec<_>>();
    assert!(text.contains(&format!("[{}]", statuses.join(", "))), "{statuses:?}");
}

#[test]
fn every_policy_is_bound_denies_and_fails_closed() {
    let text = manifest("policies.yaml").unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let of_kind = |kind: &str| objects.iter().filter(|o| o["kind"] == kind).cloned().collect::<Vec<_>>();
    let policies = of_kind("ValidatingAdmissionPolicy");
    let bindings = of_kind("ValidatingAdmissionPolicyBinding");
    assert_eq!((policies.len(), objects.len()), (5, 10));
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

#[test]
fn the_policies_that_a_doctor_looks_for_are_those_that_are_installed() {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&manifest("policies.yaml").unwrap()).unwrap();
    let policies = objects.iter().filter(|o| o["kind"] == "ValidatingAdmissionPolicy");
    let mut names: Vec<_> = policies.map(|o| o["metadata"]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, installation::POLICIES);
}

/// A rule of a role as one line, in the words of both.
fn line(namespace: Value, group: &Value, resources: &Value, object: &Value, verbs: &Value) -> String {
    json!([namespace, group, resources, object, verbs]).to_string()
}

#[test]
fn the_rights_that_a_doctor_asks_for_are_those_that_are_granted() {
    let objects: Vec<Value> = serde_saphyr::from_multiple(&manifest("rbac.yaml").unwrap()).unwrap();
    for (role, rules) in [("patchbay-controller", rights::CONTROLLER), ("patchbay-agent", rights::AGENT)] {
        let roles = objects.iter().filter(|o| o["metadata"]["name"] == role);
        let granted = roles.flat_map(|o| o["rules"].as_array().into_iter().flatten().map(move |rule| (o, rule)));
        let granted = granted.map(|(o, r)| {
            line(
                o["metadata"]["namespace"].clone(),
                &r["apiGroups"][0],
                &r["resources"],
                &r["resourceNames"][0],
                &r["verbs"],
            )
        });
        let asked = rules
            .iter()
            .map(|r| line(json!(r.namespace), &json!(r.group), &json!(r.resources), &json!(r.object), &json!(r.verbs)));
        assert_eq!(granted.collect::<Vec<_>>(), asked.collect::<Vec<_>>());
    }
}

#[test]
fn the_controller_signs_for_the_signer_of_agents_and_for_no_other() {
    let text = manifest("rbac.yaml").unwrap();
    let roles: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let rules = roles.iter().flat_map(|role| role["rules"].as_array().into_iter().flatten());
    let signers: Vec<_> = rules.filter(|rule| rule["resources"] == serde_json::json!(["signers"])).collect();
    assert_eq!(signers.len(), 1, "{signers:?}");
    assert_eq!(signers[0]["resourceNames"], serde_json::json!([SIGNER]));
}
