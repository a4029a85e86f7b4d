//! What an agent does about its certificate.
//!
//! It is used for as long as it is valid and the bundle has its authority, and another one is asked for from two thirds of
//! its life on. Sessions do not notice: the keys of a session are its own.

use crate::conditions::Seconds;
use crate::trust::Validity;

/// A certificate that an agent has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// When it is valid.
    pub validity: Validity,
    /// An authority of the bundle has signed it.
    pub believed: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The certificate can be used.
    pub usable: bool,
    /// Another one is asked for.
    pub ask: bool,
    /// When this changes by itself; None if it does not.
    pub wake_at: Option<Seconds>,
}

/// Decides about the certificate there is, if there is one.
pub fn plan(held: Option<Held>, now: Seconds) -> Plan {
    let Some(Held { validity, believed }) = held else { return Plan { usable: false, ask: true, wake_at: None } };
    let life = validity.not_after.saturating_sub(validity.not_before);
    let due = validity.not_before.saturating_add(life / 3 * 2);
    let ask = !believed || now >= due || now < validity.not_before;
    let turns = [validity.not_before, due, validity.not_after.saturating_add(1)];
    let wake_at = turns.into_iter().filter(|at| *at > now).min();
    Plan { usable: believed && validity.holds(now), ask, wake_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_of_a_certificates_life() {
        let validity = Validity { not_before: 1_000, not_after: 4_000 };
        let held = |believed| Some(Held { validity, believed });
        for (what, held, now, usable, ask, wake_at) in [
            ("none", None, 0, false, true, None),
            ("from a clock that is ahead", held(true), 999, false, true, Some(1_000)),
            ("fresh", held(true), 1_000, true, false, Some(3_000)),
            ("young", held(true), 2_999, true, false, Some(3_000)),
            ("due", held(true), 3_000, true, true, Some(4_001)),
            ("its last second", held(true), 4_000, true, true, Some(4_001)),
            ("expired", held(true), 4_001, false, true, None),
            ("of a lost authority", held(false), 1_000, false, true, Some(3_000)),
        ] {
            assert_eq!(plan(held, now), Plan { usable, ask, wake_at }, "{what}");
        }
    }
}
