//! What was measured, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use super::size::Size;
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

/// One line of the tables.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// In what.
    pub unit: Unit,
    values: BTreeMap<(&'static str, Column, Size), f64>,
}

/// All that was measured.
#[derive(Debug, Clone, Default)]
pub struct Report {
    conditions: Vec<(String, String)>,
    figures: Vec<Figure>,
}

/// The place of one VMM's figures on one host, with machines of one size.
pub(super) struct Place<'r> {
    report: &'r mut Report,
    chip: HostChip,
    column: Column,
    size: Size,
}

impl Place<'_> {
    /// That of the same VMM's figures with machines of another size.
    pub(super) fn of(&mut self, size: Size) -> Place<'_> {
        Place {
            report: self.report,
            chip: self.chip,
            column: self.column.clone(),
            size,
        }
    }

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
        let key = (self.chip.name(), self.column.clone(), self.size);
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
            size: Size::Usual,
        }
    }

    /// Says of the circumstances what somebody needs to know who measures again. What is said twice is there once.
    pub fn condition(&mut self, name: &str, value: &str) {
        let condition = (name.to_owned(), value.to_owned());
        if !self.conditions.contains(&condition) {
            self.conditions.push(condition);
        }
    }

    /// Takes in what was measured elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        for (name, value) in &other.conditions {
            self.condition(name, value);
        }
        for figure in other.figures {
            match self
                .figures
                .iter_mut()
                .find(|here| here.name == figure.name)
            {
                Some(here) => here.values.extend(figure.values),
                None => self.figures.push(figure),
            }
        }
    }

    /// The same for programs: `conditions`, and an array of `figures`, each with its `name`, its `unit`, `hosts`, which has
    /// values by host and column, and `growth`, which has them by host, column and size.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let figure = |figure: &Figure| {
            let mut hosts: BTreeMap<_, BTreeMap<_, f64>> = BTreeMap::new();
            let mut growth: BTreeMap<_, BTreeMap<_, BTreeMap<String, f64>>> = BTreeMap::new();
            for ((chip, column, size), value) in &figure.values {
                let column = column.name();
                if *size == Size::Usual {
                    hosts.entry(*chip).or_default().insert(column, *value);
                } else {
                    let columns = growth.entry(*chip).or_default();
                    let sizes = columns.entry(column).or_default();
                    sizes.insert(size.to_string(), *value);
                }
            }
            serde_json::json!({ "name": figure.name, "unit": figure.unit, "hosts": hosts, "growth": growth })
        };
        let conditions: Vec<_> = self
            .conditions
            .iter()
            .map(|(name, value)| serde_json::json!({ "name": name, "value": value }))
            .collect();
        let figures: Vec<_> = self.figures.iter().map(figure).collect();
        serde_json::json!({ "conditions": conditions, "figures": figures })
    }

    /// The columns of a host's table, but the floor.
    fn columns(&self, chip: &str) -> Vec<&Column> {
        let mut columns: Vec<&Column> = Vec::new();
        for (place, column, _) in self.figures.iter().flat_map(|figure| figure.values.keys()) {
            if *place == chip && *column != Column::Floor && !columns.contains(&column) {
                columns.push(column);
            }
        }
        columns
    }

    /// The usual machines on a host: a column for each VMM and one for the floor.
    fn side_by_side(&self, chip: &'static str) -> Vec<Vec<String>> {
        let columns = self.columns(chip);
        let mut rows = Vec::new();
        for figure in &self.figures {
            let value = |column: &Column| {
                let key = (chip, column.clone(), Size::Usual);
                figure.values.get(&key).copied()
            };
            let floor = value(&Column::Floor);
            if floor.is_none() && columns.iter().all(|column| value(column).is_none()) {
                continue;
            }
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
        let names = columns.iter().map(|column| column.name().to_owned());
        let head = [format!("{chip} host")].into_iter().chain(names);
        with_head(head.chain(["floor".into()]).collect(), rows)
    }

    /// What one VMM's figures become on a host with machines of other sizes.
    fn growth(&self, chip: &'static str, vmm: &Column) -> Vec<Vec<String>> {
        let value = |figure: &Figure, size: Size| {
            let key = (chip, vmm.clone(), size);
            figure.values.get(&key).copied()
        };
        let mut sizes: Vec<Size> = Size::OTHERS.into();
        sizes.retain(|size| {
            let measured = |figure| value(figure, *size).is_some();
            self.figures.iter().any(measured)
        });
        let mut rows = Vec::new();
        for figure in &self.figures {
            if sizes.iter().all(|size| value(figure, *size).is_none()) {
                continue;
            }
            let shown = [Size::Usual].iter().chain(&sizes).map(|size| {
                value(figure, *size).map_or("–".into(), |value| show(value, figure.unit))
            });
            rows.push([figure.name.clone()].into_iter().chain(shown).collect());
        }
        let names = [Size::Usual].iter().chain(&sizes).map(Size::to_string);
        let head = [format!("{chip} host, {}", vmm.name())];
        with_head(head.into_iter().chain(names).collect(), rows)
    }
}

/// Nothing, where there are no rows.
fn with_head(head: Vec<String>, mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    if !rows.is_empty() {
        rows.insert(0, head);
    }
    rows
}

/// The conditions, then for each kind of host tables in Markdown: all VMMs side by side, where behind a figure that has a floor is
/// how many times that it is, and how the figures of each grow.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.conditions {
            writeln!(f, "- {name}: {value}")?;
        }
        if !self.conditions.is_empty() {
            writeln!(f)?;
        }
        for chip in HostChip::ALL.map(HostChip::name) {
            let mut tables = vec![self.side_by_side(chip)];
            let columns = self.columns(chip);
            tables.extend(columns.iter().map(|column| self.growth(chip, column)));
            for table in tables.iter().filter(|table| !table.is_empty()) {
                write_rows(f, table)?;
                writeln!(f)?;
            }
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
        let figure = &report.json()["figures"][0];
        assert_eq!(figure["hosts"]["plic"]["hvrun"], 5000.0);
    }

    #[test]
    fn growth_has_a_table_for_each_vmm() {
        let mut report = Report::default();
        let hvrun = || Column::Vmm("hvrun".into());
        let mut place = report.column(HostChip::Aia, hvrun());
        place.count("threads", 4.0);
        place.bytes("binary", 7);
        place.of(Size::Harts(8)).count("threads", 11.0);
        // What another host measured.
        let mut plic = Report::default();
        plic.condition("host", "Linux");
        plic.column(HostChip::Plic, hvrun()).count("threads", 5.0);
        report.condition("host", "Linux");
        report.merge(plic);
        assert_eq!(
            report.to_string(),
            "- host: Linux\n\n\
             | plic host | hvrun | floor |\n\
             |-----------|-------|-------|\n\
             | threads   | 5     |       |\n\
             \n\
             | aia host | hvrun | floor |\n\
             |----------|-------|-------|\n\
             | threads  | 4     |       |\n\
             | binary   | 7 B   |       |\n\
             \n\
             | aia host, hvrun | usual | 8 harts |\n\
             |-----------------|-------|---------|\n\
             | threads         | 4     | 11      |\n\n"
        );
        let threads = &report.json()["figures"][0];
        assert_eq!(threads["hosts"]["plic"]["hvrun"], 5.0);
        assert_eq!(threads["growth"]["aia"]["hvrun"]["8 harts"], 11.0);
    }
}
