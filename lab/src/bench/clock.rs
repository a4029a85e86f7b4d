//! One clock for everything: moments are times since 1970.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::jiff::Timestamp;

/// Tells when an [`Instant`] was.
pub(super) struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    /// Now.
    pub(super) fn now() -> Self {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { instant: Instant::now(), unix }
    }

    /// When an instant was. Before the clock was made nothing is told apart.
    pub(super) fn unix(&self, at: Instant) -> Duration {
        self.unix + at.saturating_duration_since(self.instant)
    }
}

/// A time as audit logs and our own have it: `2026-11-23T23:38:09.607067Z`.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let time: Timestamp = text.parse().ok()?;
    u64::try_from(time.as_microsecond()).ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_logs_are_read_to_the_microsecond() {
        assert_eq!(parse("1970-01-01T00:01:00.000007Z"), Some(Duration::from_micros(60_000_007)));
        assert_eq!(parse("yesterday"), None);
    }
}
