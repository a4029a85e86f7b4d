//! The list of metrics is what the programs tell, what is documented, and what rules and dashboard ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use patchbay_core::controller::World;
use patchbay_core::controller::census::{self, Ports, Stage};
use patchbay_core::controller::stopwatch::Lap;
use patchbay_core::importer::Action;
use patchbay_core::names::Uid;
use patchbay_core::speed::Hub;

use super::list::{self, Kind, Metric};
use super::{AgentMetrics, ControllerMetrics, Ending, NodeSight, Telling, text};

const SECOND: Duration = Duration::from_secs(1);

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What a controller tells that has done everything.
fn controller() -> String {
    let (metrics, registry) = ControllerMetrics::new();
    let mut census = census::count(&World::default());
    census.troubled.insert(("node-1".into(), patchbay_core::conditions::Reason::NotFound), 2);
    census.attachments.insert(("node-2".into(), Stage::Plugged), 3);
    census.ports.insert(("node-2".into(), Hub::Usb2), Ports { used: 3, free: 5 });
    metrics.planned(census, vec![(Lap::Attach, SECOND), (Lap::Detach, SECOND)], SECOND);
    metrics.wrote("create claim", "done", SECOND);
    metrics.tells(Telling::Held);
    text(&registry).unwrap()
}

/// What an agent tells that has done everything.
fn agent() -> String {
    let sight = NodeSight {
        devices: [(("480", "lent"), 1)].into(),
        ports: [(("usb2", "used"), 1)].into(),
        sessions: (1, 2),
        port_urbs: [("usb2-3".to_owned(), 7)].into(),
        lent_urbs: [("1-1".to_owned(), 9)].into(),
        certificate: 1_700_000_000,
    };
    let (metrics, registry) = AgentMetrics::new("node-1", move || sight.clone());
    metrics.step(&Action::Detach { port: "usb2-3".parse().unwrap() }, true, SECOND);
    metrics.imported("usb2-3".parse().unwrap(), &Uid::new("1"));
    metrics.lent();
    metrics.ended(Ending::Granted);
    text(&registry).unwrap()
}

/// The names of the samples in a text, without what a histogram adds to its own.
fn told(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() }).collect()
}

fn listed<'l>(lists: impl IntoIterator<Item = &'l [Metric]>) -> BTreeSet<String> {
    lists.into_iter().flatten().map(Metric::read_as).collect()
}

/// The value of a sample.
fn value<'t>(text: &'t str, sample: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))
}

#[test]
fn programs_tell_what_is_in_the_list_and_nothing_else() {
    assert_eq!(told(&controller()), listed([list::PROCESS, list::CONTROLLER]));
    assert_eq!(told(&agent()), listed([list::PROCESS, list::AGENT]));
}

#[test]
fn numbers_are_where_they_belong() {
    let text = controller();
    for (sample, wanted) in [
        ("patchbay_controller_leader", "1"),
        ("patchbay_devices{condition=\"Ready\",reason=\"NotFound\"}", "0"),
        ("patchbay_assigned_devices_unusable{node=\"node-1\",reason=\"NotFound\"}", "2"),
        ("patchbay_attachments{node=\"node-2\",stage=\"plugged\"}", "3"),
        ("patchbay_attachments{node=\"node-2\",stage=\"no_place\"}", "0"),
        ("patchbay_ports{node=\"node-2\",hub=\"usb2\",state=\"free\"}", "5"),
        ("patchbay_attach_duration_seconds_count{step=\"all\"}", "1"),
        ("patchbay_attach_duration_seconds_count{step=\"plug\"}", "0"),
        ("patchbay_controller_api_writes_total{action=\"create claim\",outcome=\"done\"}", "1"),
        ("patchbay_controller_events_total{outcome=\"held\"}", "1"),
    ] {
        assert_eq!(value(&text, sample), Some(wanted), "{sample} in\n{text}");
    }
    let text = agent();
    for (sample, wanted) in [
        ("patchbay_node_sessions{node=\"node-1\",side=\"import\"}", "2"),
        ("patchbay_node_port_urbs_total{node=\"node-1\",port=\"usb2-3\"}", "7"),
        ("patchbay_node_reimports_total{node=\"node-1\"}", "0"),
        ("patchbay_node_certificate_expiry_timestamp_seconds{node=\"node-1\"}", "1700000000"),
    ] {
        assert_eq!(value(&text, sample), Some(wanted), "{sample} in\n{text}");
    }
}

#[test]
fn a_controller_that_stands_by_tells_nothing_of_the_cluster() {
    let (metrics, registry) = ControllerMetrics::new();
    metrics.planned(census::count(&World::default()), Vec::new(), SECOND);
    metrics.stands_by();
    let text = text(&registry).unwrap();
    assert_eq!(value(&text, "patchbay_controller_leader"), Some("0"));
    assert!(!text.contains("patchbay_devices") && !text.contains("patchbay_nodes"), "{text}");
}

#[test]
fn only_a_session_for_the_same_claim_at_the_same_port_is_one_anew() {
    let (metrics, registry) = AgentMetrics::new("node-1", NodeSight::default);
    for (port, claim) in [("usb2-0", "a"), ("usb2-1", "a"), ("usb2-0", "b"), ("usb2-0", "b"), ("usb2-0", "a")] {
        metrics.imported(port.parse().unwrap(), &Uid::new(claim));
    }
    let text = text(&registry).unwrap();
    assert_eq!(value(&text, "patchbay_node_reimports_total{node=\"node-1\"}"), Some("1"));
    assert_eq!(value(&text, "patchbay_node_sessions_started_total{node=\"node-1\",side=\"import\"}"), Some("5"));
}

/// The metrics of ours that a text names.
fn asked(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = |word: &&str| word.starts_with("patchbay_") || word.starts_with("process_");
    let plain = |word: &str| {
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        histogram.unwrap_or(word).to_owned()
    };
    words.filter(ours).map(plain).collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_there_is() {
    let all = listed([list::PROCESS, list::CONTROLLER, list::AGENT]);
    for file in [
        "charts/patchbay/monitoring/alerts.yaml",
        "charts/patchbay/monitoring/alerts_test.yaml",
        "charts/patchbay/monitoring/dashboard.json",
    ] {
        let asked = asked(&std::fs::read_to_string(repository(file)).unwrap());
        assert!(!asked.is_empty(), "{file}");
        assert_eq!(asked.difference(&all).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
    }
}

#[test]
fn the_dashboard_shows_every_metric_and_reads_the_rules_nodes() {
    let text = std::fs::read_to_string(repository("charts/patchbay/monitoring/dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    assert!(panels.iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty()));
    let missing: Vec<_> =
        listed([list::PROCESS, list::CONTROLLER, list::AGENT]).difference(&asked(&text)).cloned().collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_alert_has_a_test_that_makes_it_fire_says_what_to_do_and_is_documented() {
    let read = |file: &str| std::fs::read_to_string(repository(file)).unwrap();
    let (rules, tests) =
        (read("charts/patchbay/monitoring/alerts.yaml"), read("charts/patchbay/monitoring/alerts_test.yaml"));
    let (rules, page) = (rules.split("- alert: ").skip(1), read("docs/metrics.md"));
    let mut alerts = Vec::new();
    for rule in rules {
        let (alert, rest) = rule.split_once('\n').unwrap();
        assert!(tests.contains(&format!("alertname: {alert}\n        exp_alerts:")), "{alert}");
        let (_, description) = rest.split_once("description: ").unwrap();
        assert!(description.contains("`kubectl "), "{alert}");
        alerts.push(alert);
    }
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `Patchbay")?.split_once('`'));
    let documented: Vec<_> = rows.map(|(name, _)| format!("Patchbay{name}")).collect();
    assert_eq!(documented, alerts);
}

const HEAD: &str = "\
<!-- The tables are made from crates/patchbay/src/metrics/list.rs: UPDATE=1 cargo test -p patchbay metrics_page -->
";

/// The page of the documentation, with its tables as the list has them.
fn page(before: &str) -> String {
    let mut page = before.to_owned();
    for (title, metrics) in [("both programs", list::PROCESS), ("controller", list::CONTROLLER), ("agent", list::AGENT)]
    {
        let (begin, end) = (format!("<!-- list: {title} -->\n"), "<!-- end of list -->");
        let mut table = "| metric | type | labels | tells |\n|---|---|---|---|\n".to_owned();
        for metric in metrics {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, labels) = (metric.read_as(), labels.join(", "));
            table.push_str(&format!("| `{name}` | {kind} | {labels} | {} |\n", metric.help));
        }
        let (head, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("docs/metrics.md has no {begin}"));
        let (_, rest) = rest.split_once(end).unwrap();
        page = format!("{head}{begin}{table}{end}{rest}");
    }
    page
}

#[test]
fn the_metrics_page_that_is_checked_in_has_the_list() {
    let path = repository("docs/metrics.md");
    let before = std::fs::read_to_string(&path).unwrap();
    let now = page(&before);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.starts_with(HEAD));
    assert!(
        written == now,
        "docs/metrics.md is out of date: write it anew with `UPDATE=1 cargo test -p patchbay metrics_page`"
    );
}

#[test]
fn labels_are_those_of_the_list_and_name_nothing_of_anybody() {
    let known: BTreeSet<&str> = listed_labels();
    let forbidden = ["device", "serial", "vm", "namespace", "claim", "pod", "name"];
    assert!(forbidden.iter().all(|label| !known.contains(label)));
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in [controller(), agent()].iter().flat_map(|text| text.lines()).filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let (labels, _) = rest.split_once('}').unwrap();
        let labels = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        seen.entry(name.to_owned()).or_default().extend(labels);
    }
    for (name, labels) in seen {
        assert!(labels.iter().all(|label| known.contains(label.as_str()) || label == "le"), "{name}: {labels:?}");
    }
}

fn listed_labels() -> BTreeSet<&'static str> {
    let all = list::PROCESS.iter().chain(list::CONTROLLER).chain(list::AGENT);
    all.flat_map(|metric| metric.labels).copied().chain(["node"]).collect()
}
