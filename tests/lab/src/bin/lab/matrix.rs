//! `cargo lab matrix`.

use hv_lab::host::{HostChip, HostKernel};
use hv_lab::matrix::{self, Cell};
use hv_lab::provision::cross_build;

use super::{EXIT_LAB, Failure};

/// Exit code where hvrun failed in a cell.
const EXIT_FAILED: u8 = 1;

/// Which hosts.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// Only hosts of this kind: plic, aia or aia-files; repeatable.
    #[arg(long, value_name = "KIND")]
    host: Vec<HostChip>,
    /// Only hosts with this kernel: oldest (6.1, without an AIA), stable or newest; repeatable.
    #[arg(long, value_name = "AGE")]
    kernel: Vec<HostKernel>,
}

/// Checks hvrun in the chosen cells, and prints the table.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let cells = Cell::chosen(&options.host, &options.kernel);
    if cells.is_empty() {
        return Err(Failure {
            message: "lab: there is no such host: Linux 6.1 knows no AIA; take --kernel oldest with --host plic".into(),
            code: EXIT_LAB,
        });
    }
    let hvrun = cross_build("hvrun", "hvrun")?;
    let table = matrix::run(&cells, &hvrun, &|line| eprintln!("lab: {line}"));
    print!("{table}");
    Ok(if table.passed() { 0 } else { EXIT_FAILED })
}
