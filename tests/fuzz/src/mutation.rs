//! Inputs for the runner without coverage: seeds with random changes. The same seed of the generator makes the same inputs.

/// A generator of numbers that look random: Marsaglia's xorshift64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// One that starts from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed ^ 0x9e37_79b9_7f4a_7c15 | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = limit as u64;
        usize::try_from((self.number() >> 16).checked_rem(limit).unwrap_or(0)).unwrap_or(0)
    }
}

/// One of `seeds` with a few changes, at most `longest` bytes.
///
/// # Panics
/// If there is no seed.
pub fn mutate(seeds: &[Vec<u8>], longest: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        let end = bytes.len().min(at + 1 + random.below(32));
        match random.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            3 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            4 => {
                let new: Vec<u8> = (0..1 + random.below(8))
                    .map(|_| random.number().to_le_bytes()[3])
                    .collect();
                bytes.splice(at..at, new);
            }
            5 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            6 => {
                let width = 1 << random.below(4);
                let values = [0, 1, u64::MAX, 1 << 31, i64::MAX as u64, random.number()];
                let value = values[random.below(values.len())].to_le_bytes();
                if let Some(place) = bytes.get_mut(at..at + width) {
                    place.copy_from_slice(&value[..width]);
                }
            }
            7 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = byte.wrapping_add(1 + random.number().to_le_bytes()[2] % 8);
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.number().to_le_bytes()[5];
                }
            }
        }
    }
    bytes.truncate(longest);
    bytes
}
