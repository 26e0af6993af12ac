//! libFuzzer on one of the targets, which the variable `HV_FUZZ_TARGET` names. `cargo lab fuzz` builds and runs it.

#![no_main]

use std::sync::OnceLock;

use hv_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

/// The target of this process.
static CHOSEN: OnceLock<&'static Target> = OnceLock::new();

fn chosen() -> &'static Target {
    CHOSEN.get_or_init(|| {
        let name = std::env::var("HV_FUZZ_TARGET").unwrap_or_default();
        TARGETS
            .iter()
            .find(|target| target.name == name)
            .unwrap_or_else(|| {
                eprintln!("HV_FUZZ_TARGET names no fuzz target; cargo lab fuzz lists them");
                std::process::exit(2)
            })
    })
}

fuzz_target!(|data: &[u8]| (chosen().run)(data));
