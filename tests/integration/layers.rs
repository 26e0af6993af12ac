//! The modules of the crates are layers: no two of them use each other, directly or by way of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// A module, and the modules of its crate that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Files that are compiled for tests alone.
const TESTS: [&str; 3] = ["tests.rs", "testing.rs", "properties.rs"];

/// A source without its comments and without the tests at its end.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next();
    let lines = source.unwrap_or_default().lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The first names of the paths below `crate::` in a source.
fn used(source: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        let is_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
        text.chars().take_while(is_name).collect()
    };
    let mut names = BTreeSet::new();
    for (at, prefix) in source.match_indices("crate::") {
        let rest = &source[at + prefix.len()..];
        match rest.strip_prefix('{') {
            None => {
                names.insert(name(rest));
            }
            Some(list) => {
                let list = list.split(';').next().unwrap_or_default();
                let mut depth = 0_u32;
                let mut start = 0;
                for (position, letter) in list.char_indices() {
                    match letter {
                        ',' | '}' if depth == 0 => {
                            names.insert(name(&list[start..position]));
                            start = position + 1;
                        }
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                }
            }
        }
    }
    names
}

fn look(directory: &Path, module: Option<&str>, uses: &mut Uses) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let own = file.strip_suffix(".rs").unwrap_or(file);
        if path.is_dir() {
            if !matches!(own, "bin" | "tests") {
                look(&path, Some(module.unwrap_or(own)), uses)?;
            }
        } else if file.ends_with(".rs") && !TESTS.contains(&file) && file != "lib.rs" {
            let module = module.unwrap_or(own);
            let names = used(&code(&fs::read_to_string(&path)?));
            // The crate's error type is named by its re-export.
            let names = names.into_iter().map(|name| match name.as_str() {
                "Error" => "error".into(),
                _ => name,
            });
            let uses = uses.entry(module.to_owned()).or_default();
            uses.extend(names.filter(|name| name != module));
        }
    }
    Ok(())
}

/// The rows of a crate's modules from the bottom: each uses only those in rows below its own. Panics if there is a circle.
fn rows(sources: &str) -> io::Result<Vec<Vec<String>>> {
    let mut uses = Uses::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources);
    look(&root, None, &mut uses)?;
    let modules: BTreeSet<String> = uses.keys().cloned().collect();
    for used in uses.values_mut() {
        used.retain(|name| modules.contains(name));
    }
    assert!(modules.len() > 5, "{sources}: {modules:?}");
    assert!(uses.values().any(|used| !used.is_empty()), "{sources}");
    let mut rows = Vec::new();
    while !uses.is_empty() {
        let row: Vec<String> = uses
            .iter()
            .filter(|(_, used)| used.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        assert!(!row.is_empty(), "a circle in {sources}: {uses:?}");
        uses.retain(|module, _| !row.contains(module));
        for used in uses.values_mut() {
            used.retain(|name| !row.contains(name));
        }
        rows.push(row);
    }
    Ok(rows)
}

#[test]
fn no_crate_has_a_circle_of_modules() {
    for sources in ["../../core/src", "../../devices/src", "../../vmm/src"] {
        println!("{sources}, from the bottom:");
        for row in rows(sources).unwrap() {
            println!("  {}", row.join(" "));
        }
    }
}

#[test]
fn uses_are_found() {
    let source = "use crate::a::b;\nuse crate::{Error, c::{D, e}, f};\ncrate::g::h();";
    let names: Vec<String> = used(source).into_iter().collect();
    assert_eq!(names, ["Error", "a", "c", "f", "g"]);
    assert_eq!(
        code("//! crate::a\nb\n#[cfg(test)]\nmod tests {\ncrate::c"),
        "b\n"
    );
}
