//! What the two guests print.

use std::collections::BTreeMap;
use std::fmt;

use super::{Attack, Judged};

/// How often the adversary did what, in all its boots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counts {
    boots: u64,
    kinds: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads what an adversary has printed, between whatever else came out of its serial port. Line ends are of no account.
    /// `without` are the kinds that it was to leave out.
    pub(super) fn parse(printed: &str, attack: &Attack, without: &str) -> Judged<Self> {
        let done = format!("hostile: done, seed {};", attack.seed);
        if !printed.contains(&done) {
            return Err("the adversary did not come to its end".into());
        }
        let mut counts = Self::default();
        for text in statements(printed, "hostile: ") {
            if text.starts_with("boot ") && text.ends_with(" did") {
                counts.boots += 1;
            }
            let mut words = text.split_whitespace();
            if let (Some(Ok(count)), Some(kind)) =
                (words.next().map(str::parse::<u64>), words.next())
            {
                let sum = counts.kinds.entry(kind.to_owned()).or_default();
                *sum += count;
            }
        }
        if let Some(kind) = statements(printed, "hostile: no rest from ").next() {
            return Err(format!(
                "a hart of the adversary did not come back from an attack of the kind {kind:?}"
            ));
        }
        if counts.boots != attack.reboots + 1 {
            return Err(format!(
                "the adversary booted {} times, not {}",
                counts.boots,
                attack.reboots + 1
            ));
        }
        let idle = counts
            .kinds
            .iter()
            .find(|(kind, count)| **count == 0 && !without.split('+').any(|name| name == *kind));
        match idle {
            Some((kind, _)) => Err(format!("the adversary did nothing of the kind {kind:?}")),
            None => Ok(counts),
        }
    }
}

/// What stands between this and a semicolon, each time.
fn statements<'a>(printed: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let rest = printed.split(prefix).skip(1);
    rest.filter_map(|text| Some(text.split_once(';')?.0))
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: u64 = self.kinds.values().sum();
        write!(f, "{} boots, {total} attacks (", self.boots)?;
        let kinds = self.kinds.iter().filter(|(_, count)| **count > 0);
        for (number, (kind, count)) in kinds.enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{kind} {count}")?;
        }
        f.write_str(")")
    }
}

/// What an honest guest got done, and the checksum of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Honest {
    /// Requests to its disk.
    pub requests: u64,
    /// In this many milliseconds.
    pub milliseconds: u64,
    sum: u64,
}

impl Honest {
    /// Reads what it has printed; `disk` is the content of its image afterwards.
    pub(super) fn parse(printed: &str, disk: &[u8]) -> Judged<Self> {
        let wrong = || "the honest guest did not come to its end".to_owned();
        let mut statements = statements(printed, "honest: ");
        let line = statements.find_map(|text| text.split_once(", disk "));
        let (done, sum) = line.ok_or_else(wrong)?;
        let mut words = done.split_whitespace();
        let mut number = || words.find_map(|word| word.parse().ok()).ok_or_else(wrong);
        let honest = Self {
            requests: number()?,
            milliseconds: number()?,
            sum: u64::from_str_radix(sum.trim(), 16).map_err(|_| wrong())?,
        };
        match honest.sum == checksum(disk) {
            true => Ok(honest),
            false => Err("the honest guest's image is not what it read from it".into()),
        }
    }

    /// Requests in a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        1000 * self.requests / self.milliseconds.max(1)
    }
}

impl fmt::Display for Honest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} requests a second", self.rate())
    }
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTACK: Attack = Attack {
        seconds: 1,
        seed: 7,
        reboots: 1,
    };

    const PRINTED: &str = "hostile: boot 0 of 2, seed 7;\r\n\x07x;\u{fffd}\n\
        hostile: boot 0 of 2 did;\n\
        hostile: 12 sbi;hostile: 0 odd;\n\
        hostile: boot 1 of 2, seed 7;\n\n\
        hostile: boot 1 of 2 did;\nhostile: 3 sbi;\nhostile: 0 odd;\nhostile: done, seed 7;\nzz";

    #[test]
    fn counts_are_summed_over_boots() {
        let counts = Counts::parse(PRINTED, &ATTACK, "odd").unwrap();
        assert_eq!(counts.to_string(), "2 boots, 15 attacks (sbi 15)");
    }

    #[test]
    fn what_was_not_done_is_wrong() {
        let wrong = |printed: &str, attack: &Attack, without| {
            Counts::parse(printed, attack, without).unwrap_err()
        };
        assert!(wrong(PRINTED, &ATTACK, "").contains("\"odd\""));
        let other = Attack { seed: 8, ..ATTACK };
        assert!(wrong(PRINTED, &other, "odd").contains("its end"));
        let more = Attack {
            reboots: 2,
            ..ATTACK
        };
        assert!(wrong(PRINTED, &more, "odd").contains("2 times, not 3"));
        let restless = format!("{PRINTED}\nhostile: no rest from sbi;\n");
        assert!(wrong(&restless, &ATTACK, "odd").contains("did not come back"));
    }

    #[test]
    fn an_honest_guest_is_believed_if_its_image_agrees() {
        // The checksum of "a".
        let printed = "honest: begins\nhonest: 500 requests in 2000 ms, disk af63dc4c8601ec8c;\r\n";
        let honest = Honest::parse(printed, b"a").unwrap();
        assert_eq!(honest.rate(), 250);
        assert!(Honest::parse(printed, b"b").unwrap_err().contains("image"));
        assert!(
            Honest::parse("honest: begins\n", b"")
                .unwrap_err()
                .contains("its end")
        );
    }
}
