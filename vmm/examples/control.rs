//! A machine that is controlled by the lines of a file, such as a FIFO:
//!
//! ```text
//! pause | resume | reset | stop
//! link ID up | link ID down
//! ```
//!
//! ```text
//! control --commands FIFO --kernel Image [--initrd FILE] [--disk FILE] [--tap NAME] --serial FILE
//! ```
//!
//! The virtio console is on stdin and stdout. stderr has the answers to the commands, and the machine's events.

mod common;

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};

use common::{Arguments, config};
use hv_vmm::{Handle, Refused, Vm};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::new();
    let path = arguments.needed("--commands")?;
    // A FIFO that is open for writing as well does not end when its first writer has gone.
    let commands = File::options().read(true).write(true).open(path)?;
    let vm = Vm::new(config(&arguments)?)?;
    let handle = vm.handle();
    let events = vm.handle().events();
    std::thread::spawn(move || {
        for line in BufReader::new(commands).lines().map_while(Result::ok) {
            match carry_out(&handle, &line) {
                Some(Ok(())) => eprintln!("{line}: done"),
                Some(Err(refused)) => eprintln!("{line}: {refused}"),
                None => eprintln!("{line}: unknown command"),
            }
        }
    });
    let listener = std::thread::spawn(move || {
        for event in events {
            eprintln!("event: {event:?}");
        }
    });
    let outcome = vm.run()?;
    listener
        .join()
        .map_err(|_| "the listener has panicked")
        .map(|()| eprintln!("{outcome:?}"))?;
    Ok(())
}

/// Carries out one command; `None` if there is none of that name.
fn carry_out(handle: &Handle, line: &str) -> Option<Result<(), Refused>> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(match words.as_slice() {
        ["pause"] => handle.pause(),
        ["resume"] => handle.resume(),
        ["reset"] => handle.reset(),
        ["stop"] => {
            handle.stop();
            Ok(())
        }
        ["link", id, "up"] => handle.set_link(id, true),
        ["link", id, "down"] => handle.set_link(id, false),
        _ => return None,
    })
}
