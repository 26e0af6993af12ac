//! A guest that attacks the hypervisor on all its harts, with honest ones beside it. `cargo lab hostile` takes longer.

use hv_lab::hostile::{Attack, BareChip, on_bare_metal};

fn survives(chip: BareChip, seed: u64) {
    let attack = Attack {
        seconds: 4,
        seed,
        reboots: 2,
    };
    match on_bare_metal(chip, &attack) {
        Ok(survived) => println!("{chip}: {survived}"),
        Err(wrong) => panic!("{chip}, {attack:?}: {wrong}"),
    }
}

#[test]
fn a_hostile_guest_gets_nothing() {
    survives(BareChip::Plic, 1);
    survives(BareChip::Aia, 2);
}
