//! hvrun: boots a guest under KVM on a RISC-V Linux host.

use std::process::ExitCode;

fn main() -> ExitCode {
    hvrun_cli::main()
}
