//! Properties that hold after any sequence of guest accesses and level changes.
//!
//! [`Model`] is a second, simple implementation of the specification: one gateway state per source, maps instead of
//! packed registers, every line computed anew from its definition.

use alloc::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const HARTS: u32 = 3;
const SOURCES: u32 = 70;
/// The sources that the sequences deal with, few so that they meet: on both sides of the boundaries between registers,
/// and of the first and the last source.
const INTERESTING: [u32; 12] = [0, 1, 2, 10, 31, 32, 33, 63, 64, 69, 70, 71];

#[derive(Clone, Debug)]
enum Step {
    Level { source: u32, high: bool },
    Read { offset: u64 },
    Write { offset: u64, value: u32 },
    OddRead { offset: u64, length: usize },
    OddWrite { offset: u64, data: Vec<u8> },
    Reset,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Gateway {
    #[default]
    Idle,
    Pending,
    Claimed,
}

/// A controller that a reader can check against the specification by eye.
#[derive(Default)]
struct Model {
    high: BTreeMap<u32, bool>,
    gateway: BTreeMap<u32, Gateway>,
    priority: BTreeMap<u32, u32>,
    threshold: BTreeMap<u32, u32>,
    enabled: BTreeMap<(u32, u32), bool>,
}

fn get<K: Ord, V: Copy + Default>(map: &BTreeMap<K, V>, key: K) -> V {
    map.get(&key).copied().unwrap_or_default()
}

impl Model {
    fn exists(source: u32) -> bool {
        (1..=SOURCES).contains(&source)
    }

    fn level(&mut self, source: u32, high: bool) {
        if Self::exists(source) {
            self.high.insert(source, high);
            self.sample(source);
        }
    }

    fn sample(&mut self, source: u32) {
        if get(&self.high, source) && get(&self.gateway, source) == Gateway::Idle {
            self.gateway.insert(source, Gateway::Pending);
        }
    }

    /// Whether a context could claim the source.
    fn claimable(&self, context: u32, source: u32) -> bool {
        get(&self.gateway, source) == Gateway::Pending
            && get(&self.enabled, (context, source))
            && get(&self.priority, source) > 0
    }

    fn line(&self, hart: u32) -> bool {
        let context = 2 * hart + 1;
        (1..=SOURCES).any(|source| {
            self.claimable(context, source)
                && get(&self.priority, source) > get(&self.threshold, context)
        })
    }

    fn claim(&mut self, context: u32) -> u32 {
        let mut best = 0;
        for source in 1..=SOURCES {
            if self.claimable(context, source)
                && get(&self.priority, source) > get(&self.priority, best)
            {
                best = source;
            }
        }
        if best != 0 {
            self.gateway.insert(best, Gateway::Claimed);
        }
        best
    }

    fn complete(&mut self, context: u32, source: u32) {
        if get(&self.enabled, (context, source)) && get(&self.gateway, source) == Gateway::Claimed {
            self.gateway.insert(source, Gateway::Idle);
            self.sample(source);
        }
    }

    fn reset(&mut self) {
        *self = Self {
            high: mem::take(&mut self.high),
            ..Self::default()
        };
        (1..=SOURCES).for_each(|source| self.sample(source));
    }

    fn word_of(first: u64, member: impl Fn(u32) -> bool) -> u32 {
        (0..32)
            .filter(|bit| member(u32::try_from(first).unwrap() + bit))
            .map(|bit| 1 << bit)
            .sum()
    }

    fn read(&mut self, offset: u64) -> u32 {
        match offset {
            0..0x1000 => get(&self.priority, u32::try_from(offset / 4).unwrap()),
            0x1000..0x1080 => Self::word_of((offset - 0x1000) * 8, |source| {
                get(&self.gateway, source) == Gateway::Pending
            }),
            0x2000..0x1f_2000 => {
                let context = u32::try_from((offset - 0x2000) / 0x80).unwrap();
                Self::word_of(offset % 0x80 * 8, |source| {
                    get(&self.enabled, (context, source))
                })
            }
            0x20_0000..0x400_0000 => {
                let context = u32::try_from((offset - 0x20_0000) / 0x1000).unwrap();
                match offset % 0x1000 {
                    0 => get(&self.threshold, context),
                    4 => self.claim(context),
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        match offset {
            0..0x1000 => {
                let source = u32::try_from(offset / 4).unwrap();
                if Self::exists(source) {
                    self.priority.insert(source, value % 8);
                }
            }
            0x2000..0x1f_2000 => {
                let context = u32::try_from((offset - 0x2000) / 0x80).unwrap();
                let first = u32::try_from(offset % 0x80 * 8).unwrap();
                for bit in (0..32).filter(|bit| Self::exists(first + bit) && context < 2 * HARTS) {
                    self.enabled
                        .insert((context, first + bit), value >> bit & 1 == 1);
                }
            }
            0x20_0000..0x400_0000 => {
                let context = u32::try_from((offset - 0x20_0000) / 0x1000).unwrap();
                match offset % 0x1000 {
                    0 if context < 2 * HARTS => _ = self.threshold.insert(context, value % 8),
                    4 => self.complete(context, value),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// The lines as a hart sees them. Fails on a notification that changes nothing or is for no hart.
#[derive(Default)]
struct Lines(BTreeMap<u32, bool>);

impl HartLines for Lines {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        assert!(hart < HARTS);
        assert_ne!(self.0.insert(hart, asserted).unwrap_or_default(), asserted);
    }
}

/// Offsets of registers, those that matter above all.
fn offset() -> impl Strategy<Value = u64> {
    let context = 0..u64::from(2 * HARTS + 2);
    prop_oneof![
        3 => select(&INTERESTING[..]).prop_map(|source| u64::from(source) * 4),
        1 => (0..4_u64).prop_map(|word| 0x1000 + 4 * word),
        4 => (context.clone(), 0..4_u64).prop_map(|(context, word)| 0x2000 + 0x80 * context + 4 * word),
        2 => context.clone().prop_map(|context| 0x20_0000 + 0x1000 * context),
        8 => context.prop_map(|context| 0x20_0004 + 0x1000 * context),
        1 => (0..0x100_0000_u64).prop_map(|word| 4 * word),
        1 => any::<u64>().prop_map(|offset| offset & !3),
    ]
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![4 => select(&INTERESTING[..]), 2 => 0..10_u32, 2 => Just(u32::MAX), 1 => any::<u32>()]
}

/// What a guest and devices do with accesses of one register each.
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (select(&INTERESTING[..]), any::<bool>()).prop_map(|(source, high)| Step::Level { source, high }),
        8 => offset().prop_map(|offset| Step::Read { offset }),
        10 => (offset(), value()).prop_map(|(offset, value)| Step::Write { offset, value }),
    ]
}

/// What a guest and devices do, however odd.
fn any_step() -> impl Strategy<Value = Step> {
    let odd_offset = prop_oneof![
        4 => (offset(), 0..4_u64).prop_map(|(offset, byte)| offset.saturating_add(byte)),
        1 => any::<u64>(),
    ];
    prop_oneof![
        20 => step(),
        4 => (odd_offset.clone(), 0..17_usize).prop_map(|(offset, length)| Step::OddRead { offset, length }),
        4 => (odd_offset, proptest::collection::vec(any::<u8>(), 0..17))
            .prop_map(|(offset, data)| Step::OddWrite { offset, data }),
        1 => Just(Step::Reset),
    ]
}

fn read(plic: &mut Plic, lines: &mut Lines, offset: u64) -> u32 {
    let mut data = [0xa5; 4];
    plic.read(offset, &mut data, lines);
    u32::from_le_bytes(data)
}

fn apply(plic: &mut Plic, lines: &mut Lines, step: &Step) {
    match step {
        Step::Level { source, high } => plic.set_source(*source, *high, lines),
        Step::Read { offset } => _ = read(plic, lines, *offset),
        Step::Write { offset, value } => plic.write(*offset, &value.to_le_bytes(), lines),
        Step::OddRead { offset, length } => plic.read(*offset, &mut vec![0xa5; *length], lines),
        Step::OddWrite { offset, data } => plic.write(*offset, data, lines),
        Step::Reset => plic.reset(lines),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Register by register, claim by claim and line by line, the controller is the model. As the model claims only what
    /// is pending, enabled and of a priority above zero, so does the controller.
    #[test]
    fn the_controller_is_the_model(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut plic, mut lines, mut model) = (Plic::new(HARTS, SOURCES), Lines::default(), Model::default());
        for step in &steps {
            match step {
                Step::Read { offset } => prop_assert_eq!(read(&mut plic, &mut lines, *offset), model.read(*offset)),
                step => apply(&mut plic, &mut lines, step),
            }
            match step {
                Step::Level { source, high } => model.level(*source, *high),
                Step::Write { offset, value } => model.write(*offset, *value),
                _ => {}
            }
            for hart in 0..HARTS {
                prop_assert_eq!(plic.line(hart), model.line(hart), "hart {}", hart);
                prop_assert_eq!(get(&lines.0, hart), model.line(hart), "hart {}", hart);
            }
        }
        model.reset();
        plic.reset(&mut lines);
        for offset in (0..0x2400).step_by(4) {
            prop_assert_eq!(read(&mut plic, &mut lines, offset), model.read(offset), "after reset, {:#x}", offset);
        }
    }

    /// Whatever went before: once a guest has completed what it may have claimed and lets every source through, it finds
    /// every source whose level is high.
    #[test]
    fn no_level_is_lost(steps in proptest::collection::vec(any_step(), 0..100)) {
        let (mut plic, mut lines) = (Plic::new(HARTS, SOURCES), Lines::default());
        let mut high = BTreeMap::new();
        for step in &steps {
            apply(&mut plic, &mut lines, step);
            if let Step::Level { source, high: level } = step {
                high.insert(*source, *level);
            }
        }
        let supervisor = 1_u64;
        for word in 0..3 {
            plic.write(0x2000 + 0x80 * supervisor + 4 * word, &[0xff; 4], &mut lines);
        }
        plic.write(0x20_0000 + 0x1000 * supervisor, &[0; 4], &mut lines);
        for source in 1..=SOURCES {
            plic.write(u64::from(4 * source), &1_u32.to_le_bytes(), &mut lines);
            plic.write(0x20_0004 + 0x1000 * supervisor, &source.to_le_bytes(), &mut lines);
        }
        prop_assert_eq!(plic.line(0), (1..=SOURCES).any(|source| plic.pending.contains(source)));
        let mut found = Vec::new();
        for _ in 1..=SOURCES {
            if get(&lines.0, 0) {
                found.push(read(
                    &mut plic,
                    &mut lines,
                    0x20_0004 + 0x1000 * supervisor,
                ));
            }
        }
        prop_assert!(!plic.line(0), "every source has been claimed");
        for source in 1..=SOURCES {
            if get(&high, source) {
                prop_assert!(found.contains(&source), "source {} is high", source);
            }
        }
        prop_assert!(found.is_sorted() && !found.contains(&0));
    }

    /// An access of any width at any offset is the accesses of one register each that it touches, and a source is never
    /// pending and claimed at once.
    #[test]
    fn odd_accesses_are_those_of_the_registers_touched(
        steps in proptest::collection::vec(any_step(), 0..100),
        odd in proptest::collection::vec((offset(), 0..4_u64, 1..17_u64), 1..8),
    ) {
        let (mut plic, mut lines) = (Plic::new(HARTS, SOURCES), Lines::default());
        for step in &steps {
            apply(&mut plic, &mut lines, step);
            prop_assert_eq!(plic.pending.common(&plic.claimed).next(), None);
        }
        for (offset, byte, length) in odd {
            let offset = offset.min(u64::MAX - 64);
            let (mut other, mut other_lines) = (plic.clone(), Lines(lines.0.clone()));
            let mut data = vec![0; usize::try_from(length).unwrap()];
            plic.read(offset + byte, &mut data, &mut lines);
            let mut words = Vec::new();
            for word in (offset..offset + byte + length).step_by(4) {
                words.extend(read(&mut other, &mut other_lines, word).to_le_bytes());
            }
            let byte = usize::try_from(byte).unwrap();
            prop_assert_eq!(&data, &words[byte..byte + data.len()]);
            prop_assert_eq!(&plic, &other);
            prop_assert_eq!(&lines.0, &other_lines.0);
        }
    }
}
