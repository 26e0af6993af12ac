//! A set of interrupt sources, packed as the controller's pending and enable registers pack them.

use alloc::vec;
use alloc::vec::Vec;

/// A set of interrupt sources: source N is bit N mod 32 of word N / 32 (sections 5 and 6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceSet {
    words: Vec<u32>,
}

impl SourceSet {
    /// The empty set, with room for sources up to `last`.
    pub(super) fn empty(last: u32) -> Self {
        Self {
            words: vec![0; (last as usize / 32).saturating_add(1)],
        }
    }

    /// The set of all sources from 1 to `last`.
    pub(super) fn full(last: u32) -> Self {
        let mut all = Self::empty(last);
        for source in 1..=last {
            all.set(source, true);
        }
        all
    }

    /// Whether `source` is in the set.
    pub(super) fn contains(&self, source: u32) -> bool {
        self.word(source / 32) & bit(source) != 0
    }

    /// Puts `source` into the set or takes it out. A source that the set has no room for stays out.
    pub(super) fn set(&mut self, source: u32, member: bool) {
        let word = self.word(source / 32);
        let word = if member {
            word | bit(source)
        } else {
            word & !bit(source)
        };
        self.set_word(source / 32, word);
    }

    /// Takes out every source.
    pub(super) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// The sources from `32 * index` as a register; 0 for a register that there is not.
    pub(super) fn word(&self, index: u32) -> u32 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    /// Replaces the sources from `32 * index` by those of a register. A register that there is not ignores it.
    pub(super) fn set_word(&mut self, index: u32, value: u32) {
        if let Some(word) = self.words.get_mut(index as usize) {
            *word = value;
        }
    }

    /// The sources that are in both sets, in ascending order.
    pub(super) fn common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u32> + 'a {
        let words = self
            .words
            .iter()
            .zip(&other.words)
            .map(|(one, two)| one & two);
        (0..)
            .step_by(32)
            .zip(words)
            .flat_map(|(first, word)| members(first, word))
    }
}

/// The sources of one register, in ascending order, of which the lowest bit is source `first`.
fn members(first: u32, mut word: u32) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let lowest = (word != 0).then(|| word.trailing_zeros())?;
        word &= !bit(lowest);
        first.checked_add(lowest)
    })
}

/// The bit of `source` in its register.
const fn bit(source: u32) -> u32 {
    1_u32.wrapping_shl(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_packed_as_in_the_registers() {
        let mut set = SourceSet::empty(95);
        for source in [1, 31, 32, 95] {
            set.set(source, true);
        }
        assert_eq!(
            [set.word(0), set.word(1), set.word(2), set.word(3)],
            [1 << 31 | 2, 1, 1 << 31, 0]
        );
        set.set(31, false);
        assert_eq!(set.word(0), 2);
        assert!(
            set.contains(95) && !set.contains(31) && !set.contains(96) && !set.contains(u32::MAX)
        );
    }

    #[test]
    fn source_zero_is_in_no_full_set() {
        assert_eq!(SourceSet::full(40).word(0), 0xffff_fffe);
        assert_eq!(SourceSet::full(40).word(1), 0x1ff);
        assert_eq!(SourceSet::full(0).word(0), 0);
    }

    #[test]
    fn what_has_no_room_stays_out() {
        let mut set = SourceSet::empty(95);
        set.set(96, true);
        set.set_word(3, u32::MAX);
        assert_eq!(set, SourceSet::empty(95));
    }

    #[test]
    fn common_members_come_in_ascending_order() {
        let mut set = SourceSet::empty(1023);
        for source in [1023, 64, 3, 2, 40] {
            set.set(source, true);
        }
        let mut other = SourceSet::full(1023);
        other.set(40, false);
        assert_eq!(set.common(&other).collect::<Vec<_>>(), [2, 3, 64, 1023]);
    }
}
