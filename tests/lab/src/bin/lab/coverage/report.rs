//! The table, made of what `llvm-cov export -format=lcov` prints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;

/// What the tests run of each file.
#[derive(Debug, Default)]
pub(super) struct Report {
    packages: Vec<(String, BTreeMap<String, Counts>)>,
}

/// What the tests run of one file, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    lines: u64,
    lines_run: u64,
    branches: u64,
    branches_run: u64,
    /// Numbers of the lines that no test runs.
    missed: Vec<u32>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.lines += other.lines;
        self.lines_run += other.lines_run;
        self.branches += other.branches;
        self.branches_run += other.branches_run;
    }

    fn line(&mut self, number: u32, run: bool) {
        self.lines += 1;
        self.lines_run += u64::from(run);
        if !run {
            self.missed.push(number);
        }
    }

    fn branch(&mut self, run: bool) {
        self.branches += 1;
        self.branches_run += u64::from(run);
    }
}

impl Report {
    /// Adds the files of a package that are counted, by their path below `root`.
    pub(super) fn add(
        &mut self,
        package: &str,
        lcov: &str,
        root: &Path,
        is_counted: impl Fn(&str) -> bool,
    ) -> io::Result<()> {
        let mut files = BTreeMap::new();
        for record in lcov.split("end_of_record\n") {
            let path = record
                .lines()
                .find_map(|line| line.strip_prefix("SF:"))
                .and_then(|path| Path::new(path).strip_prefix(root).ok())
                .and_then(Path::to_str);
            if let Some(path) = path.filter(|path| is_counted(path)) {
                let source = fs::read_to_string(root.join(path))?;
                files.insert(path.to_owned(), counts(record, &tests_of(&source)));
            }
        }
        self.packages.push((package.to_owned(), files));
        Ok(())
    }

    /// A line for each file whose path has `filter` in it, below one for its package, and the total.
    pub(super) fn table(&self, filter: Option<&str>, with_lines: bool) -> String {
        let is_shown = |path: &str| filter.is_none_or(|filter| path.contains(filter));
        let mut text = String::new();
        let mut all = Counts::default();
        for (package, files) in &self.packages {
            let files: Vec<_> = files.iter().filter(|(path, _)| is_shown(path)).collect();
            let mut sum = Counts::default();
            files.iter().for_each(|(_, counts)| sum.add(counts));
            all.add(&sum);
            if files.is_empty() {
                continue;
            }
            row(&mut text, package, &sum);
            for (path, counts) in files {
                row(&mut text, &format!("  {path}"), counts);
                if with_lines && !counts.missed.is_empty() {
                    let _ = writeln!(text, "      not run: {}", ranges(&counts.missed));
                }
            }
        }
        row(&mut text, "total", &all);
        text
    }
}

fn row(text: &mut String, name: &str, counts: &Counts) {
    let lines = share(counts.lines_run, counts.lines);
    let _ = write!(text, "{name:50} {lines:>7} of {:5} lines", counts.lines);
    if counts.branches > 0 {
        let branches = share(counts.branches_run, counts.branches);
        let _ = write!(text, " {branches:>7} of {:5} branches", counts.branches);
    }
    text.push('\n');
}

/// In percent, rounded down: 100 % means all.
fn share(part: u64, whole: u64) -> String {
    let tenths = (part * 1000).checked_div(whole).unwrap_or(1000);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn ranges(numbers: &[u32]) -> String {
    let mut ranges: Vec<RangeInclusive<u32>> = Vec::new();
    for &number in numbers {
        match ranges.last_mut() {
            Some(last) if last.end() + 1 == number => *last = *last.start()..=number,
            _ => ranges.push(number..=number),
        }
    }
    let text = |range: &RangeInclusive<u32>| match range.start() == range.end() {
        true => range.start().to_string(),
        false => format!("{}-{}", range.start(), range.end()),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The counts of a record without the lines of `tests`.
fn counts(record: &str, tests: &[RangeInclusive<u32>]) -> Counts {
    let mut counts = Counts::default();
    for line in record.lines() {
        // A line and how many times it ran; a branch's line, block and number, and how many times it was taken, `-` if never reached.
        let (values, is_line) = match (line.strip_prefix("DA:"), line.strip_prefix("BRDA:")) {
            (Some(values), _) => (values, true),
            (_, Some(values)) => (values, false),
            _ => continue,
        };
        let mut values = values.split(',');
        let Some(number) = values.next().and_then(|number| number.parse().ok()) else {
            continue;
        };
        let run = values
            .next_back()
            .is_some_and(|times| !matches!(times, "0" | "-"));
        if tests.iter().any(|lines| lines.contains(&number)) {
            continue;
        }
        match is_line {
            true => counts.line(number, run),
            false => counts.branch(run),
        }
    }
    counts
}

/// The lines of the items that are for tests alone, as rustfmt lays them out: from the attribute to the bracket that ends the item.
fn tests_of(source: &str) -> Vec<RangeInclusive<u32>> {
    let mut tests = Vec::new();
    let mut lines = (1..).zip(source.lines());
    while let Some((start, line)) = lines.next() {
        if line.trim_start() != "#[cfg(test)]" {
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let ends = |line: &str| {
            line.strip_prefix(indent)
                .is_some_and(|rest| !rest.starts_with(' ') && rest.ends_with(['}', ';']))
        };
        let end = lines.find(|(_, line)| ends(line));
        tests.push(start..=end.map_or(u32::MAX, |(number, _)| number));
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn one() {\n    two();\n}\n\n#[cfg(test)]\nimpl One {\n    fn three() {\n    }\n}\n\nfn two() {}\n\
        #[cfg(test)]\nmod tests {\n    #[test]\n    fn four() {}\n}\n";

    #[test]
    fn tests_do_not_count() {
        assert_eq!(tests_of(SOURCE), [5..=9, 12..=16]);
        assert_eq!(tests_of("fn one() {}\n#[cfg(test)]\nmod tests;\n"), [2..=3]);
        let record = "SF:x\nDA:1,1\nDA:2,0\nDA:7,0\nDA:11,3\nDA:15,1\nBRDA:2,0,0,-\nBRDA:2,0,1,4\nBRDA:15,0,0,0\n";
        let counts = counts(record, &tests_of(SOURCE));
        assert_eq!(
            counts,
            Counts {
                lines: 3,
                lines_run: 2,
                branches: 2,
                branches_run: 1,
                missed: vec![2]
            }
        );
    }

    #[test]
    fn a_table_has_files_packages_and_a_total() {
        let root = tempfile::tempdir().unwrap();
        let lcov = ["a.rs", "b.rs", "other.rs"].map(|name| {
            let path = root.path().join(name);
            fs::write(&path, "").unwrap();
            format!(
                "SF:{}\nDA:1,1\nDA:3,0\nDA:4,0\nDA:5,0\nend_of_record\n",
                path.display()
            )
        });
        let mut report = Report::default();
        let is_counted = |path: &str| path != "other.rs";
        report
            .add("hv-one", &lcov.concat(), root.path(), is_counted)
            .unwrap();
        let table = report.table(None, true);
        let lines: Vec<_> = table.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 6, "{table}");
        assert!(lines[0].starts_with("hv-one") && lines[0].ends_with("25.0 % of     8 lines"));
        assert_eq!(lines[2], "not run: 3-5");
        assert!(lines[5].starts_with("total") && lines[5].ends_with("25.0 % of     8 lines"));
        assert_eq!(report.table(Some("b.rs"), false).lines().count(), 3);
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!(share(9999, 10_000), "99.9 %");
        assert_eq!(share(0, 0), "100.0 %");
        assert_eq!(ranges(&[1, 2, 3, 5, 8, 9]), "1-3, 5, 8-9");
    }
}
