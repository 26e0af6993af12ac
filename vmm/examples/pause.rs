//! A machine that one thread makes and another runs, while a third pauses and resumes it, again and again, as its guest
//! works.
//!
//! ```text
//! pause --kernel Image [--initrd FILE] --disk FILE --tap NAME --serial FILE
//! ```
//!
//! The virtio console is on stdin and stdout. At the guest's end, stderr has the number of pauses.

mod common;

use std::error::Error;
use std::time::Duration;

use common::{Arguments, config};
use hv_vmm::Vm;

/// How long the guest runs between two pauses.
const RUNNING: Duration = Duration::from_millis(100);

/// How long it is paused.
const PAUSED: Duration = Duration::from_millis(5);

fn main() -> Result<(), Box<dyn Error>> {
    let vm = Vm::new(config(&Arguments::new())?)?;
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
