//! Timer interrupts, and threads that wake each other, on one hart and on four.

use super::Result;
use super::guest::{Bench, Done, Results};
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;

/// A sleep, nanoseconds, and how many.
const SLEEP: (u64, u64) = (200_000, 500);
const PINGS: u64 = 500;

pub(super) fn tasks() -> Vec<String> {
    let (nanoseconds, count) = SLEEP;
    vec![
        format!("sleep:{nanoseconds}:{count}"),
        format!("ping:{PINGS}"),
    ]
}

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    for size in [Size::Usual, Size::Harts(4)] {
        record(&bench.standard_guest(vmm, size)?, &mut place.of(size))?;
    }
    Ok(())
}

pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    times(&bench.machine_without_host()?, place)
}

pub(super) fn record(done: &Done, place: &mut Place<'_>) -> Result<()> {
    times(&done.results, place)
}

fn times(results: &Results, place: &mut Place<'_>) -> Result<()> {
    let [sleep, ping] = [&tasks()[0], &tasks()[1]];
    let (nanoseconds, count) = SLEEP;
    let late = float(results.one(sleep)?) / float(count) - float(nanoseconds);
    place.time("a sleeper wakes late by", late);
    let ping = float(results.one(ping)?) / float(PINGS);
    place.time("two threads wake each other", ping);
    Ok(())
}
