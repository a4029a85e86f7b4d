//! When an authority is made, signs, and is forgotten.
//!
//! ```text
//!             made                  signs                    its successor signs      a certificate's life later
//!   (nothing) ----> announced ----------------> signing ---------------------> fading ------------------> forgotten
//!                   in the bundle, a day        in the bundle                  in the bundle
//! ```
//!
//! Two agents believe each other at every moment: whoever signs has been in the bundle for a day, in which every agent that
//! can be reached has taken it, and stays there until the last certificate it has signed has expired. Only when there is
//! no other authority, at the installation or because the Secret is lost, does a new one sign at once; agents take the new bundle
//! then, find that their certificates are not of it, and ask for others.

use crate::conditions::Seconds;
use crate::trust::{BACKDATE, LIFETIME, Validity};

const DAY: Seconds = 24 * 3_600;

/// How long an authority is valid, in seconds.
pub const VALID: Seconds = 365 * DAY;

/// A successor is made when no authority is valid for longer than this, in seconds.
pub const SUCCESSION: Seconds = 60 * DAY;

/// For so long, in seconds, an authority is in the bundle before it signs.
pub const ANNOUNCED: Seconds = DAY;

/// For so long, in seconds, a predecessor stays in the bundle after its last signature: the life of a certificate, and a day for
/// clocks and for a controller that signs with what it has read a moment ago.
const FADING: Seconds = LIFETIME + DAY;

/// What is to be done about the authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Another one is made, and everything is decided anew.
    pub make: bool,
    /// These are forgotten, by their place in the list.
    pub forget: Vec<usize>,
    /// This one signs, by its place in the list.
    pub signs: Option<usize>,
    /// Nothing of this changes before this time by itself.
    pub wake_at: Seconds,
}

/// Decides about the authorities that there are, in any order.
pub fn plan(authorities: &[Validity], now: Seconds) -> Plan {
    let mut order: Vec<(usize, Validity)> = authorities.iter().copied().enumerate().collect();
    order.sort_by_key(|(place, validity)| (*validity, *place));
    // One that is not valid yet comes from a clock that was wrong: it would only be believed some time.
    let (valid, unusable): (Vec<_>, Vec<_>) = order.into_iter().partition(|(_, validity)| validity.holds(now));
    let mut forget: Vec<usize> = unusable.into_iter().map(|(place, _)| place).collect();

    let made = |validity: &Validity| validity.not_before.saturating_add(BACKDATE);
    let announced = |validity: &Validity| made(validity).saturating_add(ANNOUNCED);
    let newest_to_sign = valid.iter().rposition(|(_, validity)| announced(validity) <= now);
    let signer = newest_to_sign.or(if valid.is_empty() { None } else { Some(0) });
    let mut wake_at = now.saturating_add(DAY);
    for (index, (place, validity)) in valid.iter().enumerate() {
        wake_at = wake_at.min(validity.not_after.saturating_add(1));
        if announced(validity) > now {
            wake_at = wake_at.min(announced(validity));
        }
        // It has not signed since its successor does.
        let Some((_, successor)) = valid.get(index + 1).filter(|_| Some(index) < signer) else { continue };
        let forgotten = announced(successor).saturating_add(FADING);
        if forgotten <= now {
            forget.push(*place);
        } else {
            wake_at = wake_at.min(forgotten);
        }
    }
    let succession = valid.iter().map(|(_, validity)| validity.not_after.saturating_sub(SUCCESSION)).max();
    let make = succession.is_none_or(|at| at <= now);
    if let Some(at) = succession.filter(|at| *at > now) {
        wake_at = wake_at.min(at);
    }
    forget.sort_unstable();
    Plan { make, forget, signs: signer.and_then(|index| valid.get(index)).map(|(place, _)| *place), wake_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that was made at a time.
    fn made(at: Seconds) -> Validity {
        Validity::from_now(at, VALID)
    }

    /// Its successor is made at that time.
    const SECOND: Seconds = VALID - SUCCESSION;

    #[test]
    fn each_moment_of_two_authorities() {
        let (first, second) = (made(0), made(SECOND));
        let fading = SECOND + ANNOUNCED + FADING;
        for (what, authorities, now, make, forget, signs) in [
            ("nothing", vec![], 0, true, vec![], None),
            ("the first signs at once", vec![first], 0, false, vec![], Some(0)),
            ("still alone", vec![first], SECOND - 1, false, vec![], Some(0)),
            ("time for a successor", vec![first], SECOND, true, vec![], Some(0)),
            ("it is announced", vec![first, second], SECOND, false, vec![], Some(0)),
            ("and still", vec![first, second], SECOND + ANNOUNCED - 1, false, vec![], Some(0)),
            ("it signs", vec![first, second], SECOND + ANNOUNCED, false, vec![], Some(1)),
            ("in whatever order they are", vec![second, first], SECOND + ANNOUNCED, false, vec![], Some(0)),
            ("the first is believed", vec![first, second], fading - 1, false, vec![], Some(1)),
            ("and then no more", vec![first, second], fading, false, vec![0], Some(1)),
            ("expired, its successor new", vec![first, made(VALID)], VALID + 1, false, vec![0], Some(1)),
            ("all expired", vec![first], VALID + 1, true, vec![0], None),
            ("from the future", vec![made(10_000)], 0, true, vec![0], None),
            ("two at once: the older is known", vec![made(1), made(0)], 2, false, vec![], Some(1)),
        ] {
            let plan = plan(&authorities, now);
            assert_eq!((plan.make, plan.forget, plan.signs), (make, forget, signs), "{what}");
            assert!(plan.wake_at > now && plan.wake_at <= now + DAY, "{what}: {}", plan.wake_at);
        }
    }

    /// Ten years with a controller that looks whenever it has to, and one that is away for half a day before each look: whoever
    /// signs was believed by everybody, and whoever has signed is believed until what it has signed has expired.
    #[test]
    fn whoever_signs_is_known_and_whoever_has_signed_is_believed() {
        for late in [0, DAY / 2] {
            let (mut now, mut authorities, mut rotations) = (0, Vec::<Validity>::new(), 0);
            // The last time that each has signed.
            let mut signed: std::collections::BTreeMap<Validity, Seconds> = std::collections::BTreeMap::new();
            while now < 10 * VALID {
                let mut next = plan(&authorities, now);
                if next.make {
                    authorities.push(made(now));
                    rotations += 1;
                    next = plan(&authorities, now);
                }
                assert!(!next.make && authorities.len() <= 2, "{authorities:?}");
                let signer = authorities[next.signs.unwrap()];
                let known = now - signer.not_before - BACKDATE;
                assert!(known >= ANNOUNCED || authorities.len() == 1, "{known} s");
                assert!(signer.not_after - now > LIFETIME, "its certificates are whole");
                for place in next.forget.iter().rev() {
                    let last = signed.get(&authorities.remove(*place)).copied().unwrap_or_default();
                    assert!(last + LIFETIME < now, "forgotten {} s after it signed", now - last);
                }
                // It signs until somebody looks again.
                now = next.wake_at + late;
                signed.insert(signer, now);
            }
            assert!((10..=14).contains(&rotations), "{rotations}");
        }
    }
}
