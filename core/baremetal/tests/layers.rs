//! The program's modules are layers: each uses those in the rows below its own of the table in `hypervisor.rs`, and none above, so
//! there is no circle among them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/hv-bare")
}

/// The row of each module in the table, from the top.
fn rows(source: &str) -> BTreeMap<String, usize> {
    let rows = source.lines().filter(|line| line.starts_with("//! | [`"));
    let mut modules = BTreeMap::new();
    for (number, row) in rows.enumerate() {
        let names = row.split('|').nth(1).unwrap_or_default();
        for name in names.split("[`").skip(1) {
            let name = name.split('`').next().unwrap_or_default();
            modules.insert(name.to_owned(), number);
        }
    }
    modules
}

/// The names that follow `prefix` in a source without comments: one, or those of a list in braces.
fn named_after(source: &str, prefix: &str) -> Vec<String> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let first = |text: &str| {
        text.trim_start()
            .chars()
            .take_while(|c| is_name(*c))
            .collect()
    };
    let mut names = Vec::new();
    for (position, _) in source.match_indices(prefix) {
        let rest = &source[position + prefix.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.push(first(rest));
            continue;
        };
        let mut depth = 1;
        let mut begins = true;
        for (at, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if begins && is_name(letter) => {
                    names.push(first(&list[at..]));
                    begins = false;
                }
                ',' if depth == 1 => begins = true,
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn files_below(directory: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[test]
fn every_arrow_points_down() {
    let top = fs::read_to_string(program().join("hypervisor.rs")).unwrap();
    let rows = rows(&top);
    let modules: Vec<&str> = top
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert!(modules.len() > 15, "{modules:?}");
    for module in &modules {
        assert!(rows.contains_key(*module), "{module} is not in the table");
    }
    let lowest = rows.values().max().copied().unwrap();

    let directory = program().join("hypervisor");
    let mut files = Vec::new();
    files_below(&directory, &mut files).unwrap();
    let mut arrows = 0;
    for file in files {
        let within = file.strip_prefix(&directory).unwrap();
        let module = within.iter().next().unwrap().to_str().unwrap();
        let module = module.strip_suffix(".rs").unwrap_or(module);
        let source: String = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let mut used = named_after(&source, "crate::hypervisor::");
        if within.iter().count() == 1 {
            used.extend(named_after(&source, "super::"));
        }
        for other in used.iter().filter(|other| *other != module) {
            let Some(row) = rows.get(other) else {
                continue;
            };
            arrows += 1;
            // Those of the lowest row have no state that another one of them could wait for.
            let is_down = *row > rows[module] || rows[module] == lowest && *row == lowest;
            assert!(is_down, "{} uses {other}", within.display());
        }
    }
    assert!(arrows > 60, "{arrows}");
}

#[test]
fn names_are_found_in_lists() {
    let source = "use super::csr::{self, number};\nuse super::{clock, guest::{Guest, mail}, power};\nsuper::exit::f();";
    assert_eq!(
        named_after(source, "super::"),
        ["csr", "clock", "guest", "power", "exit"]
    );
}
