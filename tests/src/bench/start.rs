//! A VMM from its start to its end, with a guest that does next to nothing.

use super::Result;
use super::guest::Bench;
use super::report::Place;
use super::vmm::Vmm;

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let machine = bench.machine(bench.one_character());
    place.time("start and stop", bench.shortest_run(vmm, &machine)?);
    Ok(())
}
