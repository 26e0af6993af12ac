use std::format;
use std::string::ToString;
use std::vec::Vec;

use proptest::prelude::*;
use vm_fdt::FdtWriter;

use super::*;

/// The machine and the supervisor external interrupt.
const S_EXTERNAL: u32 = 9;
const M_EXTERNAL: u32 = 11;

/// Phandles as QEMU gives them, from the last hart's to the first one's and then the chips'.
const CHIP_M: u32 = 101;
const CHIP_S: u32 = 102;
const IMSIC_M: u32 = 103;
const IMSIC_S: u32 = 104;

/// What QEMU's `-M virt` has for interrupts: `virt`, `aia=aplic`, `aia=aplic-imsic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chip {
    Plic,
    Aplic,
    AplicImsic,
}

const CHIPS: [Chip; 3] = [Chip::Plic, Chip::Aplic, Chip::AplicImsic];

fn node(fdt: &mut FdtWriter, name: &str, fill: impl FnOnce(&mut FdtWriter)) {
    let node = fdt.begin_node(name).unwrap();
    fill(fdt);
    fdt.end_node(node).unwrap();
}

fn strings(fdt: &mut FdtWriter, name: &str, values: &[&str]) {
    let values = values.iter().map(ToString::to_string).collect();
    fdt.property_string_list(name, values).unwrap();
}

fn reg(fdt: &mut FdtWriter, start: u64, size: u64) {
    fdt.property_array_u64("reg", &[start, size]).unwrap();
}

/// The phandle of a hart's interrupt controller.
fn intc(hart: u32) -> u32 {
    2 * hart + 2
}

/// `interrupts-extended`: for each hart, these interrupts.
fn targets(fdt: &mut FdtWriter, harts: u32, interrupts: &[u32]) {
    let targets: Vec<u32> = (0..harts)
        .flat_map(|hart| interrupts.iter().flat_map(move |it| [intc(hart), *it]))
        .collect();
    fdt.property_array_u32("interrupts-extended", &targets)
        .unwrap();
}

fn device(fdt: &mut FdtWriter, name: &str, compatible: &[&str], at: u64, size: u64, irq: u32) {
    node(fdt, &format!("{name}@{at:x}"), |fdt| {
        fdt.property_array_u32("interrupts", &[irq, 4]).unwrap();
        reg(fdt, at, size);
        strings(fdt, "compatible", compatible);
    });
}

fn cpu(fdt: &mut FdtWriter, hart: u32) {
    node(fdt, &format!("cpu@{hart}"), |fdt| {
        fdt.property_string("device_type", "cpu").unwrap();
        fdt.property_u32("reg", hart).unwrap();
        fdt.property_string("status", "okay").unwrap();
        fdt.property_u32("riscv,cbom-block-size", 64).unwrap();
        strings(
            fdt,
            "riscv,isa-extensions",
            &["i", "m", "a", "f", "d", "c", "h", "sstc"],
        );
        fdt.property_string("riscv,isa", "rv64imafdch_sstc")
            .unwrap();
        fdt.property_string("mmu-type", "riscv,sv57").unwrap();
        node(fdt, "interrupt-controller", |fdt| {
            fdt.property_string("compatible", "riscv,cpu-intc").unwrap();
            fdt.property_phandle(intc(hart)).unwrap();
        });
    });
}

fn aplic(fdt: &mut FdtWriter, chip: Chip, harts: u32, is_machine: bool) {
    let (at, phandle, interrupt, imsic) = match is_machine {
        true => (0xc00_0000, CHIP_M, M_EXTERNAL, IMSIC_M),
        false => (0xd00_0000, CHIP_S, S_EXTERNAL, IMSIC_S),
    };
    node(fdt, &format!("interrupt-controller@{at:x}"), |fdt| {
        fdt.property_phandle(phandle).unwrap();
        fdt.property_u32("riscv,num-sources", 96).unwrap();
        reg(fdt, at, 0x8000);
        if chip == Chip::Aplic {
            targets(fdt, harts, &[interrupt]);
        } else {
            fdt.property_u32("msi-parent", imsic).unwrap();
        }
        if is_machine {
            fdt.property_u32("riscv,children", CHIP_S).unwrap();
        }
        strings(fdt, "compatible", &["qemu,aplic", "riscv,aplic"]);
    });
}

fn imsics(fdt: &mut FdtWriter, harts: u32, is_machine: bool) {
    let (at, phandle, interrupt) = match is_machine {
        true => (0x2400_0000, IMSIC_M, M_EXTERNAL),
        false => (0x2800_0000, IMSIC_S, S_EXTERNAL),
    };
    node(fdt, &format!("interrupt-controller@{at:x}"), |fdt| {
        fdt.property_phandle(phandle).unwrap();
        fdt.property_u32("riscv,num-ids", 255).unwrap();
        reg(fdt, at, 0x4000);
        targets(fdt, harts, &[interrupt]);
        strings(fdt, "compatible", &["qemu,imsics", "riscv,imsics"]);
    });
}

/// QEMU's tree, with its nodes in QEMU's order and with what the firmware adds.
fn qemu(chip: Chip, harts: u32) -> Vec<u8> {
    tree(|fdt| {
        chosen(fdt);
        node(fdt, "memory@80000000", memory);
        node(fdt, "reserved-memory", |fdt| {
            node(fdt, "mmode_resv1@80000000", |fdt| {
                reg(fdt, 0x8000_0000, 0x4_0000);
            });
            node(fdt, "mmode_resv0@80040000", |fdt| {
                reg(fdt, 0x8004_0000, 0x2_0000);
            });
        });
        cpus(fdt, harts);
        soc(fdt, chip, harts);
    })
}

fn tree(fill: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    fdt.property_string("compatible", "riscv-virtio").unwrap();
    fill(&mut fdt);
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn chosen(fdt: &mut FdtWriter) {
    node(fdt, "chosen", |fdt| {
        fdt.property_u64("linux,initrd-start", 0xa020_0000).unwrap();
        fdt.property_u64("linux,initrd-end", 0xa020_1234).unwrap();
        fdt.property_string("stdout-path", "/soc/serial@10000000:115200n8")
            .unwrap();
        fdt.property("rng-seed", &[7; 32]).unwrap();
    });
}

fn memory(fdt: &mut FdtWriter) {
    fdt.property_string("device_type", "memory").unwrap();
    reg(fdt, 0x8000_0000, 0x4000_0000);
}

/// QEMU has the last hart first.
fn cpus(fdt: &mut FdtWriter, harts: u32) {
    node(fdt, "cpus", |fdt| {
        fdt.property_u32("#address-cells", 1).unwrap();
        fdt.property_u32("#size-cells", 0).unwrap();
        fdt.property_u32("timebase-frequency", 10_000_000).unwrap();
        for hart in (0..harts).rev() {
            cpu(fdt, hart);
        }
        node(fdt, "cpu-map", |fdt| node(fdt, "cluster0", |_| {}));
    });
}

fn soc(fdt: &mut FdtWriter, chip: Chip, harts: u32) {
    node(fdt, "soc", |fdt| {
        fdt.property_u32("#address-cells", 2).unwrap();
        fdt.property_u32("#size-cells", 2).unwrap();
        device(fdt, "rtc", &["google,goldfish-rtc"], 0x10_1000, 0x1000, 11);
        device(fdt, "serial", &["ns16550a"], 0x1000_0000, 0x100, 10);
        node(fdt, "test@100000", |fdt| {
            reg(fdt, 0x10_0000, 0x1000);
            strings(
                fdt,
                "compatible",
                &["sifive,test1", "sifive,test0", "syscon"],
            );
        });
        for slot in (0..8_u32).rev() {
            let at = 0x1000_1000 + 0x1000 * u64::from(slot);
            device(fdt, "virtio_mmio", &["virtio,mmio"], at, 0x1000, slot + 1);
        }
        match chip {
            Chip::Plic => node(fdt, "plic@c000000", |fdt| {
                fdt.property_phandle(CHIP_S).unwrap();
                fdt.property_u32("riscv,ndev", 95).unwrap();
                reg(fdt, 0xc00_0000, 0x60_0000);
                targets(fdt, harts, &[M_EXTERNAL, S_EXTERNAL]);
                strings(fdt, "compatible", &["sifive,plic-1.0.0", "riscv,plic0"]);
            }),
            Chip::Aplic | Chip::AplicImsic => {
                aplic(fdt, chip, harts, false);
                aplic(fdt, chip, harts, true);
                if chip == Chip::AplicImsic {
                    imsics(fdt, harts, false);
                    imsics(fdt, harts, true);
                }
            }
        }
        node(fdt, "clint@2000000", |fdt| {
            reg(fdt, 0x200_0000, 0x1_0000);
            targets(fdt, harts, &[3, 7]);
        });
    });
}

fn read(blob: &[u8]) -> Result<Host, Error> {
    Host::from_tree(&Fdt::new(blob).unwrap())
}

fn physical(range: Range<u64>) -> Range<HostPhysAddr> {
    HostPhysAddr(range.start)..HostPhysAddr(range.end)
}

#[test]
fn qemus_machines_are_understood() {
    for chip in CHIPS {
        for count in [1, 2, 4, 8] {
            let blob = qemu(chip, count);
            let host = read(&blob).unwrap();
            let ids: Vec<u64> = host.harts.iter().map(|hart| hart.id).collect();
            assert_eq!(ids, (0..count.into()).collect::<Vec<u64>>());
            assert_eq!(host.timebase_frequency, 10_000_000);
            assert_eq!(host.memory, [physical(0x8000_0000..0xc000_0000)]);
            assert_eq!(
                host.reserved,
                [
                    physical(0x8000_0000..0x8004_0000),
                    physical(0x8004_0000..0x8006_0000)
                ]
            );
            assert_eq!(host.test_device, Some(HostPhysAddr(0x10_0000)));
            assert_eq!(host.rtc, Some(HostPhysAddr(0x10_1000)));
            assert_eq!(host.seed, [7; 32]);
            let serial = host.serial.unwrap();
            assert_eq!(serial.path, "/soc/serial@10000000");
            assert_eq!(serial.registers, physical(0x1000_0000..0x1000_0100));
            assert_eq!(serial.irq, Some(10));
            assert!(serial.is_serial && !serial.is_virtio);
            let expected = match chip {
                Chip::Plic => Interrupts::Plic {
                    base: HostPhysAddr(0xc00_0000),
                    sources: 95,
                    // M-mode's are before S-mode's.
                    contexts: (0..count).map(|hart| 2 * hart + 1).collect(),
                },
                Chip::Aplic => Interrupts::AplicDirect {
                    base: HostPhysAddr(0xd00_0000),
                    sources: 96,
                    indices: (0..count).collect(),
                },
                Chip::AplicImsic => Interrupts::AplicMessages {
                    base: HostPhysAddr(0xd00_0000),
                    sources: 96,
                    indices: (0..count).collect(),
                    identities: 255,
                },
            };
            assert!([95, 96].contains(&host.interrupts.sources()));
            assert_eq!(host.interrupts, expected);
            let tree = Fdt::new(&blob).unwrap();
            assert_eq!(initrd(&tree), Some(physical(0xa020_0000..0xa020_1234)));
        }
    }
}

#[test]
fn harts_are_what_the_tree_says() {
    let host = read(&qemu(Chip::Plic, 1)).unwrap();
    let Hart {
        isa,
        mmu,
        cbom_block_size,
        cboz_block_size,
        ..
    } = &host.harts[0].hart;
    assert_eq!(isa.isa_string(), "rv64imafdch_sstc");
    assert_eq!(*mmu, MmuType::Sv57);
    assert_eq!((*cbom_block_size, *cboz_block_size), (Some(64), None));
}

/// Before riscv,isa-extensions there was riscv,isa alone.
#[test]
fn isa_strings_are_read() {
    for (text, expected) in [
        ("rv64imafdch_zicsr_sstc", Some("rv64imafdch_zicsr_sstc")),
        ("rv64i", Some("rv64i")),
        ("rv32imac", None),
        ("", None),
        ("rv64imac_$", None),
        ("rv64ä", None),
    ] {
        let isa = isa_of_string(text);
        assert_eq!(
            isa.map(|isa| isa.isa_string()).as_deref(),
            expected,
            "{text}"
        );
    }
}

#[test]
fn devices_are_found_by_their_paths() {
    let blob = qemu(Chip::Aplic, 1);
    let tree = Fdt::new(&blob).unwrap();
    let disk = device_at(&tree, "/soc/virtio_mmio@10003000").unwrap();
    assert_eq!(disk.registers, physical(0x1000_3000..0x1000_4000));
    assert_eq!(disk.irq, Some(3));
    assert!(disk.is_virtio && !disk.is_serial);
    let test = device_at(&tree, "/soc/test@100000").unwrap();
    assert_eq!(
        (test.irq, test.is_virtio, test.is_serial),
        (None, false, false)
    );
    for path in [
        "/soc/virtio_mmio@10009000",
        "/cpus",
        "/",
        "",
        "soc",
        "//",
        "/soc/",
    ] {
        assert_eq!(device_at(&tree, path), None, "{path}");
    }
}

fn device_at(tree: &Fdt<'_>, path: &str) -> Option<Device> {
    super::device(tree, path)
}

#[test]
fn initrds_have_two_ends() {
    let with = |fill: fn(&mut FdtWriter)| tree(|fdt| node(fdt, "chosen", fill));
    for (blob, expected) in [
        (tree(|_| {}), None),
        (with(|_| {}), None),
        (
            with(|fdt| fdt.property_u64("linux,initrd-start", 1).unwrap()),
            None,
        ),
        (
            // Older loaders write 32 bits.
            with(|fdt| {
                fdt.property_u32("linux,initrd-start", 0x8800_0000).unwrap();
                fdt.property_u32("linux,initrd-end", 0x8800_0010).unwrap();
            }),
            Some(physical(0x8800_0000..0x8800_0010)),
        ),
        (
            with(|fdt| {
                fdt.property_u64("linux,initrd-start", 16).unwrap();
                fdt.property_u64("linux,initrd-end", 16).unwrap();
            }),
            None,
        ),
    ] {
        assert_eq!(initrd(&Fdt::new(&blob).unwrap()), expected);
    }
}

#[test]
fn what_is_missing_is_told() {
    let missing = |blob: &[u8]| match read(blob) {
        Err(Error::Missing(what)) => what,
        other => panic!("{other:?}"),
    };
    let soc = |fdt: &mut FdtWriter| soc(fdt, Chip::Plic, 1);
    assert_eq!(missing(&tree(|_| {})), "harts");
    assert_eq!(missing(&tree(|fdt| cpus(fdt, 0))), "harts");
    assert_eq!(missing(&tree(|fdt| cpus(fdt, 1))), "memory");
    let with_memory = |fill: fn(&mut FdtWriter)| {
        tree(|fdt| {
            node(fdt, "memory@80000000", memory);
            cpus(fdt, 1);
            fill(fdt);
        })
    };
    assert_eq!(missing(&with_memory(|_| {})), "node /soc");
    let chip = "interrupt controller for S-mode (PLIC or APLIC)";
    assert_eq!(missing(&with_memory(|fdt| node(fdt, "soc", |_| {}))), chip);
    // A PLIC that does not interrupt the second hart.
    let blob = tree(|fdt| {
        node(fdt, "memory@80000000", memory);
        cpus(fdt, 2);
        soc(fdt);
    });
    assert_eq!(missing(&blob), chip);
    let blob = tree(|fdt| {
        node(fdt, "memory@80000000", memory);
        node(fdt, "cpus", |fdt| cpu(fdt, 0));
        soc(fdt);
    });
    assert_eq!(missing(&blob), "timebase-frequency");
}

/// A hart that is there and not for use (`status = "disabled"`, as some boards have their small core).
#[test]
fn disabled_harts_are_left_out() {
    let blob = tree(|fdt| {
        node(fdt, "memory@80000000", memory);
        node(fdt, "cpus", |fdt| {
            fdt.property_u32("timebase-frequency", 1).unwrap();
            node(fdt, "cpu@0", |fdt| {
                fdt.property_string("device_type", "cpu").unwrap();
                fdt.property_u32("reg", 0).unwrap();
                fdt.property_string("status", "disabled").unwrap();
            });
            cpu(fdt, 1);
        });
        soc(fdt, Chip::Plic, 2);
    });
    let host = read(&blob).unwrap();
    assert_eq!(host.harts.len(), 1);
    assert_eq!(host.harts[0].id, 1);
    let Interrupts::Plic { contexts, .. } = host.interrupts else {
        panic!("{:?}", host.interrupts)
    };
    assert_eq!(contexts, [3]);
}

/// A console that is no 16550 is none, and that is for the caller to say.
#[test]
fn other_consoles_are_none() {
    let blob = tree(|fdt| {
        node(fdt, "chosen", |fdt| {
            fdt.property_string("stdout-path", "/soc/rtc@101000")
                .unwrap();
        });
        node(fdt, "memory@80000000", memory);
        cpus(fdt, 1);
        soc(fdt, Chip::Plic, 1);
    });
    assert_eq!(read(&blob).unwrap().serial, None);
}

/// Whatever the tree, there is an answer.
fn answer(blob: &[u8]) {
    let Ok(tree) = Fdt::new(blob) else { return };
    let _ = initrd(&tree);
    let _ = super::device(&tree, "/soc/virtio_mmio@10001000");
    match Host::from_tree(&tree) {
        Ok(host) => {
            assert!(!host.harts.is_empty() && !host.memory.is_empty());
            let ranges = host.memory.iter().chain(&host.reserved);
            assert!(ranges.clone().all(|range| range.start <= range.end));
            assert!(host.harts.is_sorted_by_key(|hart| hart.id));
            let places = match host.interrupts {
                Interrupts::Plic { contexts, .. } => contexts,
                Interrupts::AplicDirect { indices, .. }
                | Interrupts::AplicMessages { indices, .. } => indices,
            };
            assert_eq!(places.len(), host.harts.len());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn every_byte_may_be_another() {
    for chip in CHIPS {
        let blob = qemu(chip, 1);
        for at in 0..blob.len() {
            let mut changed = blob.clone();
            changed[at] = if at % 2 == 0 { 0xff } else { blob[at] ^ 1 };
            answer(&changed);
        }
    }
}

proptest! {
    #[test]
    fn damaged_trees_are_answered(
        chip in prop::sample::select(&CHIPS[..]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        length in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut blob = qemu(chip, 3);
        for (at, value) in changes {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if cut {
            blob.truncate(length.index(blob.len()));
            let total = u32::try_from(blob.len()).unwrap();
            if let Some(size) = blob.get_mut(4..8) {
                size.copy_from_slice(&total.to_be_bytes());
            }
        }
        answer(&blob);
    }
}

/// The tree with all of one text's places taken by another of the same length.
fn replaced(blob: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut blob = blob.to_vec();
    let mut found = 0;
    for at in 0..blob.len() - from.len() {
        if blob[at..].starts_with(from.as_bytes()) {
            blob[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert_ne!(found, 0, "{from}");
    blob
}

#[test]
fn every_paging_mode_is_told() {
    let blob = qemu(Chip::Plic, 1);
    for (name, mode) in [
        ("riscv,sv57", MmuType::Sv57),
        ("riscv,sv48", MmuType::Sv48),
        ("riscv,sv39", MmuType::Sv39),
        ("riscv,sv32", MmuType::Bare),
    ] {
        let host = read(&replaced(&blob, "riscv,sv57", name)).unwrap();
        assert_eq!(host.harts[0].hart.mmu, mode, "{name}");
    }
}

/// The list of extensions counts where there is one, and the older string where there is none.
#[test]
fn extensions_come_from_the_list_first() {
    let blob = replaced(&qemu(Chip::Plic, 1), "imafdch_sstc", "imafdc_svpbm");
    let isa = |blob: &[u8]| read(blob).unwrap().harts[0].hart.isa.clone();
    assert!(isa(&blob).contains("sstc"));
    assert!(!isa(&blob).contains("svpbm"));
    let without_list = replaced(&blob, "riscv,isa-extensions", "riscv,isa-xxxxxxxxxx");
    assert!(isa(&without_list).contains("svpbm"));
    assert!(!isa(&without_list).contains("sstc"));
}
