//! Figures and the table they are printed in.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The same thing measured several times, in milliseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Times(Vec<f64>);

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        Self(times.into_iter().map(|time| time.as_secs_f64() * 1000.0).collect())
    }
}

impl Times {
    /// One more.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1000.0);
    }

    /// Those of another series.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The one in the middle, or the mean of the two in the middle; not a number if there is none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
        let half = sorted.len() / 2;
        if sorted.len() % 2 == 1 { middle(half) } else { f64::midpoint(middle(half.saturating_sub(1)), middle(half)) }
    }

    /// Each, in the order in which they were measured.
    pub(crate) fn each(&self) -> &[f64] {
        &self.0
    }

    /// The shortest; not a number if there is none.
    pub(crate) fn best(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::min)
    }

    /// The longest; not a number if there is none.
    pub(crate) fn worst(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }
}

/// One line of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    what: String,
    /// The median of several, or the only figure.
    figure: Option<f64>,
    worst: Option<f64>,
    unit: Cow<'static, str>,
    at_most: Option<f64>,
}

impl Row {
    /// Several times.
    pub(crate) fn times(what: &str, times: &Times) -> Self {
        Self { worst: finite(times.worst()), ..Self::figure(what, times.median(), "ms") }
    }

    /// One figure. What is not a number was not measured.
    pub(crate) fn figure(what: &str, figure: f64, unit: &'static str) -> Self {
        Self { what: what.to_owned(), figure: finite(figure), worst: None, unit: unit.into(), at_most: None }
    }

    /// The aim.
    #[must_use]
    pub(crate) fn at_most(mut self, aim: f64) -> Self {
        self.at_most = Some(aim);
        self
    }

    /// What, figure, worst, aim, and whether it is met.
    pub(crate) fn cells(&self) -> [String; 5] {
        let number = |n: Option<f64>| n.map_or(String::new(), |n| shown(n, &self.unit));
        let aim = self.at_most.map_or(String::new(), |aim| format!("<= {}", shown(aim, &self.unit)));
        let verdict = match (self.figure, self.at_most) {
            (Some(figure), Some(aim)) if figure <= aim => "met",
            (Some(_), Some(_)) => "MISSED",
            _ => "",
        };
        let figure = self.figure.map_or("not measured".to_owned(), |n| shown(n, &self.unit));
        [self.what.clone(), figure, number(self.worst), aim, verdict.to_owned()]
    }
}

/// A count as a figure. Nothing here is counted beyond what fits into 32 bits.
pub(crate) fn count(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::NAN, f64::from)
}

fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

/// As exact as it means something.
fn shown(number: f64, unit: &str) -> String {
    match unit {
        "ms" if number < 9.95 && number.fract() > 0.0 => format!("{number:.1} ms"),
        "ms" => format!("{number:.0} ms"),
        "%" => format!("{number:.2} %"),
        _ if number >= 99.95 => format!("{number:.0} {unit}").trim_end().to_owned(),
        _ => format!("{number:.1} {unit}").trim_end().to_owned(),
    }
}

/// The rows under a title, in columns.
pub(crate) fn table(title: &str, rows: &[Row]) -> String {
    let aim = if rows.iter().any(|row| row.at_most.is_some()) { "aim" } else { "" };
    let heading = ["", "median", "worst", aim, ""].map(str::to_owned);
    let cells: Vec<[String; 5]> = std::iter::once(heading).chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| cells.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let mut text = format!("{title}\n");
    for row in &cells {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            // The first column and the verdict are words, the others numbers.
            let _ = if matches!(column, 0 | 4) {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        let _ = writeln!(text, "  {}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ms: &[u64]) -> Times {
        ms.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        assert!((times(&[9, 1, 3, 5]).median() - 4.0).abs() < 1e-9);
        assert!((times(&[9, 1, 3]).median() - 3.0).abs() < 1e-9);
        assert!(times(&[]).median().is_nan() && times(&[]).worst().is_nan());
    }

    #[test]
    fn the_table_says_which_aims_are_missed_and_what_was_not_measured() {
        let rows = [
            Row::times("fast", &times(&[90])).at_most(100.0),
            Row::times("slow", &times(&[80, 101, 1200])).at_most(100.0),
            Row::times("unknown", &times(&[])).at_most(1.0),
            Row::figure("short", 4.25, "ms"),
            Row::figure("many", 20_000.0, ""),
        ];
        assert_eq!(
            table("Title", &rows),
            "Title\n\
             \x20                median    worst        aim\n\
             \x20 fast            90 ms    90 ms  <= 100 ms  met\n\
             \x20 slow           101 ms  1200 ms  <= 100 ms  MISSED\n\
             \x20 unknown  not measured             <= 1 ms\n\
             \x20 short          4.2 ms\n\
             \x20 many            20000\n"
        );
    }
}
