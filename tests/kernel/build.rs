//! Links the kernel where a guest of the board begins.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "none") {
        let directory = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        let script = Path::new(&directory).join("kernel.ld");
        println!("cargo::rustc-link-arg-bins=-T{}", script.display());
    }
}
