//! The platform-level interrupt controller, as the RISC-V PLIC Specification 1.0.0 describes it, with the contexts,
//! priorities and sources that QEMU's `virt` board has. Sections cited are that specification's.
//!
//! A source is level-sensitive. Its gateway (section 1.2) turns a high level into one request, which is pending until
//! some context claims it, and lets no further request through until the claim is completed:
//!
//! ```text
//!           level high                  claim
//!   idle ---------------> pending ----------------> claimed
//!    ^                       ^                         |
//!    |                       |   complete, level high  |
//!    |                       +-------------------------+
//!    +-------------------------------------------------+
//!                                complete, level low
//! ```
//!
//! A request is never taken back: a level that falls while its request is pending leaves it pending (section 1.2).
//! The state belongs to the source, so one hart's claim masks the source for all of them.
//!
//! Context `2 * hart` is the M-mode of a hart, context `2 * hart + 1` its S-mode. Guests run in S-mode; the M-mode
//! contexts hold what is written to them, and their claims and completions work, but they drive no line.
//!
//! # Accesses
//! The specification's registers are 32 bits wide and accessed by `lw` and `sw` (section 3). What it leaves open is done
//! as a bank of 32-bit registers with byte enables would do it. An access of another width or alignment reaches every
//! register it touches, once and in ascending order: reads yield the bytes that were asked for, writes replace these
//! bytes and keep the others. Any read that touches a claim register claims, and any write that touches it completes,
//! the bytes not written counting as zero. What is not implemented reads as zero and ignores writes.

use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;
use core::{iter, mem};

mod source_set;
use source_set::SourceSet;

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

/// The highest source that the register map has room for (section 3).
const MAX_SOURCES: u32 = 1023;
/// How many harts of two contexts the register map has room for: it has 15872 contexts (section 3).
const MAX_HARTS: u32 = 15872 / 2;
/// The bits of a priority and of a threshold that can be written: QEMU `virt` has priorities 0 to 7
/// (`VIRT_PLIC_NUM_PRIORITIES`). Both are WARL (sections 4 and 7).
const PRIORITY_BITS: u32 = 0b111;

/// Where the controller's notifications go.
pub trait HartLines {
    /// The supervisor external interrupt of `hart` (`mip.SEIP`) is now asserted or no longer so. Called on changes only.
    fn set_external(&mut self, hart: u32, asserted: bool);

    /// A context has completed the handling of `source`, which was claimed. Called before the gateway looks at the source's
    /// level again, so that an interrupt which comes from another chip can be completed there.
    fn completed(&mut self, source: u32) {
        let _ = source;
    }
}

/// The whole state of a controller: plain data, which is what a snapshot has to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plic {
    /// Every source there is.
    sources: SourceSet,
    /// The sources whose IRQ line is high.
    levels: SourceSet,
    /// The sources with a request that waits to be claimed.
    pending: SourceSet,
    /// The sources with a request that was claimed and is not completed. None of them is pending.
    claimed: SourceSet,
    /// The priority of each source, from source 0, which does not exist.
    priorities: Vec<u32>,
    /// Two contexts for each hart.
    contexts: Vec<Context>,
    /// Whether the line of each hart is asserted.
    lines: Vec<bool>,
}

/// What the controller keeps for one privilege mode of one hart (section 1.1).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Context {
    enabled: SourceSet,
    threshold: u32,
}

/// Where the registers are, in bytes from the controller's base (section 3).
pub mod map {
    /// The priority of source 0, which does not exist; those of the others follow, a word each.
    pub const PRIORITY: u32 = 0;
    /// The pending bits of sources 0 to 31; those of the others follow.
    pub const PENDING: u32 = 0x1000;
    /// The enable bits of context 0, for sources 0 to 31; those of the others follow.
    pub const ENABLE: u32 = 0x2000;
    /// From one context's enable bits to those of the next.
    pub const ENABLE_STRIDE: u32 = 0x80;
    /// The other registers of context 0.
    pub const CONTEXT: u32 = 0x20_0000;
    /// From one context's registers to those of the next.
    pub const CONTEXT_STRIDE: u32 = 0x1000;
    /// From a context's registers to its priority threshold.
    pub const THRESHOLD: u32 = 0;
    /// From a context's registers to its claim and completion.
    pub const CLAIM: u32 = 4;
    /// The end of the map.
    pub const END: u32 = 0x400_0000;
}

/// A register, by what it belongs to. The owner need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Priority { source: u32 },
    Pending { word: u32 },
    Enable { context: u32, word: u32 },
    Threshold { context: u32 },
    Claim { context: u32 },
    Reserved,
}

impl Register {
    /// The register at `offset`, a multiple of four, from the controller's base (section 3).
    fn at(offset: u64) -> Self {
        use map::{CLAIM, CONTEXT, CONTEXT_STRIDE, ENABLE, ENABLE_STRIDE, END, PENDING, THRESHOLD};
        const PENDING_END: u32 = 0x1080;
        const ENABLE_END: u32 = 0x1f_2000;

        let Ok(offset) = u32::try_from(offset) else {
            return Self::Reserved;
        };
        match offset {
            0..PENDING => Self::Priority { source: offset / 4 },
            PENDING..PENDING_END => Self::Pending {
                word: offset % PENDING / 4,
            },
            ENABLE..ENABLE_END => {
                let offset = offset.saturating_sub(ENABLE);
                Self::Enable {
                    context: offset / ENABLE_STRIDE,
                    word: offset % ENABLE_STRIDE / 4,
                }
            }
            CONTEXT..END => {
                let offset = offset.saturating_sub(CONTEXT);
                let context = offset / CONTEXT_STRIDE;
                match offset % CONTEXT_STRIDE {
                    THRESHOLD => Self::Threshold { context },
                    CLAIM => Self::Claim { context },
                    _ => Self::Reserved,
                }
            }
            _ => Self::Reserved,
        }
    }
}

/// What an access does to one of the registers it touches.
struct Part {
    register: Register,
    /// The register's first byte that is touched.
    lane: usize,
    /// Which bytes of the access these are.
    bytes: Range<usize>,
}

/// The registers that an access of `length` bytes at `offset` touches, in ascending order. An access does not go round
/// the end of the address space.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = Part> {
    let mut done = 0_usize;
    iter::from_fn(move || {
        let position = offset.checked_add(done as u64)?;
        let word = position & !3;
        let lane = (position % 4) as usize;
        let bytes = done..length.min(done.saturating_add(4_usize.saturating_sub(lane)));
        done = bytes.end;
        (!bytes.is_empty()).then(|| Part {
            register: Register::at(word),
            lane,
            bytes,
        })
    })
}

impl Plic {
    /// A controller after reset: nothing enabled, every priority and threshold 0, no line asserted.
    ///
    /// Harts are 0 to `harts - 1` and sources 1 to `sources`. Of both there can be no more than the register map has
    /// room for, which is 7936 harts and 1023 sources.
    #[must_use]
    pub fn new(harts: u32, sources: u32) -> Self {
        let harts = harts.min(MAX_HARTS) as usize;
        let sources = sources.min(MAX_SOURCES);
        let none = SourceSet::empty(sources);
        let context = Context {
            enabled: none.clone(),
            threshold: 0,
        };
        Self {
            sources: SourceSet::full(sources),
            levels: none.clone(),
            pending: none.clone(),
            claimed: none,
            priorities: vec![0; (sources as usize).saturating_add(1)],
            contexts: vec![context; harts.saturating_mul(2)],
            lines: vec![false; harts],
        }
    }

    /// Returns to the state after reset. The levels stay, because the devices drive them: a source whose IRQ line is high
    /// has its request pending again.
    pub fn reset(&mut self, out: &mut impl HartLines) {
        self.pending = self.levels.clone();
        self.claimed.clear();
        self.priorities.fill(0);
        for context in &mut self.contexts {
            context.enabled.clear();
            context.threshold = 0;
        }
        for hart in 0..self.harts() {
            self.update_hart_line(hart, out);
        }
    }

    /// Sets the level of `source`'s IRQ line. A source that does not exist is ignored.
    pub fn set_source(&mut self, source: u32, level: bool, out: &mut impl HartLines) {
        if !self.sources.contains(source) {
            return;
        }
        self.levels.set(source, level);
        self.forward_request(source, out);
    }

    /// The guest reads `data.len()` bytes at `offset` from the controller's base.
    pub fn read(&mut self, offset: u64, data: &mut [u8], out: &mut impl HartLines) {
        data.fill(0);
        for part in parts(offset, data.len()) {
            let value = match part.register {
                Register::Claim { context } => self.claim(context, out),
                register => self.stored(register),
            };
            let to = data.get_mut(part.bytes).unwrap_or_default();
            for (to, from) in to
                .iter_mut()
                .zip(value.to_le_bytes().iter().skip(part.lane))
            {
                *to = *from;
            }
        }
    }

    /// The guest writes `data` at `offset` from the controller's base.
    pub fn write(&mut self, offset: u64, data: &[u8], out: &mut impl HartLines) {
        for part in parts(offset, data.len()) {
            let mut value = self.stored(part.register).to_le_bytes();
            let from = data.get(part.bytes).unwrap_or_default();
            for (to, from) in value.iter_mut().skip(part.lane).zip(from) {
                *to = *from;
            }
            self.write_register(part.register, u32::from_le_bytes(value), out);
        }
    }

    /// Whether the supervisor external interrupt of `hart` is asserted.
    #[must_use]
    pub fn line(&self, hart: u32) -> bool {
        self.lines.get(hart as usize).copied().unwrap_or(false)
    }

    /// What a register holds, without the effect that reading it may have. The claim register holds nothing.
    fn stored(&self, register: Register) -> u32 {
        match register {
            Register::Priority { source } => self.priority(source),
            Register::Pending { word } => self.pending.word(word),
            Register::Enable { context, word } => self
                .context(context)
                .map_or(0, |context| context.enabled.word(word)),
            Register::Threshold { context } => {
                self.context(context).map_or(0, |context| context.threshold)
            }
            Register::Claim { .. } | Register::Reserved => 0,
        }
    }

    fn write_register(&mut self, register: Register, value: u32, out: &mut impl HartLines) {
        match register {
            Register::Priority { source } => {
                if self.sources.contains(source)
                    && let Some(priority) = self.priorities.get_mut(source as usize)
                {
                    *priority = value & PRIORITY_BITS;
                    self.update_lines_of(source, out);
                }
            }
            Register::Enable { context: id, word } => {
                let implemented = self.sources.word(word);
                if let Some(context) = self.contexts.get_mut(id as usize) {
                    context.enabled.set_word(word, value & implemented);
                    self.update_hart_line(hart_of(id), out);
                }
            }
            Register::Threshold { context: id } => {
                if let Some(context) = self.contexts.get_mut(id as usize) {
                    context.threshold = value & PRIORITY_BITS;
                    self.update_hart_line(hart_of(id), out);
                }
            }
            Register::Claim { context } => self.complete(context, value, out),
            // Pending bits are read-only: a claim clears them (section 5).
            Register::Pending { .. } | Register::Reserved => {}
        }
    }

    /// Claims the pending source of the highest priority for a context, or 0 if there is none. The threshold has no effect
    /// here: it masks notifications only (section 8).
    fn claim(&mut self, context: u32, out: &mut impl HartLines) -> u32 {
        let Some(source) = self
            .context(context)
            .and_then(|context| self.next_pending(context))
        else {
            return 0;
        };
        self.pending.set(source, false);
        self.claimed.set(source, true);
        self.update_lines_of(source, out);
        source
    }

    /// Completes the handling of a source. The specification has it ignored if the source is not enabled for the context
    /// and does not ask which context claimed it (section 9). A source that is not claimed has nothing to complete.
    fn complete(&mut self, context: u32, source: u32, out: &mut impl HartLines) {
        let enabled = self
            .context(context)
            .is_some_and(|context| context.enabled.contains(source));
        if enabled && self.claimed.contains(source) {
            self.claimed.set(source, false);
            out.completed(source);
            self.forward_request(source, out);
        }
    }

    /// The gateway of `source`: a high level becomes a request, unless the one before is not yet completed.
    fn forward_request(&mut self, source: u32, out: &mut impl HartLines) {
        let busy = self.pending.contains(source) || self.claimed.contains(source);
        if self.levels.contains(source) && !busy {
            self.pending.set(source, true);
            self.update_lines_of(source, out);
        }
    }

    /// The pending source that comes first for a context: the one of highest priority, and of these the one of lowest
    /// number (section 1.4). Priority 0 means that a source never interrupts (section 4), and so it comes not at all.
    fn next_pending(&self, context: &Context) -> Option<u32> {
        let candidates = self
            .pending
            .common(&context.enabled)
            .filter(|source| self.priority(*source) > 0);
        candidates.min_by_key(|source| Reverse(self.priority(*source)))
    }

    /// Brings the lines up to date of all harts that `source` can interrupt.
    fn update_lines_of(&mut self, source: u32, out: &mut impl HartLines) {
        for hart in 0..self.harts() {
            if self
                .supervisor(hart)
                .is_some_and(|context| context.enabled.contains(source))
            {
                self.update_hart_line(hart, out);
            }
        }
    }

    /// Brings one hart's line up to date. It is asserted while its S-mode context has a pending source of a priority
    /// above the threshold (sections 1.5 and 7).
    fn update_hart_line(&mut self, hart: u32, out: &mut impl HartLines) {
        let asserted = self.supervisor(hart).is_some_and(|context| {
            self.next_pending(context)
                .is_some_and(|source| self.priority(source) > context.threshold)
        });
        if let Some(line) = self.lines.get_mut(hart as usize)
            && mem::replace(line, asserted) != asserted
        {
            out.set_external(hart, asserted);
        }
    }

    fn priority(&self, source: u32) -> u32 {
        self.priorities.get(source as usize).copied().unwrap_or(0)
    }

    fn context(&self, context: u32) -> Option<&Context> {
        self.contexts.get(context as usize)
    }

    fn supervisor(&self, hart: u32) -> Option<&Context> {
        self.context(hart.checked_mul(2)?.checked_add(1)?)
    }

    fn harts(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(MAX_HARTS)
    }
}

/// The hart that a context is of.
const fn hart_of(context: u32) -> u32 {
    context / 2
}
