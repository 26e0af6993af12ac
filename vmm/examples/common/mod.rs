//! What the examples have in common: their arguments, and a machine made of them with its virtio console on stdin and stdout.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;

use hv_vmm::{Chardev, Config, ConsoleConfig, DiskConfig, NetConfig, Payload, RngConfig, Stdio};

/// `--name value` pairs.
pub struct Arguments(Vec<String>);

impl Arguments {
    /// Those of the process.
    pub fn new() -> Arguments {
        Arguments(std::env::args().skip(1).collect())
    }

    /// The value of this option, if it was given.
    pub fn value(&self, name: &str) -> Option<String> {
        let mut pairs = self.0.chunks(2);
        let found = pairs.find(|pair| pair.first().is_some_and(|it| it == name));
        found.and_then(|pair| pair.get(1)).cloned()
    }

    /// The value of this option, without which there is no machine.
    pub fn needed(&self, name: &str) -> Result<String, String> {
        self.value(name)
            .ok_or_else(|| format!("{name} is missing; give it a value"))
    }
}

/// `--kernel Image --serial FILE [--initrd FILE] [--disk FILE] [--tap NAME]`: the output of the serial port goes to the file.
pub fn config(arguments: &Arguments) -> Result<Config, Box<dyn Error>> {
    let console = Chardev::Stdio(Stdio {
        input: Some(File::from(std::io::stdin().as_fd().try_clone_to_owned()?)),
        output: File::from(std::io::stdout().as_fd().try_clone_to_owned()?),
        filter: None,
        resized: None,
    });
    let mut config = Config::new(Payload::Kernel(arguments.needed("--kernel")?.into()))
        .cpus(4)
        .serial(Chardev::File(arguments.needed("--serial")?.into()));
    config.initrd = arguments.value("--initrd").map(Into::into);
    if let Some(path) = arguments.value("--disk") {
        config = config.device(DiskConfig::new(path));
    }
    if let Some(name) = arguments.value("--tap") {
        config = config.device(NetConfig::tap(name));
    }
    Ok(config
        .device(RngConfig::default())
        .device(ConsoleConfig::new(console)))
}
