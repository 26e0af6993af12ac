//! What the test kernel says.

use std::collections::BTreeMap;

/// What the kernel printed, by test.
#[derive(Debug, Default)]
pub struct Report<'a> {
    /// How many tests are ok.
    pub passed: usize,
    /// The tests that are not, each with what is wrong.
    pub failed: BTreeMap<&'a str, &'a str>,
    /// The tests that did not run, each with the reason.
    pub skipped: BTreeMap<&'a str, &'a str>,
    /// The last line, with the counts.
    pub done: &'a str,
}

impl<'a> Report<'a> {
    /// Of the lines of the kernel.
    #[must_use]
    pub fn parse(printed: &'a str) -> Self {
        let mut report = Self::default();
        for line in printed.lines() {
            // What a debug console prints that does not mind where it reads.
            let line = line.trim_start_matches('\0');
            let with_reason = |text: &'a str| text.split_once(": ").unwrap_or((text, ""));
            if line.starts_with("ok ") {
                report.passed += 1;
            } else if let Some(text) = line.strip_prefix("not ok ") {
                report.failed.extend([with_reason(text)]);
            } else if let Some(text) = line.strip_prefix("skip ") {
                report.skipped.extend([with_reason(text)]);
            } else if let Some(text) = line.strip_prefix("done: ") {
                report.done = text;
            }
        }
        report
    }
}
