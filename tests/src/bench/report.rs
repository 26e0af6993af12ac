//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::host::HostChip;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Of the nested host's clock.
    Nanoseconds,
    /// Of memory or of a file.
    Bytes,
    /// Of anything else.
    Count,
}

/// Who did what was measured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    /// Nobody: the host itself, or a machine without a host.
    Floor,
    /// A VMM, by its name.
    Vmm(String),
}

impl Column {
    fn name(&self) -> &str {
        match self {
            Self::Floor => "floor",
            Self::Vmm(name) => name,
        }
    }
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: Unit,
    values: BTreeMap<(&'static str, Column), f64>,
}

/// All that was measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// The place of one VMM's figures on one host.
pub(super) struct Place<'r> {
    report: &'r mut Report,
    chip: HostChip,
    column: Column,
}

impl Place<'_> {
    /// A time, in nanoseconds.
    pub(super) fn time(&mut self, name: &str, nanoseconds: f64) {
        self.add(name, Unit::Nanoseconds, nanoseconds);
    }

    /// A size.
    pub(super) fn bytes(&mut self, name: &str, bytes: u64) {
        self.add(name, Unit::Bytes, float(bytes));
    }

    /// A number.
    pub(super) fn count(&mut self, name: &str, count: f64) {
        self.add(name, Unit::Count, count);
    }

    fn add(&mut self, name: &str, unit: Unit, value: f64) {
        let figures = &mut self.report.figures;
        let key = (self.chip.name(), self.column.clone());
        match figures.iter_mut().find(|figure| figure.name == name) {
            Some(figure) => drop(figure.values.insert(key, value)),
            None => figures.push(Figure {
                name: name.into(),
                unit,
                values: BTreeMap::from([(key, value)]),
            }),
        }
    }
}

/// A figure's measure is far from where an f64 counts in steps of more than one.
#[expect(clippy::cast_precision_loss, reason = "figures have three digits")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

impl Report {
    pub(super) fn column(&mut self, chip: HostChip, column: Column) -> Place<'_> {
        Place {
            report: self,
            chip,
            column,
        }
    }

    /// The same for programs: an array of figures, each with its name, unit and values by host and column.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let figure = |figure: &Figure| {
            let mut hosts: BTreeMap<&str, BTreeMap<&str, f64>> = BTreeMap::new();
            for ((chip, column), value) in &figure.values {
                hosts.entry(chip).or_default().insert(column.name(), *value);
            }
            serde_json::json!({ "name": figure.name, "unit": figure.unit, "hosts": hosts })
        };
        self.figures.iter().map(figure).collect()
    }
}

/// A table in Markdown for each kind of host. Behind a figure that has a floor is how many times that it is.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chip in HostChip::ALL.map(HostChip::name) {
            let here = |figure: &&Figure| figure.values.keys().any(|(place, _)| *place == chip);
            let figures: Vec<_> = self.figures.iter().filter(here).collect();
            let mut columns: Vec<&Column> = Vec::new();
            for (place, column) in figures.iter().flat_map(|figure| figure.values.keys()) {
                if *place == chip && *column != Column::Floor && !columns.contains(&column) {
                    columns.push(column);
                }
            }
            if figures.is_empty() {
                continue;
            }
            let mut rows = vec![vec![format!("{chip} host")]];
            let head = columns.iter().map(|column| column.name().to_owned());
            rows[0].extend(head.chain(["floor".into()]));
            for figure in figures {
                let value = |column: &Column| figure.values.get(&(chip, column.clone())).copied();
                let floor = value(&Column::Floor);
                let mut row = vec![figure.name.clone()];
                for column in &columns {
                    row.push(value(column).map_or("–".into(), |value| {
                        let mut text = show(value, figure.unit);
                        if let Some(floor) = floor.filter(|floor| *floor > 0.0) {
                            let _ = write!(text, " ({:.1}×)", value / floor);
                        }
                        text
                    }));
                }
                row.push(floor.map_or(String::new(), |floor| show(floor, figure.unit)));
                rows.push(row);
            }
            write_rows(f, &rows)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

fn write_rows(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            write!(f, "| {cell:<width$} ", width = width(column))?;
        }
        writeln!(f, "|")?;
        if number == 0 {
            for column in 0..row.len() {
                write!(f, "|{:-<width$}", "", width = width(column) + 2)?;
            }
            writeln!(f, "|")?;
        }
    }
    Ok(())
}

fn show(value: f64, unit: Unit) -> String {
    let scaled = |value: f64, units: [&str; 4], step: f64| {
        let mut value = value;
        let mut units = units.into_iter();
        let mut unit = units.next().unwrap_or_default();
        for larger in units {
            if value < step {
                break;
            }
            value /= step;
            unit = larger;
        }
        let digits = if value >= 100.0 || value == value.trunc() && value < 10.0 && unit == "B" {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        };
        format!("{value:.digits$} {unit}")
    };
    match unit {
        Unit::Nanoseconds => scaled(value, ["ns", "µs", "ms", "s"], 1000.0),
        Unit::Bytes => scaled(value, ["B", "KiB", "MiB", "GiB"], 1024.0),
        Unit::Count if value == value.trunc() => format!("{value}"),
        Unit::Count => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_in_three_digits() {
        assert_eq!(show(7_123_456.0, Unit::Nanoseconds), "7.12 ms");
        assert_eq!(show(144_400.0, Unit::Nanoseconds), "144 µs");
        assert_eq!(show(1.2 * 1024.0 * 1024.0, Unit::Bytes), "1.20 MiB");
        assert_eq!(show(4.0, Unit::Count), "4");
    }

    #[test]
    fn a_table_has_the_ratio_to_the_floor() {
        let mut report = Report::default();
        report
            .column(HostChip::Plic, Column::Floor)
            .time("a read", 2000.0);
        report
            .column(HostChip::Plic, Column::Vmm("hvrun".into()))
            .time("a read", 5000.0);
        report
            .column(HostChip::Plic, Column::Vmm("hvrun".into()))
            .count("threads", 4.0);
        let table = report.to_string();
        assert!(
            table.contains("| a read    | 5.00 µs (2.5×) | 2.00 µs |"),
            "{table}"
        );
        assert!(
            table.contains("| threads   | 4              |         |"),
            "{table}"
        );
        assert_eq!(report.json()[0]["hosts"]["plic"]["hvrun"], 5000.0);
    }
}
