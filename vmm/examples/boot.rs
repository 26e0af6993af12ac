//! The shortest way to a guest: a kernel and its root disk, with the serial port on stdin and stdout.
//!
//! ```text
//! boot KERNEL DISK
//! ```

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;

use hv_vmm::{Chardev, Config, DiskConfig, Payload, Stdio, Vm};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(kernel), Some(disk)) = (arguments.next(), arguments.next()) else {
        return Err("usage: boot KERNEL DISK".into());
    };
    let serial = Chardev::Stdio(Stdio {
        input: Some(File::from(std::io::stdin().as_fd().try_clone_to_owned()?)),
        output: File::from(std::io::stdout().as_fd().try_clone_to_owned()?),
        filter: None,
        resized: None,
    });
    let config = Config::new(Payload::Kernel(kernel.into()))
        .serial(serial)
        .device(DiskConfig::new(disk));
    let outcome = Vm::new(config)?.run()?;
    eprintln!("{outcome:?}");
    Ok(())
}
