//! What the programs tell in numbers, on real nodes: what somebody sees who reads nothing else.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::case::{Case, SOON, VM};
use crate::cluster::Lab;
use crate::product;
use crate::stick::Stick;

const HOME: &str = "node-1";
const IMPORTER: &str = "node-2";

/// A stick is read in a guest of another node, its cable is pulled and put back, and it is taken out. Agents and controller count it.
pub(super) fn follow_a_device_into_a_guest_and_out_again(lab: &Lab) -> Result<()> {
    let case = Case::begin(lab, "metrics")?;
    let before = Numbers::of(lab)?;
    let stick = Stick::new("metrics");
    let (device, mut guest) = case.reading(&stick, HOME, IMPORTER)?;

    let attached = Numbers::wait(lab, "a device in a guest", |now| {
        now.is(&home("sessions", "{N,side=\"home\"}"), 1.0)?;
        now.is(&importer("sessions", "{N,side=\"import\"}"), 1.0)?;
        now.grew(&before, &home("requests_total", "{N,answer=\"granted\"}"), 1.0)?;
        now.grew(&before, &home("sessions_started_total", "{N,side=\"home\"}"), 1.0)?;
        now.grew(&before, &importer("sessions_started_total", "{N,side=\"import\"}"), 1.0)?;
        now.grew(&before, &importer("step_duration_seconds_count", "{N,step=\"plug\"}"), 1.0)?;
        now.is(&format!("patchbay_attachments{{node=\"{IMPORTER}\",stage=\"plugged\"}}"), 1.0)?;
        now.grew(&before, "patchbay_attach_duration_seconds_count{step=\"all\"}", 1.0)
    })?;
    for (what, node) in [("port_urbs_total", IMPORTER), ("lent_device_urbs_total", HOME)] {
        let begin = format!("patchbay_node_{what}{{node=\"{node}\"");
        let urbs: Vec<f64> = attached.0.iter().filter(|(s, _)| s.starts_with(&begin)).map(|(_, n)| *n).collect();
        ensure!(matches!(urbs.as_slice(), [n] if *n > 20.0), "the guest has read the stick: {what} {urbs:?}");
    }

    for word in [&*device, VM, stick.serial.as_deref().unwrap_or(VM)] {
        let telling = attached.0.keys().find(|sample| sample.contains(word));
        ensure!(telling.is_none(), "numbers are for everybody, and {telling:?} says whose they are");
    }

    guest.forget();
    case.unplug(HOME, &stick)?;
    guest.loses_disk(SOON)?;
    Numbers::wait(lab, "an assigned device that is missed", |now| {
        now.is(&format!("patchbay_assigned_devices_unusable{{node=\"{HOME}\",reason=\"NotFound\"}}"), 1.0)
    })?;
    case.insert(HOME, &stick)?;
    guest.reads(&stick, SOON)?;
    case.wait_status(VM, &device, true)?;
    Numbers::wait(lab, "a session that was begun anew", |now| {
        now.grew(&attached, &importer("reimports_total", "{N}"), 1.0)?;
        // It is the same attachment.
        let attachments = "patchbay_attach_duration_seconds_count{step=\"all\"}";
        now.is(attachments, attached.value(attachments))
    })?;

    case.set_devices(VM, &[])?;
    guest.loses_disk(SOON)?;
    Numbers::wait(lab, "nothing in a guest", |now| {
        now.is(&home("sessions", "{N,side=\"home\"}"), 0.0)?;
        now.is(&importer("sessions", "{N,side=\"import\"}"), 0.0)?;
        now.grew(&attached, "patchbay_detach_duration_seconds_count{step=\"unplug\"}", 1.0)?;
        now.grew(&attached, "patchbay_detach_duration_seconds_count{step=\"all\"}", 1.0)
    })?;
    case.end()
}

fn home(metric: &str, labels: &str) -> String {
    format!("patchbay_node_{metric}{}", labels.replace('N', &format!("node=\"{HOME}\"")))
}

fn importer(metric: &str, labels: &str) -> String {
    format!("patchbay_node_{metric}{}", labels.replace('N', &format!("node=\"{IMPORTER}\"")))
}

/// What the controller and all agents tell: each sample with its value.
struct Numbers(BTreeMap<String, f64>);

impl Numbers {
    /// Reads them where they are, as Prometheus would.
    fn of(lab: &Lab) -> Result<Self> {
        let node = product::controller_node(lab)?;
        let pods = ["get", "pods", "-n", "patchbay", "-l", "app.kubernetes.io/component=controller", "-o"];
        let address = lab.kubectl(&[&pods[..], &["jsonpath={.items[0].status.podIP}"]].concat())?;
        let mut told = vec![(node, address)];
        told.extend(lab.nodes().iter().map(|node| (node.name().to_owned(), "127.0.0.1".to_owned())));
        let mut numbers = BTreeMap::new();
        for (node, address) in told {
            let text = lab.node(&node)?.run(&format!("wget -q -O - http://{address}:3243/metrics"))?;
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (sample, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
                numbers.insert(sample.to_owned(), value.parse().with_context(|| format!("no number: {line}"))?);
            }
        }
        Ok(Self(numbers))
    }

    /// Those that fit, once they do.
    fn wait(lab: &Lab, what: &str, fits: impl Fn(&Self) -> Result<(), String>) -> Result<Self> {
        lab.wait_for(&format!("metrics that tell of {what}"), SOON, || {
            let now = Self::of(lab).map_err(|error| format!("{error:#}"))?;
            fits(&now)?;
            Ok(now)
        })
    }

    fn value(&self, sample: &str) -> f64 {
        self.0.get(sample).copied().unwrap_or_default()
    }

    fn is(&self, sample: &str, wanted: f64) -> Result<(), String> {
        let value = self.value(sample);
        if (value - wanted).abs() < 0.5 { Ok(()) } else { Err(format!("{sample} is {value} and not {wanted}")) }
    }

    fn grew(&self, before: &Self, sample: &str, by: f64) -> Result<(), String> {
        let grown = self.value(sample) - before.value(sample);
        if grown > by - 0.5 { Ok(()) } else { Err(format!("{sample} has grown by {grown} and not by {by}")) }
    }
}
