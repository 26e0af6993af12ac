//! Timer interrupts, and threads that wake each other, on one hart and on four.

use super::Result;
use super::guest::{Bench, Results};
use super::report::{Place, float};
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
    record(&bench.standard_guest(vmm)?, 1, place)?;
    let mut machine = bench.linux(&tasks());
    machine.cpus = 4;
    let results = bench.guest(vmm, &machine)?;
    record(&results, 4, place)?;
    place.time("kernel start to init, 4 harts", float(results.one("init")?));
    Ok(())
}

pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    record(&bench.machine_without_host()?, 1, place)
}

fn record(results: &Results, harts: u32, place: &mut Place<'_>) -> Result<()> {
    let harts = if harts == 1 {
        "1 hart".into()
    } else {
        format!("{harts} harts")
    };
    let [sleep, ping] = [&tasks()[0], &tasks()[1]];
    let (nanoseconds, count) = SLEEP;
    let late = float(results.one(sleep)?) / float(count) - float(nanoseconds);
    place.time(&format!("a sleeper wakes late by, {harts}"), late);
    let ping = float(results.one(ping)?) / float(PINGS);
    place.time(&format!("two threads wake each other, {harts}"), ping);
    Ok(())
}
