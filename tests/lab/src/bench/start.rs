//! A VMM from its start to its end, with a guest that does next to nothing.

use super::Result;
use super::guest::Bench;
use super::report::Place;
use super::size::Size;
use super::vmm::Vmm;

/// With neither disk nor anything else, and with what the other subjects' machines have.
pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let machine = bench.machine(bench.one_character());
    place.time("start and stop", bench.shortest_run(vmm, &machine)?);
    sized(bench, vmm, Size::Usual, place)
}

/// With as much as a machine of this size has.
pub(super) fn sized(bench: &Bench, vmm: &Vmm, size: Size, place: &mut Place<'_>) -> Result<()> {
    let mut machine = bench.machine(bench.one_character());
    size.apply(&mut machine);
    bench.make_disks(&machine.disks)?;
    let time = bench.shortest_run(vmm, &machine)?;
    place.time("start and stop, with a disk", time);
    Ok(())
}
