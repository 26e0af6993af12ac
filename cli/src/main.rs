//! hvrun: boots a guest under KVM on a RISC-V Linux host.

use std::process::ExitCode;

#[global_allocator]
static HEAP: hvrun_cli::Heap = hvrun_cli::Heap;

fn main() -> ExitCode {
    hvrun_cli::main()
}
