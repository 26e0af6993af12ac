//! A bundle of guests for the bare-metal hypervisor, and the device tree of the host that it runs on: what each guest gets is its
//! own.

use std::ops::Range;

use dtoolkit::fdt::Fdt;
use hv_bare::bundle::{Bundle, MAX_GUESTS, MAX_HARTS};
use hv_bare::host::{self, Host, Interrupts};
use hv_bare::partition::{Share, divide, take};
use hv_core::addr::HostPhysAddr;
use hv_core::layout::VIRTIO_SLOTS;
use vm_fdt::FdtWriter;

use crate::input::Input;

/// Parses both, and divides the host.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let length = usize::from(input.u16());
    let (bundle, host) = (input.bytes(length), input.rest());
    let bundle = Bundle::parse(bundle).ok();
    if let Some(bundle) = &bundle {
        check_bundle(bundle);
    }
    let Ok(tree) = Fdt::new(host) else { return };
    if let Some(initrd) = host::initrd(&tree) {
        assert!(initrd.start < initrd.end);
    }
    let Ok(host) = Host::from_tree(&tree) else {
        return;
    };
    check_host(&host);
    let mut free = host.memory.clone();
    for range in &host.reserved {
        take(&mut free, range);
    }
    for range in &free {
        assert!(range.start < range.end);
        assert!(
            host.reserved
                .iter()
                .all(|reserved| !overlap(range, reserved))
        );
    }
    if let Some(bundle) = &bundle {
        let shares = divide(bundle, &host, free.clone(), |path| {
            host::device(&tree, path)
        });
        if let Ok(shares) = shares {
            check_shares(&shares, bundle, &host, &free);
        }
    }
}

fn check_bundle(bundle: &Bundle<'_>) {
    assert!((1..=MAX_GUESTS).contains(&bundle.guests.len()));
    for guest in &bundle.guests {
        assert!((1..=MAX_HARTS).contains(&guest.harts));
        assert!(guest.memory > 0 && guest.memory.is_multiple_of(1 << 20));
        assert!(!guest.kernel.is_empty());
        if let Some(named) = &guest.host_harts {
            assert_eq!(named.len(), guest.harts as usize);
        }
        assert!(
            guest
                .devices
                .iter()
                .all(|device| device.slot.is_none_or(|slot| slot < VIRTIO_SLOTS))
        );
    }
}

fn check_host(host: &Host) {
    assert!(!host.harts.is_empty() && !host.memory.is_empty());
    assert!(host.harts.is_sorted_by_key(|hart| hart.id));
    let (Interrupts::Plic {
        contexts: places, ..
    }
    | Interrupts::AplicDirect {
        indices: places, ..
    }
    | Interrupts::AplicMessages {
        indices: places, ..
    }) = &host.interrupts;
    assert_eq!(
        places.len(),
        host.harts.len(),
        "a hart without a place at the chip"
    );
}

fn overlap(one: &Range<HostPhysAddr>, other: &Range<HostPhysAddr>) -> bool {
    one.start < other.end && other.start < one.end
}

fn check_shares(shares: &[Share], bundle: &Bundle<'_>, host: &Host, free: &[Range<HostPhysAddr>]) {
    assert_eq!(shares.len(), bundle.guests.len());
    let mut harts: Vec<usize> = Vec::new();
    let mut memory: Vec<Range<HostPhysAddr>> = Vec::new();
    let mut devices = Vec::new();
    for (share, guest) in shares.iter().zip(&bundle.guests) {
        assert_eq!(share.harts.len(), guest.harts as usize);
        for hart in &share.harts {
            assert!(
                *hart < host.harts.len() && !harts.contains(hart),
                "hart {hart} twice"
            );
            harts.push(*hart);
        }
        assert_eq!(share.ram_size, guest.memory);
        let end = share.ram.checked_add(share.ram_size).expect("RAM ends");
        let ram = share.ram..end;
        assert!(
            free.iter()
                .any(|range| range.start <= ram.start && ram.end <= range.end),
            "{ram:x?} is not free"
        );
        assert!(
            memory.iter().all(|other| !overlap(other, &ram)),
            "{ram:x?} is another guest's"
        );
        memory.push(ram);
        if guest.identity {
            assert_eq!(share.ram_base.0, share.ram.0);
        }
        let mut addresses = Vec::new();
        for device in &share.devices {
            let start = device.host.registers.start;
            assert!(!devices.contains(&start), "a device of two guests");
            devices.push(start);
            assert!(
                !addresses.contains(&device.address),
                "two devices at one address"
            );
            addresses.push(device.address);
            assert!(!device.host.is_virtio || guest.identity);
        }
    }
}

/// QEMU's machine with each interrupt chip, and bundles of one guest and of two.
pub fn seeds() -> Vec<Vec<u8>> {
    let bundles = [bundle(false), bundle(true)];
    let hosts = [Chip::Plic, Chip::Aplic, Chip::AplicImsic].map(host);
    let both = |bundle: &Vec<u8>, host: &Vec<u8>| {
        let length = u16::try_from(bundle.len()).expect("it is small");
        [&length.to_le_bytes(), bundle.as_slice(), host].concat()
    };
    bundles
        .iter()
        .flat_map(|bundle| hosts.iter().map(move |host| both(bundle, host)))
        .collect()
}

type Written = Result<(), vm_fdt::Error>;

fn tree(fill: impl FnOnce(&mut FdtWriter) -> Written) -> Vec<u8> {
    let made = FdtWriter::new().and_then(|mut tree| {
        node(&mut tree, "", fill)?;
        tree.finish()
    });
    made.expect("the tree can be written")
}

fn node(tree: &mut FdtWriter, name: &str, fill: impl FnOnce(&mut FdtWriter) -> Written) -> Written {
    let node = tree.begin_node(name)?;
    fill(tree)?;
    tree.end_node(node)
}

fn bundle(two: bool) -> Vec<u8> {
    tree(|tree| {
        tree.property_string("compatible", "hvrun,bundle")?;
        tree.property_null("statistics")?;
        node(tree, "guests", |tree| {
            node(tree, "linux", |tree| {
                tree.property_array_u32("host-harts", &[1])?;
                tree.property_u32("memory", 64)?;
                tree.property_null("identity")?;
                tree.property("kernel", b"kernel")?;
                tree.property("initrd", b"initrd")?;
                tree.property_string("command-line", "quiet")?;
                tree.property_u32("getchar-empty", 0)?;
                node(tree, "devices", |tree| {
                    node(tree, "disk", |tree| {
                        tree.property_string("host", "/soc/virtio_mmio@10001000")?;
                        tree.property_u32("slot", 7)
                    })?;
                    node(tree, "uart", |tree| {
                        tree.property_string("host", "/soc/serial@10000000")
                    })
                })
            })?;
            if !two {
                return Ok(());
            }
            node(tree, "other", |tree| {
                tree.property_u32("harts", 1)?;
                tree.property_u32("memory", 32)?;
                tree.property("kernel", b"kernel")?;
                tree.property("device-tree", b"tree")
            })
        })
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chip {
    Plic,
    Aplic,
    AplicImsic,
}

fn host(chip: Chip) -> Vec<u8> {
    tree(|tree| {
        tree.property_u32("#address-cells", 2)?;
        node(tree, "chosen", |tree| {
            tree.property_string("stdout-path", "/soc/serial@10000000:115200")?;
            tree.property_u64("linux,initrd-start", 0x8400_0000)?;
            tree.property_u64("linux,initrd-end", 0x8410_0000)?;
            tree.property("rng-seed", &[7; 32])
        })?;
        node(tree, "memory@80000000", |tree| {
            tree.property_string("device_type", "memory")?;
            tree.property_array_u64("reg", &[0x8000_0000, 0x4000_0000])
        })?;
        node(tree, "reserved-memory", |tree| {
            node(tree, "mmode_resv0@80000000", |tree| {
                tree.property_array_u64("reg", &[0x8000_0000, 0x6_0000])
            })
        })?;
        node(tree, "cpus", |tree| {
            tree.property_u32("timebase-frequency", 10_000_000)?;
            (0..2).try_for_each(|hart| cpu(tree, hart))
        })?;
        node(tree, "soc", |tree| soc(tree, chip))
    })
}

fn cpu(tree: &mut FdtWriter, hart: u32) -> Written {
    node(tree, &format!("cpu@{hart}"), |tree| {
        tree.property_string("device_type", "cpu")?;
        tree.property_u32("reg", hart)?;
        tree.property_string("riscv,isa", "rv64imafdch_sstc")?;
        tree.property_string("mmu-type", "riscv,sv57")?;
        node(tree, "interrupt-controller", |tree| {
            tree.property_phandle(hart + 1)
        })
    })
}

fn soc(tree: &mut FdtWriter, chip: Chip) -> Written {
    const IMSIC: u32 = 9;
    let targets = [1, 9, 2, 9];
    node(tree, "serial@10000000", |tree| {
        tree.property_string("compatible", "ns16550a")?;
        tree.property_array_u64("reg", &[0x1000_0000, 0x100])?;
        tree.property_u32("interrupts", 10)
    })?;
    node(tree, "virtio_mmio@10001000", |tree| {
        tree.property_string("compatible", "virtio,mmio")?;
        tree.property_array_u64("reg", &[0x1000_1000, 0x1000])?;
        tree.property_u32("interrupts", 1)
    })?;
    for (name, compatible, at) in [
        ("test", "sifive,test0", 0x10_0000),
        ("rtc", "google,goldfish-rtc", 0x10_1000),
    ] {
        node(tree, name, |tree| {
            tree.property_string("compatible", compatible)?;
            tree.property_array_u64("reg", &[at, 0x1000])
        })?;
    }
    node(tree, "chip", |tree| {
        tree.property_array_u64("reg", &[0xc00_0000, 0x60_0000])?;
        let (compatible, sources) = match chip {
            Chip::Plic => ("riscv,plic0", "riscv,ndev"),
            _ => ("riscv,aplic", "riscv,num-sources"),
        };
        tree.property_string("compatible", compatible)?;
        tree.property_u32(sources, 95)?;
        if chip == Chip::AplicImsic {
            tree.property_u32("msi-parent", IMSIC)
        } else {
            tree.property_array_u32("interrupts-extended", &targets)
        }
    })?;
    if chip != Chip::AplicImsic {
        return Ok(());
    }
    node(tree, "imsics", |tree| {
        tree.property_phandle(IMSIC)?;
        tree.property_string("compatible", "riscv,imsics")?;
        tree.property_u32("riscv,num-ids", 255)?;
        tree.property_array_u64("reg", &[0x2800_0000, 0x4000])?;
        tree.property_array_u32("interrupts-extended", &targets)
    })
}
