use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use vm_fdt::FdtWriter;

use super::*;

/// A bundle's bytes, of which `fill` writes what is below `guests`.
fn bundle(fill: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    tree("hvrun,bundle", |fdt| {
        let guests = fdt.begin_node("guests").unwrap();
        fill(fdt);
        fdt.end_node(guests).unwrap();
    })
}

fn tree(compatible: &str, fill: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_string("compatible", compatible).unwrap();
    fill(&mut fdt);
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn node(fdt: &mut FdtWriter, name: &str, fill: impl FnOnce(&mut FdtWriter)) {
    let node = fdt.begin_node(name).unwrap();
    fill(fdt);
    fdt.end_node(node).unwrap();
}

/// A guest with a kernel, and with what `fill` writes.
fn guest_node(fdt: &mut FdtWriter, name: &str, fill: impl FnOnce(&mut FdtWriter)) {
    node(fdt, name, |fdt| {
        fdt.property("kernel", b"a kernel").unwrap();
        fill(fdt);
    });
}

/// The bundle of one guest with a kernel.
fn one(fill: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    bundle(|fdt| guest_node(fdt, "a", fill))
}

fn problem(blob: &[u8]) -> Problem {
    match Bundle::parse(blob) {
        Err(Error::Guest { guest, problem }) => {
            assert_eq!(guest, "a");
            problem
        }
        other => panic!("{other:?}"),
    }
}

/// With everything that a bundle can say.
fn full() -> Vec<u8> {
    tree("hvrun,bundle", |fdt| {
        fdt.property_null("statistics").unwrap();
        node(fdt, "guests", |fdt| {
            node(fdt, "linux", |fdt| {
                fdt.property_u32("harts", 2).unwrap();
                fdt.property_array_u32("host-harts", &[3, 1]).unwrap();
                fdt.property_u32("memory", 512).unwrap();
                fdt.property_null("identity").unwrap();
                fdt.property("kernel", b"the kernel").unwrap();
                fdt.property("initrd", b"the initrd").unwrap();
                fdt.property("device-tree", b"the tree").unwrap();
                fdt.property_string("command-line", "console=ttyS0 ä")
                    .unwrap();
                fdt.property_u32("getchar-empty", 0).unwrap();
                fdt.property_phandle(1).unwrap();
                node(fdt, "devices", |fdt| {
                    node(fdt, "disk", |fdt| {
                        fdt.property_string("host", "/soc/virtio_mmio@10001000")
                            .unwrap();
                        fdt.property_u32("slot", 7).unwrap();
                    });
                    node(fdt, "uart", |fdt| {
                        fdt.property_string("host", "/soc/serial@10000000").unwrap();
                    });
                });
            });
            guest_node(fdt, "other", |_| {});
        });
    })
}

#[test]
fn everything_that_is_said_is_heard() {
    let blob = full();
    let bundle = Bundle::parse(&blob).unwrap();
    assert!(bundle.statistics);
    let [linux, other] = &bundle.guests[..] else {
        panic!("{bundle:?}")
    };
    assert_eq!(
        *linux,
        Guest {
            name: "linux",
            harts: 2,
            host_harts: Some(vec![3, 1]),
            memory: 512 << 20,
            identity: true,
            kernel: b"the kernel",
            initrd: Some(b"the initrd"),
            device_tree: Some(b"the tree"),
            command_line: "console=ttyS0 ä",
            getchar_empty: 0,
            devices: vec![
                Device {
                    name: "disk",
                    host: "/soc/virtio_mmio@10001000",
                    slot: Some(7),
                },
                Device {
                    name: "uart",
                    host: "/soc/serial@10000000",
                    slot: None,
                },
            ],
        }
    );
    assert_eq!(
        *other,
        Guest {
            name: "other",
            harts: 1,
            host_harts: None,
            memory: 256 << 20,
            identity: false,
            kernel: b"a kernel",
            initrd: None,
            device_tree: None,
            command_line: "",
            getchar_empty: -1,
            devices: vec![],
        }
    );
}

#[test]
fn statistics_are_off_unless_asked_for() {
    let blob = one(|_| {});
    assert!(!Bundle::parse(&blob).unwrap().statistics);
}

/// `-1` is a cell like any other, `0xffffffff`.
#[test]
fn the_answer_of_getchar_has_a_sign() {
    for (cell, answer) in [(u32::MAX, -1), (0, 0), (5, 5), (1 << 31, -(1 << 31))] {
        let blob = one(|fdt| fdt.property_u32("getchar-empty", cell).unwrap());
        assert_eq!(
            Bundle::parse(&blob).unwrap().guests[0].getchar_empty,
            answer
        );
    }
}

#[test]
fn host_harts_alone_say_how_many() {
    let blob = one(|fdt| fdt.property_array_u32("host-harts", &[5, 6, 7]).unwrap());
    let bundle = Bundle::parse(&blob).unwrap();
    assert_eq!(bundle.guests[0].harts, 3);
    assert_eq!(bundle.guests[0].host_harts, Some(vec![5, 6, 7]));
}

#[test]
fn there_are_one_to_four_guests() {
    for count in 0..=6 {
        let blob = bundle(|fdt| {
            for number in 0..count {
                guest_node(fdt, &std::format!("guest{number}"), |_| {});
            }
        });
        match Bundle::parse(&blob) {
            Ok(bundle) => assert_eq!(bundle.guests.len(), count),
            Err(error) => assert_eq!(error, Error::Guests(count)),
        }
        assert_eq!(Bundle::parse(&blob).is_ok(), (1..=4).contains(&count));
    }
    let none = tree("hvrun,bundle", |_| {});
    assert_eq!(Bundle::parse(&none).unwrap_err(), Error::Guests(0));
}

#[test]
fn other_files_are_no_bundles() {
    let other = tree("riscv-virtio", |_| {});
    assert_eq!(Bundle::parse(&other).unwrap_err(), Error::NotABundle);
    for file in [&b""[..], b"070701", &[0; 4096], b"\xd0\x0d\xfe\xed"] {
        assert!(matches!(Bundle::parse(file), Err(Error::Tree(_))));
    }
}

#[test]
fn contradictions_and_mistakes_are_told() {
    type Fill = fn(&mut FdtWriter);
    let device = |fdt: &mut FdtWriter, fill: Fill| {
        node(fdt, "devices", |fdt| node(fdt, "disk", fill));
    };
    for (blob, expected) in [
        (bundle(|fdt| node(fdt, "a", |_| {})), Problem::NoKernel),
        (
            bundle(|fdt| node(fdt, "a", |fdt| fdt.property("kernel", b"").unwrap())),
            Problem::Empty("kernel"),
        ),
        (
            one(|fdt| fdt.property("initrd", b"").unwrap()),
            Problem::Empty("initrd"),
        ),
        (
            one(|fdt| fdt.property("device-tree", b"").unwrap()),
            Problem::Empty("device-tree"),
        ),
        (
            one(|fdt| fdt.property_u32("harts", 0).unwrap()),
            Problem::Harts(0),
        ),
        (
            one(|fdt| fdt.property_u32("harts", 9).unwrap()),
            Problem::Harts(9),
        ),
        (
            one(|fdt| fdt.property_u32("harts", u32::MAX).unwrap()),
            Problem::Harts(u32::MAX),
        ),
        (
            one(|fdt| fdt.property_array_u32("host-harts", &[0; 9]).unwrap()),
            Problem::Harts(9),
        ),
        (
            one(|fdt| {
                fdt.property_u32("harts", 1).unwrap();
                fdt.property_array_u32("host-harts", &[0, 1]).unwrap();
            }),
            Problem::HartsDisagree { harts: 1, named: 2 },
        ),
        (
            one(|fdt| fdt.property_u32("memory", 0).unwrap()),
            Problem::NoMemory,
        ),
        (
            one(|fdt| fdt.property_u32("cpus", 2).unwrap()),
            Problem::Unknown("cpus".into()),
        ),
        (
            one(|fdt| node(fdt, "device", |_| {})),
            Problem::Unknown("device".into()),
        ),
        (
            one(|fdt| device(fdt, |_| {})),
            Problem::NoHostDevice("disk".into()),
        ),
        (
            one(|fdt| {
                device(fdt, |fdt| {
                    fdt.property_string("host", "/soc/x").unwrap();
                    fdt.property_u32("irq", 1).unwrap();
                });
            }),
            Problem::Unknown("irq".into()),
        ),
        (
            one(|fdt| {
                device(fdt, |fdt| {
                    fdt.property_string("host", "/soc/x").unwrap();
                    fdt.property_u32("slot", 8).unwrap();
                });
            }),
            Problem::Slot {
                device: "disk".into(),
                slot: 8,
            },
        ),
        // Not 32 bits, each of them.
        (
            one(|fdt| fdt.property_null("harts").unwrap()),
            Problem::NotANumber("harts".into()),
        ),
        (
            one(|fdt| fdt.property_u64("memory", 256).unwrap()),
            Problem::NotANumber("memory".into()),
        ),
        (
            one(|fdt| fdt.property("host-harts", &[1, 2, 3]).unwrap()),
            Problem::NotANumber("host-harts".into()),
        ),
        (
            one(|fdt| {
                device(fdt, |fdt| {
                    fdt.property_string("host", "/soc/x").unwrap();
                    fdt.property_string("slot", "1").unwrap();
                });
            }),
            Problem::NotANumber("slot".into()),
        ),
    ] {
        assert_eq!(problem(&blob), expected);
        // One line that says whose problem it is.
        let text = Bundle::parse(&blob).unwrap_err().to_string();
        assert!(
            text.starts_with("guest a: ") && !text.contains('\n'),
            "{text}"
        );
    }
}

/// Whatever it is, there is an answer; and guests are within their limits.
fn answer(blob: &[u8]) {
    match Bundle::parse(blob) {
        Ok(bundle) => {
            assert!((1..=MAX_GUESTS).contains(&bundle.guests.len()));
            for guest in &bundle.guests {
                assert!((1..=MAX_HARTS).contains(&guest.harts));
                let named = guest.host_harts.as_ref();
                assert!(named.is_none_or(|named| named.len() == guest.harts as usize));
                assert!(guest.memory > 0 && !guest.kernel.is_empty());
                assert!(guest.devices.iter().all(|device| device.slot < Some(8)));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn a_bundle_may_end_anywhere() {
    let blob = full();
    for length in 0..blob.len() {
        let cut = &blob[..length];
        assert!(Bundle::parse(cut).is_err(), "{length} of {}", blob.len());
        // The same with a header that does not give it away.
        if length >= 8 {
            let mut cut = cut.to_vec();
            cut[4..8].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
            answer(&cut);
        }
    }
}

#[test]
fn every_byte_may_be_another() {
    let blob = full();
    for at in 0..blob.len() {
        for value in [
            0,
            1,
            2,
            3,
            4,
            9,
            0x7f,
            0x80,
            0xff,
            blob[at] ^ 1,
            blob[at] ^ 0x80,
        ] {
            let mut changed = blob.clone();
            changed[at] = value;
            answer(&changed);
        }
    }
}

proptest! {
    #[test]
    fn damaged_bundles_are_answered(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut blob = full();
        for (at, value) in changes {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if cut {
            blob.truncate(length.index(blob.len()));
        }
        answer(&blob);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        answer(&bytes);
    }
}
