//! Entropy for guests: a seed for each start of a guest, derived from the firmware's one seed. No seed reveals another.

use alloc::vec::Vec;

use sha2::{Digest, Sha256};

/// Bytes of the shortest seed that is one.
const SHORTEST: usize = 16;

/// Where guests' seeds come from. It is a hash that goes on with each seed, so that what is in memory does not tell the seeds of
/// before, and a guest's seed neither those of before nor those to come.
pub struct Entropy {
    key: [u8; 32],
}

impl core::fmt::Debug for Entropy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Entropy")
    }
}

impl Entropy {
    /// Takes the firmware's seed, and leaves nothing of it. `None` if it is too short to be one: a guest that is told no seed
    /// knows that it has none.
    #[must_use]
    pub fn new(firmware: &mut Vec<u8>) -> Option<Self> {
        let key = (firmware.len() >= SHORTEST).then(|| hash(&[b"hv-bare", firmware]));
        firmware.fill(0);
        // It is done even where nobody looks at these bytes again.
        core::hint::black_box(&firmware);
        firmware.clear();
        Some(Self { key: key? })
    }

    /// A seed for a guest that begins now. `now` is mixed in for what the firmware's seed may lack.
    #[must_use]
    pub fn next(&mut self, guest: usize, now: u64) -> [u8; 32] {
        let guest = (guest as u64).to_le_bytes();
        let seed = hash(&[b"seed", &self.key, &guest, &now.to_le_bytes()]);
        self.key = hash(&[b"next", &self.key, &now.to_le_bytes()]);
        seed
    }
}

/// The parts have to be of fixed sizes, but for the last one.
fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::vec;

    use super::*;

    #[test]
    fn no_seed_comes_twice() {
        let mut seen = HashSet::new();
        for firmware in [[1; 32], [2; 32]] {
            let mut entropy = Entropy::new(&mut firmware.to_vec()).unwrap();
            for _ in 0..3 {
                for guest in 0..4 {
                    // Also where time stands still.
                    assert!(seen.insert(entropy.next(guest, 7)));
                }
            }
        }
        assert!(!seen.contains(&[1; 32]));
    }

    /// What is left in memory after a seed was made does not make it again.
    #[test]
    fn the_state_goes_on() {
        let mut entropy = Entropy::new(&mut vec![1; 32]).unwrap();
        let before = entropy.key;
        let seed = entropy.next(0, 7);
        assert_ne!(entropy.key, before);
        assert_ne!(entropy.next(0, 7), seed);
    }

    #[test]
    fn each_guest_and_time_has_its_own() {
        let seed = |guest, now| {
            let mut entropy = Entropy::new(&mut vec![1; 32]).unwrap();
            entropy.next(guest, now)
        };
        assert_ne!(seed(0, 7), seed(1, 7));
        assert_ne!(seed(0, 7), seed(0, 8));
    }

    #[test]
    fn the_firmwares_seed_is_taken() {
        let mut firmware = vec![7; 32];
        assert!(Entropy::new(&mut firmware).is_some());
        assert!(firmware.is_empty());
        // SAFETY: the bytes are initialized, and within the vector's memory.
        let left = unsafe { core::slice::from_raw_parts(firmware.as_ptr(), 32) };
        assert_eq!(left, [0; 32]);
    }

    #[test]
    fn a_seed_is_no_message() {
        let entropy = Entropy::new(&mut vec![1; 32]).unwrap();
        assert_eq!(std::format!("{entropy:?}"), "Entropy");
    }

    #[test]
    fn what_is_too_short_is_none() {
        for length in [0, 15] {
            assert!(Entropy::new(&mut vec![7; length]).is_none());
        }
        assert!(Entropy::new(&mut vec![7; 16]).is_some());
    }
}
