//! From the guest kernel's start to its first process, by the guest's clock.

use super::Result;
use super::guest::{Bench, Done, Results};
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    record(&bench.standard_guest(vmm, Size::Usual)?, place)
}

pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    time(&bench.machine_without_host()?, place)
}

pub(super) fn record(done: &Done, place: &mut Place<'_>) -> Result<()> {
    time(&done.results, place)
}

fn time(results: &Results, place: &mut Place<'_>) -> Result<()> {
    place.time("kernel start to init", float(results.one("init")?));
    Ok(())
}
