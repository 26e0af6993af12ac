//! Output of 64 KiB by each of a machine's consoles, into a file.

use super::guest::{Bench, CONSOLE, Done, Results};
use super::payload::SBI_BYTES;
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;
use super::{Error, Result};

const BYTES: u64 = 64 << 10;

/// How many times as much goes to the virtio console. Linux's driver spins until the device has taken what it writes, and where the
/// two share a hart, the host's scheduler may let it do so for milliseconds: one 64 KiB takes up to 3 times as long as another.
const VIRTIO_TIMES: u64 = 16;

fn task(path: &str) -> String {
    format!("console:{path}:{BYTES}")
}

/// What the standard guest does.
pub(super) fn tasks() -> Vec<String> {
    vec![task("/dev/ttyS0")]
}

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let uart = bench
        .standard_guest(vmm, Size::Usual)
        .and_then(|done| record(&done, place));
    let sbi = sbi(bench, vmm, place);
    virtio(bench, vmm, Size::Usual, place).and(sbi).and(uart)
}

/// What the standard guest did.
pub(super) fn record(done: &Done, place: &mut Place<'_>) -> Result<()> {
    uart(&done.results, place)
}

fn uart(results: &Results, place: &mut Place<'_>) -> Result<()> {
    let time = results.one(&task("/dev/ttyS0"))?;
    place.time("64 KiB to the UART", float(time));
    Ok(())
}

/// A guest with a virtio console, if the VMM can have one.
pub(super) fn virtio(bench: &Bench, vmm: &Vmm, size: Size, place: &mut Place<'_>) -> Result<()> {
    let task = format!("console:/dev/hvc0:{}", VIRTIO_TIMES * BYTES);
    let mut machine = bench.linux(std::slice::from_ref(&task));
    size.apply(&mut machine);
    machine.console = Some(CONSOLE.into());
    if vmm.template.arguments(&machine).is_some() {
        let results = bench.guest(vmm, &machine)?;
        place.time(
            "64 KiB to virtio-console",
            float(results.one(&task)?) / float(VIRTIO_TIMES),
        );
    }
    Ok(())
}

/// What a guest that prints takes longer than one that does not.
fn sbi(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let without = bench.shortest_run(vmm, &bench.machine(bench.one_character()))?;
    let with = bench.shortest_run(vmm, &bench.machine(bench.sbi_console()))?;
    if bench.output_size()? < SBI_BYTES {
        return Err(Error::Unexpected(
            "the debug console did not print everything".into(),
        ));
    }
    place.time(
        "64 KiB to the SBI console",
        (with - without).max(0.0) * float(BYTES) / float(SBI_BYTES),
    );
    Ok(())
}

pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    uart(&bench.machine_without_host()?, place)
}
