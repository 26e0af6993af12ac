//! A guest that only works, and says how much: what it writes to its disk it reads again, whatever its neighbours do meanwhile.

use super::machine::Machine;
use super::report::Outcome;
use super::virtio::block::{Disk, SECTOR};
use super::virtio::transport::VERSION_1;
use super::{power, time};

/// What a sector holds after this round.
fn content(sector: u64, round: u64) -> [u8; SECTOR] {
    let start = (sector << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    core::array::from_fn(|index| (start >> (index % 8 * 8)) as u8 ^ index as u8)
}

/// FNV-1a, 64 bits.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(sum, step)
}

/// Writes and reads for so many seconds. Then it prints `honest: REQUESTS requests in MILLISECONDS ms, disk SUM;`, where the sum is
/// that of the whole disk (FNV-1a), and switches off.
pub fn run(machine: &Machine, seconds: &str) -> ! {
    match seconds.parse().map(|seconds| work(machine, seconds)) {
        Ok(Ok(())) => power::off(),
        Ok(Err(stop)) => println!("honest: {stop:?}"),
        Err(_) => println!("honest= is to be a number of seconds"),
    }
    power::fail(1)
}

fn work(machine: &Machine, seconds: u64) -> Outcome {
    let mut disk = Disk::open(machine, VERSION_1)?;
    let sectors = Disk::sectors(disk.slot);
    let (began, mut requests, mut round) = (time::now(), 0_u64, 0);
    let end = began + time::ticks(1_000_000 * seconds);
    println!("honest: begins");
    while time::now() < end {
        round += 1;
        for sector in 0..sectors {
            disk.write(sector, &content(sector, round))?;
            let other = (sector * 7 + round) % sectors;
            let expected = match other > sector {
                true => round - 1,
                false => round,
            };
            let found = disk.read(other)?;
            check!(
                expected == 0 || found == content(other, expected),
                "sector {other} is not as written in round {expected}"
            );
            requests += 2;
        }
    }
    let elapsed = time::microseconds(time::now() - began) / 1000;
    let mut sum = 0xcbf2_9ce4_8422_2325;
    for sector in 0..sectors {
        let found = disk.read(sector)?;
        check!(
            found == content(sector, round),
            "sector {sector} is not as written in round {round}"
        );
        sum = add(sum, &found);
    }
    println!("honest: {requests} requests in {elapsed} ms, disk {sum:016x};");
    Ok(())
}
