//! What measurements have left in `target/bench`, as far as it is drawn.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::bench::byhand::ByHand;
use crate::bench::figures::{Row, Times};
use crate::bench::fleet::Report as Fleet;
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

/// The fleets that were measured, the smallest first; of those of a size the one that was measured last.
///
/// # Errors
/// As for [`read`].
pub(super) fn fleets(folder: &Path) -> Result<Vec<Fleet>> {
    let mut runs: Vec<Fleet> = Vec::new();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for name in entries.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        if name.starts_with("fleet-") && name.ends_with(".json") && name != "fleet-latest.json" {
            runs.extend(read(folder, &name)?);
        }
    }
    runs.sort_by(|a: &Fleet, b| a.point.devices.total_cmp(&b.point.devices).then(b.unix.cmp(&a.unix)));
    runs.dedup_by(|later, first| later.point.devices.total_cmp(&first.point.devices).is_eq());
    Ok(runs)
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
        let run = |unix: u64, nodes: u32, ms: f64| {
            let run = serde_json::json!({
                "unix": unix, "kubernetes": "v1.34.4", "rows": [],
                "size": {"nodes": nodes, "devices": 10, "machines": 1, "attachments": 1, "lost": 1, "burst": 1},
                "point": {"devices": nodes * 10, "plan_ms": 2.5, "rss_mb": 40.0, "cold_start_ms": ms},
            });
            for name in [unix.to_string(), "latest".to_owned()] {
                fs::write(folder.path().join(format!("fleet-{name}.json")), run.to_string()).unwrap();
            }
        };
        run(1, 100, 9.0);
        run(3, 10, 1.0);
        run(2, 100, 4.0);
        let found = fleets(folder.path()).unwrap();
        let points: Vec<_> = found.iter().map(|run| (run.point.devices, run.point.cold_start_ms)).collect();
        assert_eq!(points, [(100.0, Some(1.0)), (1000.0, Some(4.0))]);
        assert!(fleets(&folder.path().join("none")).unwrap().is_empty());
    }
}
