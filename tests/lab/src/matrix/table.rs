//! The rows of the matrix as a table.

use std::fmt;

use super::{Check, Outcome, Row};

/// The matrix. It prints itself as a Markdown table, with a line below it for each failure.
#[derive(Debug, Clone)]
pub struct Table {
    /// A row for each cell.
    pub rows: Vec<Row>,
}

impl Table {
    /// Whether everything passed in all cells.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows.iter().all(Row::passed)
    }
}

impl Check {
    fn title(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Disk => "disk",
            Self::Network => "network",
            Self::Consoles => "consoles",
            Self::Reboot => "reboot",
            Self::TestKernel => "test kernel",
        }
    }
}

fn cells(row: &Row) -> Vec<String> {
    let release = match row.release.as_str() {
        "" => "did not boot",
        release => release,
    };
    let mut cells = vec![
        row.cell.chip.to_string(),
        row.cell.kernel.to_string(),
        release.to_owned(),
    ];
    cells.extend(row.outcomes.iter().map(|outcome| match outcome {
        Outcome::Passed(remark) if remark.is_empty() => "ok".to_owned(),
        Outcome::Passed(remark) => remark.clone(),
        Outcome::Failed(_) => "FAILED".to_owned(),
        Outcome::NotMade => "-".to_owned(),
    }));
    cells.push(row.seconds.to_string());
    cells
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<Vec<String>> =
            vec![vec!["host".to_owned(), "kernel".into(), "Linux".into()]];
        for line in &mut lines {
            line.extend(Check::ALL.map(|check| check.title().to_owned()));
            line.push("seconds".into());
        }
        lines.extend(self.rows.iter().map(cells));
        let columns = lines.first().map_or(0, Vec::len);
        let width = |column| {
            let texts = lines.iter().filter_map(|line| line.get(column));
            texts.map(String::len).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (number, line) in lines.iter().enumerate() {
            for (text, width) in line.iter().zip(&widths) {
                write!(f, "| {text:width$} ")?;
            }
            writeln!(f, "|")?;
            if number == 0 {
                for width in &widths {
                    write!(f, "|{:-<1$}", "", width + 2)?;
                }
                writeln!(f, "|")?;
            }
        }
        for row in &self.rows {
            if let Some(reason) = &row.host {
                writeln!(f, "{}: host: {reason}", row.cell)?;
            }
            for (check, outcome) in Check::ALL.iter().zip(&row.outcomes) {
                if let Outcome::Failed(reason) = outcome {
                    writeln!(f, "{}: {}: {reason}", row.cell, check.title())?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{HostChip, HostKernel};
    use crate::matrix::Cell;

    fn row(outcomes: [Outcome; 6]) -> Row {
        Row {
            cell: Cell {
                chip: HostChip::Aia,
                kernel: HostKernel::Newest,
            },
            release: "7.2".into(),
            host: None,
            outcomes,
            seconds: 20,
        }
    }

    #[test]
    fn a_failure_has_a_line_of_its_own() {
        let good = row(std::array::from_fn(|_| Outcome::Passed(String::new())));
        let bad = row([
            Outcome::Passed("AIA".into()),
            Outcome::Failed("it is read-only".into()),
            Outcome::NotMade,
            Outcome::NotMade,
            Outcome::NotMade,
            Outcome::Passed(String::new()),
        ]);
        let absent = Row {
            release: String::new(),
            host: Some("no kernel".into()),
            ..row(std::array::from_fn(|_| Outcome::NotMade))
        };
        let passed = |rows: &[&Row]| {
            let rows = rows.iter().copied().cloned().collect();
            Table { rows }.passed()
        };
        assert!(passed(&[&good]));
        assert!(!passed(&[&good, &bad]));
        assert!(!passed(&[&absent]));
        let rows = vec![bad, absent];
        let printed = Table { rows }.to_string();
        let expected = "\
| host | kernel | Linux        | boot | disk   | network | consoles | reboot | test kernel | seconds |
|------|--------|--------------|------|--------|---------|----------|--------|-------------|---------|
| aia  | newest | 7.2          | AIA  | FAILED | -       | -        | -      | ok          | 20      |
| aia  | newest | did not boot | -    | -      | -       | -        | -      | -           | 20      |
aia newest: disk: it is read-only
aia newest: host: no kernel
";
        assert_eq!(printed, expected);
    }
}
