//! How busy the machine was besides: figures of two phases compare only when this was alike.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Does the work and tells in how many percent of that time something on this machine had to wait for a processor
/// (`some` of `/proc/pressure/cpu`); nothing where the kernel does not count it.
///
/// # Errors
/// The error of `work`.
pub(super) fn during<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Option<f64>)> {
    let (start, before) = (Instant::now(), waited());
    let done = work()?;
    let waited = waited().zip(before).map(|(after, before)| after.saturating_sub(before));
    Ok((done, waited.map(|waited| waited.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0)))
}

fn waited() -> Option<Duration> {
    of_text(&fs::read_to_string("/proc/pressure/cpu").ok()?)
}

fn of_text(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_some_is_read_and_not_that_of_full() {
        let text =
            "some avg10=62.08 avg60=70.05 avg300=72.69 total=4693\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(of_text(text), Some(Duration::from_micros(4693)));
        assert_eq!(of_text("full total=7"), None);
    }

    #[test]
    fn a_failure_is_passed_on() {
        assert!(during(|| -> Result<()> { anyhow::bail!("broken") }).is_err());
    }
}
