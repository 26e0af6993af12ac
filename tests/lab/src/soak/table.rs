//! The rows of a soak as a table.

use std::fmt;

use super::Row;

/// What was done on each host. It prints itself as a Markdown table, with a line below it for each failure.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// A row for each host.
    pub rows: Vec<Row>,
}

impl Table {
    /// Whether nothing is wrong anywhere.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.rows.iter().all(|row| row.wrong.is_none())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| host | seconds | rounds | reboots | rebinds | packets | pauses | clients | at most | result |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let done = &row.done;
            let result = if row.wrong.is_none() { "ok" } else { "FAILED" };
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {result} |",
                row.chip,
                row.seconds,
                done.rounds,
                done.reboots,
                done.rebinds,
                done.packets,
                done.pauses,
                done.clients,
                done.peak
            )?;
        }
        for row in &self.rows {
            if let Some(wrong) = &row.wrong {
                writeln!(f, "{}: {wrong}", row.chip)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Done;
    use super::*;
    use crate::host::HostChip;

    #[test]
    fn a_failure_has_a_line_of_its_own() {
        let row = |wrong: Option<&str>| Row {
            chip: HostChip::Plic,
            done: Done {
                rounds: 3,
                peak: "30 descriptors".into(),
                ..Done::default()
            },
            wrong: wrong.map(str::to_owned),
            seconds: 60,
        };
        let table = Table {
            rows: vec![row(None), row(Some("packets are lost"))],
        };
        assert!(!table.passed());
        let printed = table.to_string();
        let expected = "| plic | 60 | 3 | 0 | 0 | 0 | 0 | 0 | 30 descriptors | ok |";
        assert!(printed.contains(expected), "{printed}");
        assert!(
            printed.ends_with("| FAILED |\nplic: packets are lost\n"),
            "{printed}"
        );
        let rows = vec![row(None)];
        assert!(Table { rows }.passed());
    }
}
