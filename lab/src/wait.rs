//! Waiting for the world to become as a test wants it: a predicate, a deadline, and an error that tells what was seen last.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Never ask more often than this: the machine has work to do meanwhile.
pub const INTERVAL: Duration = Duration::from_millis(20);

/// What all deadlines are multiplied by.
static PATIENCE: AtomicU32 = AtomicU32::new(1);

/// Makes everything in this process wait this many times as long: its nodes are slower by that much.
pub fn be_patient(factor: u32) {
    PATIENCE.store(factor, Ordering::Relaxed);
}

/// A deadline, in terms of how fast this lab's nodes are.
pub fn patient(deadline: Duration) -> Duration {
    deadline.saturating_mul(PATIENCE.load(Ordering::Relaxed))
}

/// Asks until `look` gives a value. `Err` means "not yet", and says what was seen instead.
///
/// # Errors
/// After the deadline: what was awaited, and what was seen last.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T> {
    let (start, deadline) = (Instant::now(), patient(deadline));
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if start.elapsed() >= deadline => {
                bail!("waited {:.1} s for {what}; last seen: {seen}", deadline.as_secs_f32())
            }
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_was_awaited_and_what_was_seen_last() {
        let mut looks = 0;
        let error = wait_for::<()>("rain", Duration::from_millis(50), || {
            looks += 1;
            Err(format!("sun {looks}"))
        })
        .unwrap_err()
        .to_string();
        assert_eq!(error, format!("waited 0.1 s for rain; last seen: sun {looks}"));
        assert!(looks >= 2);
    }

    #[test]
    fn a_look_succeeds_even_when_the_deadline_is_already_over() {
        assert_eq!(wait_for("now", Duration::ZERO, || Ok(7)).unwrap(), 7);
    }
}
