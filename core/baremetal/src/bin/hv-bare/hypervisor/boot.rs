//! From the firmware to the first guest.
//!
//! The firmware enters at a fixed address, with what QEMU was given as initial RAM disk, the bundle, and the device tree
//! somewhere in memory. Guests that own a device with DMA want just that memory, so the program first moves out of the way,
//! to the top of memory, with both of them below it:
//!
//! ```text
//!   | firmware |            for guests            | bundle | device tree | program, heap |
//!   start of RAM                                                                 end of RAM
//! ```

use core::arch::global_asm;
use core::ops::Range;
use core::ptr;
use core::slice;

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use dtoolkit::Node;
use dtoolkit::fdt::Fdt;
use hv_bare::bundle::Bundle;
use hv_bare::entropy::Entropy;
use hv_bare::gstage::Mode;
use hv_bare::host::{self, Host};
use hv_bare::partition;
use hv_bare::tree;
use hv_core::addr::HostPhysAddr;
use hv_core::placement::FreeMemory;
use spin::Mutex;

use super::clock::Clock;
use super::csr::{self, number, word};
use super::guest::{self, Guest};
use super::hart::Vhart;
use super::interrupts::Chip;
use super::state::{self, State};
use super::{console, firmware, guests, heap, power, run};

/// Bytes of stack of each hart.
const STACK: usize = 32 << 10;

/// Bytes to which the program's place is aligned.
const MEGAPAGE: u64 = 2 << 20;

/// The largest device tree that a firmware may have.
const MAX_TREE: usize = 256 << 10;

// The firmware enters at `_start` with the hart's id in a0 and the device tree's address in a1, interrupts disabled and
// translation off. The program enters itself again at `entry_when_moved`, with the place and the size of the bundle besides.
// Wherever it is, it puts its own addresses right first: nothing but these instructions runs before that.
global_asm!(
    r#"
    .pushsection .text.entry, "ax"
    .globl _start
_start:
    li a2, 0
    li a3, 0
    .globl entry_when_moved
entry_when_moved:
    csrw sie, zero
    csrw satp, zero
    lla t2, image_start
    li t0, {link_address}
    sub t2, t2, t0
    lla t0, rela_start
    lla t1, rela_end
1:  bgeu t0, t1, 2f
    ld t3, 0(t0)
    ld t4, 16(t0)
    add t3, t3, t2
    add t4, t4, t2
    sd t4, 0(t3)
    addi t0, t0, 24
    j 1b
2:  lla t0, bss_start
    lla t1, bss_end
3:  bgeu t0, t1, 4f
    sd zero, 0(t0)
    addi t0, t0, 8
    j 3b
4:  fence.i
    lla sp, {stack}
    li t0, {size}
    add sp, sp, t0
    mv ra, zero
    tail {begin}

    # Another hart: its id in a0, the top of its stack in a1, which a Start is on.
    .globl entry_of_others
entry_of_others:
    csrw sie, zero
    csrw satp, zero
    mv sp, a1
    mv ra, zero
    tail {others}
    .popsection
    "#,
    link_address = const LINK_ADDRESS,
    stack = sym BOOT_STACK,
    size = const STACK,
    begin = sym begin,
    others = sym begin_other,
);

/// Where the program is linked to (hv-bare.ld).
const LINK_ADDRESS: u64 = 0x8020_0000;

unsafe extern "C" {
    safe fn entry_when_moved();
    safe fn entry_of_others();
    static image_start: u8;
    static image_end: u8;
    static bss_end: u8;
}

#[repr(C, align(16))]
struct Stack([u8; STACK]);

static mut BOOT_STACK: Stack = Stack([0; STACK]);

extern "C" fn begin(hart: u64, tree: *const u8, bundle: *const u8, bundle_size: usize) -> ! {
    // SAFETY: the firmware, or `move_up`, has put a device tree there, and nothing else writes there.
    let blob = unsafe { tree_at(tree) };
    let tree = match Fdt::new(blob) {
        Ok(tree) => tree,
        Err(error) => power::give_up(&format_args!(
            "the firmware's device tree cannot be read: {error}"
        )),
    };
    if let Some(test) = tree.root().child("soc").and_then(|soc| {
        let test = soc
            .children()
            .find(|node| tree::is_compatible(node, &["sifive,test0"]))?;
        tree::ranges(&test).next()
    }) {
        // SAFETY: the firmware's device tree says so.
        unsafe { power::use_test_device(test.start) };
    }
    if bundle.is_null() {
        move_up(hart, &tree, blob);
    }
    // SAFETY: `move_up` has put it there, and nothing writes there.
    let bundle = unsafe { slice::from_raw_parts(bundle, bundle_size) };
    // SAFETY: this is the one place, and only the boot hart gets here, once.
    unsafe { heap::initialize() };
    // What the program has to itself: everything from the bundle to its own end.
    let own = HostPhysAddr(bundle.as_ptr() as u64)..HostPhysAddr(own_image().end);
    start(hart, &tree, bundle, own)
}

/// The device tree at an address that the firmware gave.
///
/// # Safety
/// There is one, and nothing writes there.
unsafe fn tree_at(tree: *const u8) -> &'static [u8] {
    // SAFETY: the caller's; a header is 40 bytes (Devicetree Specification 0.4, section 5.2).
    let header = unsafe { slice::from_raw_parts(tree, 8) };
    let size = match header {
        [0xd0, 0x0d, 0xfe, 0xed, size @ ..] => size
            .iter()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte)),
        _ => 0,
    };
    if !(40..=MAX_TREE).contains(&size) {
        power::give_up(&"the firmware gives no device tree, or one that is too large");
    }
    // SAFETY: the caller's.
    unsafe { slice::from_raw_parts(tree, size) }
}

/// Where the program is, with everything that it writes to.
fn own_image() -> Range<u64> {
    (&raw const image_start) as u64..(&raw const bss_end) as u64
}

/// Moves the program, the device tree and the bundle to the top of memory, and goes on there.
fn move_up(hart: u64, tree: &Fdt<'_>, blob: &[u8]) -> ! {
    static mut TREE: [u8; MAX_TREE] = [0; MAX_TREE];
    let Some(bundle) = host::initrd(tree) else {
        power::give_up(&"there is no bundle of guests; give QEMU one with -initrd");
    };
    let own = own_image();
    let memory = tree
        .root()
        .children()
        .filter(|node| tree::string(node, "device_type") == Some("memory"))
        .find_map(|node| {
            tree::ranges(&node).find(|range| range.start.0 <= own.start && own.end <= range.end.0)
        });
    let Some(memory) = memory else {
        power::give_up(
            &"the program is not in the memory that the firmware's device tree tells of",
        );
    };
    let bundle_size = bundle.end.0.saturating_sub(bundle.start.0);
    let size = own.end.saturating_sub(own.start);
    let place = || {
        let mut free = FreeMemory::behind(&(memory.start.0..memory.end.0), &own);
        let image = free.take_aligned(size, MEGAPAGE)?;
        let tree = free.take(blob.len() as u64)?;
        let bundle = free.take(bundle_size)?;
        Some((image.start, tree.start, bundle.start))
    };
    let Some((image, tree, moved)) = place() else {
        power::give_up(&"the machine has too little memory for the bundle");
    };
    // SAFETY: the device tree says that all of this is memory, and the checks above that the program itself is not
    // overwritten. The tree is copied first, to a place within the program, and the bundle before what may lie on it.
    unsafe {
        let kept = (&raw mut TREE).cast::<u8>();
        ptr::copy_nonoverlapping(blob.as_ptr(), kept, blob.len());
        ptr::copy(
            bundle.start.0 as *const u8,
            moved as *mut u8,
            word(bundle_size),
        );
        ptr::copy_nonoverlapping(kept, tree as *mut u8, blob.len());
        // The firmware's seed is in it. What else is left here, and at the firmware's own place, is zeroed where it becomes a
        // guest's memory.
        ptr::write_bytes(kept, 0, blob.len());
        let used = ((&raw const image_end) as u64).saturating_sub(own.start);
        ptr::copy_nonoverlapping(own.start as *const u8, image as *mut u8, word(used));
        // What is left of the bundle at its old place would be in some guest's memory, which it may not concern.
        let old = bundle.start.0..bundle.end.0.min(moved);
        if old.start < old.end {
            ptr::write_bytes(old.start as *mut u8, 0, word(old.end - old.start));
        }
    }
    csr::fence_i();
    let entry = (entry_when_moved as *const () as u64)
        .wrapping_sub(own.start)
        .wrapping_add(image);
    // SAFETY: the program is there as it was linked, but for its addresses, which it puts right itself.
    let entry: extern "C" fn(u64, u64, u64, u64) -> ! = unsafe { core::mem::transmute(entry) };
    entry(hart, tree, moved, bundle_size)
}

/// Makes the guests and becomes one of their harts.
fn start(hart: u64, tree: &Fdt<'static>, bundle: &'static [u8], own: Range<HostPhysAddr>) -> ! {
    let mut host = Host::from_tree(tree).unwrap_or_else(|error| power::give_up(&error));
    let bundle = Bundle::parse(bundle).unwrap_or_else(|error| power::give_up(&error));
    let mut free = host.memory.clone();
    for taken in host.reserved.iter().chain([&own]) {
        partition::take(&mut free, taken);
    }
    let shares = partition::divide(&bundle, &host, free, |path| host::device(tree, path))
        .unwrap_or_else(|error| power::give_up(&error));
    let Some(first) = host.harts.first() else {
        power::give_up(&"the host has no harts");
    };
    if !host.harts.iter().all(|hart| hart.hart.isa.contains("h")) {
        power::give_up(&"the host's harts have no H extension; QEMU has it with -cpu rv64,h=true");
    }
    let Some(mode) = Mode::ALL.into_iter().find(|mode| has_mode(*mode)) else {
        power::give_up(&"the host's harts have no second-stage translation");
    };
    let features = guest::features(&first.hart, firmware::update_page_table_bits());
    let boot_place = host
        .harts
        .iter()
        .position(|host| host.id == hart)
        .unwrap_or(0);

    let names: Vec<&str> = bundle.guests.iter().map(|guest| guest.name).collect();
    let is_given = shares
        .iter()
        .any(|share| share.devices.iter().any(|device| device.host.is_serial));
    let port = host.serial.as_ref().filter(|_| !is_given);
    console::start(port, &names);
    let port_irq = port.and_then(|port| port.irq);

    let chip = Chip::new(&host);
    let entropy = Entropy::new(&mut host.seed);
    let state = state::initialize(State {
        entropy: Mutex::new(entropy),
        chip,
        clock: Clock::new(host.timebase_frequency, host.rtc),
        host,
        prints_statistics: bundle.statistics,
    });
    let mut guests = Vec::new();
    for (index, (files, share)) in bundle.guests.into_iter().zip(shares).enumerate() {
        let name = files.name;
        match Guest::new(index, files, share, features.clone(), mode, &state.host) {
            Ok(guest) => guests.push(guest),
            Err(error) => power::give_up(&format_args!("guest {name}: {error}")),
        }
    }
    if let Some(irq) = port_irq {
        state.chip.route(irq, boot_place);
    }
    let guests = guests::initialize(guests);
    announce(guests);
    let mut mine = None;
    for guest in guests {
        for (id, link) in (0..).zip(&guest.harts) {
            let hart = Vhart::new(guest, id, link).unwrap_or_else(|error| {
                power::give_up(&format_args!("guest {}: {error}", guest.name))
            });
            if link.place == boot_place {
                mine = Some(hart);
            } else {
                start_hart(link.host_hart, hart);
            }
        }
    }
    for guest in guests {
        if let Err(error) = guest.start(state.seed(guest.index)) {
            power::give_up(&format_args!("guest {}: {error}", guest.name));
        }
    }
    match mine {
        Some(mine) => run::run(mine),
        None => run::idle(boot_place),
    }
}

fn announce(guests: &[Guest]) {
    for guest in guests {
        let harts: Vec<_> = guest
            .harts
            .iter()
            .map(|link| link.host_hart.to_string())
            .collect();
        let range = guest.memory.range();
        console::message(format_args!(
            "guest {}: host harts {}, {} MiB at {:#x}",
            guest.name,
            harts.join(" "),
            range.end.saturating_sub(range.start) >> 20,
            range.start,
        ));
    }
}

/// Whether this hart has this mode of second-stage translation: what it does not have, hgatp does not take (privileged
/// specification, section 21.2.10).
fn has_mode(mode: Mode) -> bool {
    const MODE_SHIFT: u32 = 60;
    let value = (mode as u64) << MODE_SHIFT;
    // SAFETY: no guest runs, and hgatp concerns nothing but guests.
    unsafe {
        csr::write::<{ number::HGATP }>(value);
        let taken = csr::read::<{ number::HGATP }>() == value;
        csr::write::<{ number::HGATP }>(0);
        taken
    }
}

/// What lies at the top of a starting hart's stack.
struct Start {
    hart: Vhart,
}

/// Starts a hart of the host, which becomes one of a guest.
fn start_hart(id: u64, hart: Vhart) {
    let stack = Box::leak(vec![0_u128; STACK / size_of::<u128>()].into_boxed_slice());
    let start = Box::into_raw(Box::new(Start { hart }));
    let Some(top) = stack.last_mut() else {
        return;
    };
    *top = start as u128;
    let entry = entry_of_others as *const () as usize;
    if !firmware::start_hart(id, entry, ptr::from_mut(top) as usize) {
        power::give_up(&format_args!(
            "the firmware does not start the host's hart {id}"
        ));
    }
}

extern "C" fn begin_other(_: u64, top: *const u128) -> ! {
    // SAFETY: `start_hart` has put the address of a boxed value there, for this hart alone.
    let start = unsafe { Box::from_raw(top.read() as usize as *mut Start) };
    let Start { hart } = *start;
    run::run(hart)
}
