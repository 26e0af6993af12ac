//! A guest that attacks its machine on all harts, with an honest one beside it. `HVRUN_HOSTILE_SECONDS` has each attack take longer,
//! and `cargo lab hostile` more.

use hv_lab::host::HostChip;
use hv_lab::hostile::{Attack, on_host};
use hv_lab::test_kernel::Virtio;

use crate::fixture::{host, hvrun};

/// Seconds of an attack.
const SECONDS: u64 = 4;

fn survives(chip: HostChip, virtio: Virtio, seed: u64) {
    let seconds = std::env::var("HVRUN_HOSTILE_SECONDS").ok();
    let attack = Attack {
        seconds: seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap()),
        seed,
        reboots: 2,
    };
    match on_host(host(chip), hvrun(), &attack, virtio) {
        Ok(survived) => println!("{chip}: {survived}"),
        Err(wrong) => panic!("{chip}, {virtio:?}, {attack:?}: {wrong}"),
    }
}

#[test]
fn a_hostile_guest_gets_nothing_on_a_plic() {
    survives(HostChip::Plic, Virtio::Legacy, 1);
    survives(HostChip::Plic, Virtio::Modern, 2);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_hostile_guest_gets_nothing_on_an_aia() {
    survives(HostChip::Aia, Virtio::Modern, 3);
}

#[test]
#[ignore = "in a complete run: cargo test -- --include-ignored"]
fn a_hostile_guest_gets_nothing_on_an_aia_with_guest_interrupt_files() {
    survives(HostChip::AiaFiles, Virtio::Modern, 4);
}
