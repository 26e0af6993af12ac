//! A nested host's device tree that differs from QEMU's, so that its kernel sees other hardware.

use std::fs;
use std::path::{Path, PathBuf};

use dtoolkit::fdt_mut::FdtMut;

use super::config::{HostConfig, TreeCell};
use super::error::{Error, ErrorKind, Result};
use super::{qemu, setup_error};
use crate::provision;

/// Has QEMU write the tree of the machine that `config` asks for, changes it as `config` says, and answers its file, in
/// `directory`.
pub(super) fn write(config: &HostConfig, directory: &Path) -> Result<PathBuf> {
    let path = directory.join("host.dtb");
    let setup = |what: String| Error::new(ErrorKind::Setup, format!("the host's tree: {what}"));
    // QEMU writes it once the machine is made, and ends.
    let mut dump = std::ffi::OsString::from("dumpdtb=");
    dump.push(qemu::escape_commas(&path));
    let mut command = provision::qemu().map_err(setup_error)?.command();
    qemu::machine(&mut command, config);
    let dumped = command.arg("-machine").arg(dump).output();
    let dumped = dumped.map_err(|error| setup(format!("cannot start QEMU: {error}")))?;
    if !dumped.status.success() {
        return Err(setup(String::from_utf8_lossy(&dumped.stderr).into_owned()));
    }
    let blob = fs::read(&path).map_err(|error| setup(error.to_string()))?;
    let changed = change(blob, &config.tree).map_err(setup)?;
    fs::write(&path, changed).map_err(|error| setup(error.to_string()))?;
    Ok(path)
}

/// The tree with these properties, new or not. The error is in words.
fn change(blob: Vec<u8>, cells: &[TreeCell]) -> std::result::Result<Vec<u8>, String> {
    let mut tree = FdtMut::new(blob).map_err(|error| error.to_string())?;
    for cell in cells {
        let found = tree.find_node_mut(&cell.node);
        let mut node = found.ok_or_else(|| format!("no node {}", cell.node))?;
        let set = match node.property_mut(&cell.property) {
            Some(mut property) => property.set_value(cell.value),
            None => node.add_property(&cell.property, cell.value).map(drop),
        };
        set.map_err(|error| format!("{} of {}: {error}", cell.property, cell.node))?;
    }
    Ok(tree.as_read_only().data().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    fn cell(node: &str, property: &str, value: u32) -> TreeCell {
        TreeCell {
            node: node.into(),
            property: property.into(),
            value,
        }
    }

    /// A tree (Devicetree Specification, chapter 5) of the node `soc` and its `riscv,num-ids`.
    fn tree() -> Vec<u8> {
        let word = u32::to_be_bytes;
        let structure = [
            [word(1), word(0)].concat(),
            [word(1), *b"soc\0"].concat(),
            [word(3), word(4), word(0), word(255)].concat(),
            [word(2), word(2), word(9)].concat(),
        ]
        .concat();
        let strings = b"riscv,num-ids\0";
        let [structure_size, strings_size] =
            [structure.len(), strings.len()].map(|size| u32::try_from(size).unwrap());
        let header = [
            0xd00d_feed,
            56 + structure_size + strings_size,
            56,
            56 + structure_size,
            40,
            17,
            16,
            0,
            strings_size,
            structure_size,
        ];
        let header = header.map(word).concat();
        [header.as_slice(), &[0; 16], &structure, strings].concat()
    }

    #[test]
    fn properties_are_added_and_replaced() {
        let cells = [
            cell("/soc", "riscv,num-ids", 255),
            cell("/soc", "riscv,num-ids", 63),
            cell("/", "other", 7),
        ];
        let changed = change(tree(), &cells).unwrap();
        let changed = Fdt::new(&changed).unwrap();
        let value = |path: &str, name: &str| {
            let node = changed.find_node(path).unwrap();
            node.property(name).unwrap().value().to_vec()
        };
        assert_eq!(value("/soc", "riscv,num-ids"), [0, 0, 0, 63]);
        assert_eq!(value("/", "other"), [0, 0, 0, 7]);
        assert!(change(tree(), &[cell("/nowhere", "a", 1)]).is_err());
    }
}
