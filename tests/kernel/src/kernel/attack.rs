//! What this guest was not given: memory, devices and registers of the hypervisor and of other guests. Everything here is
//! answered by an exception, as on a machine that has none of it.

use core::arch::asm;

use super::csr::{
    ILLEGAL_INSTRUCTION, INSTRUCTION_ACCESS_FAULT, LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT,
};
use super::machine::Machine;
use super::report::Outcome;
use super::trap::{Exception, attempt};
use super::virtio::transport::{DEVICE_ID, Slot};
use super::{boot, mmio, sbi};

tests! { TESTS:
    "attack-what-was-in-memory" => what_was,
    "attack-loads" => loads,
    "attack-stores" => stores,
    "attack-atomics" => atomics,
    "attack-fetches" => fetches,
    "attack-across-the-end-of-memory" => across_end,
    "attack-page-table-elsewhere" => page_table_elsewhere,
    "attack-hypervisor-csrs" => hypervisor_csrs,
    "attack-machine-csrs" => machine_csrs,
    "attack-hypervisor-instructions" => hypervisor_instructions,
    "attack-harts-of-others" => harts_of_others,
    "attack-memory-by-sbi" => memory_by_sbi,
    "attack-devices-of-others" => devices_of_others,
}

/// What QEMU's board has where the guest's has nothing: its ROM, the CLINT, the platform bus, fw_cfg, the flash, the
/// IMSICs of both levels, PCI's configuration space and windows.
const DEVICES: [usize; 12] = [
    0x1000,
    0x200_0000,
    0x200_4000,
    0x200_bff8,
    0x400_0000,
    0x1010_0000,
    0x2000_0000,
    0x2400_0000,
    0x2800_0000,
    0x3000_0000,
    0x4000_0000,
    0x4_0000_0000,
];

/// RAM as a host has it, up to 8 GiB, in steps that meet everything of a few MiB; and what is next to this guest's own.
fn foreign_memory(machine: &Machine) -> impl Iterator<Item = usize> {
    const STEP: usize = 2 << 20;
    const END: usize = 0x2_8000_0000;
    const PAGE: usize = 4096;
    let own = machine.ram_start..machine.ram_end;
    // Closely for the first 2 GiB, in which hosts of tests have all of their RAM.
    let near = (0x8000_0000..0x1_0000_0000).step_by(STEP);
    let far = (0x1_0000_0000..END).step_by(64 * STEP);
    let edges = [
        machine.ram_start.wrapping_sub(8),
        machine.ram_start.wrapping_sub(PAGE),
        machine.ram_end,
        machine.ram_end + PAGE,
        // The last address of 41, 50 and 56 bits.
        (1 << 41) - 8,
        (1 << 50) - 8,
        (1 << 56) - 8,
    ];
    near.chain(far)
        .chain(edges)
        .filter(move |address| !own.contains(address))
}

/// All of it.
fn foreign(machine: &Machine) -> impl Iterator<Item = usize> {
    DEVICES.into_iter().chain(foreign_memory(machine))
}

fn expect<T>(result: Result<T, Exception>, cause: usize, address: usize, what: &str) -> Outcome {
    match result {
        Err(exception) if exception.cause == cause => {
            check_eq!(exception.value, address, "stval after {what} {address:#x}");
            Ok(())
        }
        Err(exception) => fail!(
            "{what} {address:#x} traps with cause {}, not {cause}",
            exception.cause
        ),
        Ok(_) => fail!("{what} {address:#x} is done"),
    }
}

/// Memory has nothing but this kernel and the device tree: what others left there, such as the firmware's seed, is not for a guest
/// to find. It comes before anything else writes there.
fn what_was(machine: &Machine) -> Outcome {
    let (kernel, tree) = (boot::image(), &machine.tree_range);
    for address in (machine.ram_start..machine.ram_end).step_by(8) {
        if kernel.contains(&address) || tree.contains(&address) {
            continue;
        }
        let found = mmio::read64(address);
        check_eq!(found, 0, "what is at {address:#x}");
    }
    Ok(())
}

fn loads(machine: &Machine) -> Outcome {
    for address in foreign(machine) {
        let results = [
            attempt(|| mmio::read8(address)).map(|_| ()),
            attempt(|| mmio::read16(address)).map(|_| ()),
            attempt(|| mmio::read32(address)).map(|_| ()),
            attempt(|| mmio::read64(address)).map(|_| ()),
        ];
        for result in results {
            expect(result, LOAD_ACCESS_FAULT, address, "a load from")?;
        }
    }
    Ok(())
}

fn stores(machine: &Machine) -> Outcome {
    for address in foreign(machine) {
        let results = [
            attempt(|| mmio::write8(address, 0x66)),
            attempt(|| mmio::write16(address, 0x66)),
            attempt(|| mmio::write32(address, 0x66)),
            attempt(|| mmio::write64(address, 0x66)),
        ];
        for result in results {
            expect(result, STORE_ACCESS_FAULT, address, "a store to")?;
        }
    }
    Ok(())
}

/// AMOs are stores, whatever they read; a load-reserved is a load (Privileged Architecture, table "Supervisor cause register
/// values after trap").
fn atomics(machine: &Machine) -> Outcome {
    for address in foreign(machine).filter(|address| address.is_multiple_of(8)) {
        let add = attempt(|| {
            // SAFETY: no memory of Rust's is there; it traps.
            unsafe {
                asm!("amoadd.d {}, {}, ({})", out(reg) _, in(reg) 1, in(reg) address, options(nostack))
            };
        });
        expect(add, STORE_ACCESS_FAULT, address, "an AMO on")?;
        let reserve = attempt(|| {
            // SAFETY: as above.
            unsafe { asm!("lr.d {}, ({})", out(reg) _, in(reg) address, options(nostack)) };
        });
        expect(reserve, LOAD_ACCESS_FAULT, address, "a load-reserved from")?;
    }
    Ok(())
}

/// A jump there. The trap is at the target, which cannot be passed over, so the handler of this test goes back.
fn fetches(machine: &Machine) -> Outcome {
    for address in foreign(machine).filter(|address| address.is_multiple_of(4)) {
        let (cause, value, pc): (usize, usize, usize);
        // SAFETY: the trap vector is back before anything else can trap, interrupts being disabled; nothing of what Rust
        // knows is touched but the registers named.
        unsafe {
            asm!(
                "la {vector}, 2f",
                "csrrw {vector}, stvec, {vector}",
                "jr {target}",
                ".balign 4",
                "2: csrw stvec, {vector}",
                "csrr {cause}, scause",
                "csrr {value}, stval",
                "csrr {pc}, sepc",
                vector = out(reg) _,
                target = in(reg) address,
                cause = out(reg) cause,
                value = out(reg) value,
                pc = out(reg) pc,
                options(nostack),
            );
        }
        let exception = Err::<(), _>(Exception { cause, value });
        expect(exception, INSTRUCTION_ACCESS_FAULT, address, "a fetch from")?;
        check_eq!(pc, address, "sepc");
    }
    Ok(())
}

/// Half of the access is this guest's.
fn across_end(machine: &Machine) -> Outcome {
    let address = machine.ram_end - 4;
    mmio::write32(address, 0x1234_5678);
    let load = attempt(|| mmio::read64(address)).map(|_| ());
    check!(
        load.is_err_and(|exception| [4, LOAD_ACCESS_FAULT].contains(&exception.cause)),
        "a load across the end of memory: {load:?}"
    );
    let store = attempt(|| mmio::write64(address, u64::MAX));
    check!(
        store.is_err_and(|exception| [6, STORE_ACCESS_FAULT].contains(&exception.cause)),
        "a store across the end of memory: {store:?}"
    );
    Ok(())
}

/// The root of a page table of three levels, with leaves of 1 GiB for all that this kernel uses.
#[repr(C, align(4096))]
struct Root([u64; 512]);

static mut ROOT: Root = Root([0; 512]);

/// The walk of a page table that is not this guest's: an access fault of the access that is translated.
fn page_table_elsewhere(machine: &Machine) -> Outcome {
    const SV39: usize = 8 << 60;
    const VALID: u64 = 1;
    const LEAF: u64 = 0b1100_1111;
    /// The gigabyte of virtual addresses that is translated by the foreign table.
    const INDEX: usize = 200;
    let root = (&raw mut ROOT).cast::<u64>();
    let page_number = |address: usize| (address >> 12 << 10) as u64;
    for gigabyte in 0..4 {
        // SAFETY: this kernel alone uses the table, which is large enough, and translation is off.
        unsafe {
            root.add(gigabyte)
                .write_volatile(page_number(gigabyte << 30) | LEAF)
        };
    }
    let outside = foreign_memory(machine).filter(|address| address.is_multiple_of(4096));
    for table in outside.take(100).chain(DEVICES) {
        let table = table & !0xfff;
        // SAFETY: as above.
        unsafe { root.add(INDEX).write_volatile(page_number(table) | VALID) };
        let address = (INDEX << 30) + 0x1238;
        let satp = SV39 | root as usize >> 12;
        // SAFETY: the table maps the lower part of the address space to itself, the kernel included.
        unsafe { asm!("csrw satp, {}", "sfence.vma", in(reg) satp, options(nostack)) };
        let load = attempt(|| mmio::read64(address)).map(|_| ());
        let store = attempt(|| mmio::write64(address, 1));
        // SAFETY: back to what was before.
        unsafe { asm!("csrw satp, zero", "sfence.vma", options(nostack)) };
        expect(
            load,
            LOAD_ACCESS_FAULT,
            address,
            "a load by a foreign table from",
        )?;
        expect(
            store,
            STORE_ACCESS_FAULT,
            address,
            "a store by a foreign table to",
        )?;
    }
    Ok(())
}

fn expect_illegal(result: Result<(), Exception>, what: &str) -> Outcome {
    match result {
        Err(exception) if exception.cause == ILLEGAL_INSTRUCTION => Ok(()),
        Err(exception) => fail!("{what} traps with cause {}", exception.cause),
        Ok(()) => fail!("{what} is done"),
    }
}

/// An instruction that this guest must not execute.
macro_rules! illegal {
    ($what:expr, $($instruction:tt)*) => {{
        let result = attempt(|| {
            // SAFETY: it traps. If it does not, the machine is broken, and this kernel with it.
            unsafe { asm!($($instruction)*, inout("a0") 0_usize => _, inout("a1") 0x8000_0000_usize => _, options(nostack)) };
        });
        expect_illegal(result, $what)?;
    }};
}

/// Reads and writes of CSRs, by their numbers.
macro_rules! illegal_csrs {
    ($($csr:literal)*) => {
        $(
            illegal!(concat!("reading CSR ", $csr), concat!("csrr a0, ", $csr));
            illegal!(concat!("writing CSR ", $csr), concat!("csrw ", $csr, ", a0"));
            illegal!(concat!("setting bits of CSR ", $csr), concat!("csrsi ", $csr, ", 1"));
        )*
    };
}

/// Privileged Architecture, tables "Currently allocated RISC-V hypervisor and VS CSR addresses".
fn hypervisor_csrs(machine: &Machine) -> Outcome {
    if machine.has_extension("h") {
        skip!("the harts have the H extension");
    }
    // hstatus, hedeleg, hideleg, hie, hcounteren, hgeie; htval, hip, hvip, htinst, hgeip; henvcfg, hgatp, hcontext, htimedelta,
    // hstateen0.
    illegal_csrs!("0x600" "0x602" "0x603" "0x604" "0x606" "0x607");
    illegal_csrs!("0x643" "0x644" "0x645" "0x64a" "0xe12");
    illegal_csrs!("0x60a" "0x680" "0x6a8" "0x605" "0x60c");
    // vsstatus, vsie, vstvec, vsscratch, vsepc, vscause, vstval, vsip, vsatp, vstimecmp.
    illegal_csrs!("0x200" "0x204" "0x205" "0x240" "0x241" "0x242" "0x243" "0x244" "0x280" "0x24d");
    // hvien, hvictl, hviprio1, vsiselect, vsireg, vstopei, vstopi (AIA).
    illegal_csrs!("0x608" "0x609" "0x646" "0x250" "0x251" "0x25c" "0xeb0");
    Ok(())
}

fn machine_csrs(_: &Machine) -> Outcome {
    // mstatus, medeleg, mideleg, mie, mtvec, mepc, mip; menvcfg, mseccfg; pmpcfg0, pmpaddr0; mhartid.
    illegal_csrs!("0x300" "0x302" "0x303" "0x304" "0x305" "0x341" "0x344");
    illegal_csrs!("0x30a" "0x747" "0x3a0" "0x3b0" "0xf14");
    Ok(())
}

fn hypervisor_instructions(machine: &Machine) -> Outcome {
    if machine.has_extension("h") {
        skip!("the harts have the H extension");
    }
    illegal!("mret", "mret");
    illegal!("hfence.vvma", ".4byte 0x22000073");
    illegal!("hfence.gvma", ".4byte 0x62000073");
    illegal!("hinval.vvma", ".4byte 0x26000073");
    illegal!("hinval.gvma", ".4byte 0x66000073");
    // a0 from or to the address in a1.
    illegal!("hlv.b", ".4byte 0x6005c573");
    illegal!("hlv.d", ".4byte 0x6c05c573");
    illegal!("hlvx.hu", ".4byte 0x6435c573");
    illegal!("hlvx.wu", ".4byte 0x6835c573");
    illegal!("hsv.b", ".4byte 0x62a5c073");
    illegal!("hsv.d", ".4byte 0x6ea5c073");
    // OpenSBI complains about some of these on the same serial port, without an end of the line.
    println!("#");
    Ok(())
}

/// Harts beyond this guest's own, which the host has, are none.
fn harts_of_others(machine: &Machine) -> Outcome {
    let own = machine.harts.len();
    for hart in own..own + 16 {
        let start = sbi::hsm::start(hart, machine.ram_start, 0);
        check!(start.error != 0, "hart {hart} is started");
        let status = sbi::hsm::status(hart);
        check!(status.error != 0, "hart {hart} has a status");
        let ipi = sbi::ipi::send(1 << hart, 0);
        check!(ipi.error != 0, "hart {hart} gets an interrupt");
    }
    // Nor is any code elsewhere.
    if own > 1 {
        for address in foreign_memory(machine).take(100) {
            let start = sbi::hsm::start(machine.harts[1], address, 0);
            check!(start.error != 0, "a hart is started at {address:#x}");
        }
    }
    Ok(())
}

/// The debug console neither tells nor takes what is elsewhere.
fn memory_by_sbi(machine: &Machine) -> Outcome {
    const DBCN: usize = 0x4442_434e;
    for address in foreign(machine) {
        for function in [0, 1] {
            let answer = sbi::call(DBCN, function, &[8, address, 0]);
            check_eq!(
                answer.error,
                sbi::ERR_INVALID_PARAM,
                "the answer for memory at {address:#x}"
            );
        }
        let answer = sbi::call(DBCN, 0, &[1 << 20, machine.ram_end - 4096, 0]);
        check_eq!(
            answer.error,
            sbi::ERR_INVALID_PARAM,
            "the answer for too much"
        );
    }
    Ok(())
}

/// There is a device in no slot but where this guest was given one, which its command line says: `slots=NUMBER`.
fn devices_of_others(machine: &Machine) -> Outcome {
    let given: u32 = match machine.argument("slots").map(str::parse) {
        Some(Ok(given)) => given,
        _ => 0,
    };
    let mut found = 0;
    for device in &machine.virtio {
        let slot = Slot::new(device.base)?;
        if slot.read(DEVICE_ID) != 0 {
            found += 1;
        }
    }
    check_eq!(found, given, "the number of virtio devices");
    Ok(())
}
