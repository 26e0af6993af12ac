//! Checked against words that GNU as made (Zcb: LLVM), and against the encodings as the specification's listings have them:
//! fixed bits by mask and match, over every compressed instruction and every opcode.

use proptest::prelude::*;

use super::*;

fn load(register: u8, width: u8, signed: bool, length: u8) -> Option<MmioAccess> {
    Some(MmioAccess {
        kind: Kind::Load { register, signed },
        width,
        length,
    })
}

fn store(register: u8, width: u8, length: u8) -> Option<MmioAccess> {
    Some(MmioAccess {
        kind: Kind::Store { register },
        width,
        length,
    })
}

#[test]
fn words_of_the_assembler() {
    for (word, text, expected) in [
        (0x0005_8503, "lb a0, 0(a1)", load(10, 1, true, 4)),
        (0xfff1_1f83, "lh t6, -1(sp)", load(31, 2, true, 4)),
        (0x0047_2783, "lw a5, 4(a4)", load(15, 4, true, 4)),
        (0x7ff4_3483, "ld s1, 2047(s0)", load(9, 8, true, 4)),
        (0x0005_c003, "lbu zero, 0(a1)", load(0, 1, false, 4)),
        (0x0005_d503, "lhu a0, 0(a1)", load(10, 2, false, 4)),
        (0x8005_e503, "lwu a0, -2048(a1)", load(10, 4, false, 4)),
        (0x00a5_8023, "sb a0, 0(a1)", store(10, 1, 4)),
        (0xfff1_1fa3, "sh t6, -1(sp)", store(31, 2, 4)),
        (0x0007_2223, "sw zero, 4(a4)", store(0, 4, 4)),
        (0x7e94_3fa3, "sd s1, 2047(s0)", store(9, 8, 4)),
        (0x41c8, "c.lw a0, 4(a1)", load(10, 4, true, 2)),
        (0x435c, "c.lw a5, 4(a4)", load(15, 4, true, 2)),
        (0x6780, "c.ld s0, 8(a5)", load(8, 8, true, 2)),
        (0xc1c8, "c.sw a0, 4(a1)", store(10, 4, 2)),
        (0xfc7c, "c.sd a5, 248(s0)", store(15, 8, 2)),
        (0x4082, "c.lwsp ra, 0(sp)", load(1, 4, true, 2)),
        (0x7ffe, "c.ldsp t6, 504(sp)", load(31, 8, true, 2)),
        (0xc202, "c.swsp zero, 4(sp)", store(0, 4, 2)),
        (0xe406, "c.sdsp ra, 8(sp)", store(1, 8, 2)),
        (0x81e8, "c.lbu a0, 3(a1)", load(10, 1, false, 2)),
        (0x81c8, "c.lbu a0, 1(a1)", load(10, 1, false, 2)),
        (0x87a4, "c.lhu s1, 2(a5)", load(9, 2, false, 2)),
        (0x845c, "c.lh a5, 0(s0)", load(15, 2, true, 2)),
        (0x89c8, "c.sb a0, 1(a1)", store(10, 1, 2)),
        (0x8c3c, "c.sh a5, 2(s0)", store(15, 2, 2)),
        (0x0005_2507, "flw fa0, 0(a0)", None),
        (0x00a5_2027, "fsw fa0, 0(a0)", None),
        (0x2108, "c.fld fa0, 0(a0)", None),
        (0xa108, "c.fsd fa0, 0(a0)", None),
        (0x2502, "c.fldsp fa0, 0(sp)", None),
        (0xa02a, "c.fsdsp fa0, 0(sp)", None),
        (0x00b6_252f, "amoadd.w a0, a1, (a2)", None),
        (0x0eb6_352f, "amoswap.d.aqrl a0, a1, (a2)", None),
        (0x1005_a52f, "lr.w a0, (a1)", None),
        (0x18b6_352f, "sc.d a0, a1, (a2)", None),
        (0x0205_0087, "vle8.v v1, (a0)", None),
        (0x0205_70a7, "vse64.v v1, (a0)", None),
        (0x0045_200f, "cbo.zero (a0)", None),
        (0x0ff0_000f, "fence", None),
        (0x0000_0073, "ecall", None),
        (0x0505, "c.addi a0, 1", None),
        (0x9002, "c.ebreak", None),
        (0x0048, "c.addi4spn a0, sp, 4", None),
        (0x9d61, "c.zext.b a0", None),
        (0x0000, "illegal", None),
        (0xffff_ffff, "illegal", None),
    ] {
        assert_eq!(decode(word), expected, "{text}");
        if word & 3 != 3 {
            assert_eq!(decode(word | 0xdead_0000), expected, "{text}");
        }
    }
}

/// Where an encoding has its register.
#[derive(Clone, Copy)]
enum Field {
    /// rd of 32-bit and of stack-pointer-relative loads: bits 11:7.
    Rd,
    /// rd of stack-pointer-relative loads, which is not x0.
    RdNotZero,
    /// rs2 of 32-bit stores: bits 24:20.
    Rs2,
    /// rd' and rs2': bits 4:2, x8 to x15.
    Prime,
    /// rs2 of stack-pointer-relative stores: bits 6:2.
    CompressedRs2,
}

/// Mask and match of each instruction, whether it is a store, its width, and whether it is a signed load.
#[rustfmt::skip]
const LISTING: [(u32, u32, Field, bool, u8, bool); 24] = [
    (0x707f, 0x0003, Field::Rd, false, 1, true),            // LB
    (0x707f, 0x1003, Field::Rd, false, 2, true),            // LH
    (0x707f, 0x2003, Field::Rd, false, 4, true),            // LW
    (0x707f, 0x3003, Field::Rd, false, 8, true),            // LD
    (0x707f, 0x4003, Field::Rd, false, 1, false),           // LBU
    (0x707f, 0x5003, Field::Rd, false, 2, false),           // LHU
    (0x707f, 0x6003, Field::Rd, false, 4, false),           // LWU
    (0x707f, 0x0023, Field::Rs2, true, 1, false),           // SB
    (0x707f, 0x1023, Field::Rs2, true, 2, false),           // SH
    (0x707f, 0x2023, Field::Rs2, true, 4, false),           // SW
    (0x707f, 0x3023, Field::Rs2, true, 8, false),           // SD
    (0xe003, 0x4000, Field::Prime, false, 4, true),         // C.LW
    (0xe003, 0x6000, Field::Prime, false, 8, true),         // C.LD
    (0xe003, 0xc000, Field::Prime, true, 4, false),         // C.SW
    (0xe003, 0xe000, Field::Prime, true, 8, false),         // C.SD
    (0xe003, 0x4002, Field::RdNotZero, false, 4, true),     // C.LWSP
    (0xe003, 0x6002, Field::RdNotZero, false, 8, true),     // C.LDSP
    (0xe003, 0xc002, Field::CompressedRs2, true, 4, false), // C.SWSP
    (0xe003, 0xe002, Field::CompressedRs2, true, 8, false), // C.SDSP
    (0xfc03, 0x8000, Field::Prime, false, 1, false),        // C.LBU
    (0xfc43, 0x8400, Field::Prime, false, 2, false),        // C.LHU
    (0xfc43, 0x8440, Field::Prime, false, 2, true),         // C.LH
    (0xfc03, 0x8800, Field::Prime, true, 1, false),         // C.SB
    (0xfc43, 0x8c00, Field::Prime, true, 2, false),         // C.SH
];

fn by_listing(word: u32) -> Option<MmioAccess> {
    let (_, _, field, is_store, width, signed) = LISTING
        .into_iter()
        .find(|(mask, fixed, ..)| word & mask == *fixed)?;
    let bits = |low: u32, mask: u32| u8::try_from(word >> low & mask).unwrap();
    let register = match field {
        Field::Rd => bits(7, 31),
        Field::RdNotZero if bits(7, 31) == 0 => return None,
        Field::RdNotZero => bits(7, 31),
        Field::Rs2 => bits(20, 31),
        Field::Prime => 8 + bits(2, 7),
        Field::CompressedRs2 => bits(2, 31),
    };
    let length = if word & 3 == 3 { 4 } else { 2 };
    if is_store {
        store(register, width, length)
    } else {
        load(register, width, signed, length)
    }
}

#[test]
fn every_compressed_instruction() {
    let mut found = 0;
    for word in (0..=0xffff).filter(|word| word & 3 != 3) {
        assert_eq!(decode(word), by_listing(word), "{word:#06x}");
        found += usize::from(decode(word).is_some());
    }
    // C.LW, C.LD, C.SW, C.SD; the four relative to sp, two of them without x0; Zcb.
    assert_eq!(
        found,
        4 * 2048 + 2 * 2048 + 2 * 31 * 64 + 3 * 256 + 2 * 128 - 128
    );
}

#[test]
fn every_opcode_function_and_register() {
    for low in (0..1 << 15).filter(|low| low & 3 == 3) {
        for high in (0..32).chain([0x1_ffff, 0x1_5555]) {
            let word = high << 15 | low;
            assert_eq!(decode(word), by_listing(word), "{word:#010x}");
        }
    }
}

/// As a hart transforms an access (privileged specification, figures "Transformed noncompressed load instruction" and
/// "Transformed noncompressed store instruction"), with the parameters of `access` and an address offset.
fn transformed(access: MmioAccess, offset: u32) -> u64 {
    let size = access.width.trailing_zeros();
    let word = match access.kind {
        Kind::Load { register, signed } => {
            let unsigned = u32::from(!signed);
            offset << 15 | (unsigned << 2 | size) << 12 | u32::from(register) << 7 | 0x03
        }
        Kind::Store { register } => u32::from(register) << 20 | offset << 15 | size << 12 | 0x23,
    };
    // A compressed instruction has its expansion transformed, and bit 1 cleared.
    u64::from(if access.length == 2 { word & !2 } else { word })
}

#[test]
fn every_transformed_instruction() {
    for word in (0..=0xffff).filter(|word| word & 3 != 3) {
        if let Some(access) = decode(word) {
            let htinst = transformed(access, 0);
            assert_eq!(htinst & 3, 1);
            assert_eq!(Htinst::parse(htinst), Htinst::Access(access), "{word:#06x}");
        }
    }
    for low in (0..1 << 15).filter(|low| low & 3 == 3) {
        for rs2 in 0..32 {
            if let Some(access) = decode(rs2 << 20 | low) {
                let htinst = transformed(access, 0);
                assert_eq!(Htinst::parse(htinst), Htinst::Access(access));
                for offset in 1..8 {
                    let partial = transformed(access, u32::from(offset));
                    assert_eq!(Htinst::parse(partial), Htinst::Partial(offset));
                }
            }
        }
    }
}

#[test]
fn values_of_htinst() {
    for (htinst, expected) in [
        (0, Htinst::Unknown),
        (0x2000, Htinst::PageTableWalk { write: false }),
        (0x3000, Htinst::PageTableWalk { write: false }),
        (0x2020, Htinst::PageTableWalk { write: true }),
        (0x3020, Htinst::PageTableWalk { write: true }),
        // Bit 0 clear, and none of the above: custom.
        (0x2002, Htinst::Unknown),
        (0x1000, Htinst::Unknown),
        // Not an instruction of 32 bits.
        (0x1_0000_3000, Htinst::Unknown),
        (0x1_0000_2503, Htinst::Unknown),
        (u64::MAX, Htinst::Unknown),
        // lw a0, 4(zero); sw a0, 8(zero): a transformed instruction has no immediate.
        (0x0040_2503, Htinst::Unknown),
        (0x00a0_2423, Htinst::Unknown),
        // ld of funct3 7
        (0x7503, Htinst::Unknown),
        // flw fa0, amoadd.w a0, a1: transformed, and for others to do.
        (0x2507, Htinst::Unknown),
        (0x00b0_252f, Htinst::Unknown),
        // hlv.d a0
        (0x6c00_4573, Htinst::Unknown),
    ] {
        assert_eq!(Htinst::parse(htinst), expected, "{htinst:#x}");
    }
}

#[test]
fn what_is_loaded_is_extended() {
    let raw = 0x8182_8384_8586_8788;
    for (width, signed, expected) in [
        (1, false, 0x88),
        (1, true, 0xffff_ffff_ffff_ff88),
        (2, false, 0x8788),
        (2, true, 0xffff_ffff_ffff_8788),
        (4, false, 0x8586_8788),
        (4, true, 0xffff_ffff_8586_8788),
        (8, true, raw),
    ] {
        assert_eq!(extend(load(5, width, signed, 4).unwrap(), raw), expected);
    }
    for (width, expected) in [(1, 0x88), (2, 0x8788), (4, 0x8586_8788), (8, raw)] {
        assert_eq!(extend(store(5, width, 4).unwrap(), raw), expected);
    }
}

proptest! {
    #[test]
    fn any_word(word: u32) {
        prop_assert_eq!(decode(word), by_listing(word));
    }

    /// Whatever a hart reports, it is understood as the same access or not at all.
    #[test]
    fn any_htinst(htinst: u64, short: u32) {
        for htinst in [htinst, htinst >> 32, short.into(), u64::from(short) & 0x01f0_7fff] {
            if let Htinst::Access(access) = Htinst::parse(htinst) {
                prop_assert_eq!(transformed(access, 0), htinst);
            }
        }
    }

    #[test]
    fn extension_is_a_cast(raw: u64, register in 0..32_u8) {
        let [byte, ..] = raw.to_le_bytes();
        let half = u16::from_le_bytes(raw.to_le_bytes()[..2].try_into().unwrap());
        let word = u32::from_le_bytes(raw.to_le_bytes()[..4].try_into().unwrap());
        for (width, signed, expected) in [
            (1, true, i64::from(byte.cast_signed()).cast_unsigned()),
            (2, true, i64::from(half.cast_signed()).cast_unsigned()),
            (4, true, i64::from(word.cast_signed()).cast_unsigned()),
            (1, false, byte.into()),
            (2, false, half.into()),
            (4, false, word.into()),
            (8, true, raw),
        ] {
            prop_assert_eq!(extend(load(register, width, signed, 4).unwrap(), raw), expected);
        }
    }
}
