//! The chart, as Helm renders it: it agrees with the code, every value has a use, and wrong ones are refused with their names.
//! What it does in a cluster is shown by the scenarios.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helper ends the test")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use patchbay_api::installation;
use patchbay_lab::helm::{RELEASE, chart};
use patchbay_lab::install::repository;
use patchbay_lab::parts;
use serde_json::{Map, Value, json};

/// Runs Helm: what it prints, or what it complains about.
fn helm(arguments: &[&str]) -> Result<String, String> {
    static HELM: OnceLock<PathBuf> = OnceLock::new();
    let program = HELM.get_or_init(|| parts::helm().unwrap());
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

/// The chart with values that are given as `path=JSON`, besides the one that has no default.
fn render(values: &[&str]) -> Result<String, String> {
    let chart = chart().display().to_string();
    let mut arguments = vec!["template", RELEASE, &chart, "--namespace", installation::NAMESPACE];
    arguments.extend([
        "--set-json",
        "image.repository=\"registry.example/patchbay\"",
        "--set-json",
        "metrics.enabled=true",
    ]);
    arguments.extend(values.iter().flat_map(|value| ["--set-json", value]));
    helm(&arguments)
}

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    serde_saphyr::from_str(&std::fs::read_to_string(chart().join(file)).unwrap()).unwrap()
}

/// All values that are no maps of further ones, by their paths.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        None => found.push((path.to_owned(), value.clone())),
        Some(map) => map.iter().for_each(|(key, value)| {
            leaves(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, found);
        }),
    }
}

/// Another value that may be there instead.
fn another(path: &str, value: &Value) -> Value {
    match value {
        _ if path.ends_with("pullPolicy") => json!("Never"),
        _ if path.ends_with("kubeletFolder") => json!("/var/lib/k0s/kubelet"),
        _ if path.ends_with("consoleKeyboards") => json!("all"),
        // Without it the other ones of metrics have no use, so it is set wherever something is rendered.
        _ if path == "metrics.enabled" => json!(false),
        Value::Bool(is) => json!(!is),
        Value::Number(number) => json!(number.as_u64().unwrap() + 1),
        Value::String(_) => json!("other"),
        Value::Array(_) => json!([{"key": "other", "operator": "Exists"}]),
        Value::Object(_) => json!({"other": "one"}),
        Value::Null => panic!("{path} has no value"),
    }
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn helm_has_nothing_to_complain_about() {
    let chart = chart().display().to_string();
    let said = helm(&["lint", "--strict", &chart, "--namespace", RELEASE, "--set", "image.repository=none"]).unwrap();
    assert!(said.contains("1 chart(s) linted, 0 chart(s) failed"), "{said}");
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn each_value_changes_what_is_installed() {
    let mut values = Vec::new();
    leaves("", &read("values.yaml"), &mut values);
    assert!(values.len() > 20, "{values:?}");
    let before = render(&[]).unwrap();
    for (path, value) in values {
        let set = format!("{path}={}", another(&path, &value));
        assert!(render(&[&set]).unwrap() != before, "{set} changes nothing");
    }
}

/// The paths of a schema's properties, through its definitions; free maps are leaves.
fn described(path: &str, schema: &Value, all: &Value, found: &mut Vec<String>) {
    let schema = schema["$ref"].as_str().map_or(schema, |to| all.pointer(to.trim_start_matches('#')).unwrap());
    let none = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&none);
    assert!(properties.is_empty() || schema["additionalProperties"] == json!(false), "{path} takes anything");
    for (key, value) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        described(&path, value, all, found);
        found.push(path);
    }
}

#[test]
fn the_schema_describes_the_values_that_there_are_and_no_others() {
    let (values, schema): (Value, Value) = (read("values.yaml"), read("values.schema.json"));
    let mut paths = Vec::new();
    described("", &schema, &schema, &mut paths);
    for path in paths.iter().filter(|path| *path != "global") {
        let pointer = format!("/{}", path.replace('.', "/"));
        assert!(values.pointer(&pointer).is_some(), "{path} is described and is no value");
    }
    let mut leafs = Vec::new();
    leaves("", &values, &mut leafs);
    for (path, _) in leafs {
        let is = |described: &String| path == *described || path.starts_with(&format!("{described}."));
        assert!(paths.iter().any(is), "{path} is not described");
    }
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn a_wrong_value_is_refused_and_named() {
    for (wrong, words) in [
        ("agents={\"log\":\"debug\"}", "'agents'"),
        ("agent.prot=1", "'prot'"),
        ("agent.port=70000", "/agent/port"),
        ("agent.port=\"3241\"", "/agent/port"),
        ("agent.kubeletFolder=\"kubelet\"", "/agent/kubeletFolder"),
        ("controller.replicas=0", "/controller/replicas"),
        ("controller.networkPolicy=\"yes\"", "/controller/networkPolicy"),
        ("image.pullPolicy=\"Sometimes\"", "/image/pullPolicy"),
        ("image.tag=\"a b\"", "/image/tag"),
        ("image.repository=\"\"", "image.repository is not set"),
    ] {
        let said = render(&[wrong]).unwrap_err();
        assert!(said.contains(words), "{wrong}: {said}");
    }
    let chart = chart().display().to_string();
    let elsewhere = ["template", RELEASE, &chart, "--namespace", "usb", "--set", "image.repository=none"];
    let said = helm(&elsewhere).unwrap_err();
    assert!(said.contains("use --namespace patchbay, not usb"), "{said}");
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn our_programs_are_installed_under_the_names_that_a_doctor_looks_for() {
    let objects = objects(&render(&[]).unwrap());
    for (kind, name) in [("Deployment", installation::CONTROLLER), ("DaemonSet", installation::AGENT)] {
        let object = objects.iter().find(|object| object["kind"] == kind).unwrap();
        assert_eq!(object["metadata"]["name"], name);
        assert_eq!(object["metadata"]["namespace"], installation::NAMESPACE);
        let template = &object["spec"]["template"];
        assert_eq!(template["metadata"]["labels"][installation::COMPONENT], name);
        assert_eq!(template["spec"]["serviceAccountName"], name);
        // So that the last words of a program that has ended are in its pod's status.
        assert_eq!(template["spec"]["containers"][0]["terminationMessagePolicy"], "FallbackToLogsOnError");
    }
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn every_object_says_its_namespace_and_none_is_installed_twice() {
    let of_no_namespace = [
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "DeviceClass",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    ];
    let mut names = Vec::new();
    for object in objects(&render(&["controller.networkPolicy=true"]).unwrap()) {
        let kind = object["kind"].as_str().unwrap();
        let expected = if of_no_namespace.contains(&kind) { Value::Null } else { json!(installation::NAMESPACE) };
        assert_eq!(object["metadata"]["namespace"], expected, "{object}");
        names.push(format!("{kind} {}", object["metadata"]["name"]));
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn a_network_policy_lets_prometheus_in_where_there_is_something_to_read_and_nobody_else() {
    let policy = |metrics: &str| {
        let all = objects(&render(&["controller.networkPolicy=true", metrics]).unwrap());
        all.into_iter().find(|object| object["kind"] == "NetworkPolicy").unwrap()["spec"].clone()
    };
    let (with, without) = (policy("metrics.enabled=true"), policy("metrics.enabled=false"));
    assert_eq!(with["ingress"], json!([{"ports": [{"port": "metrics"}]}]));
    assert_eq!((&without["ingress"], &without["policyTypes"]), (&Value::Null, &json!(["Ingress"])));
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn what_prometheus_and_grafana_read_is_made_where_it_is_asked_for() {
    let none = render(&[]).unwrap();
    let all =
        objects(&render(&["metrics.serviceMonitor=true", "metrics.alerts=true", "metrics.dashboard=true"]).unwrap());
    let of = |kind: &str| all.iter().filter(|o| o["kind"] == kind).collect::<Vec<_>>();
    for kind in ["ServiceMonitor", "PrometheusRule"] {
        assert!(!none.contains(kind) && !of(kind).is_empty(), "{kind}");
    }
    let rules: Value = read("monitoring/alerts.yaml");
    assert_eq!(of("PrometheusRule")[0]["spec"], rules);
    let dashboard = of("ConfigMap").into_iter().find_map(|map| map["data"]["patchbay.json"].as_str()).unwrap();
    assert!(serde_json::from_str::<Value>(dashboard).unwrap()["panels"].is_array());
    // A monitor finds the service, the service the pods, and the port has that name there.
    for component in ["controller", "agent"] {
        let name = json!(format!("patchbay-{component}"));
        let (monitor, service) = (
            of("ServiceMonitor").into_iter().find(|o| o["metadata"]["name"] == name).unwrap(),
            of("Service").into_iter().find(|o| o["metadata"]["name"] == name).unwrap(),
        );
        assert_eq!(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"]);
        let pods =
            all.iter().find(|o| o["metadata"]["name"] == component && o["spec"]["template"].is_object()).unwrap();
        let pods = &pods["spec"]["template"];
        assert_eq!(service["spec"]["selector"], pods["metadata"]["labels"]);
        assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"]);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], pods["spec"]["containers"][0]["ports"][0]["name"]);
    }
    let without = render(&["metrics.enabled=false", "metrics.alerts=true"]).unwrap_err();
    assert!(without.contains("metrics.enabled"), "{without}");
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn a_single_controller_holds_up_no_drain() {
    let budgets = |values: &[&str]| {
        objects(&render(values).unwrap()).iter().filter(|object| object["kind"] == "PodDisruptionBudget").count()
    };
    assert_eq!((budgets(&[]), budgets(&["controller.replicas=1"])), (1, 0));
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart: Value = read("Chart.yaml");
    let version = json!(env!("CARGO_PKG_VERSION"));
    assert_eq!((&chart["version"], &chart["appVersion"]), (&version, &version));
}

#[test]
#[ignore = "needs Helm, which `lab parts` builds: run with --ignored"]
fn every_privilege_of_the_agent_is_listed_with_a_reason_and_no_other_is() {
    let text = std::fs::read_to_string(repository().join("docs/security.md")).unwrap();
    let section = text.split("### What the agent may do on its node").nth(1).unwrap().split("\n#").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut listed = Vec::new();
    for row in rows {
        let (what, why) = row.split_once("` | ").unwrap();
        assert!(why.len() > 20, "no reason for {what}");
        listed.push(what.to_owned());
    }
    listed.sort();
    let rendered = objects(&render(&[]).unwrap());
    let agent = rendered.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let spec = &agent["spec"]["template"]["spec"];
    let [container] = spec["containers"].as_array().unwrap().as_slice() else { panic!("one container") };
    let mut has = Vec::new();
    for (field, value) in spec.as_object().unwrap() {
        if field.starts_with("host") && *value == json!(true) {
            has.push(field.clone());
        }
    }
    for (field, value) in container["securityContext"].as_object().unwrap() {
        has.push(format!("{field}: {value}"));
    }
    for port in container["ports"].as_array().into_iter().flatten() {
        has.push(format!("port {}: {}", port["name"].as_str().unwrap(), port["containerPort"]));
    }
    for volume in spec["volumes"].as_array().unwrap() {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]).unwrap();
        let mode = if mount["readOnly"] == json!(true) { " (to read)" } else { "" };
        has.push(format!("{}{mode}", volume["hostPath"]["path"].as_str().unwrap()));
    }
    if spec["priorityClassName"] == "system-node-critical" {
        has.push("system-node-critical".to_owned());
    }
    if spec["tolerations"] == json!([{"operator": "Exists"}]) {
        has.push("tolerates all taints".to_owned());
    }
    has.sort();
    assert_eq!(listed, has);
}
