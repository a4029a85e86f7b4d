//! Lengths of time, as kubectl writes them.

use crate::conditions::Seconds;

/// A length of time with one unit: `45s`, `7m`, `3h`, `12d`. What is negative, because two clocks differ, is `0s`.
pub fn age(seconds: Seconds) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (seconds, text) in [(-5, "0s"), (119, "119s"), (120, "2m"), (7_200, "2h"), (172_800, "2d")] {
            assert_eq!(age(seconds), text);
        }
    }
}
