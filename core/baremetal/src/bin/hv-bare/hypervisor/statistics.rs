//! Counts of each hart's exits, by cause.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a guest was left.
        #[derive(Clone, Copy, Debug)]
        pub enum Cause { $($(#[$doc])* $name,)* }

        const NAMES: &[&str] = &[$($text),*];
    };
}

causes! {
    /// SBI: the timer extension, and legacy Set Timer.
    SbiTimer => "SBI timer",
    /// SBI: interrupts between harts.
    SbiIpi => "SBI IPI",
    /// SBI: remote fences.
    SbiFence => "SBI remote fence",
    /// SBI: consoles.
    SbiConsole => "SBI console",
    /// SBI: all else.
    SbiOther => "SBI other",
    /// Registers of the guest's PLIC.
    Plic => "MMIO PLIC",
    /// Registers of the guest's serial port.
    Serial => "MMIO serial port",
    /// Registers of other devices.
    OtherDevice => "MMIO other device",
    /// Addresses where nothing is.
    Nothing => "MMIO nothing there",
    /// A device of the host's.
    HostExternal => "host external interrupt",
    /// Another hart had something to say.
    HostSoftware => "host software interrupt",
    /// The timer, for guests without their own.
    HostTimer => "host timer interrupt",
    /// An instruction that a guest cannot have.
    VirtualInstruction => "virtual instruction",
    /// Anything else.
    Other => "other trap",
}

/// The counts of one hart, which only that hart changes.
#[derive(Debug)]
pub struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    /// None of anything.
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; NAMES.len()])
    }

    /// One more.
    pub fn count(&self, cause: Cause) {
        if let Some(counter) = self.0.get(cause as usize) {
            let count = counter.load(Ordering::Relaxed);
            counter.store(count.wrapping_add(1), Ordering::Relaxed);
        }
    }
}

/// The sums of several harts' counts, for a person.
pub struct Sums<'a, I>(pub &'a I);

impl<'a, I: Iterator<Item = &'a Counts> + Clone> fmt::Display for Sums<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |cause: usize| {
            self.0
                .clone()
                .filter_map(|counts| counts.0.get(cause))
                .map(|counter| counter.load(Ordering::Relaxed))
                .fold(0, u64::wrapping_add)
        };
        let all = (0..NAMES.len()).map(sum).fold(0, u64::wrapping_add);
        write!(f, "{all} exits")?;
        for (cause, name) in NAMES.iter().enumerate() {
            let count = sum(cause);
            if count != 0 {
                write!(f, "\n{count:>10}  {name}")?;
            }
        }
        Ok(())
    }
}
