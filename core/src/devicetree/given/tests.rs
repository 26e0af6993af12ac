use dtoolkit::fdt::FdtNode;
use proptest::prelude::*;

use super::super::build;
use super::super::tests::{PLIC, machine};
use super::*;

const LINE: &str = "a command line that is longer than the one before";
const INITRD: Range<u64> = 0x8300_0000..0x8312_3456;

fn made() -> Vec<u8> {
    build(&machine(2, PLIC)).unwrap()
}

fn entropy(seed: &mut [u8]) -> bool {
    seed.fill(0x5e);
    true
}

fn set_word(blob: &mut [u8], offset: usize, value: u32) {
    blob[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
}

/// All of a node, but for what is entered.
fn others(node: &FdtNode<'_>, all: &mut Vec<(String, Vec<u8>)>) {
    for property in node.properties() {
        let entered = [
            "bootargs",
            "linux,initrd-start",
            "linux,initrd-end",
            "rng-seed",
        ];
        if !entered.contains(&property.name()) {
            all.push((property.name().to_string(), property.value().to_vec()));
        }
    }
    for child in node.children() {
        all.push((child.name().to_string(), Vec::new()));
        others(&child, all);
    }
}

fn contents(blob: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    others(&Fdt::new(blob).unwrap().root(), &mut all);
    all
}

fn chosen(blob: &[u8], name: &str) -> Option<Vec<u8>> {
    let tree = Fdt::new(blob).unwrap();
    let node = tree.find_node("/chosen")?;
    let property = node.property(name)?;
    Some(property.value().to_vec())
}

/// Completes what passes the check, and looks at what comes of it.
fn complete_all(blob: &[u8]) -> Result<(), TestCaseError> {
    for (line, initrd) in [
        (None, None),
        (Some(LINE), None),
        (None, Some(INITRD)),
        (Some(LINE), Some(INITRD)),
    ] {
        let Ok(done) = complete(blob, line, initrd.clone(), entropy) else {
            continue;
        };
        prop_assert_eq!(check(&done), Ok(()));
        prop_assert_eq!(contents(&done), contents(blob));
        if let Some(line) = line {
            let value = chosen(&done, "bootargs").unwrap();
            prop_assert_eq!(value, [line.as_bytes(), &[0]].concat());
        }
        if let Some(Range { start, end }) = initrd {
            prop_assert_eq!(
                chosen(&done, "linux,initrd-start").unwrap(),
                start.to_be_bytes()
            );
            prop_assert_eq!(
                chosen(&done, "linux,initrd-end").unwrap(),
                end.to_be_bytes()
            );
        }
    }
    Ok(())
}

#[test]
fn what_we_make_passes_and_is_completed() {
    assert_eq!(check(&made()), Ok(()));
    complete_all(&made()).unwrap();
}

/// The structure goes on where its block, by the header, has ended: nothing could be entered there.
#[test]
fn a_structure_larger_than_its_block_is_damaged() {
    let _watch = hv_test_limit::watch();
    let size = word(&made(), SIZE_DT_STRUCT).unwrap();
    for less in [1, 4, 8, 100, size] {
        let mut blob = made();
        set_word(&mut blob, SIZE_DT_STRUCT, size - less);
        let problem = check(&blob);
        assert_eq!(problem, Err(damaged(&"size of the structure")), "{less}");
    }
}

/// Names have to be text, and the last one has to end.
#[test]
fn names_that_are_none_are_damaged() {
    let start = word(&made(), OFF_DT_STRINGS).unwrap() as usize;
    let size = word(&made(), SIZE_DT_STRINGS).unwrap();
    let names = start..start + size as usize;

    // One that no property has: nothing else looks at it.
    let mut more = made();
    more.extend(*b"more\0");
    set_word(&mut more, 4, u32::try_from(made().len()).unwrap() + 5);
    assert_eq!(names.end, made().len());
    set_word(&mut more, SIZE_DT_STRINGS, size + 5);
    assert_eq!(check(&more), Ok(()));

    let mut no_text = more.clone();
    no_text[names.end] = 0xff;
    assert_eq!(check(&no_text), Err(damaged(&"names")));

    let mut no_end = more;
    *no_end.last_mut().unwrap() = b'!';
    assert_eq!(check(&no_end), Err(damaged(&"names")));
}

/// A tree without the node where things are entered passes unchanged, and takes nothing.
#[test]
fn without_chosen_there_is_nothing_to_enter() {
    let mut bare = FdtMut::new(made()).unwrap();
    assert!(bare.root_mut().remove_child("chosen"));
    let bare = bare.as_read_only().data().to_vec();
    let done = complete(&bare, None, None, entropy);
    assert_eq!(done, Ok(bare.clone()));
    for (line, initrd) in [
        (Some(LINE), None),
        (None, Some(INITRD)),
        (Some(LINE), Some(INITRD)),
    ] {
        let done = complete(&bare, line, initrd, entropy);
        assert_eq!(done, Err(Problem::NoChosen));
    }
}

/// A seed is as long as the one before. Where there is no entropy, the old one stays; where none is asked for, none comes.
#[test]
fn a_seed_is_replaced_by_a_fresh_one() {
    for size in [0, 1, 32, 64] {
        let mut with_seed = FdtMut::new(made()).unwrap();
        let mut node = with_seed.find_node_mut("/chosen").unwrap();
        set(&mut node, "rng-seed", vec![0x11_u8; size]).unwrap();
        let blob = with_seed.as_read_only().data().to_vec();
        let done = complete(&blob, None, None, entropy).unwrap();
        assert_eq!(chosen(&done, "rng-seed"), Some(vec![0x5e; size]));
        let done = complete(&blob, None, None, |_| false).unwrap();
        assert_eq!(chosen(&done, "rng-seed"), Some(vec![0x11; size]));
    }
    let mut without = FdtMut::new(made()).unwrap();
    let mut node = without.find_node_mut("/chosen").unwrap();
    let _ = node.remove_property("rng-seed");
    let blob = without.as_read_only().data().to_vec();
    let done = complete(&blob, None, None, entropy).unwrap();
    assert_eq!(chosen(&done, "rng-seed"), None);
}

#[derive(Clone, Debug)]
enum Change {
    /// A word of the header becomes another one, near what it was or not.
    Header(usize, i32),
    /// Or a small one.
    SmallHeader(usize, u32),
    Word(usize, u32),
    Byte(usize, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let near = prop_oneof![-300..300_i32, any::<i32>()];
    let token = prop_oneof![Just(1), Just(2), Just(3), Just(4), Just(9), any::<u32>()];
    prop_oneof![
        (0..10_usize, near).prop_map(|(field, by)| Change::Header(field, by)),
        (0..10_usize, 0..1000_u32).prop_map(|(field, to)| Change::SmallHeader(field, to)),
        (0..3000_usize, token).prop_map(|(at, to)| Change::Word(at, to)),
        (0..12_000_usize, any::<u8>()).prop_map(|(at, to)| Change::Byte(at, to)),
    ]
}

proptest! {
    /// What passes the check is completed, or is told why not.
    #[test]
    fn whatever_passes_can_be_completed(changes in prop::collection::vec(change(), 1..3)) {
        let mut blob = made();
        let words = blob.len() / 4;
        for change in changes {
            match change {
                Change::Header(field, by) => {
                    let value = word(&blob, field * 4).unwrap();
                    set_word(&mut blob, field * 4, value.wrapping_add_signed(by));
                }
                Change::SmallHeader(field, to) => set_word(&mut blob, field * 4, to),
                Change::Word(at, to) => set_word(&mut blob, at % words * 4, to),
                Change::Byte(at, to) => {
                    let at = at % blob.len();
                    blob[at] = to;
                }
            }
        }
        if check(&blob).is_ok() {
            complete_all(&blob)?;
        }
    }
}
