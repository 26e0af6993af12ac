//! `/init` of the nested host. See the library for what it does once the control port is open.

mod init;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!(
            "agent: this is the init of hvrun's lab, and of no use but as process 1 of its nested host"
        );
        return ExitCode::FAILURE;
    }
    init::run()
}
