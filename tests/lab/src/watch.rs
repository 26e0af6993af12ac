//! What a process of a nested host takes while it runs: memory, threads, descriptors.

use std::fmt;
use std::time::Duration;

use crate::host::{Host, Process, Result};

/// For the last of the samples, once the process has ended.
const END: Duration = Duration::from_secs(120);

/// So many samples tell whether a process grows.
const ENOUGH: usize = 10;

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
    /// Resident memory beyond the guest's, KiB.
    pub resident_kib: u64,
}

/// Looks at a process again and again.
#[derive(Debug)]
pub struct Watch(Process);

impl Watch {
    /// Begins to look at this process of the host, once a second. Mappings of `memory_mib` and more are the guest's memory.
    ///
    /// # Errors
    /// The host is gone.
    pub fn begin(host: &Host, pid: u32, memory_mib: u32) -> Result<Self> {
        let limit = u64::from(memory_mib) << 10;
        // What is looked at may end in between.
        let script = format!(
            "exec 2>/dev/null; while [ -d /proc/{pid}/task/{pid} ]; do \
             r=$(awk '/^Size:/ {{ s = $2 }} /^Rss:/ {{ if (s < {limit}) r += $2 }} END {{ print r + 0 }}' /proc/{pid}/smaps); \
             echo $(ls /proc/{pid}/fd | wc -l) $(ls /proc/{pid}/task | wc -l) $r; sleep 1; done"
        );
        host.exec(["sh", "-c", &script]).spawn().map(Self)
    }

    /// What was seen until the process ended.
    ///
    /// # Errors
    /// The process has not ended, or the host is gone.
    pub fn finish(self) -> Result<Samples> {
        let finished = self.0.finish(END)?;
        Ok(Samples::parse(&finished.stdout_text()))
    }
}

/// All that was seen of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let mut numbers = line.split_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            let sample = Sample {
                descriptors: next()?,
                threads: next()?,
                resident_kib: next()?,
            };
            // A process that is about to end has nothing any more.
            (sample.descriptors > 0 && sample.resident_kib > 0).then_some(sample)
        };
        Self(text.lines().filter_map(sample).collect())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The most of each.
    #[must_use]
    pub fn peak(&self) -> Sample {
        peak(&self.0)
    }

    /// Whether nothing grows: the second half has no higher peak than the first, but for `slack`. Of a few samples it cannot be told,
    /// because a process grows while it starts.
    #[must_use]
    pub fn is_flat(&self, slack: Sample) -> bool {
        let (first, second) = self.0.split_at(self.0.len() / 2);
        let (first, second) = (peak(first), peak(second));
        self.0.len() < ENOUGH
            || second.descriptors <= first.descriptors + slack.descriptors
                && second.threads <= first.threads + slack.threads
                && second.resident_kib <= first.resident_kib + slack.resident_kib
    }
}

fn peak(samples: &[Sample]) -> Sample {
    let most = |of: fn(&Sample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    Sample {
        descriptors: most(|sample| sample.descriptors),
        threads: most(|sample| sample.threads),
        resident_kib: most(|sample| sample.resident_kib),
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} descriptors, {} threads, {} KiB",
            self.descriptors, self.threads, self.resident_kib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Sample = Sample {
        descriptors: 1,
        threads: 0,
        resident_kib: 100,
    };

    #[test]
    fn samples_are_lines_of_three_numbers() {
        let samples = Samples::parse("30 9 2000\n0 0 0\n\n31 9\n32 8 2100\n");
        assert_eq!(samples.count(), 2);
        let peak = samples.peak();
        assert_eq!(
            (peak.descriptors, peak.threads, peak.resident_kib),
            (32, 9, 2100)
        );
    }

    #[test]
    fn growth_is_a_second_half_above_the_first() {
        let flat = |first: &str, second: &str| {
            let text = format!("{}{}", first.repeat(5), second.repeat(5));
            Samples::parse(&text).is_flat(SLACK)
        };
        assert!(flat("31 9 2000\n", "30 9 2100\n"));
        assert!(flat("30 9 2000\n", "31 8 2000\n"));
        assert!(!flat("30 9 2000\n", "32 9 2000\n"));
        assert!(!flat("30 9 2000\n", "30 10 2000\n"));
        assert!(!flat("30 9 2000\n", "30 9 2101\n"));
        // It starts.
        assert!(Samples::parse("3 1 500\n30 9 2000\n").is_flat(SLACK));
        assert!(Samples::parse("").is_flat(SLACK));
    }
}
