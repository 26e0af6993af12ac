//! From the guest kernel's start to its first process, by the guest's clock.

use super::Result;
use super::guest::Bench;
use super::report::{Place, float};
use super::vmm::Vmm;

const NAME: &str = "kernel start to init";

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let results = bench.standard_guest(vmm)?;
    place.time(NAME, float(results.one("init")?));
    Ok(())
}

pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    let results = bench.machine_without_host()?;
    place.time(NAME, float(results.one("init")?));
    Ok(())
}
