//! A device tree of the user's: it is refused, or completed, and then all else in it is as it was.

use std::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use hv_core::devicetree::{add_room, given};

use crate::files;

const LINE: &str = "a command line that is longer than the one before";
const INITRD: Range<u64> = 0x8300_0000..0x8312_3456;
const ENTERED: [&str; 4] = [
    "bootargs",
    "linux,initrd-start",
    "linux,initrd-end",
    "rng-seed",
];

/// Checks a tree, and completes it.
pub fn run(blob: &[u8]) {
    if given::check(blob).is_err() {
        return;
    }
    for (line, initrd) in [
        (None, None),
        (Some(LINE), None),
        (None, Some(INITRD)),
        (Some(LINE), Some(INITRD)),
    ] {
        let entropy = |seed: &mut [u8]| {
            seed.fill(0x5e);
            true
        };
        let Ok(done) = given::complete(blob, line, initrd.clone(), entropy) else {
            continue;
        };
        assert_eq!(given::check(&done), Ok(()), "it is a tree still");
        assert_eq!(others(&done), others(blob));
        if let Some(line) = line {
            assert_eq!(chosen(&done, "bootargs"), [line.as_bytes(), b"\0"].concat());
        }
        if let Some(Range { start, end }) = initrd {
            assert_eq!(chosen(&done, "linux,initrd-start"), start.to_be_bytes());
            assert_eq!(chosen(&done, "linux,initrd-end"), end.to_be_bytes());
            // The place of the initrd is found after the tree's.
            let elsewhere = given::complete(blob, line, Some(0..0), entropy).map(|tree| tree.len());
            assert_eq!(
                elsewhere,
                Ok(done.len()),
                "the size depends on where the initrd is"
            );
        }
        let mut larger = done.clone();
        add_room(&mut larger);
        assert_eq!(others(&larger), others(blob));
    }
}

/// All of the tree but for what is entered.
fn others(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    collect(&Fdt::new(blob).expect("it was checked").root(), &mut all);
    all
}

fn collect(node: &FdtNode<'_>, all: &mut Vec<(String, Vec<u8>)>) {
    for property in node.properties() {
        if !ENTERED.contains(&property.name()) {
            all.push((property.name().to_string(), property.value().to_vec()));
        }
    }
    for child in node.children() {
        all.push((child.name().to_string(), Vec::new()));
        collect(&child, all);
    }
}

fn chosen(blob: &[u8], name: &str) -> Vec<u8> {
    let tree = Fdt::new(blob).expect("it was checked");
    let node = tree.find_node("/chosen").expect("it was found before");
    let property = node.property(name).expect("it was entered");
    property.value().to_vec()
}

/// Trees of machines, and a tree of one node.
pub fn seeds() -> Vec<Vec<u8>> {
    files::device_trees()
}
