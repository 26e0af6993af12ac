//! How all figures grow with the machine: a guest of each size does what the standard guest does.
//!
//! Virtio consoles and networks are one device and one hart's, whatever else the machine has, and are measured with the most harts
//! alone. What a VMM's binary measures and how fast the SBI console is does not change with the machine.

use super::guest::Bench;
use super::report::Place;
use super::size::Size;
use super::vmm::Vmm;
use super::{Error, Result, boot, consoles, disk, harts, network, resident, start};

/// The most harts.
const MANY: Size = Size::Harts(8);

/// Measures all sizes: one that the VMM cannot have keeps none of the others from being measured.
pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let mut errors = Vec::new();
    for size in [Size::Usual].into_iter().chain(Size::OTHERS) {
        let mut place = place.of(size);
        let mut results = vec![start::sized(bench, vmm, size, &mut place)];
        match bench.standard_guest(vmm, size) {
            Ok(done) => results.extend(
                [
                    boot::record,
                    disk::record,
                    consoles::record,
                    harts::record,
                    resident::record,
                ]
                .map(|record| record(&done, &mut place)),
            ),
            Err(error) => results.push(Err(error)),
        }
        if size == MANY {
            results.push(consoles::virtio(bench, vmm, size, &mut place));
            for vhost in [false, true] {
                results.push(network::tcp(bench, vmm, size, vhost, &mut place));
            }
        }
        errors.extend(
            results
                .into_iter()
                .filter_map(Result::err)
                .map(|error| format!("{size}: {error}")),
        );
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Error::Unexpected(errors.join("; "))),
    }
}
