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

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use dtoolkit::fdt::Fdt;
    use vm_fdt::FdtWriter;

    use super::*;

    /// Machines have memory, and bundles files, above 4 GiB.
    #[test]
    fn numbers_have_one_cell_or_two_and_ranges_two_each() {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_u32("short", 0x8765_4321).unwrap();
        fdt.property_u64("long", 0x12_3456_789a).unwrap();
        let reg = [0x1, 0x8000_0000, 0x2, 0x4000_0000, 0, 0x1000, 0, 0x20];
        fdt.property_array_u32("reg", &reg).unwrap();
        fdt.property("odd", &[0, 0, 0, 1, 2]).unwrap();
        fdt.end_node(root).unwrap();
        let blob = fdt.finish().unwrap();
        let tree = Fdt::new(&blob).unwrap();
        let root = tree.root();
        assert_eq!(number(&root, "short"), Some(0x8765_4321));
        assert_eq!(number(&root, "long"), Some(0x12_3456_789a));
        assert_eq!(cell(&root, "long"), Some(0x12));
        assert_eq!(number(&root, "odd"), None);
        assert_eq!(number(&root, "missing"), None);
        let found: Vec<_> = ranges(&root)
            .map(|range| (range.start.0, range.end.0))
            .collect();
        assert_eq!(found, [(0x1_8000_0000, 0x3_c000_0000), (0x1000, 0x1020)]);
    }
}
