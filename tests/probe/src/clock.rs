//! Time, and marks in the stream of instructions.

use std::io;

/// Nanoseconds since the kernel started its clock. By a system call: what the C library does in its place reads the `time` CSR,
/// which programs in QEMU's guests may not on hosts with a PLIC.
pub(crate) fn now() -> io::Result<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a `timespec`.
    let result =
        unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(u64::try_from);
    let seconds = seconds.map_err(io::Error::other)?;
    Ok(seconds * 1_000_000_000 + nanoseconds.map_err(io::Error::other)?)
}

/// How long `action` takes, in nanoseconds, between two marks.
pub(crate) fn timed(action: impl FnOnce() -> io::Result<()>) -> io::Result<u64> {
    mark(true);
    let start = now()?;
    action()?;
    let time = now()?.saturating_sub(start);
    mark(false);
    Ok(time)
}

/// An instruction without effect that `cargo lab profile` looks for: begin or end, of a host's or a guest's task. It is one of
/// those that the ISA sets aside for such uses (RISC-V Unprivileged ISA, "HINT Instructions", `slti` with `rd`=`x0`).
fn mark(begin: bool) {
    #[cfg(target_arch = "riscv64")]
    {
        use std::arch::asm;
        let guest = std::process::id() == 1;
        // SAFETY: instructions that change nothing.
        unsafe {
            match (guest, begin) {
                (false, true) => asm!("slti x0, x0, 0x2b1"),
                (false, false) => asm!("slti x0, x0, 0x2b2"),
                (true, true) => asm!("slti x0, x0, 0x2b3"),
                (true, false) => asm!("slti x0, x0, 0x2b4"),
            }
        }
    }
    #[cfg(not(target_arch = "riscv64"))]
    let _ = begin;
}
