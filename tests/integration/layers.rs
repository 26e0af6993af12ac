//! What the crates may know of each other, and their modules: they are layers, of which no two use each other, directly or by way
//! of others, and no library knows the options of a program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A module, and the modules of its crate that it uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The libraries' sources. The bare-metal hypervisor's program is in a folder of its library's, and has a test of its own.
const LIBRARIES: [&str; 4] = [
    "../../core/src",
    "../../core/baremetal/src",
    "../../devices/src",
    "../../vmm/src",
];

/// Files that are compiled for tests alone.
const TESTS: [&str; 3] = ["tests.rs", "testing.rs", "properties.rs"];

/// A source without its comments and without the tests at its end.
fn code(source: &str) -> String {
    let source = source.split("#[cfg(test)]\nmod tests {").next();
    let lines = source.unwrap_or_default().lines();
    let lines = lines.filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The first names of the paths below `prefix` in a source.
fn used(source: &str, prefix: &str) -> BTreeSet<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        let is_name = |letter: &char| letter.is_ascii_alphanumeric() || *letter == '_';
        text.chars().take_while(is_name).collect()
    };
    let mut names = BTreeSet::new();
    for (at, prefix) in source.match_indices(prefix) {
        if source[..at].ends_with("super::") {
            // Another prefix: a path that begins further up.
            continue;
        }
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

/// Looks at the files of a directory that is `depth` below the crate's root and belongs to `module`.
fn look(directory: &Path, depth: usize, module: Option<&str>, uses: &mut Uses) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let own = file.strip_suffix(".rs").unwrap_or(file);
        if path.is_dir() {
            if !matches!(own, "bin" | "tests") {
                look(&path, depth + 1, Some(module.unwrap_or(own)), uses)?;
            }
        } else if file.ends_with(".rs") && !TESTS.contains(&file) && file != "lib.rs" {
            let module = module.unwrap_or(own);
            let source = code(&fs::read_to_string(&path)?);
            let mut names = used(&source, "crate::");
            let depth = if own == "mod" { depth } else { depth + 1 };
            names.extend(used(&source, &"super::".repeat(depth)));
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
    look(&root, 0, None, &mut uses)?;
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
    for sources in LIBRARIES {
        println!("{sources}, from the bottom:");
        for row in rows(sources).unwrap() {
            println!("  {}", row.join(" "));
        }
    }
}

/// The string literals of a source without tests, in which escapes stay as they are.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '\'', '/']) {
        let (before, here) = rest.split_at(at);
        if here.starts_with("//") {
            rest = here.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(text) = here.strip_prefix('"') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let is_raw = before.trim_end_matches('#').ends_with('r');
            let end = format!("\"{}", "#".repeat(if is_raw { hashes } else { 0 }));
            let mut escaped = false;
            let length = (0..text.len()).find(|at| {
                let is_end = !escaped && text.as_bytes()[*at..].starts_with(end.as_bytes());
                escaped = !is_raw && !escaped && text.as_bytes()[*at] == b'\\';
                is_end
            });
            let length = length.unwrap_or(text.len());
            found.push(text[..length].to_owned());
            rest = text.get(length + end.len()..).unwrap_or_default();
        } else {
            // A character, a lifetime, or a division.
            let quote = ["'\"'", "'\\\"'", "'/'", "'\\''"];
            let skipped = quote.into_iter().find(|quote| here.starts_with(quote));
            rest = &here[skipped.map_or(1, str::len)..];
        }
    }
    found
}

/// Advice that names an option is in the program that has it: a library says what is wrong.
#[test]
fn no_library_names_an_option() {
    // Docker's and podman's, and the command that starts the bare-metal hypervisor.
    const OTHERS: [&str; 2] = ["(--device {path})", "cargo hvrun --bare"];
    fn files(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if file != "tests" {
                    files(&path, found)?;
                }
            } else if file.ends_with(".rs") && !TESTS.contains(&&*file) {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut count = 0;
    for sources in LIBRARIES {
        let mut found = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(sources);
        files(&root, &mut found).unwrap();
        for file in found {
            for text in literals(&code(&fs::read_to_string(&file).unwrap())) {
                count += 1;
                let text = OTHERS
                    .iter()
                    .fold(text, |text, other| text.replace(other, ""));
                let option = text.match_indices("--").any(|(at, dashes)| {
                    let letter = text[at + dashes.len()..].chars().next();
                    !text[..at].ends_with('-') && letter.is_some_and(|c| c.is_ascii_lowercase())
                });
                assert!(!option, "{}: {text:?}", file.display());
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn literals_are_found() {
    let source = "a(\"b --c\", '\"', \"\\\"d\", r#\"e\"f\"#) // \"g\"\nlet x: &'static str = \"h \\\n  i\"; 4 / 2; b\"j\"";
    assert_eq!(
        literals(source),
        ["b --c", "\\\"d", "e\"f", "h \\\n  i", "j"]
    );
}

#[test]
fn uses_are_found() {
    let source = "use crate::a::b;\nuse crate::{Error, c::{D, e}, f};\ncrate::g::h();";
    let names: Vec<String> = used(source, "crate::").into_iter().collect();
    assert_eq!(names, ["Error", "a", "c", "f", "g"]);
    let source = "use super::a;\nuse super::super::{b, c};\nsuper::super::super::d();";
    for (prefix, expected) in [
        ("super::", &["a", "super"][..]),
        ("super::super::", &["b", "c", "super"]),
        ("super::super::super::", &["d"]),
    ] {
        let names: Vec<String> = used(source, prefix).into_iter().collect();
        assert_eq!(names, expected, "{prefix}");
    }
    assert_eq!(
        code("//! crate::a\nb\n#[cfg(test)]\nmod tests {\ncrate::c"),
        "b\n"
    );
}
