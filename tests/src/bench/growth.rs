//! How a VMM's start grows with its machine.

use super::Result;
use super::guest::{Bench, DISK};
use super::report::Place;
use super::vmm::Vmm;

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    for cpus in [2, 4, 8] {
        let mut machine = bench.machine(bench.one_character());
        machine.cpus = cpus;
        place.time(
            &format!("start and stop, {cpus} harts"),
            bench.shortest_run(vmm, &machine)?,
        );
    }
    for disks in [1, 8] {
        let mut machine = bench.machine(bench.one_character());
        // A disk is locked by who uses it, so each is a file of its own.
        machine.disks = (0..disks)
            .map(|number| format!("{DISK}.{number}"))
            .collect();
        bench.make_disks(&machine.disks)?;
        let name = if disks == 1 {
            "1 disk".into()
        } else {
            format!("{disks} disks")
        };
        place.time(
            &format!("start and stop, {name}"),
            bench.shortest_run(vmm, &machine)?,
        );
    }
    for mib in [128, 512, 2048] {
        let mut machine = bench.machine(bench.one_character());
        machine.memory_mib = mib;
        place.time(
            &format!("start and stop, {mib} MiB"),
            bench.shortest_run(vmm, &machine)?,
        );
    }
    Ok(())
}
