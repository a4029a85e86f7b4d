//! What was measured of a fleet, the table of it, and the point of it in the picture.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::books::Asked;
use super::change::Changes;
use super::idle::{Idle, WATCHED};
use super::options::Options;
use super::rise::{Anew, Cold, Filled};
use super::storm::{Burst, Nodes};
use crate::bench::figures::{Row, count, table};

/// All of it.
pub(super) struct Measured {
    pub(super) cold: Cold,
    pub(super) filled: Filled,
    pub(super) anew: Anew,
    pub(super) idle: Idle,
    pub(super) changes: Changes,
    pub(super) nodes: Nodes,
    pub(super) burst: Burst,
    /// Bytes that an agent has received until it was at rest.
    pub(super) joining: u64,
    /// The controller's resident memory at the end, in MiB.
    pub(super) memory: f64,
    /// The most a controller ever had.
    pub(super) most: f64,
}

/// As it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::bench) struct Report {
    /// When, in seconds since 1970.
    pub(in crate::bench) unix: u64,
    pub(in crate::bench) kubernetes: String,
    pub(in crate::bench) size: Options,
    pub(in crate::bench) rows: Vec<Row>,
    pub(in crate::bench) point: Point,
    /// What the controller has asked of the API server, by the step of the measurement.
    #[serde(default)]
    pub(super) asked: BTreeMap<String, Asked>,
}

/// What the control plane costs with a fleet of this size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::bench) struct Point {
    pub(in crate::bench) devices: f64,
    /// What one plan of the controller takes.
    pub(in crate::bench) plan_ms: Option<f64>,
    /// The controller's resident memory at the end, in MiB.
    pub(in crate::bench) rss_mb: Option<f64>,
    /// From a start of the controller until every device has its object.
    pub(in crate::bench) cold_start_ms: Option<f64>,
}

impl Report {
    /// How large the fleet is, in words.
    pub(in crate::bench) fn what(&self) -> String {
        let Options { nodes, devices, machines, attachments, .. } = self.size;
        let all = nodes * devices;
        format!("{nodes} nodes with {all} devices, {machines} machines with {attachments} of them")
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        table(&format!("A fleet on this machine: {}", self.what()), &self.rows)
    }
}

impl Measured {
    /// Its point in the picture.
    pub(super) fn point(&self, options: &Options) -> Point {
        Point {
            devices: count(options.all_devices()),
            plan_ms: Some(self.changes.plan_ms).filter(|ms| ms.is_finite()),
            rss_mb: Some(self.memory),
            cold_start_ms: Some(self.cold.took.as_secs_f64() * 1000.0),
        }
    }

    /// What the controller has asked, by step.
    pub(super) fn asked(&self) -> BTreeMap<String, Asked> {
        let steps = [
            ("cold", &self.cold.asked),
            ("filled", &self.filled.asked),
            ("anew", &self.anew.asked),
            ("idle", &self.idle.asked),
            ("changes", &self.changes.asked),
            ("nodes", &self.nodes.asked),
            ("burst", &self.burst.asked),
        ];
        steps.into_iter().map(|(step, asked)| (step.to_owned(), asked.clone())).collect()
    }

    /// The lines of the table.
    pub(super) fn rows(&self, options: &Options) -> Vec<Row> {
        let Options { lost, burst, attachments, .. } = *options;
        let (cold, filled, devices) = (&self.cold, &self.filled, options.all_devices());
        let mut rows = vec![
            seconds(&format!("controller started, nothing but slices there -> {devices} NodeUSBDevices"), cold.took),
            Row::figure("  API writes of the controller", count(cold.asked.writes), ""),
            Row::figure("  API writes in a second", per_second(cold.asked.writes, cold.took), "/s"),
            Row::figure("  resident memory then", cold.memory, "MiB"),
            seconds(&format!("{attachments} devices given to namespaces -> all are assigned"), filled.assigned),
            seconds(&format!("machines made -> all run, with {attachments} attachments"), filled.attached),
            Row::times("  of that for each: until kube-scheduler has found its node", &filled.scheduled),
            Row::figure(
                "  API requests of the controller in a second",
                per_second(filled.asked.requests, filled.assigned + filled.attached),
                "/s",
            ),
        ];
        rows.extend(per_thing(&filled.asked, attachments, "attachment, with its assignment and machine"));
        let anew = &self.anew;
        rows.extend([
            seconds("controller started anew -> it knows everything, and has planned", anew.took),
            Row::figure("  API writes of the controller", count(anew.asked.writes + anew.asked.told), "").at_most(0.0),
            Row::figure("  resident memory then", anew.memory, "MiB"),
        ]);
        let idle = &self.idle;
        let written = count(idle.asked.writes + idle.asked.told);
        rows.extend([
            Row::figure(&format!("{WATCHED} s in which nothing happens: API writes, but for the lease"), written, "")
                .at_most(0.0),
            Row::figure("  CPU of one core, controller", idle.cpu_percent, "%"),
        ]);
        let changes = &self.changes;
        rows.extend([
            Row::times("a device's slice is written -> its NodeUSBDevice says so", &changes.times).at_most(50.0),
            Row::figure("  API writes for each change", share(changes.asked.writes, changes.times.each().len()), "")
                .at_most(1.0),
            Row::figure("  time of a plan", changes.plan_ms, "ms").at_most(10.0),
        ]);
        let nodes = &self.nodes;
        rows.extend([
            seconds(&format!("{lost} nodes lost -> all their {} devices say so", nodes.devices), nodes.lost),
            seconds("  nodes back -> all say that they are ready", nodes.back),
            Row::figure("  API writes for each device lost and back", share(nodes.asked.writes, nodes.devices), ""),
        ]);
        let storm = &self.burst;
        rows.extend([
            seconds(&format!("{burst} devices leave their machines at once -> all are free"), storm.detached),
            seconds(&format!("{burst} devices into machines at once -> all are there"), storm.attached),
            Row::times("  of that for each: until kube-scheduler has found its node", &storm.scheduled),
            Row::figure("  time of a plan meanwhile", storm.plan_ms, "ms").at_most(10.0),
        ]);
        rows.extend(per_thing(&storm.asked, burst, "detach and attach"));
        rows.extend([
            Row::figure("controller: resident memory at the end", self.memory, "MiB").at_most(150.0),
            Row::figure("  the most there ever was", self.most, "MiB"),
            kib("an agent of this fleet, without devices: received until it is at rest", self.joining).at_most(256.0),
            kib(&format!("  in {WATCHED} s in which nothing happens"), idle.received).at_most(64.0),
            kib("  while devices of other nodes change", changes.received).at_most(64.0),
            kib("  while other nodes are lost, and back", nodes.received).at_most(64.0),
            kib("  while others detach and attach", storm.received).at_most(64.0),
        ]);
        rows
    }
}

fn seconds(what: &str, time: Duration) -> Row {
    Row::figure(what, time.as_secs_f64(), "s")
}

fn kib(what: &str, bytes: u64) -> Row {
    Row::figure(what, count(bytes) / 1024.0, "KiB")
}

fn per_second(how_many: usize, time: Duration) -> f64 {
    count(how_many) / time.as_secs_f64()
}

fn share(how_many: usize, things: usize) -> f64 {
    count(how_many) / count(things)
}

/// What the controller has asked for each of so many things.
fn per_thing(asked: &Asked, things: usize, thing: &str) -> [Row; 3] {
    [
        Row::figure(&format!("  API requests of the controller for each {thing}"), share(asked.requests, things), ""),
        Row::figure("  of these writes", share(asked.writes, things), ""),
        Row::figure("  of these Events", share(asked.told, things), ""),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Times;

    fn measured() -> Measured {
        let asked = |requests, writes, told| Asked { requests, writes, told, ..Asked::default() };
        let times: Times = [20, 40].into_iter().map(Duration::from_millis).collect();
        let took = Duration::from_secs(4);
        Measured {
            cold: Cold { took, asked: asked(420, 400, 0), memory: 30.0 },
            filled: Filled { assigned: took, attached: took, scheduled: times.clone(), asked: asked(800, 400, 80) },
            anew: Anew { took, asked: asked(13, 0, 0), memory: 20.0, most_before: 40.0 },
            idle: Idle { cpu_percent: 0.1, asked: asked(26, 0, 1), received: 2048 },
            changes: Changes { times, asked: asked(3, 3, 0), plan_ms: 1.5, received: 512 },
            nodes: Nodes { lost: took, back: took, devices: 50, asked: asked(120, 100, 0), received: 0 },
            burst: Burst {
                detached: took,
                attached: took,
                scheduled: Times::default(),
                asked: asked(150, 120, 60),
                plan_ms: 12.5,
                received: 65 * 1024,
            },
            joining: 100 * 1024,
            memory: 35.0,
            most: 40.0,
        }
    }

    #[test]
    fn each_aim_is_judged_by_what_it_is_about() {
        let options = Options { nodes: 20, devices: 10, machines: 20, attachments: 40, lost: 5, burst: 10 };
        let cells: Vec<_> = measured().rows(&options).iter().map(Row::cells).collect();
        let row = |what: &str| {
            let found = cells.iter().find(|cells| cells[0].contains(what)).unwrap_or_else(|| panic!("no row {what}"));
            [found[1].as_str(), found[4].as_str()]
        };
        assert_eq!(row("nothing but slices there -> 200 NodeUSBDevices"), ["4.0 s", ""]);
        assert_eq!(row("API writes in a second"), ["100 /s", ""]);
        assert_eq!(row("for each attachment, with"), ["20.0", ""]);
        assert_eq!(row("60 s in which nothing happens: API writes"), ["1.0", "MISSED"]);
        assert_eq!(row("its NodeUSBDevice says so"), ["30 ms", "met"]);
        assert_eq!(row("writes for each change"), ["1.5", "MISSED"]);
        assert_eq!(row("time of a plan meanwhile"), ["12 ms", "MISSED"]);
        assert_eq!(row("writes for each device lost and back"), ["2.0", ""]);
        assert_eq!(row("resident memory at the end"), ["35.0 MiB", "met"]);
        assert_eq!(row("received until it is at rest"), ["100 KiB", "met"]);
        assert_eq!(row("while others detach and attach"), ["65.0 KiB", "MISSED"]);
    }

    #[test]
    fn a_report_is_read_back() {
        let options = Options { nodes: 20, devices: 10, machines: 20, attachments: 40, lost: 5, burst: 10 };
        let (rows, point, asked) = (measured().rows(&options), measured().point(&options), measured().asked());
        let report = Report { unix: 1, kubernetes: "v1.34.4".to_owned(), size: options, rows, point, asked };
        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!((read.size, read.point, read.rows.len()), (report.size, report.point, report.rows.len()));
        assert_eq!(read.asked["changes"].writes, 3);
        assert!(
            read.table().starts_with("A fleet on this machine: 20 nodes with 200 devices, 20 machines with 40 of them")
        );
    }
}
