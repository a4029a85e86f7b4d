//! Ages, as kubectl writes them.

use jiff::Timestamp;

/// How long ago something was: `45s`, `7m`, `3h`, `12d`.
pub(crate) fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    let Some(then) = then else { return String::new() };
    patchbay_core::age::age(now.duration_since(then).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_time_has_no_age() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(age(Some(at(5)), at(125)), "2m");
        assert_eq!(age(None, at(0)), "");
    }
}
