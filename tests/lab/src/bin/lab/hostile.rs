//! `cargo lab hostile`.

use hv_lab::host::{Host, HostChip, HostConfig};
use hv_lab::hostile::{self, Attack, BareChip, Judged, Survived};
use hv_lab::provision::cross_build;
use hv_lab::test_kernel::Virtio;

use super::Failure;

/// Exit code where a hypervisor did not survive, or its neighbour did not.
const EXIT_FAILED: u8 = 1;

/// How long, and what.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// How long each attack takes, in seconds of the guest's clock.
    #[arg(default_value_t = 60)]
    seconds: u64,
    /// What the guests do follows from this number.
    #[arg(default_value_t = 1)]
    seed: u64,
    /// Only hosts of this kind: plic, aia or aia-files; repeatable.
    #[arg(long, value_name = "KIND")]
    host: Vec<HostChip>,
    /// Not on the bare-metal hypervisor.
    #[arg(long)]
    no_bare: bool,
}

/// Attacks hvrun on each kind of host, and the bare-metal hypervisor on each kind of machine.
pub(super) fn run(options: &Options) -> Result<u8, Failure> {
    let chips = match options.host.as_slice() {
        [] => HostChip::ALL.to_vec(),
        chosen => chosen.to_vec(),
    };
    let attack = Attack {
        seconds: options.seconds,
        seed: options.seed,
        reboots: (options.seconds / 3).min(20),
    };
    let mut failed = false;
    let mut say = |what: String, outcome: Judged<Survived>| match outcome {
        Ok(survived) => println!("{what}: survived: {survived}"),
        Err(wrong) => {
            failed = true;
            println!("{what}: FAILED: {wrong}");
        }
    };
    let hvrun = cross_build("hvrun", "hvrun")?;
    for chip in chips {
        let config = HostConfig::new(chip).module("vhost_net").quietly();
        let host = Host::boot(config.lifetime(None)).map_err(super::host_failure)?;
        for (name, virtio) in [("modern", Virtio::Modern), ("legacy", Virtio::Legacy)] {
            let outcome = hostile::on_host(&host, &hvrun, &attack, virtio);
            say(format!("hvrun, {chip}, {name}"), outcome);
        }
    }
    if !options.no_bare {
        for chip in BareChip::ALL {
            let outcome = hostile::on_bare_metal(chip, &attack);
            say(format!("hv-bare, {chip}"), outcome);
        }
    }
    Ok(if failed { EXIT_FAILED } else { 0 })
}
