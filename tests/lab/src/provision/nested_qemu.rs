//! A QEMU that runs in nested hosts, by their KVM: hvrun's peer.

use std::path::PathBuf;

use super::qemu::{FIRMWARE, MODULES, PACKAGE, PROGRAM};
use super::tools::{Recipe, by_loader, closure, libraries};
use super::{Error, GUEST_ARCH, Result, STABLE};

/// How to run a riscv64 QEMU from the lab's cache. [`Host::qemu`](crate::host::Host::qemu) does.
#[derive(Debug, Clone)]
pub struct NestedQemu {
    /// The tree of packages that everything below is in.
    pub tree: PathBuf,
    /// The program to run: the dynamic loader of the tree that QEMU is in.
    pub program: PathBuf,
    /// Its arguments, before any that concern the machine.
    pub arguments: Vec<String>,
    /// A variable for its environment, and the value.
    pub variable: (&'static str, String),
}

/// Debian stable's QEMU for riscv64, with the libraries that it needs.
///
/// # Errors
/// When it is not in the cache and Debian's packages cannot be had.
pub fn nested_qemu() -> Result<NestedQemu> {
    let recipe = Recipe {
        entry: "nested-qemu",
        title: "QEMU for riscv64",
        remedy: "run this on a Debian machine",
        suite: Some(STABLE),
        arch: Some(GUEST_ARCH),
    };
    let tree = recipe.tree(&[], |suite| closure(suite, &[PACKAGE]), |_| Ok(()))?;
    let text = |path: PathBuf| match path.to_str() {
        Some(path) => Ok(path.to_owned()),
        None => Err(Error::malformed(&path, "has a name that is not UTF-8")),
    };
    let qemu = tree.join("usr/bin").join(PROGRAM);
    let [program, words @ ..] = by_loader(&tree, GUEST_ARCH, &qemu);
    let firmware = ["-L".into(), tree.join(FIRMWARE)];
    Ok(NestedQemu {
        tree: tree.clone(),
        program,
        arguments: (words.into_iter().chain(firmware))
            .map(text)
            .collect::<Result<_>>()?,
        variable: (MODULES, text(libraries(&tree, GUEST_ARCH).join("qemu"))?),
    })
}
