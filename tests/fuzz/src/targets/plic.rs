//! The platform-level interrupt controller (PLIC specification 1.0.0): registers by any width, and sources that come and go.

use std::collections::BTreeSet;

use hv_core::plic::{HartLines, Plic, map};

use crate::input::{Input, Script};

/// What the PLIC told of its outputs.
struct Lines {
    external: Vec<bool>,
    completed: Vec<u32>,
}

impl HartLines for Lines {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        let line = &mut self.external[hart as usize];
        assert_ne!(*line, asserted, "only changes are told");
        *line = asserted;
    }

    fn completed(&mut self, source: u32) {
        self.completed.push(source);
    }
}

struct Bench {
    plic: Plic,
    lines: Lines,
    harts: u32,
    sources: u32,
    levels: BTreeSet<u32>,
    claimed: BTreeSet<u32>,
}

impl Bench {
    /// A register, by an access without side effects (no claim).
    fn register(&mut self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.plic.read(offset.into(), &mut data, &mut self.lines);
        u32::from_le_bytes(data)
    }

    fn bits(&mut self, base: u32) -> BTreeSet<u32> {
        let mut found = BTreeSet::new();
        for word in 0..=self.sources / 32 {
            let value = self.register(base + 4 * word);
            found.extend(
                (0..32)
                    .filter(|bit| value >> bit & 1 == 1)
                    .map(|bit| 32 * word + bit),
            );
        }
        found
    }

    fn pending(&mut self) -> BTreeSet<u32> {
        self.bits(map::PENDING)
    }

    fn enabled(&mut self, context: u32) -> BTreeSet<u32> {
        self.bits(map::ENABLE + map::ENABLE_STRIDE * context)
    }

    fn priority(&mut self, source: u32) -> u32 {
        self.register(map::PRIORITY + 4 * source)
    }

    /// The source that a context is to claim: the one of the highest priority, of these the lowest (section 5).
    fn next(&mut self, context: u32) -> u32 {
        let enabled = self.enabled(context);
        let mut best = (0, 0);
        for source in self.pending().intersection(&enabled) {
            let priority = self.priority(*source);
            if priority > best.0 {
                best = (priority, *source);
            }
        }
        best.1
    }

    fn check(&mut self) {
        let pending = self.pending();
        for source in &pending {
            assert!(
                (1..=self.sources).contains(source),
                "source {source} is none"
            );
            assert!(
                !self.claimed.contains(source),
                "{source} is claimed and pending again"
            );
        }
        for source in self.levels.difference(&self.claimed) {
            assert!(
                pending.contains(source),
                "{source} is high and not forwarded"
            );
        }
        for hart in 0..self.harts {
            let context = 2 * hart + 1;
            let threshold =
                self.register(map::CONTEXT + map::CONTEXT_STRIDE * context + map::THRESHOLD);
            let next = self.next(context);
            let expected = next != 0 && self.priority(next) > threshold;
            assert_eq!(self.plic.line(hart), expected, "line of hart {hart}");
            assert_eq!(
                self.lines.external[hart as usize], expected,
                "told of hart {hart}"
            );
        }
    }

    fn claim(&mut self, context: u32) {
        let expected = if context < 2 * self.harts {
            self.next(context)
        } else {
            0
        };
        let before = self.pending();
        let offset = map::CONTEXT + map::CONTEXT_STRIDE * context + map::CLAIM;
        let source = self.register(offset);
        assert_eq!(source, expected, "claim of context {context}");
        let mut after = before;
        if source != 0 {
            assert!(after.remove(&source), "{source} was not pending");
            self.claimed.insert(source);
        }
        assert_eq!(self.pending(), after);
    }

    /// Any access: what it claims and completes shows elsewhere.
    fn access(&mut self, offset: u64, data: &mut [u8], is_write: bool) {
        let before = self.pending();
        self.lines.completed.clear();
        if is_write {
            self.plic.write(offset, data, &mut self.lines);
        } else {
            self.plic.read(offset, data, &mut self.lines);
            let after = self.pending();
            assert!(after.is_subset(&before), "a read makes nothing pending");
            self.claimed.extend(before.difference(&after));
        }
        for source in std::mem::take(&mut self.lines.completed) {
            assert!(
                is_write && self.claimed.remove(&source),
                "{source} was not claimed"
            );
        }
    }
}

/// Accesses and sources, as the input has them.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let harts = 1 + input.below(4) as u32;
    let sources = input.choose(&[95, 1, 31, 32, 63, 0, 64]);
    let mut bench = Bench {
        plic: Plic::new(harts, sources),
        lines: Lines {
            external: vec![false; harts as usize],
            completed: Vec::new(),
        },
        harts,
        sources,
        levels: BTreeSet::new(),
        claimed: BTreeSet::new(),
    };
    for _ in 0..128 {
        if input.is_empty() {
            break;
        }
        match input.below(7) {
            0 => {
                let (source, level) = (input.byte().into(), input.byte() & 1 == 1);
                bench.plic.set_source(source, level, &mut bench.lines);
                if (1..=sources).contains(&source) {
                    if level {
                        bench.levels.insert(source);
                    } else {
                        bench.levels.remove(&source);
                    }
                }
            }
            1 => bench.claim(input.below(10) as u32),
            2 => {
                let context = input.below(10) as u32;
                let offset = map::CONTEXT + map::CONTEXT_STRIDE * context + map::CLAIM;
                let mut data = input.u32().to_le_bytes();
                bench.access(offset.into(), &mut data, true);
            }
            3 => {
                let context = input.below(10) as u32;
                let word = input.below(4) as u32;
                let offset = match input.below(3) {
                    0 => map::ENABLE + map::ENABLE_STRIDE * context + 4 * word,
                    1 => map::CONTEXT + map::CONTEXT_STRIDE * context + map::THRESHOLD,
                    _ => map::PRIORITY + 4 * u32::from(input.byte()),
                };
                let mut data = input.u32().to_le_bytes();
                bench.access(offset.into(), &mut data, true);
            }
            4 => {
                bench.plic.reset(&mut bench.lines);
                bench.claimed.clear();
                assert_eq!(bench.pending(), bench.levels);
            }
            kind => {
                let offset = match input.below(4) {
                    0 => input.number(),
                    1 => u64::from(input.u16()),
                    2 => u64::from(map::ENABLE) + u64::from(input.u16()) % 0x400,
                    _ => u64::from(map::CONTEXT) + u64::from(input.u16()) % 0xa010,
                };
                let width = input.choose(&[1, 2, 4, 8, 3, 0, 16]);
                let mut data = input.bytes(width).to_vec();
                data.resize(width, 0);
                bench.access(offset, &mut data, kind == 5);
            }
        }
        bench.check();
    }
}

/// An interrupt from its source to its completion, in two contexts.
pub fn seeds() -> Vec<Vec<u8>> {
    let enable = |script: Script, context: u8| {
        script
            .bytes(&[3, context, 0, 2, 5])
            .u32(3)
            .bytes(&[3, context, 0, 0])
            .u32(0xffff_ffff)
    };
    let cycle = |script: Script, context: u8| {
        script
            .bytes(&[0, 5, 1])
            .bytes(&[1, context])
            .bytes(&[0, 5, 0])
            .bytes(&[2, context])
            .u32(5)
    };
    let first = enable(Script::new().bytes(&[1, 0]), 1);
    let second = enable(first.clone(), 3);
    let wide = Script::new()
        .bytes(&[0, 1])
        .bytes(&[5, 3])
        .u16(0x1000)
        .byte(3)
        .u64(0x5_0000_0001)
        .bytes(&[6, 3])
        .u16(0x1004)
        .byte(2);
    vec![
        cycle(first, 1).done(),
        cycle(cycle(second, 3), 1).byte(4).done(),
        wide.done(),
    ]
}
