//! Reading device trees: what the host's and the bundle's have in common.

use core::ops::Range;

use dtoolkit::fdt::FdtNode;
use dtoolkit::{Node, Property};
use hv_core::addr::HostPhysAddr;

/// The 32-bit cells of a property; none if there is no such property, or if its size is odd.
pub fn cells<'a>(node: &'a FdtNode<'_>, name: &str) -> impl Iterator<Item = u32> + 'a {
    let value = bytes(node, name).unwrap_or_default();
    let whole = value.len().is_multiple_of(4);
    value
        .chunks_exact(4)
        .filter(move |_| whole)
        .map(|cell| cell.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
}

/// A property of one cell.
pub fn cell(node: &FdtNode<'_>, name: &str) -> Option<u32> {
    cells(node, name).next()
}

/// A property of a device tree's 32 or 64 bits, such as `linux,initrd-start`.
pub fn number(node: &FdtNode<'_>, name: &str) -> Option<u64> {
    let mut cells = cells(node, name);
    let first = u64::from(cells.next()?);
    Some(
        cells
            .next()
            .map_or(first, |low| first << 32 | u64::from(low)),
    )
}

/// The bytes of a property. They live as long as the tree.
pub fn bytes<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a [u8]> {
    let property = node.properties().find(|property| property.name() == name)?;
    property.value_as::<&'a [u8]>().ok()
}

/// A property that is one string, without its NUL.
pub fn string<'a>(node: &FdtNode<'a>, name: &str) -> Option<&'a str> {
    strings(node, name).next()
}

/// A property that is a list of strings.
pub fn strings<'a>(node: &FdtNode<'a>, name: &str) -> impl Iterator<Item = &'a str> {
    let value = bytes(node, name).unwrap_or_default();
    value
        .split(|byte| *byte == 0)
        .filter_map(|text| core::str::from_utf8(text).ok())
        .filter(|text| !text.is_empty())
}

/// Whether the node says that it is one of those.
pub fn is_compatible(node: &FdtNode<'_>, names: &[&str]) -> bool {
    strings(node, "compatible").any(|name| names.contains(&name))
}

/// The host-physical ranges of `reg`, for a node whose parent has two cells for addresses and two for sizes, as the root and
/// `/soc` of every RV64 board known have. Ranges beyond the end of the address space are left out.
pub fn ranges<'a>(node: &'a FdtNode<'_>) -> impl Iterator<Item = Range<HostPhysAddr>> + 'a {
    let mut cells = cells(node, "reg");
    core::iter::from_fn(move || {
        let mut pair = || Some(u64::from(cells.next()?) << 32 | u64::from(cells.next()?));
        Some((pair()?, pair()?))
    })
    .filter_map(|(start, size)| {
        let start = HostPhysAddr(start);
        Some(start..start.checked_add(size)?)
    })
}
