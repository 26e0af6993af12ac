use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const MEGAPAGE: u64 = 2 << 20;
const GIGAPAGE: u64 = 1 << 30;

/// Where the tables are put: above everything that is mapped.
const TABLES: u64 = 0x40_0000_0000;

/// Memory for so many pages of tables.
#[derive(Debug)]
struct Memory {
    pages_left: u64,
    entries: Vec<u64>,
}

impl Memory {
    fn new(pages: u64) -> Self {
        Self {
            pages_left: pages,
            entries: vec![],
        }
    }

    fn index(address: HostPhysAddr) -> usize {
        let offset = address.checked_offset_from(HostPhysAddr(TABLES)).unwrap();
        assert!(offset.is_multiple_of(8), "{address:?}");
        usize::try_from(offset / 8).unwrap()
    }
}

impl Tables for Memory {
    fn allocate(&mut self, pages: u64) -> Option<HostPhysAddr> {
        self.pages_left = self.pages_left.checked_sub(pages)?;
        let size = usize::try_from(pages * PAGE / 8).unwrap();
        let start = self.entries.len().next_multiple_of(size);
        self.entries.resize(start + size, 0);
        Some(HostPhysAddr(TABLES + start as u64 * 8))
    }

    fn read(&self, address: HostPhysAddr) -> u64 {
        self.entries[Self::index(address)]
    }

    fn write(&mut self, address: HostPhysAddr, entry: u64) {
        self.entries[Self::index(address)] = entry;
    }
}

fn empty(mode: Mode) -> GStage<Memory> {
    GStage::new(mode, Memory::new(4096)).unwrap()
}

/// A page that the hardware finds.
#[derive(Debug, PartialEq, Eq)]
struct Leaf {
    host: u64,
    size: u64,
    flags: u64,
}

/// What the hardware does with an address (privileged specification, section 12.3.2, "Virtual Address Translation
/// Process", with the changes of section 21.5.1), and nothing of what is under test but the entries in memory.
fn walk(tables: &GStage<Memory>, address: u64) -> Option<Leaf> {
    let hgatp = tables.hgatp(0);
    let levels = match hgatp >> 60 {
        8 => 3,
        9 => 4,
        10 => 5,
        mode => panic!("mode {mode}"),
    };
    if address >> (12 + 9 * levels + 2) != 0 {
        return None;
    }
    let mut table = (hgatp & ((1 << 44) - 1)) * PAGE;
    for level in (0..levels).rev() {
        let shift = 12 + 9 * level;
        let bits = if level == levels - 1 { 11 } else { 9 };
        let index = (address >> shift) & ((1 << bits) - 1);
        let entry = tables.tables.read(HostPhysAddr(table + index * 8));
        if entry & 1 == 0 {
            assert_eq!(entry, 0);
            return None;
        }
        assert_eq!(entry >> 54, 0, "reserved bits, PBMT and N: {entry:#x}");
        let target = (entry >> 10) * PAGE;
        let flags = entry & 0x3ff;
        if flags & 0b1110 == 0 {
            assert_eq!(flags, 1, "bits that a pointer may not have: {entry:#x}");
            table = target;
            continue;
        }
        let size = 1 << shift;
        assert!(target.is_multiple_of(size), "a misaligned superpage");
        return Some(Leaf {
            host: target + address % size,
            size,
            flags,
        });
    }
    panic!("a pointer in a table of the last level");
}

/// Both the hardware and `translate`, which have to agree.
fn found(tables: &GStage<Memory>, address: u64) -> Option<u64> {
    let host = walk(tables, address).map(|leaf| leaf.host);
    assert_eq!(
        tables.translate(GuestPhysAddr(address)).map(|host| host.0),
        host
    );
    host
}

fn map(tables: &mut GStage<Memory>, guest: u64, host: u64, size: u64) -> Result<(), Error> {
    tables.map(
        GuestPhysAddr(guest),
        HostPhysAddr(host),
        size,
        Permissions::Memory,
    )
}

#[test]
fn tables_begin_empty() {
    for mode in Mode::ALL {
        let tables = empty(mode);
        for address in [0, 0x8000_0000, mode.limit() - 1, mode.limit(), u64::MAX] {
            assert_eq!(found(&tables, address), None);
        }
    }
}

/// Section 21.2.10: MODE in bits 63 to 60, VMID in 57 to 44, the root's page number below, of which the last two bits are zero.
#[test]
fn hgatp_has_mode_vmid_and_root() {
    for (mode, number) in Mode::ALL.into_iter().zip([8, 9, 10]) {
        let tables = empty(mode);
        for vmid in [0, 1, 0x3fff] {
            let hgatp = tables.hgatp(vmid);
            assert_eq!(hgatp >> 60, number);
            assert_eq!(hgatp >> 58 & 0b11, 0);
            assert_eq!(hgatp >> 44 & 0x3fff, vmid.into());
            assert_eq!(hgatp & ((1 << 44) - 1), TABLES / PAGE);
            assert_eq!(hgatp & 0b11, 0);
        }
        // What does not fit into the field changes nothing else.
        assert_eq!(tables.hgatp(0xffff), tables.hgatp(0x3fff));
    }
}

#[test]
fn the_largest_pages_that_fit_are_used() {
    for mode in Mode::ALL {
        let mut tables = empty(mode);
        let size = GIGAPAGE + MEGAPAGE + PAGE;
        map(&mut tables, 0x8000_0000, 0x1_0000_0000, size).unwrap();
        for (offset, page) in [
            (0, GIGAPAGE),
            (GIGAPAGE, MEGAPAGE),
            (GIGAPAGE + MEGAPAGE, PAGE),
        ] {
            let first = walk(&tables, 0x8000_0000 + offset).unwrap();
            assert_eq!(first.host, 0x1_0000_0000 + offset);
            assert_eq!(first.size, page);
            let last = walk(&tables, 0x8000_0000 + offset + page - 1).unwrap();
            assert_eq!(last.host, 0x1_0000_0000 + offset + page - 1);
        }
        // Where the addresses do not agree modulo 1 GiB, and then modulo 2 MiB, nothing larger fits.
        map(&mut tables, 0x2_0000_0000, 0x4020_0000, GIGAPAGE).unwrap();
        assert_eq!(walk(&tables, 0x2_0000_0000).unwrap().size, MEGAPAGE);
        map(&mut tables, 0x3_0000_0000, 0x9000_1000, MEGAPAGE).unwrap();
        assert_eq!(walk(&tables, 0x3_0000_0000).unwrap().size, PAGE);
    }
}

/// Section 21.5.1: U, and hardware need not update A and D. Devices are not for instructions.
#[test]
fn pages_have_the_rights_asked_for() {
    let mut tables = empty(Mode::Sv39x4);
    for (at, permissions, flags) in [
        (0, Permissions::Memory, 0b1101_1111),
        (PAGE, Permissions::Device, 0b1101_0111),
    ] {
        tables
            .map(GuestPhysAddr(at), HostPhysAddr(0), PAGE, permissions)
            .unwrap();
        assert_eq!(walk(&tables, at).unwrap().flags, flags);
    }
}

#[test]
fn addresses_and_sizes_are_whole_pages() {
    for mode in Mode::ALL {
        let mut tables = empty(mode);
        for (guest, host, size, wrong) in [
            (1, 0, PAGE, 1),
            (0, PAGE + 8, PAGE, PAGE + 8),
            (0, 0, PAGE - 1, PAGE - 1),
            (u64::MAX, 0, PAGE, u64::MAX),
        ] {
            assert_eq!(
                map(&mut tables, guest, host, size),
                Err(Error::Unaligned(wrong))
            );
        }
        assert_eq!(found(&tables, 0), None);
    }
}

#[test]
fn no_mode_reaches_beyond_its_limit() {
    // Section 21.5.1: the widths of guest-physical addresses.
    for (mode, bits) in Mode::ALL.into_iter().zip([41, 50, 59]) {
        let limit = 1 << bits;
        assert_eq!(mode.limit(), limit);
        let mut tables = empty(mode);
        map(&mut tables, limit - PAGE, 0x5000, PAGE).unwrap();
        assert_eq!(found(&tables, limit - 1), Some(0x5fff));
        for (guest, size, end) in [
            (limit, PAGE, limit + PAGE),
            (limit - 2 * PAGE, 3 * PAGE, limit + PAGE),
            (0, limit + PAGE, limit + PAGE),
        ] {
            let result = map(&mut tables, guest, 0, size);
            assert_eq!(result, Err(Error::TooHigh(end)));
        }
        let last = u64::MAX - (PAGE - 1);
        assert_eq!(
            map(&mut tables, last, 0, PAGE),
            Err(Error::TooHigh(u64::MAX))
        );
        // A bit more than the root has entries for must not wrap to entry 0.
        map(&mut tables, 0, 0x7000, PAGE).unwrap();
        assert_eq!(found(&tables, limit), None);
    }
}

/// Page numbers of the host have 44 bits (section 12.4.1).
#[test]
fn the_host_ends_where_its_page_numbers_do() {
    const END: u64 = 1 << 56;
    for mode in Mode::ALL {
        let mut tables = empty(mode);
        map(&mut tables, 0, END - PAGE, PAGE).unwrap();
        assert_eq!(found(&tables, 8), Some(END - PAGE + 8));
        for host in [END, END - PAGE, u64::MAX - (PAGE - 1)] {
            let result = map(&mut tables, 0x10_0000, host, 2 * PAGE);
            assert!(matches!(result, Err(Error::TooHigh(_))), "{result:?}");
        }
        assert_eq!(found(&tables, 0x10_0000), None);
    }
}

#[test]
fn nothing_is_mapped_twice() {
    let at = |address| Err(Error::Mapped(GuestPhysAddr(address)));
    for mode in Mode::ALL {
        let mut tables = empty(mode);
        map(&mut tables, GIGAPAGE, GIGAPAGE, GIGAPAGE).unwrap();
        map(&mut tables, 8 * MEGAPAGE, 0, MEGAPAGE).unwrap();
        map(&mut tables, 0x5000, 0x9000, PAGE).unwrap();
        // Smaller pages in a larger one, and equal ones.
        for (guest, size) in [
            (GIGAPAGE, PAGE),
            (GIGAPAGE + MEGAPAGE, MEGAPAGE),
            (2 * GIGAPAGE - PAGE, PAGE),
            (GIGAPAGE, GIGAPAGE),
            (8 * MEGAPAGE + PAGE, PAGE),
            (0x5000, PAGE),
        ] {
            assert_eq!(map(&mut tables, guest, 0, size), at(guest));
        }
        // A larger one where a smaller one is.
        assert_eq!(map(&mut tables, 0, 0, GIGAPAGE), at(0));
        assert_eq!(map(&mut tables, 0, 0, MEGAPAGE), at(0));
        // A range that runs into one: what comes before is there.
        assert_eq!(map(&mut tables, 0x3000, 0x3000, 4 * PAGE), at(0x5000));
        assert_eq!(found(&tables, 0x4fff), Some(0x4fff));
        assert_eq!(found(&tables, 0x5000), Some(0x9000));
        assert_eq!(found(&tables, 0x6000), None);
    }
}

#[test]
fn nothing_is_nothing() {
    let mut tables = empty(Mode::Sv39x4);
    map(&mut tables, 0, 0, 0).unwrap();
    assert_eq!(found(&tables, 0), None);
}

#[test]
fn memory_for_tables_may_run_out() {
    for (mode, needed) in Mode::ALL.into_iter().zip([6, 7, 8]) {
        assert!(GStage::new(mode, Memory::new(ROOT_PAGES - 1)).is_err());
        for pages in ROOT_PAGES..needed {
            let mut tables = GStage::new(mode, Memory::new(pages)).unwrap();
            assert_eq!(map(&mut tables, 0, 0, PAGE), Err(Error::NoMemory));
            assert_eq!(found(&tables, 0), None);
        }
        let mut tables = GStage::new(mode, Memory::new(needed)).unwrap();
        map(&mut tables, 0, 0, PAGE).unwrap();
    }
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(&Mode::ALL[..])
}

/// Something to map: how far behind the last one, and what it is made of.
#[derive(Clone, Debug)]
struct Piece {
    gap: u64,
    /// The largest page to which both ends agree.
    unit: u64,
    units: u64,
    /// Pages of 4 KiB before and behind the units.
    head: u64,
    tail: u64,
    /// Where it leads, in units.
    host: u64,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let units = prop_oneof![
        (Just(PAGE), 0..1100_u64),
        (Just(MEGAPAGE), 0..600_u64),
        (Just(GIGAPAGE), 0..4_u64)
    ];
    let piece = (0..600_u64, units, 0..4_u64, 0..4_u64, 1..50_u64);
    let piece = piece.prop_map(|(gap, (unit, units), head, tail, host)| Piece {
        gap,
        unit,
        units,
        head,
        tail,
        host,
    });
    prop::collection::vec(piece, 1..5)
}

proptest! {
    /// Every address of a range leads where it should, by the largest page that fits there, and no other address anywhere.
    #[test]
    fn addresses_lead_where_they_were_mapped_to(
        mode in mode(),
        pieces in pieces(),
        probes in prop::collection::vec(any::<(prop::sample::Index, u64)>(), 50),
    ) {
        let mut tables = empty(mode);
        let mut mapped = vec![];
        let mut next = 0;
        for Piece { gap, unit, units, head, tail, host } in pieces {
            let (head, tail) = (head * PAGE, tail * PAGE);
            let first_unit = (next + gap * PAGE + head).next_multiple_of(unit);
            let (start, host) = (first_unit - head, (host + 3) * unit - head);
            let size = head + units * unit + tail;
            map(&mut tables, start, host, size).unwrap();
            mapped.push((start, start + size, host));
            next = start + size;
        }
        let interesting = mapped.iter().flat_map(|(start, end, _)| {
            [start.saturating_sub(1), *start, end.saturating_sub(1), *end]
        });
        let anywhere = probes.iter().map(|(index, random)| {
            let (start, end, _) = mapped[index.index(mapped.len())];
            start + random % (end - start + PAGE)
        });
        for address in interesting.chain(anywhere) {
            let range = mapped.iter().find(|(start, end, _)| (*start..*end).contains(&address));
            let expected = range.map(|(start, _, host)| address - start + host);
            prop_assert_eq!(found(&tables, address), expected);
            let Some((start, end, host)) = range else { continue };
            let fits = |size: &u64| {
                let page = address / size * size;
                page >= *start && page + size <= *end && (page - start + host).is_multiple_of(*size)
            };
            let largest = [GIGAPAGE, MEGAPAGE, PAGE].into_iter().find(fits);
            prop_assert_eq!(walk(&tables, address).map(|leaf| leaf.size), largest);
        }
    }

    /// Whatever the numbers, there is an answer, and the tables are such that hardware can walk them.
    #[test]
    fn any_input_has_an_answer(
        mode in mode(),
        calls in prop::collection::vec((number(), number(), number()), 1..8),
        probes in prop::collection::vec(number(), 20),
    ) {
        let mut tables = GStage::new(mode, Memory::new(64)).unwrap();
        for (guest, host, size) in calls {
            let _ = map(&mut tables, guest, host, size);
            for address in [guest, guest.wrapping_add(size), guest.wrapping_sub(1)] {
                found(&tables, address);
            }
        }
        for address in probes {
            found(&tables, address);
        }
    }
}

/// Any number, mostly of pages, and often around a power of two.
fn number() -> impl Strategy<Value = u64> {
    let near = (0..64_u32, -2..=2_i64).prop_map(|(bit, pages)| {
        (1_u64 << bit).wrapping_add_signed(pages * PAGE.cast_signed()) / PAGE * PAGE
    });
    prop_oneof![6 => near, 1 => any::<u64>(), 1 => Just(0)]
}
