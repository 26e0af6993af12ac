//! Links the hypervisor where the firmware enters it, and so that it can be moved from there.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=hv-bare.ld");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "none") {
        let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        let script = Path::new(&directory).join("hv-bare.ld");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
        // The relocations stay in the program, which carries them out itself wherever it is.
        for argument in ["-pie", "--no-dynamic-linker", "-znotext"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
