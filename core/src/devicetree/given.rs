//! A device tree that the user supplies instead of the generated one. The guest gets it unchanged, except for what QEMU enters as
//! well: the command line, the initial RAM disk, and fresh entropy if it has a seed. These are in its `/chosen` (dt-schema: `chosen.yaml`).

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Display;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use dtoolkit::fdt_mut::{FdtMut, FdtNodeMut};
use dtoolkit::{Node, Property, ToPropertyValue};

/// What is wrong with a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Its parts contradict each other.
    #[error("its contents are damaged ({0}); copy or make it again")]
    Damaged(String),
    /// There is something to enter, and no place for it.
    #[error(
        "it has no /chosen node, where an initrd and a command line are told; add an empty one"
    )]
    NoChosen,
    /// There is no room for what is to be entered.
    #[error("{0}")]
    Full(String),
}

fn damaged(what: &dyn Display) -> Problem {
    Problem::Damaged(what.to_string())
}

/// Whether `blob` is a device tree in all of its parts.
///
/// # Errors
/// [`Problem::Damaged`].
pub fn check(blob: &[u8]) -> Result<(), Problem> {
    Fdt::new(blob).map_err(|error| damaged(&error))?;
    // `Fdt` reads the structure to its end, wherever the header says that it is. What is entered has to lie in it for both.
    let structure = block(blob, OFF_DT_STRUCT, SIZE_DT_STRUCT);
    if structure.and_then(structure_size).is_none() {
        return Err(damaged(&"size of the structure"));
    }
    // All names, also those that no property has: new ones are looked for among them.
    let named = block(blob, OFF_DT_STRINGS, SIZE_DT_STRINGS).is_some_and(|names| {
        core::str::from_utf8(names).is_ok() && names.last().is_none_or(|last| *last == 0)
    });
    if named {
        Ok(())
    } else {
        Err(damaged(&"names"))
    }
}

/// Fields of the header, by their offsets (Devicetree Specification 0.4, section 5.2).
const OFF_DT_STRUCT: usize = 8;
const OFF_DT_STRINGS: usize = 12;
const SIZE_DT_STRINGS: usize = 32;
const SIZE_DT_STRUCT: usize = 36;

/// The block whose offset and size the header has in these fields.
fn block(blob: &[u8], offset: usize, size: usize) -> Option<&[u8]> {
    let start = usize::try_from(word(blob, offset)?).ok()?;
    let size = usize::try_from(word(blob, size)?).ok()?;
    blob.get(start..)?.get(..size)
}

/// Bytes of the structure block up to its end, if that is in the block (Devicetree Specification 0.4, section 5.4).
fn structure_size(block: &[u8]) -> Option<usize> {
    const TOKEN: usize = 4;
    const BEGIN_NODE: u32 = 1;
    const PROP: u32 = 3;
    const END: u32 = 9;
    let mut at: usize = 0;
    loop {
        let token = word(block, at)?;
        at = at.checked_add(TOKEN)?;
        let content = match token {
            BEGIN_NODE => {
                let name = block.get(at..)?.iter().position(|byte| *byte == 0)?;
                name.checked_add(1)?
            }
            // Its size, its name's offset, its value.
            PROP => usize::try_from(word(block, at)?).ok()?.checked_add(8)?,
            END => return Some(at),
            _ => 0,
        };
        at = at.checked_add(content)?.checked_next_multiple_of(TOKEN)?;
    }
}

/// The tree in `blob`, which passed [`check`], with this command line, if there is one, with its initial RAM disk at `initrd`,
/// guest-physical, and with what `entropy` makes of its seed, which may be nothing. Its size does not depend on where the RAM
/// disk is, only on whether there is one.
///
/// # Errors
/// If it has no place for what is to be entered.
pub fn complete(
    blob: &[u8],
    command_line: Option<&str>,
    initrd: Option<Range<u64>>,
    entropy: impl FnOnce(&mut [u8]) -> bool,
) -> Result<Vec<u8>, Problem> {
    let mut tree = FdtMut::new(blob.to_vec()).map_err(|error| damaged(&error))?;
    let Some(mut chosen) = tree.find_node_mut("/chosen") else {
        if initrd.is_some() || command_line.is_some() {
            return Err(Problem::NoChosen);
        }
        return Ok(blob.to_vec());
    };
    if let Some(line) = command_line {
        set(&mut chosen, "bootargs", line)?;
    }
    if let Some(Range { start, end }) = initrd {
        set(&mut chosen, "linux,initrd-start", start)?;
        set(&mut chosen, "linux,initrd-end", end)?;
    }
    if let Some(size) = chosen.property("rng-seed").map(|seed| seed.value().len()) {
        let mut seed = vec![0; size];
        if entropy(&mut seed) {
            set(&mut chosen, "rng-seed", seed)?;
        }
    }
    Ok(tree.as_read_only().data().to_vec())
}

/// Gives the node's property this value, new or not.
fn set(
    node: &mut FdtNodeMut<'_, Vec<u8>>,
    name: &str,
    value: impl ToPropertyValue,
) -> Result<(), Problem> {
    let set = match node.property_mut(name) {
        Some(mut property) => property.set_value(value),
        None => node.add_property(name, value).map(drop),
    };
    set.map_err(|error| Problem::Full(error.to_string()))
}

/// The big-endian word at `offset`.
fn word(blob: &[u8], offset: usize) -> Option<u32> {
    let bytes = blob.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
