//! The harts that a call is meant for (SBI 3.0, binary encoding, "Hart list parameter").

use super::Error;

/// `hart_mask_base` of a call that is meant for all harts.
const ALL: u64 = u64::MAX;

/// Harts by id, all of which exist: some of 64 that follow one another, or all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HartSet {
    /// The hart of the mask's bit 0, or the first hart of all.
    first: u32,
    /// One above the last hart.
    end: u32,
    /// Which harts from the first on; `None` for each of them.
    mask: Option<u64>,
}

impl HartSet {
    /// All of a machine's harts, 0 to `harts - 1`.
    #[must_use]
    pub const fn all(harts: u32) -> Self {
        Self {
            first: 0,
            end: harts,
            mask: None,
        }
    }

    /// The harts that a guest names by bits of `mask`, whose bit 0 is hart `base`, on a machine of so many harts. With `base`
    /// -1, the mask does not count and these are all harts.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] if one of them does not exist. The base itself need not, unless bit 0 is set.
    pub fn new(mask: u64, base: u64, harts: u32) -> Result<Self, Error> {
        if base == ALL {
            return Ok(Self::all(harts));
        }
        let Some(highest) = mask.checked_ilog2() else {
            return Ok(Self::all(0));
        };
        let hart = |bit: u32| {
            let hart = base.checked_add(bit.into())?;
            u32::try_from(hart).ok().filter(|hart| *hart < harts)
        };
        let last = hart(highest).ok_or(Error::InvalidParam)?;
        Ok(Self {
            first: last.saturating_sub(highest),
            end: last.saturating_add(1),
            mask: Some(mask),
        })
    }

    /// Whether `hart` is one of them.
    #[must_use]
    pub fn contains(&self, hart: u32) -> bool {
        (self.first..self.end).contains(&hart)
            && self.mask.is_none_or(|mask| {
                let bit = hart.saturating_sub(self.first);
                mask.checked_shr(bit).is_some_and(|mask| mask & 1 == 1)
            })
    }

    /// Their ids, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<> {
        let set = *self;
        (set.first..set.end).filter(move |hart| set.contains(*hart))
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.mask
            .map_or_else(|| self.end.saturating_sub(self.first), u64::count_ones)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn harts(mask: u64, base: u64, harts: u32) -> Result<Vec<u32>, Error> {
        Ok(HartSet::new(mask, base, harts)?.iter().collect())
    }

    #[test]
    fn the_base_is_the_hart_of_bit_0() {
        assert_eq!(harts(0b1, 0, 4), Ok([0].into()));
        assert_eq!(harts(0b1011, 0, 4), Ok([0, 1, 3].into()));
        assert_eq!(harts(0b101, 64, 67), Ok([64, 66].into()));
        assert_eq!(harts(1 << 63, 448, 512), Ok([511].into()));
    }

    #[test]
    fn base_minus_one_is_all_harts_whatever_the_mask() {
        for mask in [0, 1, 0xff, u64::MAX] {
            assert_eq!(harts(mask, u64::MAX, 3), Ok([0, 1, 2].into()));
        }
        assert_eq!(HartSet::new(0, u64::MAX, 512).unwrap().len(), 512);
    }

    #[test]
    fn a_hart_that_does_not_exist_is_an_invalid_parameter() {
        for (mask, base) in [
            (0b10, 3),
            (0b1, 4),
            (0b1_0001, 0),
            (0b1, u64::MAX - 1),
            (0b11, u64::MAX - 1),
            (u64::MAX, u64::MAX - 63),
            (0b1, 1 << 32),
        ] {
            assert_eq!(
                harts(mask, base, 4),
                Err(Error::InvalidParam),
                "{mask:#b}, {base:#x}"
            );
        }
    }

    #[test]
    fn no_target_is_no_error_and_the_base_need_not_exist() {
        for base in [0, 1, 4, u64::MAX - 1] {
            assert_eq!(harts(0, base, 4), Ok([].into()));
        }
        assert!(HartSet::new(0, 7, 4).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_set_holds_the_harts_of_its_mask(
            mask in prop_oneof![any::<u64>(), any::<u64>().prop_map(|mask| mask & mask >> 40)],
            base in prop_oneof![0..600_u64, any::<u64>()],
            count in 0..513_u32,
        ) {
            let expected: Option<Vec<u32>> = (0..64)
                .filter(|bit| mask >> bit & 1 == 1)
                .map(|bit| u32::try_from(base.checked_add(bit)?).ok().filter(|hart| *hart < count))
                .collect();
            prop_assume!(base != u64::MAX);
            prop_assert_eq!(harts(mask, base, count).ok(), expected.clone());
            if let Ok(set) = HartSet::new(mask, base, count) {
                let expected = expected.unwrap();
                prop_assert_eq!(set.len() as usize, expected.len());
                for hart in 0..600 {
                    prop_assert_eq!(set.contains(hart), expected.contains(&hart));
                }
            }
        }
    }
}
