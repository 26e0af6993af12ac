use std::vec;

use hv_core::isa::Isa;
use hv_core::machine::{Hart, MmuType};
use proptest::prelude::*;

use super::*;
use crate::bundle;
use crate::host::{HostHart, Interrupts};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A host with harts of these ids. What memory is free, [`divide`] is told.
fn host(ids: &[u64]) -> Host {
    let hart = |id: &u64| {
        let hart = Hart {
            isa: Isa::from_names(["i", "h"]).unwrap(),
            mmu: MmuType::Sv39,
            cbom_block_size: None,
            cboz_block_size: None,
            cbop_block_size: None,
        };
        HostHart::new(*id, hart)
    };
    Host {
        harts: ids.iter().map(hart).collect(),
        timebase_frequency: 10_000_000,
        memory: vec![],
        reserved: vec![],
        interrupts: Interrupts::AplicDirect {
            base: HostPhysAddr(0),
            sources: 96,
            indices: vec![0; ids.len()],
        },
        serial: None,
        test_device: None,
        rtc: None,
        seed: vec![],
    }
}

fn guest(name: &str) -> Guest<'_> {
    Guest {
        name,
        harts: 1,
        host_harts: None,
        memory: 128 * MIB,
        identity: false,
        kernel: b"kernel",
        initrd: None,
        device_tree: None,
        command_line: "",
        getchar_empty: -1,
        devices: vec![],
    }
}

/// QEMU's memory without what the firmware has at its beginning and the hypervisor at its end.
fn free() -> Vec<Range<HostPhysAddr>> {
    vec![range(0x8006_0000..0xbf00_0000)]
}

fn range(range: Range<u64>) -> Range<HostPhysAddr> {
    HostPhysAddr(range.start)..HostPhysAddr(range.end)
}

/// QEMU's devices.
fn device(path: &str) -> Option<Device> {
    let (name, address) = path.strip_prefix("/soc/")?.split_once('@')?;
    let start = u64::from_str_radix(address, 16).ok()?;
    let irq = match name {
        "virtio_mmio" => u32::try_from((start - 0x1000_0000) / 0x1000).ok(),
        "serial" => Some(10),
        _ => None,
    };
    Some(Device {
        path: path.into(),
        registers: range(start..start + 0x100),
        irq: irq.filter(|_| name != "nowire"),
        is_virtio: name == "virtio_mmio" || name == "nowire",
        is_serial: name == "serial",
    })
}

fn with_devices<'a>(guest: Guest<'a>, devices: &[(&'a str, Option<u32>)]) -> Guest<'a> {
    let device = |(host, slot): &(&'a str, Option<u32>)| bundle::Device {
        name: "device",
        host,
        slot: *slot,
    };
    Guest {
        devices: devices.iter().map(device).collect(),
        ..guest
    }
}

fn shares(ids: &[u64], guests: Vec<Guest<'_>>) -> Result<Vec<Share>, Error> {
    let bundle = Bundle {
        guests,
        statistics: false,
    };
    divide(&bundle, &host(ids), free(), device)
}

#[test]
fn guests_begin_where_the_board_has_its_ram() {
    let shares = shares(&[0, 1], vec![guest("a"), guest("b")]).unwrap();
    // From the top down.
    for (share, ram) in shares.iter().zip([0xb700_0000, 0xaf00_0000]) {
        assert_eq!(share.ram_base, layout::RAM_BASE);
        assert_eq!(share.ram, HostPhysAddr(ram));
        assert_eq!(share.ram_size, 128 * MIB);
    }
    assert_eq!(shares[0].harts, [0]);
    assert_eq!(shares[1].harts, [1]);
}

/// Identity guests come first, whatever their place in the bundle, and from where programs of the board are linked to.
#[test]
fn identity_is_the_same_address_in_guest_and_host() {
    let identity = Guest {
        identity: true,
        ..guest("b")
    };
    let shares = shares(&[0, 1], vec![guest("a"), identity]).unwrap();
    assert_eq!(shares[1].ram, HostPhysAddr(0x8010_0000));
    assert_eq!(shares[1].ram_base, GuestPhysAddr(0x8010_0000));
    assert_eq!(shares[0].ram, HostPhysAddr(0xb700_0000));
}

/// A guest with as much gets pages of 1 GiB if there are such.
#[test]
fn large_guests_are_aligned_for_large_pages() {
    let place = |memory, free| {
        let guests = vec![Guest {
            memory,
            ..guest("a")
        }];
        let bundle = Bundle {
            guests,
            statistics: false,
        };
        let shares = divide(&bundle, &host(&[0]), vec![range(free)], device).unwrap();
        shares[0].ram.0
    };
    let large = 2 * GIB + 4 * MIB;
    assert_eq!(
        place(large, 0x8000_0000..0x8000_0000 + 4 * GIB),
        0x8000_0000 + GIB
    );
    assert_eq!(
        place(large, 0x8060_0000..0x8060_0000 + 2 * GIB + 6 * MIB),
        0x8080_0000
    );
    // One page is enough, and wherever the memory ends.
    assert_eq!(place(GIB, 0x8000_0000..0xe000_0000), 0x8000_0000);
    assert_eq!(place(GIB - 2 * MIB, 0x8000_0000..0xe000_0000), 0xa020_0000);
    assert_eq!(place(128 * MIB, 0x8000_0000..0xc000_0001), 0xb800_0000);
}

#[test]
fn named_harts_are_given_first_and_by_their_ids() {
    let named = |name, ids: &[u64]| Guest {
        harts: u32::try_from(ids.len()).unwrap(),
        host_harts: Some(ids.to_vec()),
        ..guest(name)
    };
    let two = Guest {
        harts: 2,
        ..guest("a")
    };
    let shares = shares(&[0, 4, 5, 9], vec![two, named("b", &[9, 0])]).unwrap();
    assert_eq!(shares[0].harts, [1, 2]);
    assert_eq!(shares[1].harts, [3, 0]);
}

#[test]
fn harts_are_given_once() {
    let named = |name, ids: &[u64]| Guest {
        harts: u32::try_from(ids.len()).unwrap(),
        host_harts: Some(ids.to_vec()),
        ..guest(name)
    };
    let hart = |guest: &str, hart, problem| Error::Hart {
        guest: guest.into(),
        hart,
        problem,
    };
    let three = Guest {
        harts: 3,
        ..guest("b")
    };
    for (guests, expected) in [
        (
            vec![named("a", &[1]), named("b", &[1])],
            hart("b", 1, "is given away already"),
        ),
        (
            vec![named("a", &[1, 1])],
            hart("a", 1, "is given away already"),
        ),
        (vec![named("a", &[4])], hart("a", 4, "is not there")),
        (
            vec![named("a", &[u32::MAX.into()])],
            hart("a", u32::MAX.into(), "is not there"),
        ),
        (
            vec![named("a", &[0, 1]), three],
            Error::Harts {
                guest: "b".into(),
                asked: 3,
                free: 2,
                all: 4,
            },
        ),
    ] {
        assert_eq!(shares(&[0, 1, 2, 3], guests).unwrap_err(), expected);
    }
}

#[test]
fn memory_that_does_not_fit_is_told() {
    let with = |memory, identity| Guest {
        memory: memory * MIB,
        identity,
        ..guest("a")
    };
    let error = |guest: &str, asked, free| Error::Memory {
        guest: guest.into(),
        asked,
        free,
    };
    // 1007 MiB and a little are free.
    for (guests, expected) in [
        (vec![with(1008, false)], error("a", 1008, 1007)),
        (vec![with(1008, true)], error("a", 1008, 1007)),
        (
            vec![with(u64::from(u32::MAX), false)],
            error("a", u32::MAX.into(), 1007),
        ),
        (
            vec![with(u64::MAX >> 20, true)],
            error("a", u64::MAX >> 20, 1007),
        ),
        (
            vec![
                with(600, false),
                guest("b"),
                Guest {
                    name: "c",
                    ..with(400, false)
                },
            ],
            error("c", 400, 279),
        ),
    ] {
        let ids: Vec<u64> = (0..guests.len() as u64).collect();
        assert_eq!(shares(&ids, guests).unwrap_err(), expected);
    }
    // All of it, but for what is before the first 2 MiB.
    assert!(shares(&[0], vec![with(1006, true)]).is_ok());
    assert!(shares(&[0], vec![with(1006, false)]).is_ok());
}

/// A guest's memory is in one piece.
#[test]
fn the_largest_free_piece_is_told() {
    let bundle = Bundle {
        guests: vec![Guest {
            memory: 512 * MIB,
            ..guest("a")
        }],
        statistics: false,
    };
    for (free, largest) in [
        (
            vec![
                range(0x8000_0000..0x8100_0000),
                range(0x9000_0000..0xa2c0_0000),
            ],
            300,
        ),
        (
            vec![
                range(0x8000_0000..0x92c0_0000),
                range(0xa000_0000..0xa100_0000),
            ],
            300,
        ),
        (vec![], 0),
    ] {
        let error = divide(&bundle, &host(&[0]), free, device).unwrap_err();
        let expected = Error::Memory {
            guest: "a".into(),
            asked: 512,
            free: largest,
        };
        assert_eq!(error, expected);
    }
}

#[test]
fn devices_come_into_slots() {
    let identity = Guest {
        identity: true,
        ..guest("a")
    };
    let devices = [
        ("/soc/virtio_mmio@10001000", None),
        ("/soc/virtio_mmio@10002000", Some(7)),
        ("/soc/serial@10000000", None),
    ];
    let shares = shares(&[0], vec![with_devices(identity, &devices)]).unwrap();
    let given: Vec<_> = shares[0]
        .devices
        .iter()
        .map(|device| {
            (
                device.address.0,
                device.page().0,
                device.irq,
                device.host_irq,
            )
        })
        .collect();
    assert_eq!(
        given,
        [
            (0x1000_1000, 0x1000_1000, 1, 1),
            (0x1000_8000, 0x1000_2000, 8, 2),
            (0x1000_0000, 0x1000_0000, 10, 10),
        ]
    );
}

#[test]
fn devices_that_cannot_be_given_are_told() {
    let identity = |name| Guest {
        identity: true,
        ..guest(name)
    };
    let disk = "/soc/virtio_mmio@10001000";
    let problem = |guest: &str, device: &str, problem| Error::Device {
        guest: guest.into(),
        device: device.into(),
        problem,
    };
    for (guests, expected) in [
        (
            vec![with_devices(identity("a"), &[("/soc/none", None)])],
            problem("a", "/soc/none", DeviceProblem::Missing),
        ),
        (
            vec![with_devices(
                identity("a"),
                &[(disk, None), (disk, Some(3))],
            )],
            problem("a", disk, DeviceProblem::Twice("a".into())),
        ),
        (
            vec![
                with_devices(identity("a"), &[(disk, None)]),
                with_devices(identity("b"), &[(disk, None)]),
            ],
            problem("b", disk, DeviceProblem::Twice("a".into())),
        ),
        (
            vec![with_devices(
                identity("a"),
                &[(disk, Some(2)), ("/soc/virtio_mmio@10003000", None)],
            )],
            problem(
                "a",
                "/soc/virtio_mmio@10003000",
                DeviceProblem::SlotTaken(2),
            ),
        ),
        (
            vec![with_devices(guest("a"), &[(disk, None)])],
            problem("a", disk, DeviceProblem::NeedsIdentity),
        ),
        (
            vec![with_devices(guest("a"), &[("/soc/rtc@101000", None)])],
            problem("a", "/soc/rtc@101000", DeviceProblem::NoInterrupt),
        ),
        (
            vec![with_devices(
                identity("a"),
                &[("/soc/nowire@10001000", None)],
            )],
            problem("a", "/soc/nowire@10001000", DeviceProblem::NoInterrupt),
        ),
        (
            vec![with_devices(
                identity("a"),
                &[("/soc/serial@10000000", Some(1))],
            )],
            problem("a", "/soc/serial@10000000", DeviceProblem::SlotOfSerial),
        ),
        (
            vec![with_devices(
                identity("a"),
                &[("/soc/serial@10000040", None)],
            )],
            problem("a", "/soc/serial@10000040", DeviceProblem::Registers),
        ),
        // A transport that is none of the board's slots, in no slot.
        (
            vec![with_devices(
                identity("a"),
                &[("/soc/virtio_mmio@1000a000", None)],
            )],
            problem("a", "/soc/virtio_mmio@1000a000", DeviceProblem::Registers),
        ),
    ] {
        let ids: Vec<u64> = (0..guests.len() as u64).collect();
        assert_eq!(shares(&ids, guests).unwrap_err(), expected);
    }
}

/// A guest that takes all of a piece fits, and leaves nothing of it, not even an empty piece.
#[test]
fn a_piece_can_be_taken_whole() {
    let piece = range(0x9000_0000..0x9800_0000);
    let mut free = vec![piece.clone()];
    assert_eq!(highest(&free, 128 * MIB), Some(piece.clone()));
    assert_eq!(lowest(&free, 128 * MIB), Some(piece.clone()));
    assert_eq!(highest(&free, 129 * MIB), None);
    take(&mut free, &piece);
    assert_eq!(free, []);
    let mut free = vec![piece];
    take(&mut free, &range(0x9000_0000..0x9100_0000));
    assert_eq!(free, [range(0x9100_0000..0x9800_0000)]);
}

#[test]
fn what_is_taken_is_not_free() {
    let taken = |start: u64, end: u64| {
        let mut free = vec![range(0x1000..0x5000), range(0x8000..0x9000)];
        take(&mut free, &range(start..end));
        free
    };
    assert_eq!(
        taken(0, 0x1000),
        [range(0x1000..0x5000), range(0x8000..0x9000)]
    );
    assert_eq!(
        taken(0, 0x2000),
        [range(0x2000..0x5000), range(0x8000..0x9000)]
    );
    assert_eq!(
        taken(0x2000, 0x3000),
        [
            range(0x1000..0x2000),
            range(0x3000..0x5000),
            range(0x8000..0x9000)
        ]
    );
    assert_eq!(
        taken(0x4000, 0x8800),
        [range(0x1000..0x4000), range(0x8800..0x9000)]
    );
    assert_eq!(taken(0, u64::MAX), []);
}

/// A guest of these harts, MiB, and placement.
fn any_guest() -> impl Strategy<Value = (u32, Option<Vec<u64>>, u64, bool)> {
    (
        1..9_u32,
        prop::option::weighted(0.2, prop::collection::vec(0..12_u64, 1..9)),
        prop_oneof![4 => 1..300_u64, 2 => 1000..5000_u64, 1 => any::<u64>().prop_map(|size| size >> 20)],
        any::<bool>(),
    )
}

fn any_range() -> impl Strategy<Value = Range<HostPhysAddr>> {
    let start = prop_oneof![8 => 0x8000_0000..0x4_0000_0000_u64, 1 => any::<u64>()];
    let size = prop_oneof![8 => 0..0x2_0000_0000_u64, 1 => any::<u64>()];
    (start, size).prop_map(|(start, size)| range(start..start.saturating_add(size)))
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

proptest! {
    /// Whatever is asked for of whatever host: it is refused, or each has harts and memory that are there and nobody else's.
    #[test]
    fn shares_never_overlap(
        ids in prop::collection::btree_set(0..12_u64, 1..10),
        memory in any_range(),
        reserved in prop::collection::vec(any_range(), 0..4),
        asked in prop::collection::vec(any_guest(), 1..5),
    ) {
        let guests: Vec<Guest<'_>> = asked
            .into_iter()
            .map(|(harts, host_harts, memory, identity)| Guest {
                harts: host_harts.as_ref().map_or(harts, |named| u32::try_from(named.len()).unwrap()),
                host_harts,
                memory: memory * MIB,
                identity,
                ..guest("a")
            })
            .collect();
        let ids: Vec<u64> = ids.into_iter().collect();
        let host = host(&ids);
        let mut free = vec![memory.clone()];
        for taken in &reserved {
            take(&mut free, taken);
        }
        let bundle = Bundle { guests, statistics: false };
        let Ok(shares) = divide(&bundle, &host, free, device) else { return Ok(()) };

        prop_assert_eq!(shares.len(), bundle.guests.len());
        let mut harts: Vec<usize> = vec![];
        let mut ranges: Vec<Range<u64>> = vec![];
        for (guest, share) in bundle.guests.iter().zip(&shares) {
            prop_assert_eq!(share.harts.len(), guest.harts as usize);
            if let Some(named) = &guest.host_harts {
                let given: Vec<u64> = share.harts.iter().map(|place| ids[*place]).collect();
                prop_assert_eq!(&given, named);
            }
            for hart in &share.harts {
                prop_assert!(*hart < ids.len() && !harts.contains(hart));
                harts.push(*hart);
            }
            prop_assert_eq!(share.ram_size, guest.memory);
            let alignment = if guest.identity { IDENTITY_ALIGNMENT } else { MEGAPAGE };
            prop_assert!(share.ram.0.is_multiple_of(alignment));
            let base = if guest.identity { share.ram.0 } else { layout::RAM_BASE.0 };
            prop_assert_eq!(share.ram_base.0, base);
            let ram = share.ram.0..share.ram.0.checked_add(share.ram_size).unwrap();
            prop_assert!(memory.start.0 <= ram.start && ram.end <= memory.end.0);
            let others = reserved.iter().map(|range| range.start.0..range.end.0);
            prop_assert!(!others.chain(ranges.clone()).any(|other| overlap(&other, &ram)));
            ranges.push(ram);
        }
    }
}
