//! Decoding of loads and stores that fault outside a guest's memory: direction, register, width and extension.
//!
//! The instruction is a word, read from the guest's memory, or in the transformed form of `htinst`. The supported ones
//! move one integer register: the loads and stores of RV64I (unprivileged specification, "Load and Store Instructions" of
//! RV32I and RV64I), of the C extension and of Zcb. Floating-point, vector and
//! atomic ones are not supported: device registers are not made for them, and a guest that uses them there gets an access fault.

/// What a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Whether it loads or stores, and which register.
    pub kind: Kind,
    /// Bytes that it moves: 1, 2, 4 or 8.
    pub width: u8,
    /// Bytes of the instruction itself, 2 or 4, by which to advance the program counter.
    pub length: u8,
}

/// The direction of an access and its integer register, `x0` to `x31`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From memory to a register. What is loaded to `x0` is dropped.
    Load {
        /// The number of the register.
        register: u8,
        /// Whether what is narrower than the register is sign-extended, rather than filled up with zeros.
        signed: bool,
    },
    /// From a register to memory, the lowest bytes of it.
    Store {
        /// The number of the register.
        register: u8,
    },
}

/// The major opcodes (unprivileged specification, "RV32/64G Instruction Set Listings"), with the bits 1:0 that are ones in
/// every instruction of 32 bits.
mod opcode {
    pub const LOAD: u32 = 0b000_0011;
    pub const STORE: u32 = 0b010_0011;
    pub const MASK: u32 = 0x7f;
}

/// The integer load or store that `instruction` is; `None` for everything else. Of a compressed instruction, the upper half
/// of the word does not matter.
#[must_use]
pub const fn decode(instruction: u32) -> Option<MmioAccess> {
    let (access, length) = match instruction & 0b11 {
        0b00 => (quadrant_0(instruction), 2),
        0b10 => (quadrant_2(instruction), 2),
        0b11 => (standard(instruction), 4),
        _ => return None,
    };
    match access {
        Some((kind, width)) => Some(MmioAccess {
            kind,
            width,
            length,
        }),
        None => None,
    }
}

/// What a load of `access` puts into its register when memory holds `raw`, of which the bytes beyond the access do not
/// matter. Of a store, it is the bytes that go to memory, when the register holds `raw`.
#[must_use]
pub const fn extend(access: MmioAccess, raw: u64) -> u64 {
    let signed = matches!(access.kind, Kind::Load { signed: true, .. });
    match (access.width, signed) {
        (1, false) => raw & 0xff,
        (1, true) => sign_extend(raw, 8),
        (2, false) => raw & 0xffff,
        (2, true) => sign_extend(raw, 16),
        (4, false) => raw & 0xffff_ffff,
        (4, true) => sign_extend(raw, 32),
        _ => raw,
    }
}

const fn sign_extend(raw: u64, bits: u32) -> u64 {
    let unused = u64::BITS.wrapping_sub(bits);
    (raw.wrapping_shl(unused).cast_signed() >> unused).cast_unsigned()
}

/// An instruction of 32 bits.
const fn standard(instruction: u32) -> Option<(Kind, u8)> {
    let funct3 = field(instruction, 12, 3);
    match instruction & opcode::MASK {
        opcode::LOAD => load(field(instruction, 7, 5), funct3),
        opcode::STORE => store(field(instruction, 20, 5), funct3),
        _ => None,
    }
}

/// `funct3` of LOAD: LB, LH, LW, LD, LBU, LHU, LWU.
const fn load(register: u8, funct3: u8) -> Option<(Kind, u8)> {
    let (width, signed) = match funct3 {
        0b000 => (1, true),
        0b001 => (2, true),
        0b010 => (4, true),
        0b011 => (8, true),
        0b100 => (1, false),
        0b101 => (2, false),
        0b110 => (4, false),
        _ => return None,
    };
    Some((Kind::Load { register, signed }, width))
}

/// `funct3` of STORE: SB, SH, SW, SD.
const fn store(register: u8, funct3: u8) -> Option<(Kind, u8)> {
    let width = match funct3 {
        0b000 => 1,
        0b001 => 2,
        0b010 => 4,
        0b011 => 8,
        _ => return None,
    };
    Some((Kind::Store { register }, width))
}

/// Compressed instructions with bits 1:0 of 00 (unprivileged specification, "RVC Instruction Set Listings", quadrant 0, and
/// "Zcb"). Their data register is one of `x8` to `x15`.
const fn quadrant_0(instruction: u32) -> Option<(Kind, u8)> {
    let register = field(instruction, 2, 3) | 8;
    match field(instruction, 13, 3) {
        // C.LW, C.LD
        0b010 => Some((signed_load(register), 4)),
        0b011 => Some((signed_load(register), 8)),
        // Zcb: C.LBU, C.LHU and C.LH, C.SB, C.SH
        0b100 => match (field(instruction, 10, 3), field(instruction, 6, 1)) {
            (0b000, _) => Some((unsigned_load(register), 1)),
            (0b001, 0) => Some((unsigned_load(register), 2)),
            (0b001, _) => Some((signed_load(register), 2)),
            (0b010, _) => Some((Kind::Store { register }, 1)),
            (0b011, 0) => Some((Kind::Store { register }, 2)),
            _ => None,
        },
        // C.SW, C.SD
        0b110 => Some((Kind::Store { register }, 4)),
        0b111 => Some((Kind::Store { register }, 8)),
        _ => None,
    }
}

/// Compressed instructions with bits 1:0 of 10, whose address is relative to the stack pointer (unprivileged specification,
/// "RVC Instruction Set Listings", quadrant 2).
const fn quadrant_2(instruction: u32) -> Option<(Kind, u8)> {
    let (loaded, stored) = (field(instruction, 7, 5), field(instruction, 2, 5));
    match (field(instruction, 13, 3), loaded) {
        // A load to x0 is reserved.
        (0b010 | 0b011, 0) => None,
        // C.LWSP, C.LDSP
        (0b010, register) => Some((signed_load(register), 4)),
        (0b011, register) => Some((signed_load(register), 8)),
        // C.SWSP, C.SDSP
        (0b110, _) => Some((Kind::Store { register: stored }, 4)),
        (0b111, _) => Some((Kind::Store { register: stored }, 8)),
        _ => None,
    }
}

const fn signed_load(register: u8) -> Kind {
    Kind::Load {
        register,
        signed: true,
    }
}

const fn unsigned_load(register: u8) -> Kind {
    Kind::Load {
        register,
        signed: false,
    }
}

/// The `length` bits, at most eight, from bit `low` on.
const fn field(instruction: u32, low: u32, length: u32) -> u8 {
    let [byte, ..] = instruction.wrapping_shr(low).to_le_bytes();
    byte & 0xff_u8.wrapping_shr(8_u32.wrapping_sub(length))
}

/// What `htinst` tells of a load or store that trapped with a guest-page fault (privileged specification, "Transformed
/// Instruction or Pseudoinstruction for mtinst or htinst").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Htinst {
    /// The instruction's own access, which began at the address that the trap reports.
    Access(MmioAccess),
    /// The instruction's own access, but a part of it: the address that the trap reports lies this many bytes, 1 to 31, behind
    /// the access's beginning, which had memory. It is misaligned and reaches from memory to where none is; no device has
    /// such a register.
    Partial(u8),
    /// The hart's own access to the guest's page tables, on the way to what the instruction wanted: the guest has put a
    /// page table where it has no memory.
    PageTableWalk {
        /// Whether it was to set an accessed or dirty bit, rather than to read an entry.
        write: bool,
    },
    /// The hart tells nothing, or nothing that is known here. The instruction is to be read from the guest.
    Unknown,
}

impl Htinst {
    /// What the value `htinst` of the CSR means.
    #[must_use]
    pub const fn parse(htinst: u64) -> Self {
        // Transformed instructions take 32 bits, and so do the pseudoinstructions.
        if htinst >> u32::BITS != 0 {
            return Self::Unknown;
        }
        #[allow(clippy::cast_possible_truncation)]
        let value = htinst as u32;
        match value {
            // Of tables with entries of 32 bits and of 64.
            0x0000_2000 | 0x0000_3000 => return Self::PageTableWalk { write: false },
            0x0000_2020 | 0x0000_3020 => return Self::PageTableWalk { write: true },
            // Zero tells nothing, and with bit 0 clear everything else is a custom value.
            _ if value & 0b01 == 0 => return Self::Unknown,
            _ => {}
        }
        // Bit 1 is clear if the instruction was a compressed one, whose expansion this is. With it set, the value is an
        // instruction but for the fields of its address: the immediate is zero, and in place of rs1 is the offset.
        let length = if value & 0b10 == 0 { 2 } else { 4 };
        let instruction = value | 0b10;
        let immediate = match instruction & opcode::MASK {
            opcode::LOAD => 0xfff0_0000,
            opcode::STORE => 0xfe00_0f80,
            _ => return Self::Unknown,
        };
        match standard(instruction) {
            Some((kind, width)) if instruction & immediate == 0 => match field(value, 15, 5) {
                0 => Self::Access(MmioAccess {
                    kind,
                    width,
                    length,
                }),
                offset => Self::Partial(offset),
            },
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
