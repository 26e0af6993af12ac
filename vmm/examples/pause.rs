//! A machine that one thread makes and another runs, while a third pauses and resumes it, again and again, as its guest
//! works.
//!
//! ```text
//! pause --kernel Image [--initrd FILE] --disk FILE --tap NAME --serial FILE
//! ```
//!
//! The virtio console is on stdin and stdout. At the guest's end, stderr has the number of pauses.

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use hv_vmm::{
    Chardev, Config, ConsoleConfig, DiskConfig, ImageFormat, NetConfig, Payload, RngConfig, Stdio,
    Vm,
};

/// How long the guest runs between two pauses.
const RUNNING: Duration = Duration::from_millis(100);

/// How long it is paused.
const PAUSED: Duration = Duration::from_millis(5);

fn main() -> Result<(), Box<dyn Error>> {
    let vm = Vm::new(config()?)?;
    let handle = vm.handle();
    let pauses = std::thread::spawn(move || {
        let mut pauses = 0_u64;
        loop {
            std::thread::sleep(RUNNING);
            if handle.pause().is_err() {
                break;
            }
            pauses += 1;
            std::thread::sleep(PAUSED);
            if handle.resume().is_err() {
                break;
            }
        }
        pauses
    });
    // Any thread may run the machine, not only the one that has made it.
    let runs = std::thread::spawn(move || vm.run());
    let outcome = runs.join().map_err(|_| "the machine has panicked")??;
    let pauses = pauses.join().map_err(|_| "the other thread has panicked")?;
    eprintln!("{outcome:?} after {pauses} pauses");
    Ok(())
}

fn config() -> Result<Config, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let found = arguments
            .chunks(2)
            .find(|pair| pair.first().is_some_and(|it| it == name));
        found.and_then(|pair| pair.get(1)).cloned()
    };
    let needed = |name: &str| value(name).ok_or_else(|| format!("{name} is missing"));
    let mut disk = DiskConfig::new(needed("--disk")?);
    disk.format = ImageFormat::Raw;
    let console = Chardev::Stdio(Stdio {
        input: Some(File::from(std::io::stdin().as_fd().try_clone_to_owned()?)),
        output: File::from(std::io::stdout().as_fd().try_clone_to_owned()?),
        filter: None,
        resized: None,
    });
    let mut config = Config::new(Payload::Kernel(needed("--kernel")?.into()))
        .command_line("console=ttyS0 console=hvc0 root=/dev/vda rw")
        .cpus(4)
        .serial(Chardev::File(needed("--serial")?.into()))
        .device(disk)
        .device(NetConfig::tap(needed("--tap")?))
        .device(RngConfig::default())
        .device(ConsoleConfig::new(console));
    config.initrd = value("--initrd").map(Into::into);
    Ok(config)
}
