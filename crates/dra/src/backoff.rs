//! Growing pauses between attempts, spread at random so that many nodes do not
//! come back at the same moment.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// Pauses from `first` to `longest`, doubling; a long quiet time starts over.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    last: Option<(Instant, Duration)>,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, last: None }
    }

    /// The pause before the attempt that follows now.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let pause = match self.last {
            Some((at, pause)) if now.duration_since(at) < pause + self.longest * 2 => (pause * 2).min(self.longest),
            _ => self.first,
        };
        self.last = Some((now, pause));
        pause - pause.mul_f64(random_fraction() / 4.0)
    }
}

/// A random number from 0 to 1; the standard library's hash keys are the source.
fn random_fraction() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread_by_a_quarter() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30);
        let now = Instant::now();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            let full = SECOND * seconds;
            let pause = backoff.next(now);
            assert!(pause <= full && pause >= full.mul_f64(0.75), "{pause:?}");
        }
    }

    #[test]
    fn a_quiet_time_starts_over() {
        let mut backoff = Backoff::new(SECOND, SECOND * 30);
        let now = Instant::now();
        for _ in 0..5 {
            backoff.next(now);
        }
        assert!(backoff.next(now + SECOND * 300) <= SECOND);
    }
}
