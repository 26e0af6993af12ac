//! What a VMM takes while its guest idles: memory beyond the guest's, threads, exits and time; and the size of its binary.

use super::guest::{Bench, Done};
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;
use super::{Error, Result};

/// Seconds for which the resting guest is watched.
const WATCHED: u64 = 10;
/// Seconds for which it rests: until it is found to do so, and then for as long as it is watched.
pub(super) const REST: u64 = 40;

/// The sum of KVM's count of exits, and that of the time that the VMM's threads have run, in nanoseconds.
const COUNTERS: &str = "cat /sys/kernel/debug/kvm/exits; cat /proc/$pid/task/*/schedstat | \
                        awk '{ total += $1 } END { printf \"%.0f\\n\", total }'";

/// What the guest does.
pub(super) fn tasks() -> Vec<String> {
    vec![format!("rest:{REST}")]
}

/// What the host's shell looks at meanwhile. `$pid` is the VMM.
pub(super) fn script() -> String {
    format!(
        "sleep 2; {COUNTERS}; sleep {WATCHED}; {COUNTERS}; ls /proc/$pid/task | wc -l; cat /proc/$pid/smaps"
    )
}

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    place.bytes("binary", bench.binary_size(vmm)?);
    for size in [Size::Usual, Size::Harts(8)] {
        record(&bench.standard_guest(vmm, size)?, &mut place.of(size))?;
    }
    Ok(())
}

pub(super) fn record(done: &Done, place: &mut Place<'_>) -> Result<()> {
    let mut lines = done.seen.lines();
    let mut number = || {
        let line = lines.next().unwrap_or_default();
        let number: std::result::Result<u64, _> = line.trim().parse();
        number.map_err(|_| Error::Unexpected(format!("in the place of a counter: {line:?}")))
    };
    let [exits, time, exits_later, time_later, threads] =
        [number()?, number()?, number()?, number()?, number()?];
    let smaps: Vec<&str> = lines.collect();
    let resident = beyond_guest_ram(&smaps, done.memory_mib, "Rss:");
    place.bytes("memory beyond guest RAM", resident);
    // The rest is the program's file, of which there is one for all VMs.
    let own = beyond_guest_ram(&smaps, done.memory_mib, "Anonymous:");
    place.bytes("of it, for each further VM", own);
    place.count("threads", float(threads));
    let per_second = |before: u64, after: u64| float(after.saturating_sub(before)) / float(WATCHED);
    place.count(
        "exits of an idle guest, a second",
        per_second(exits, exits_later),
    );
    place.time(
        "time of an idle guest, a second",
        per_second(time, time_later),
    );
    Ok(())
}

/// The sum of a field, in bytes, of all mappings (proc_pid_smaps(5)) but that of the guest's RAM, the one that is large
/// enough.
fn beyond_guest_ram(smaps: &[&str], memory_mib: u32, field: &str) -> u64 {
    let mut total = 0;
    let mut size = 0;
    for line in smaps {
        let mut words = line.split_whitespace();
        let (Some(name), Some(Ok(kib))) = (words.next(), words.next().map(str::parse::<u64>))
        else {
            continue;
        };
        match name {
            "Size:" => size = kib,
            _ if name == field && size < u64::from(memory_mib) << 10 => total += kib << 10,
            _ => {}
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_ram_does_not_count() {
        let smaps = "10000-42000 r-xp 00000000 00:01 1 /bin/x\nSize: 200 kB\nRss: 100 kB\nPss: 90 kB\n\
                     7f0000-8f0000 rw-p 0 0:0 0\nSize: 65536 kB\nRss: 5000 kB\n\
                     9f0000-9f1000 rw-p 0 0:0 0\nSize: 4 kB\nRss: 4 kB\n";
        let smaps: Vec<&str> = smaps.lines().collect();
        assert_eq!(beyond_guest_ram(&smaps, 64, "Rss:"), 104 << 10);
    }
}
