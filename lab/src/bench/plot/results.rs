//! What measurements have left in `target/bench`, as far as it is drawn.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bench::byhand::ByHand;
use crate::bench::figures::{Row, Times};
use crate::bench::moves::Moves;

/// `latest.json`: attach, detach, cable, moves.
#[derive(Debug, Deserialize)]
pub(super) struct Bench {
    /// When, in seconds since 1970.
    pub(super) unix: u64,
    pub(super) kubernetes: String,
    /// How often each thing was done.
    pub(super) rounds: u32,
    pub(super) rows: Vec<Row>,
    pub(super) attach_steps_ms: BTreeMap<String, Times>,
    pub(super) by_hand: ByHand,
    pub(super) migrations: Vec<Moves>,
}

/// What the control plane costs with one fleet.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Point {
    pub(super) devices: f64,
    /// What one plan of the controller takes.
    pub(super) plan_ms: Option<f64>,
    /// The controller's resident memory, the most there was, in MiB.
    pub(super) rss_mb: Option<f64>,
    /// From a start of the controller until it has looked at everything.
    pub(super) cold_start_ms: Option<f64>,
}

/// `fleet-<time>.json`: one size, or several as they are to be drawn.
#[derive(Debug, Deserialize)]
struct Fleet {
    #[serde(default)]
    unix: u64,
    #[serde(default)]
    points: Vec<Point>,
    size: Option<Size>,
    #[serde(default)]
    phases: BTreeMap<String, Phase>,
    most_resident_mib: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Size {
    nodes: f64,
    devices_per_node: f64,
}

#[derive(Debug, Deserialize)]
struct Phase {
    seconds: Option<f64>,
    plan_ms: Option<f64>,
}

impl Fleet {
    fn points(self) -> Vec<Point> {
        let Some(size) = self.size else { return self.points };
        let phase = |words: &str| self.phases.iter().find(|(what, _)| what.contains(words)).map(|(_, phase)| phase);
        vec![Point {
            devices: size.nodes * size.devices_per_node,
            plan_ms: phase("changes").and_then(|phase| phase.plan_ms),
            rss_mb: self.most_resident_mib,
            cold_start_ms: phase("started anew").and_then(|phase| phase.seconds).map(|seconds| seconds * 1000.0),
        }]
    }
}

/// The fleets that were measured, the smallest first; of those of a size the one that was measured last.
///
/// # Errors
/// As for [`read`].
pub(super) fn fleets(folder: &Path) -> Result<Vec<Point>> {
    let mut runs: Vec<Fleet> = Vec::new();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for name in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if name.starts_with("fleet-") && name.ends_with(".json") && name != "fleet-latest.json" {
            runs.extend(read(folder, &name)?);
        }
    }
    runs.sort_by_key(|run| Reverse(run.unix));
    let mut points: Vec<_> = runs.into_iter().flat_map(Fleet::points).collect();
    points.sort_by(|a, b| a.devices.total_cmp(&b.devices));
    points.dedup_by(|later, first| later.devices.total_cmp(&first.devices).is_eq());
    Ok(points)
}

/// Reads a result; None where that has not been measured.
///
/// # Errors
/// When it cannot be read or is not what it should be.
pub(super) fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> Result<Option<T>> {
    let path = folder.join(name);
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).map(Some).with_context(|| format!("{} is no result of a measurement", path.display()))
}

/// A result in which a step of ours takes as many times ten milliseconds as its place, and each by hand 25 ms.
#[cfg(test)]
pub(super) fn example() -> Bench {
    use crate::bench::steps::STEPS;
    let steps: BTreeMap<_, _> = (1_u32..).zip(STEPS).map(|(n, (what, _))| (what, [n * 10, n * 10])).collect();
    let hand =
        BTreeMap::from(["attach", "detach", "command", "bind", "link", "qemu", "guest"].map(|what| (what, [25])));
    serde_json::from_value(serde_json::json!({
        "unix": 1, "kubernetes": "v1.34.4", "rounds": 2,
        "rows": [
            {"what": "attach", "figure": 550.0, "worst": 550.4, "unit": "ms", "at_most": null},
            {"what": "  added", "figure": 450.0, "worst": null, "unit": "ms", "at_most": 300.0},
            {"what": "agent on node-1: resident memory", "figure": 9.0, "worst": null, "unit": "MiB", "at_most": 15.0},
            {"what": "  CPU", "figure": 0.0, "worst": null, "unit": "%", "at_most": null},
        ],
        "attach_steps_ms": steps,
        "by_hand": hand,
        "migrations": [{"way": "remote to remote", "gap": [2800, 2900, 3300], "whole": [6600, 6700, 7000]}],
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_nothing_and_what_makes_no_sense_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read::<Bench>(folder.path(), "latest.json").unwrap().is_none());
        fs::write(folder.path().join("latest.json"), "{}").unwrap();
        let error = read::<Bench>(folder.path(), "latest.json").unwrap_err();
        assert!(format!("{error:#}").contains("missing field"), "{error:#}");
    }

    #[test]
    fn of_each_size_the_fleet_that_was_measured_last_counts() {
        let folder = tempfile::tempdir().unwrap();
        let run = |unix: u64, nodes: u32, seconds: f64| {
            let run = serde_json::json!({
                "unix": unix, "size": {"nodes": nodes, "devices_per_node": 10}, "most_resident_mib": 40,
                "phases": {
                    "changes": {"all_ms": [1.0], "plan_ms": 2.5},
                    "controller started anew -> it has looked at everything": {"seconds": seconds},
                },
            });
            for name in [unix.to_string(), "latest".to_owned()] {
                fs::write(folder.path().join(format!("fleet-{name}.json")), run.to_string()).unwrap();
            }
        };
        run(1, 100, 9.0);
        run(3, 10, 1.0);
        run(2, 100, 4.0);
        let (plan_ms, rss_mb) = (Some(2.5), Some(40.0));
        let point = |devices, ms| Point { devices, plan_ms, rss_mb, cold_start_ms: Some(ms) };
        assert_eq!(fleets(folder.path()).unwrap(), [point(100.0, 1000.0), point(1000.0, 4000.0)]);
        assert_eq!(fleets(&folder.path().join("none")).unwrap(), []);
    }
}
