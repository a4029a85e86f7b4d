//! How often something may be done: a few times at once, and then once in a while.

use std::time::Duration;

use tokio::time::Instant;

/// The first `burst` times of a quiet time are at once, those after them an `interval` apart; each interval that passes without
/// one gives one of the burst back.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    burst: u32,
    /// When all of the burst is there again.
    whole: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(burst: u32, interval: Duration) -> Self {
        Self { interval, burst, whole: None }
    }

    /// When the next time may be: now, or later. Whoever only asks takes nothing away.
    pub(crate) fn next(&self, now: Instant) -> Instant {
        let ahead = self.interval.saturating_mul(self.burst);
        self.after(now).checked_sub(ahead).map_or(now, |moment| moment.max(now))
    }

    /// It is done now.
    pub(crate) fn take(&mut self, now: Instant) {
        self.whole = Some(self.after(now));
    }

    /// When all of the burst would be there again if it were done now.
    fn after(&self, now: Instant) -> Instant {
        self.whole.map_or(now, |whole| whole.max(now)) + self.interval
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Does it as often and as soon as it may be, from `now` on; the seconds from then on.
    fn done(pace: &mut Pace, now: Instant, times: usize) -> Vec<u64> {
        let mut moment = now;
        let mut each = || {
            moment = pace.next(moment);
            pace.take(moment);
            (moment - now).as_secs()
        };
        (0..times).map(|_| each()).collect()
    }

    #[test]
    fn a_burst_is_at_once_and_the_rest_an_interval_apart() {
        assert_eq!(done(&mut Pace::new(3, SECOND), Instant::now(), 6), [0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn whoever_asks_again_and_again_is_told_the_same_moment_and_then_that_it_is_there() {
        let (mut pace, begin) = (Pace::new(1, SECOND), Instant::now());
        pace.take(begin);
        for tenth in 0..10 {
            assert_eq!(pace.next(begin + SECOND / 10 * tenth), begin + SECOND);
        }
        let later = begin + SECOND * 3 / 2;
        assert_eq!([pace.next(later), pace.next(later)], [later; 2]);
    }

    #[test]
    fn a_quiet_time_gives_the_burst_back() {
        let (mut pace, begin) = (Pace::new(3, SECOND), Instant::now());
        done(&mut pace, begin, 3);
        assert_eq!(done(&mut pace, begin + SECOND * 2, 3), [0, 0, 1], "only two have come back");
        assert_eq!(done(&mut pace, begin + SECOND * 100, 4), [0, 0, 0, 1]);
    }
}
