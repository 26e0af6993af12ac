//! `cargo lab soak`.

use std::time::Duration;

use hv_lab::host::{Host, HostChip, HostConfig};
use hv_lab::provision::cross_build_example;
use hv_lab::soak::{self, Table};

use super::Failure;

/// Exit code where something was wrong on a host.
const EXIT_FAILED: u8 = 1;

/// How long, and where.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// For how many minutes on each host.
    #[arg(default_value_t = 5)]
    minutes: u64,
    /// Only hosts of this kind: plic, aia or aia-files; repeatable.
    #[arg(long, value_name = "KIND")]
    host: Vec<HostChip>,
}

/// Soaks a machine on each kind of host, and prints the table.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let chips = match options.host.as_slice() {
        [] => HostChip::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let program = cross_build_example("hv-vmm", "pause")?;
    let mut table = Table::default();
    for chip in chips {
        let config = HostConfig::new(chip).module("vhost_net").quietly();
        let host = Host::boot(config.lifetime(None)).map_err(super::host_failure)?;
        let time = Duration::from_secs(60 * options.minutes);
        let row = soak::soak(&host, &program, time);
        eprintln!("lab: {chip}: {} s", row.seconds);
        table.rows.push(row);
    }
    print!("{table}");
    Ok(if table.passed() { 0 } else { EXIT_FAILED })
}
