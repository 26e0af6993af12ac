//! Detects guests that reboot for ever: a kernel that panics and resets the machine (Linux, `panic=-1`) does so within seconds,
//! and only its console shows it.

use std::time::Duration;

/// A boot that ends in a reset sooner than this has not done what a guest is for.
const SHORT: Duration = Duration::from_secs(30);

/// So many short boots in a row are a storm.
const STORM: u32 = 5;

/// What is told of it, once.
pub const WARNING: &str = "the guest has reset itself 5 times in a row, each time within 30 seconds: it may never come up";

/// The resets of a guest so far.
#[derive(Debug, Default)]
pub struct Restarts {
    short: u32,
    told: bool,
}

impl Restarts {
    /// The guest has reset itself after a boot that took so long. Answers whether it is time to tell the user, which is once
    /// for a machine.
    pub fn are_a_storm(&mut self, boot: Duration) -> bool {
        self.short = match boot < SHORT {
            true => self.short.saturating_add(1),
            false => 0,
        };
        let tell = self.short >= STORM && !self.told;
        self.told |= tell;
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_secs(2);

    #[test]
    fn a_storm_is_told_once() {
        let mut restarts = Restarts::default();
        let told = (0..100).filter(|_| restarts.are_a_storm(QUICK));
        assert_eq!(told.collect::<Vec<_>>(), [4]);
        assert!(WARNING.contains(&format!("{STORM} times")));
        assert!(WARNING.contains(&format!("{} seconds", SHORT.as_secs())));
    }

    #[test]
    fn a_guest_that_works_between_its_reboots_is_none() {
        let mut restarts = Restarts::default();
        for _ in 0..20 {
            for boot in [QUICK, QUICK, QUICK, QUICK, SHORT] {
                assert!(!restarts.are_a_storm(boot));
            }
        }
    }
}
