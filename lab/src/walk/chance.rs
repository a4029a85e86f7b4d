//! Choices that look like chance and follow from a seed: the same seed, the same choices (the generator is splitmix64).

/// A source of choices.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    /// What follows from a seed.
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).checked_rem(bound).unwrap_or(0)
    }

    /// One of these, each as likely as its weight says; None if there are none, or none weighs anything.
    pub(super) fn weighted<'t, T>(&mut self, from: &'t [(u64, T)]) -> Option<&'t T> {
        let mut at = self.below(from.iter().map(|(weight, _)| weight).sum());
        from.iter().find_map(|(weight, thing)| {
            let chosen = at < *weight;
            at = at.saturating_sub(*weight);
            chosen.then_some(thing)
        })
    }

    /// One of these, each as likely as the others.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(u64::try_from(from.len()).unwrap_or(u64::MAX));
        from.get(usize::try_from(at).ok()?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_choices_and_another_one_others() {
        let numbers = |seed| {
            let mut chance = Chance::new(seed);
            (0..20).map(|_| chance.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn weights_are_kept_and_what_weighs_nothing_is_never_chosen() {
        let mut chance = Chance::new(1);
        let bag = [(1, 'a'), (0, 'b'), (3, 'c')];
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            *counts.entry(*chance.weighted(&bag).unwrap()).or_insert(0) += 1;
        }
        assert!((900..1100).contains(&counts[&'a']) && (2900..3100).contains(&counts[&'c']), "{counts:?}");
        assert!(!counts.contains_key(&'b'));
        assert_eq!(chance.weighted::<char>(&[]), None);
        assert_eq!(chance.weighted(&[(0, 'a')]), None);
        assert_eq!(chance.pick::<char>(&[]), None);
    }
}
