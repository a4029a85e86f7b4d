//! How often something may be done: a few times at once, and then once in a while.

use std::time::Duration;

use tokio::time::Instant;

/// Gives leave for one time after the other.
///
/// The first `burst` of a quiet time are at once, those after them an `interval` apart; each interval that passes without one
/// gives one of the burst back.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    burst: u32,
    /// When all of the burst is there again.
    whole: Option<Instant>,
    /// The moment given last.
    given: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(burst: u32, interval: Duration) -> Self {
        Self { interval, burst, whole: None, given: None }
    }

    /// When the next time may be: now, or later. As long as that moment has not come, it is the same one for all who ask.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        if let Some(given) = self.given.filter(|given| *given > now) {
            return given;
        }
        let whole = self.whole.map_or(now, |whole| whole.max(now)) + self.interval;
        let ahead = self.interval.saturating_mul(self.burst);
        let given = whole.checked_sub(ahead).map_or(now, |moment| moment.max(now));
        (self.whole, self.given) = (Some(whole), Some(given));
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_is_at_once_and_the_rest_an_interval_apart() {
        let (mut pace, begin) = (Pace::new(3, SECOND), Instant::now());
        let mut moments = Vec::new();
        let mut now = begin;
        for _ in 0..6 {
            now = pace.next(now);
            moments.push((now - begin).as_secs());
        }
        assert_eq!(moments, [0, 0, 0, 1, 2, 3]);
    }

    #[test]
    fn a_moment_that_has_not_come_is_given_once_however_often_one_asks() {
        let (mut pace, begin) = (Pace::new(1, SECOND), Instant::now());
        assert_eq!(pace.next(begin), begin);
        let soon = begin + SECOND / 10;
        assert_eq!([pace.next(soon), pace.next(soon), pace.next(soon)], [begin + SECOND; 3]);
        assert_eq!(pace.next(begin + SECOND * 2), begin + SECOND * 2, "the one at 1 s is past");
    }

    #[test]
    fn a_quiet_time_gives_the_burst_back() {
        let (mut pace, begin) = (Pace::new(3, SECOND), Instant::now());
        for _ in 0..3 {
            pace.next(begin);
        }
        let later = begin + SECOND * 2;
        assert_eq!([pace.next(later), pace.next(later)], [later; 2]);
        assert_eq!(pace.next(later), later + SECOND, "only two have come back");
        let much_later = later + SECOND * 100;
        let moments: Vec<_> = (0..4).map(|_| pace.next(much_later)).collect();
        assert_eq!(moments, [much_later, much_later, much_later, much_later + SECOND]);
    }
}
