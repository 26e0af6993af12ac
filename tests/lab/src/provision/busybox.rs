//! The userland of every machine in the lab.

use std::path::PathBuf;

use super::tools::Recipe;
use super::{Error, GUEST_ARCH, Result, STABLE};

/// A statically linked busybox for riscv64, from Debian.
///
/// # Errors
/// When it is not in the cache and Debian's packages cannot be had.
pub fn busybox() -> Result<PathBuf> {
    let recipe = Recipe {
        entry: "busybox",
        title: "busybox for riscv64",
        remedy: "run this on a Debian machine",
        suite: Some(STABLE),
        arch: Some(GUEST_ARCH),
    };
    let tree = recipe.tree(&[], |suite| suite.packages(&["busybox-static"]), |_| Ok(()))?;
    Ok(tree.join("usr/bin/busybox"))
}

/// The names that the busybox binary `image` goes by: its own table of applets, which it keeps as a sorted sequence of
/// NUL-terminated names that begins with the two of `test`'s other spelling. (The build machine cannot run it to ask.)
///
/// # Errors
/// When the table is not found.
pub(crate) fn applets(image: &[u8]) -> Result<Vec<&str>> {
    const START: &[u8] = b"[\0[[\0";
    let unknown = || {
        Error::malformed(
            std::path::Path::new("busybox"),
            "has no table of applets where one was expected",
        )
    };
    let start = image
        .windows(START.len())
        .position(|window| window == START)
        .ok_or_else(unknown)?;
    let names = image
        .get(start..)
        .into_iter()
        .flat_map(|table| table.split(|byte| *byte == 0));
    let names: Option<Vec<_>> = names
        .take_while(|name| !name.is_empty())
        .map(|name| std::str::from_utf8(name).ok())
        .collect();
    names
        .filter(|names| names.is_sorted() && names.contains(&"sh"))
        .ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applets_are_those_of_the_table() {
        let image = b"\x7fELF\0junk\0[\0[[\0ar\0sh\0zcat\0\0more";
        assert_eq!(
            applets(image).expect("there is a table"),
            ["[", "[[", "ar", "sh", "zcat"]
        );
        assert!(applets(b"\x7fELF").is_err());
        assert!(applets(b"\0[\0[[\0sh\0ar\0\0").is_err(), "not sorted");
    }
}
