//! Every state of a small controller, and every access in each of them, compared with the specification.
//!
//! The search begins at the reset and follows each operation until no new state comes: one hart, so two contexts, and three
//! sources. Priorities and thresholds are limited to what makes a difference between three sources.

use alloc::collections::BTreeSet;

use super::*;

const SOURCES: u32 = 3;
const MACHINE: u32 = 0;
const SUPERVISOR: u32 = 1;
/// The highest priority of each source, from source 0.
const PRIORITIES: [u32; 4] = [0, 2, 1, 1];
/// The highest threshold.
const THRESHOLD: u32 = 1;

/// What the gateway of a source does (section 1.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Gateway {
    #[default]
    Idle,
    Pending,
    Claimed,
}

/// A controller in the words of the specification, by source and context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Reference {
    high: [bool; 4],
    gateway: [Gateway; 4],
    priority: [u32; 4],
    enabled: [[bool; 4]; 2],
    threshold: u32,
}

/// What can happen to a controller.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Level(u32, bool),
    Priority(u32, u32),
    Enable(u32, u32),
    Threshold(u32),
    Claim(u32),
    Complete(u32, u32),
    Reset,
}

impl Operation {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Reset];
        for source in 1..=SOURCES {
            all.extend([false, true].map(|level| Self::Level(source, level)));
            let priorities = 0..=PRIORITIES[source as usize];
            all.extend(priorities.map(|priority| Self::Priority(source, priority)));
        }
        // One context has two of the sources enabled together, and the other all or none.
        let combinations = [0, 0b0010, 0b1100, 0b1110];
        all.extend(combinations.map(|sources| Self::Enable(SUPERVISOR, sources)));
        all.extend([0, 0b1110].map(|sources| Self::Enable(MACHINE, sources)));
        all.extend((0..=THRESHOLD).map(Self::Threshold));
        for context in [MACHINE, SUPERVISOR] {
            all.push(Self::Claim(context));
            all.extend((0..=SOURCES + 1).map(|source| Self::Complete(context, source)));
        }
        all
    }
}

impl Reference {
    /// A high level becomes a request unless there is one that is not completed (section 1.2).
    fn sample(&mut self, source: usize) {
        if self.high[source] && self.gateway[source] == Gateway::Idle {
            self.gateway[source] = Gateway::Pending;
        }
    }

    /// Whether a context has an interrupt from a source. Priority 0 is no interrupt (section 4).
    fn interrupts(&self, context: u32, source: usize) -> bool {
        self.gateway[source] == Gateway::Pending
            && self.enabled[context as usize][source]
            && self.priority[source] > 0
    }

    /// Only priorities above the threshold make a notification (section 7).
    fn line(&self) -> bool {
        (1..=3).any(|source| {
            self.interrupts(SUPERVISOR, source) && self.priority[source] > self.threshold
        })
    }

    /// What a claim returns is the pending interrupt of the highest priority, and of these the one of the lowest number (sections
    /// 1.4 and 8).
    fn claim(&mut self, context: u32) -> u32 {
        let mut best = 0;
        for source in 1..=3 {
            if self.interrupts(context, source) && self.priority[source] > self.priority[best] {
                best = source;
            }
        }
        if best != 0 {
            self.gateway[best] = Gateway::Claimed;
        }
        u32::try_from(best).unwrap()
    }

    /// Ignored unless the source is enabled for the context (section 9).
    fn complete(&mut self, context: u32, source: u32) {
        let Some(&gateway) = self.gateway.get(source as usize) else {
            return;
        };
        let source = source as usize;
        if self.enabled[context as usize][source] && gateway == Gateway::Claimed {
            self.gateway[source] = Gateway::Idle;
            self.sample(source);
        }
    }

    /// Returns what a claim has returned.
    fn apply(&mut self, operation: Operation) -> u32 {
        match operation {
            Operation::Level(source, level) => {
                self.high[source as usize] = level;
                self.sample(source as usize);
            }
            Operation::Priority(source, priority) => self.priority[source as usize] = priority,
            Operation::Enable(context, sources) => {
                for source in 1..=3 {
                    self.enabled[context as usize][source] = sources >> source & 1 == 1;
                }
            }
            Operation::Threshold(threshold) => self.threshold = threshold,
            Operation::Claim(context) => return self.claim(context),
            Operation::Complete(context, source) => self.complete(context, source),
            Operation::Reset => {
                *self = Self {
                    high: self.high,
                    ..Self::default()
                };
                (1..=3).for_each(|source| self.sample(source));
            }
        }
        0
    }

    /// What this controller's state is in these terms.
    fn of(plic: &Plic) -> Self {
        let mut reference = Self {
            threshold: plic.contexts[SUPERVISOR as usize].threshold,
            ..Self::default()
        };
        for source in 1..=SOURCES {
            let at = source as usize;
            reference.high[at] = plic.levels.contains(source);
            reference.priority[at] = plic.priorities[at];
            reference.gateway[at] =
                match (plic.pending.contains(source), plic.claimed.contains(source)) {
                    (false, false) => Gateway::Idle,
                    (true, false) => Gateway::Pending,
                    (false, true) => Gateway::Claimed,
                    (true, true) => unreachable!("{source} is pending and claimed"),
                };
            for context in [MACHINE, SUPERVISOR] {
                let enabled = &plic.contexts[context as usize].enabled;
                reference.enabled[context as usize][at] = enabled.contains(source);
            }
        }
        reference
    }
}

/// The line, as who is notified of its changes knows it.
struct Line(bool);

impl HartLines for Line {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        assert_eq!((hart, self.0), (0, !asserted), "only changes are told of");
        self.0 = asserted;
    }
}

fn apply(plic: &mut Plic, operation: Operation, line: &mut Line) -> u32 {
    let context = |context: u32| u64::from(map::CONTEXT + context * map::CONTEXT_STRIDE);
    let (offset, value) = match operation {
        Operation::Level(source, level) => {
            plic.set_source(source, level, line);
            return 0;
        }
        Operation::Reset => {
            plic.reset(line);
            return 0;
        }
        Operation::Claim(of) => {
            let mut data = [0; 4];
            plic.read(context(of) + u64::from(map::CLAIM), &mut data, line);
            return u32::from_le_bytes(data);
        }
        Operation::Priority(source, priority) => (u64::from(map::PRIORITY + 4 * source), priority),
        Operation::Enable(of, sources) => {
            (u64::from(map::ENABLE + of * map::ENABLE_STRIDE), sources)
        }
        Operation::Threshold(threshold) => {
            (context(SUPERVISOR) + u64::from(map::THRESHOLD), threshold)
        }
        Operation::Complete(of, source) => (context(of) + u64::from(map::CLAIM), source),
    };
    plic.write(offset, &value.to_le_bytes(), line);
    0
}

#[test]
fn each_state_answers_each_access_as_the_specification_says() {
    let operations = Operation::all();
    let first = Plic::new(1, SOURCES);
    let mut known = BTreeSet::from([Reference::of(&first)]);
    let mut open = vec![first];
    while let Some(plic) = open.pop() {
        let before = Reference::of(&plic);
        for &operation in &operations {
            let (mut next, mut expected) = (plic.clone(), before);
            let mut line = Line(before.line());
            let claimed = apply(&mut next, operation, &mut line);
            let what = (before, operation);
            assert_eq!(claimed, expected.apply(operation), "{what:?}");
            assert_eq!(Reference::of(&next), expected, "{what:?}");
            assert_eq!(next.line(0), expected.line(), "{what:?}");
            assert_eq!(line.0, expected.line(), "{what:?}");
            if known.insert(expected) {
                open.push(next);
            }
        }
    }
    // Each source is idle and low, or pending or claimed and either; then the priorities, what is enabled, the threshold.
    assert_eq!(known.len(), 5 * 5 * 5 * (3 * 2 * 2) * (4 * 2) * 2);
}
