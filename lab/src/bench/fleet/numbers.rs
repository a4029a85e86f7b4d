//! What the controller tells in numbers, as a scrape reads it.

use std::net::SocketAddr;

use anyhow::Result;

use crate::bench::http;

/// How long plans took.
const PLAN: &str = "patchbay_controller_plan_duration_seconds";

/// Its numbers at some moment.
pub(super) struct Numbers(String);

impl Numbers {
    /// As they are now.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn of(controller: SocketAddr) -> Result<Self> {
        http::get(controller, "/metrics").map(Self)
    }

    /// Whether it leads, and has made a plan: before, nothing is known to be whole.
    pub(super) fn has_planned(&self) -> bool {
        self.value("patchbay_controller_leader").is_some_and(|leads| leads > 0.0)
    }

    /// How long a plan took since then, in milliseconds: the mean. Not a number if there was none.
    pub(super) fn plan_since(&self, then: &Self) -> f64 {
        let grown = |part: &str| {
            let value = |numbers: &Self| numbers.value(&format!("{PLAN}_{part}"));
            Some(value(self)? - value(then)?)
        };
        let (Some(seconds), Some(count)) = (grown("sum"), grown("count")) else { return f64::NAN };
        seconds / count * 1000.0
    }

    fn value(&self, sample: &str) -> Option<f64> {
        let number = self.0.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        number.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(leads: u8, seconds: &str, count: u32) -> Numbers {
        Numbers(format!(
            "HTTP/1.1 200 OK\r\n\r\n# TYPE {PLAN} histogram\npatchbay_controller_leader {leads}\n\
             {PLAN}_sum {seconds}\n{PLAN}_count {count}\n{PLAN}_bucket{{le=\"0.0001\"}} 7\n# EOF\n"
        ))
    }

    #[test]
    fn a_plan_takes_what_the_sum_has_grown_by_divided_by_how_many_there_were() {
        let (then, now) = (numbers(0, "1.5", 100), numbers(1, "1.54", 110));
        assert!((now.plan_since(&then) - 4.0).abs() < 1e-6);
        assert!(now.plan_since(&now).is_nan());
        assert!(now.has_planned() && !then.has_planned() && !Numbers(String::new()).has_planned());
    }
}
