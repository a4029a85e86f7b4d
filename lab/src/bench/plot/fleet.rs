//! How the cost of the control plane grows with the fleet: time of a plan, memory and cold start of the controller, each over
//! the number of devices. Both axes are logarithmic: a straight line that rises by one for each one to the right is a cost that
//! grows like the fleet.

use super::svg::{Anchor, Picture};
use crate::bench::fleet::Point;

const WIDTH: f64 = 860.0;
/// Of one panel: how wide it is, and where its axes are in it.
const PANEL: f64 = 280.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 264.0;

/// What is drawn, in which unit, and with which aim.
type Panel = (&'static str, &'static str, fn(&Point) -> Option<f64>);

const PANELS: [Panel; 3] = [
    ("time of a plan", "ms", |point| point.plan_ms),
    ("controller: resident memory", "MiB", |point| point.rss_mb),
    ("controller: cold start to converged", "ms", |point| point.cold_start_ms),
];

/// The picture; none where fewer than two fleets were measured.
pub(super) fn picture(fleet: &[Point]) -> Option<String> {
    let drawn: Vec<_> = PANELS.into_iter().filter(|(.., of)| series(fleet, *of).len() > 1).collect();
    let mut picture = Picture::new(WIDTH, "How the cost of the control plane grows with the fleet");
    let mut left = 10.0;
    let mut said = Vec::new();
    for (what, unit, of) in drawn {
        let series = series(fleet, of);
        said.extend(
            series.last().map(|(devices, cost)| format!("{what} {} {unit} at {devices:.0} devices", short(*cost))),
        );
        panel(&mut picture, left, &format!("{what}, {unit}"), &series);
        left += PANEL;
    }
    if said.is_empty() {
        return None;
    }
    picture.text(
        "small",
        (16.0, BOTTOM + 48.0),
        Anchor::Start,
        "Devices of the fleet; both axes are logarithmic, and one step is ten times as much.",
    );
    Some(picture.finish(BOTTOM + 66.0, &format!("Cost of the control plane: {}.", said.join(", "))))
}

/// Devices and cost, where both are known.
fn series(fleet: &[Point], of: fn(&Point) -> Option<f64>) -> Vec<(f64, f64)> {
    let known =
        |point: &Point| Some((point.devices, of(point)?)).filter(|(devices, cost)| *devices > 0.0 && *cost > 0.0);
    let mut series: Vec<_> = fleet.iter().filter_map(known).collect();
    series.sort_by(|a, b| a.0.total_cmp(&b.0));
    series
}

fn panel(picture: &mut Picture, left: f64, heading: &str, series: &[(f64, f64)]) {
    let horizontal = Axis::over(series.iter().map(|(devices, _)| *devices), (left + LEFT, left + PANEL - RIGHT));
    let vertical = Axis::over(series.iter().map(|(_, cost)| *cost), (BOTTOM, TOP));
    picture.text("", (left + 6.0, 58.0), Anchor::Start, heading);
    for (power, y) in vertical.powers() {
        picture.line("grid", (horizontal.from, y), (horizontal.to, y));
        picture.text("small", (horizontal.from - 6.0, y + 4.0), Anchor::End, &power);
    }
    for (power, x) in horizontal.powers() {
        picture.line("grid", (x, TOP), (x, BOTTOM));
        picture.text("small", (x, BOTTOM + 18.0), Anchor::Middle, &power);
    }
    let points: Vec<_> = series.iter().map(|(devices, cost)| (horizontal.at(*devices), vertical.at(*cost))).collect();
    picture.path("line", &points);
    for ((x, y), (_, cost)) in points.into_iter().zip(series) {
        picture.dot("s2", (x, y), 4.0);
        // Costs rise: below at the right there is room, but not at the right end.
        let (place, anchor) = if x + 40.0 < horizontal.to {
            ((x + 8.0, y + 14.0), Anchor::Start)
        } else {
            ((x - 8.0, y - 8.0), Anchor::End)
        };
        picture.text("small", place, anchor, &short(*cost));
    }
}

/// An axis from a power of ten to another.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(figures: impl Iterator<Item = f64> + Clone, (from, to): (f64, f64)) -> Self {
        let low = figures.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let high = figures.fold(0.0, f64::max).log10().ceil();
        Self { low, high: high.max(low + 1.0), from, to }
    }

    fn at(&self, figure: f64) -> f64 {
        self.from + (figure.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The powers of ten, as they are written, and where they are.
    fn powers(&self) -> Vec<(String, f64)> {
        let mut powers = Vec::new();
        let mut power = self.low;
        while power <= self.high {
            let figure = 10_f64.powf(power);
            powers.push((short(figure), self.at(figure)));
            power += 1.0;
        }
        powers
    }
}

/// Short, and as exact as it means something: `0.05`, `4.2`, `350`, `12k`.
fn short(figure: f64) -> String {
    match figure {
        f if f < 0.95 => format!("{:.1$}", f, usize::from(f < 0.1) + 1),
        f if f < 9.95 => format!("{f:.1}").trim_end_matches(".0").to_owned(),
        f if f < 10_000.0 => format!("{f:.0}"),
        f if f < 1_000_000.0 => format!("{:.0}k", f / 1e3),
        f => format!("{:.0}M", f / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(text: &str) -> Vec<Point> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn only_what_was_measured_at_more_than_one_size_is_drawn() {
        let svg = picture(&fleet(
            r#"[{"nodes": 100, "devices": 1000, "plan_ms": 0.9, "rss_mb": 40}, {"nodes": 10, "devices": 100, "plan_ms": 0.1}]"#,
        ))
        .unwrap();
        assert!(svg.contains("time of a plan 0.9 ms at 1000 devices"), "{svg}");
        assert!(!svg.contains("resident memory"), "{svg}");
        assert_eq!(picture(&fleet(r#"[{"devices": 1000, "plan_ms": 1}]"#)), None);
    }

    #[test]
    fn a_decade_is_as_wide_as_any_other() {
        let axis = Axis::over([20.0, 5000.0].into_iter(), (0.0, 300.0));
        assert!((axis.at(100.0) - 100.0).abs() < 1e-9 && (axis.at(1000.0) - 200.0).abs() < 1e-9);
        let powers: Vec<_> = axis.powers().into_iter().map(|(power, _)| power).collect();
        assert_eq!(powers, ["10", "100", "1000", "10k"]);
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.05, 0.5, 1.0, 4.25, 350.2, 12_400.0].map(short), ["0.05", "0.5", "1", "4.2", "350", "12k"]);
    }
}
