//! The measurements as a reader of the docs sees them: pictures in `docs/pictures`, and the tables in `docs/measured.md`.
//!
//! All of it is made from what measurements have left in `target/bench`; what was not measured is left as it was, and said.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;

use super::agent::Report;
use super::figures::Row;
use super::markdown;
use crate::install::repository;
use crate::progress::say;

mod attach;
mod fleet;
mod moves;
mod page;
mod results;
mod svg;

use results::{Bench, fleets, read};

/// The page with the tables.
const PAGE: &str = "docs/measured.md";
/// Where it shows how costs grow: there is such a picture only when fleets of several sizes were measured.
const FLEET: &str = "![Three curves over the number of devices: time of a plan, memory and cold start of the controller](pictures/bench-fleet.svg)";

/// Draws what there is.
///
/// # Errors
/// When a result makes no sense or a file cannot be written.
pub fn run() -> Result<()> {
    let results = repository().join("target/bench");
    let page = repository().join(PAGE);
    let mut text = fs::read_to_string(&page).with_context(|| format!("cannot read {PAGE}"))?;
    if let Some(bench) = found(read::<Bench>(&results, "latest.json")?, "make bench") {
        draw("attach", attach::picture(&bench))?;
        draw("moves", moves::picture(&bench.migrations))?;
        let what = format!("medians and worst of {} rounds", bench.rounds);
        text = page::with(
            &text,
            "attach",
            &below(&when(bench.unix, &bench.kubernetes, &what)?, &table(without_processes(&bench.rows))),
        )?;
    }
    if let Some(report) = found(read::<Report>(&results, "agent-latest.json")?, "make bench-agent") {
        let (unix, kubernetes) = report.when();
        let what = "one run for each number of devices";
        text = page::with(&text, "agent", &below(&when(unix, kubernetes, what)?, &report.table()))?;
    }
    let fleets = fleets(&results)?;
    if let Some(largest) = found(fleets.last(), "make fleet") {
        let points: Vec<_> = fleets.iter().map(|fleet| fleet.point).collect();
        let content = below(&when(largest.unix, &largest.kubernetes, &largest.what())?, &table(&largest.rows));
        let picture = found(fleet::picture(&points), "make fleet, with fleets of two sizes");
        text = page::with(&text, "fleet", &if picture.is_some() { below(&content, FLEET) } else { content })?;
        draw("fleet", picture)?;
    }
    write(&page, &text)
}

fn found<T>(result: Option<T>, how: &str) -> Option<T> {
    if result.is_none() {
        say(&format!("not measured here yet: {how}"));
    }
    result
}

fn draw(name: &str, picture: Option<String>) -> Result<()> {
    let path = repository().join(format!("docs/pictures/bench-{name}.svg"));
    picture.map_or(Ok(()), |picture| write(&path, &picture))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    say(&format!("written: {}", path.display()));
    Ok(())
}

/// Of when and of what the figures are.
fn when(unix: u64, kubernetes: &str, what: &str) -> Result<String> {
    let day = Timestamp::from_second(i64::try_from(unix)?)?.strftime("%Y-%m-%d").to_string();
    Ok(format!("Measured on {day} with Kubernetes {}; {what}.", kubernetes.trim_start_matches('v')))
}

fn below(line: &str, table: &str) -> String {
    format!("{line}\n\n{table}")
}

/// Idle processes come last, and are in another table.
fn without_processes(rows: &[Row]) -> &[Row] {
    let end = rows.iter().position(|row| row.cells()[0].ends_with("resident memory")).unwrap_or(rows.len());
    rows.get(..end).unwrap_or_default()
}

/// Rows that are part of the one above begin with an arrow: Markdown has no indentation in tables.
fn table(rows: &[Row]) -> String {
    let heading = ["", "median", "worst", "aim", ""].map(str::to_owned).to_vec();
    let cells = rows.iter().map(|row| {
        let mut cells = row.cells();
        if let Some(part) = cells[0].strip_prefix("  ") {
            cells[0] = format!("↳ {part}");
        }
        cells.to_vec()
    });
    markdown::table(heading, cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_figures_were_taken() {
        assert_eq!(
            when(1_795_930_628, "v1.34.4", "two").unwrap(),
            "Measured on 2026-11-29 with Kubernetes 1.34.4; two."
        );
    }

    #[test]
    fn parts_of_a_figure_are_told_from_figures_and_missed_aims_are_said() {
        let table = table(without_processes(&results::example().rows));
        let lines: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[2], "| attach | 550 ms | 550 ms | | |");
        assert_eq!(lines[3], "| ↳ added | 450 ms | | <= 300 ms | MISSED |");
        assert_eq!(lines.len(), 4, "{lines:?}");
    }
}
