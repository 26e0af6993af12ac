//! The seed CSR (Zkr), whose reads KVM forwards to userspace.
//!
//! Source: RISC-V Cryptography Extensions, volume I, section "The seed CSR".

use hv_devices::entropy;

/// Random bytes that are taken from the host at once. A guest that wants a seed reads the CSR 16 times and more, 2 bytes each.
const POOL: usize = 64;

/// OPST in bits 31 and 30: two bytes of entropy in bits 15 to 0.
const ES16: u64 = 0b10 << 30;

/// OPST: no entropy yet, ask again.
const WAIT: u64 = 0b01 << 30;

/// What a hart reads as its seed: the host's random bytes, each of them once.
#[derive(Default)]
pub struct Seed {
    pool: Vec<u8>,
}

impl Seed {
    /// The answer to one read of the CSR.
    pub fn read(&mut self) -> u64 {
        if self.pool.is_empty() {
            let mut bytes = [0; POOL];
            if entropy::fill(&mut bytes).is_err() {
                return WAIT;
            }
            self.pool.extend_from_slice(&bytes);
        }
        match (self.pool.pop(), self.pool.pop()) {
            (Some(high), Some(low)) => ES16 | u64::from(u16::from_be_bytes([high, low])),
            // The size of the pool is even.
            _ => WAIT,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_read_has_entropy_of_its_own() {
        let mut seed = Seed::default();
        let read: Vec<u64> = (0..8 * POOL).map(|_| seed.read()).collect();
        assert!(read.iter().all(|value| value & !0xffff == ES16));
        // Of 512 numbers below 65536, 2 are equal to others, not 100.
        let different: BTreeSet<_> = read.iter().collect();
        assert!(different.len() > 412, "{}", different.len());
    }
}
