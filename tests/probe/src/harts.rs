//! Timer interrupts, and interrupts from one hart to another.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::io::{Read, Write};

use crate::clock::timed;

/// How long `count` sleeps of that many nanoseconds take.
pub(crate) fn sleep(nanoseconds: u64, count: u64) -> io::Result<u64> {
    // Linux defers timers of ordinary threads by up to 50 us.
    // SAFETY: it takes a number.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_usize) };
    timed(|| {
        for _ in 0..count {
            thread::sleep(Duration::from_nanos(nanoseconds));
        }
        Ok(())
    })
}

/// Says that it does nothing now, and does so.
pub(crate) fn rest(seconds: u64) -> io::Result<u64> {
    println!("@idle");
    timed(|| {
        thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })
}

/// How long it takes two threads to wake each other `count` times: on one hart if there is no other, else on two, where
/// each sends the other an interrupt.
pub(crate) fn ping(count: u64) -> io::Result<u64> {
    let (mut here, mut there) = (
        std::os::unix::net::UnixStream::pair()?,
        std::os::unix::net::UnixStream::pair()?,
    );
    let started = Arc::new(std::sync::Barrier::new(2));
    let other = thread::spawn({
        let started = Arc::clone(&started);
        move || {
            // Without a second hart it stays on the first.
            let _ = pin(1);
            started.wait();
            let mut byte = [0];
            for _ in 0..count {
                here.0.read_exact(&mut byte)?;
                there.0.write_all(&byte)?;
            }
            io::Result::Ok(())
        }
    });
    pin(0)?;
    started.wait();
    let time = timed(|| {
        let mut byte = [0];
        for _ in 0..count {
            here.1.write_all(&byte)?;
            there.1.read_exact(&mut byte)?;
        }
        Ok(())
    });
    other
        .join()
        .map_err(|_| io::Error::other("the other thread"))??;
    time
}

fn pin(hart: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(hart)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}
