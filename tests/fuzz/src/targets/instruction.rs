//! The decoder of loads and stores, of `htinst`, and of the CSRs of a trap.

use hv_bare::exit::{self, Exit, TrapCsrs};
use hv_core::instruction::{Htinst, Kind, MmioAccess, decode, extend};
use hv_core::trap::cause;

use crate::input::{Input, Script};

/// Decodes words from the input.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    for _ in 0..64 {
        let word = input.u32();
        check_instruction(word, input.u64());
        check_htinst(input.number());
        check_trap(&mut input);
        if input.is_empty() {
            break;
        }
    }
}

/// One of each encoding.
pub fn seeds() -> Vec<Vec<u8>> {
    // LB to LWU, SB to SD, C.LW, C.LD, C.SW, C.SD, C.LWSP, C.SDSP, C.LBU, C.LHU, C.LH, C.SB, C.SH.
    let standard =
        (0..8).flat_map(|funct3| [0x0005_0583 | funct3 << 12, 0x00b5_0023 | funct3 << 12]);
    let compressed = [
        0x4188, 0x6188, 0xc188, 0xe188, 0x4582, 0x6582, 0xc02e, 0xe02e, 0x8188, 0x8588, 0x85c8,
        0x8988, 0x8d88,
    ];
    standard
        .chain(compressed)
        .map(|word| {
            let transformed = u64::from(word & 0x01ff_f07f | word & 0x1f << 7);
            Script::new()
                .u32(word)
                .u64(0xffff_8000_1234_80ff)
                .number(transformed)
                .number(cause::LOAD_GUEST_PAGE_FAULT)
                .number(0x8000_1003)
                .number(0x400_0400)
                .number(0)
                .done()
        })
        .collect()
}

fn check_instruction(word: u32, raw: u64) {
    let access = decode(word);
    let is_long = word & 0b11 == 0b11;
    // Unprivileged specification, "RV32/64G Instruction Set Listings": what the opcodes and fields have to be.
    let (opcode, funct3) = (word & 0x7f, word >> 12 & 0b111);
    if is_long {
        let is_load = opcode == 0x03 && funct3 != 0b111;
        let is_store = opcode == 0x23 && funct3 < 0b100;
        assert_eq!(access.is_some(), is_load || is_store, "{word:#x}");
    }
    let Some(access) = access else { return };
    assert_eq!(access.length, if is_long { 4 } else { 2 });
    assert!(matches!(access.width, 1 | 2 | 4 | 8));
    let (register, is_load) = match access.kind {
        Kind::Load { register, .. } => (register, true),
        Kind::Store { register } => (register, false),
    };
    assert!(register < 32);
    if is_long {
        assert_eq!(is_load, opcode == 0x03);
        let shift = if is_load { 7 } else { 20 };
        assert_eq!(u32::from(register), word >> shift & 0x1f);
        assert_eq!(u32::from(access.width), 1 << (funct3 & 0b11));
    } else {
        assert_eq!(
            decode(word & 0xffff),
            Some(access),
            "the upper half does not matter"
        );
        assert!(
            !(is_load && register == 0),
            "there is no compressed load to x0"
        );
    }
    check_extension(access, raw);
    // Privileged specification, "Transformed Instruction": the immediate is zero, and so is the offset in place of rs1.
    if is_long {
        let mask = if is_load { 0x0000_7fff } else { 0x01f0_707f };
        assert_eq!(
            Htinst::parse(u64::from(word & mask)),
            Htinst::Access(access)
        );
    }
}

fn check_extension(access: MmioAccess, raw: u64) {
    let extended = extend(access, raw);
    assert_eq!(extend(access, extended), extended);
    let bits = u32::from(access.width) * 8;
    let (above, low) = match bits {
        64 => (0, extended),
        _ => (extended >> bits, extended & ((1 << bits) - 1)),
    };
    assert_eq!(
        low,
        if bits == 64 {
            raw
        } else {
            raw & ((1 << bits) - 1)
        }
    );
    let is_negative = low >> (bits - 1) == 1;
    let is_signed = matches!(access.kind, Kind::Load { signed: true, .. });
    let ones = u64::MAX.checked_shr(bits).unwrap_or(0);
    assert_eq!(above, if is_signed && is_negative { ones } else { 0 });
}

fn check_htinst(value: u64) {
    match Htinst::parse(value) {
        Htinst::Access(access) => {
            let word = u32::try_from(value).unwrap();
            assert_eq!(access.length, if word & 0b10 == 0 { 2 } else { 4 });
            assert_eq!(
                decode(word | 0b10).map(|found| found.kind),
                Some(access.kind)
            );
        }
        Htinst::Partial(offset) => assert!((1..32).contains(&offset)),
        Htinst::PageTableWalk { .. } => assert_eq!(value & 0b11, 0),
        Htinst::Unknown => {}
    }
}

fn check_trap(input: &mut Input<'_>) {
    let csrs = TrapCsrs {
        scause: input.number(),
        stval: input.number(),
        htval: input.number(),
        htinst: input.number(),
    };
    let exit = exit::decode(&csrs);
    let is_interrupt = matches!(
        exit,
        Exit::HostSoftware | Exit::HostTimer | Exit::HostExternal | Exit::UnknownInterrupt
    );
    assert_eq!(is_interrupt, csrs.scause & cause::INTERRUPT != 0);
    if let Exit::Mmio(access) = exit {
        assert_eq!(access.address.0 & 0b11, csrs.stval & 0b11);
        assert_eq!(access.address.0 >> 2, csrs.htval << 2 >> 2);
        assert_eq!(access.fault().value, csrs.stval);
    }
}
