//! hvrun dies by SIGKILL at any moment: what a guest was told is on stable storage is in the image, and nothing is there that it
//! has not written.
//!
//! The guest is the test kernel's `journal`. `HVRUN_LAB_KILLS` says how often it is killed, and `HVRUN_LAB_SEED` at which
//! moments.

use std::fs;

use hv_lab::host::Stream;
use tempfile::TempDir;

use crate::fixture::{CHIPS, STEP, command, host, text};
use crate::test_kernel::kernel;

/// A few, so that the journal begins anew several times.
const SECTORS: u64 = 96;
const SECTOR: usize = 512;

/// As in `tests/kernel/src/kernel/journal.rs`.
const MAGIC: &[u8; 8] = b"journal!";

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// What record `number` is.
fn record(number: u64) -> Vec<u8> {
    let words = (2..64).map(|word| mix(number.wrapping_mul(64).wrapping_add(word)));
    let words = std::iter::once(number).chain(words);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(words.flat_map(u64::to_le_bytes));
    bytes
}

/// Whether an image has all records up to `flushed`, or later ones in their places, and nothing else.
///
/// # Errors
/// What is wrong with it.
fn check(image: &[u8], flushed: u64) -> Result<(), String> {
    for (place, sector) in (0..).zip(image.chunks_exact(SECTOR)) {
        let is_record = sector.starts_with(MAGIC);
        let number = is_record.then(|| u64::from_le_bytes(sector[8..16].try_into().unwrap()));
        // The last acknowledged record of this place; the first one has the number 1.
        let last = flushed
            .checked_sub((flushed + SECTORS - place) % SECTORS)
            .filter(|last| *last > 0);
        match (number, last) {
            (Some(number), _) if sector != record(number) || number % SECTORS != place => {
                return Err(format!("sector {place} holds no record: {sector:x?}"));
            }
            (Some(number), Some(last)) if number < last => {
                return Err(format!(
                    "sector {place} holds record {number}, and record {last} was flushed"
                ));
            }
            (None, Some(last)) => {
                return Err(format!("sector {place} does not hold record {last}"));
            }
            (None, None) if sector.iter().any(|byte| *byte != 0) => {
                return Err(format!("sector {place} was never written: {sector:x?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn what_was_flushed_survives_every_kill() {
    let kills = number_of("HVRUN_LAB_KILLS").unwrap_or(6);
    let seed = number_of("HVRUN_LAB_SEED").unwrap_or(1);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("journal.img");
    let image = fs::File::create(&path).unwrap();
    image.set_len(SECTORS * SECTOR as u64).unwrap();
    let mut flushed = 0;
    for kill in 0..kills {
        let chip = CHIPS[usize::try_from(kill % 2).unwrap()];
        // Flushes that are waited for: few, so that the guest is at its beginning, or several rounds of the journal.
        let wait = mix(seed.wrapping_mul(1 << 32).wrapping_add(kill)) % 60;
        let hvrun = command(host(chip), ["--kernel", &kernel(), "--log-level", "off"])
            .args(["--cmdline", &format!("journal={}", flushed + 1)])
            .args(["--disk", &format!("{},format=raw", text(&path))])
            .spawn()
            .unwrap();
        let mut printed = String::new();
        while (printed.matches("flushed ").count() as u64) < wait {
            let piece = hvrun.read(Stream::Stdout, STEP).unwrap();
            assert!(!piece.is_empty(), "it ends by itself: {printed}");
            printed += &String::from_utf8_lossy(&piece);
        }
        hvrun.signal(libc::SIGKILL).unwrap();
        let finished = hvrun.finish(STEP).unwrap();
        assert_ne!(finished.status.code(), Some(0), "{finished}");
        printed += &String::from_utf8_lossy(&finished.stdout);
        // A line that is cut off tells nothing.
        for line in printed.split_inclusive("\r\n") {
            if let Some(number) = line
                .strip_suffix("\r\n")
                .and_then(|line| line.strip_prefix("flushed "))
            {
                flushed = number.parse().unwrap();
            }
        }
        let context =
            format!("seed {seed}, kill {kill}, {wait} flushes waited for, {flushed} flushed");
        if let Err(problem) = check(&fs::read(&path).unwrap(), flushed) {
            panic!("{context}: {problem}");
        }
    }
    assert!(flushed > 0, "something was acknowledged");
}

/// It finds what it is to find.
#[test]
fn the_verifier_sees_what_is_lost_and_what_is_torn() {
    let image = |numbers: &[u64]| {
        let place = |place: u64| {
            let numbers = numbers.iter().rev();
            let number = numbers.copied().find(|number| number % SECTORS == place);
            number.map_or(vec![0; SECTOR], record)
        };
        (0..SECTORS).flat_map(place).collect::<Vec<u8>>()
    };
    let all: Vec<u64> = (1..=250).collect();
    assert_eq!(check(&image(&all), 250), Ok(()));
    assert_eq!(check(&image(&all), 245), Ok(()), "later ones may be there");
    assert_eq!(check(&image(&[]), 0), Ok(()));
    assert_eq!(check(&image(&[1, 2, 3]), 2), Ok(()));
    assert_eq!(check(&image(&[1, 3]), 1), Ok(()), "in any order");
    // One that was flushed is missing, at first or after a round.
    assert!(check(&image(&[1, 3]), 3).is_err());
    let lost: Vec<u64> = (1..=250).filter(|number| *number != 200).collect();
    assert!(check(&image(&lost), 250).is_err());
    assert_eq!(check(&image(&lost), 199), Ok(()));
    let mut torn = image(&all);
    torn[50 * SECTOR + 300] ^= 1;
    assert!(check(&torn, 250).is_err());
    let mut stray = image(&[1]);
    stray[50 * SECTOR] = 1;
    assert!(check(&stray, 1).is_err());
    let mut misplaced = image(&[1]);
    misplaced[5 * SECTOR..6 * SECTOR].copy_from_slice(&record(7));
    assert!(check(&misplaced, 1).is_err());
}
