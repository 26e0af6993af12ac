//! Programs for machine mode, such as SBI firmware. A guest begins in supervisor mode, where their first access to a CSR of
//! machine mode raises an exception without a handler. The guest would never print anything.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

/// How many instructions are looked at. A program that gets further has done something else first.
const LIMIT: usize = 1024;

/// Whether `code`, which is entered at its first byte, is sure to access a CSR of machine mode: every way through it does,
/// or goes round in circles. A way that leads out of sight, makes an environment call or accesses a CSR of supervisor mode
/// first clears the program, as those of supervisor mode begin so. Calls are taken to return.
pub(super) fn is_certain(code: &[u8]) -> bool {
    let mut seen = BTreeSet::new();
    let mut ways = Vec::from([0]);
    let mut found = false;
    while let Some(start) = ways.pop() {
        let mut at = start;
        loop {
            if !seen.insert(at) {
                break;
            }
            if seen.len() > LIMIT {
                return false;
            }
            let Some(instruction) = fetch(code, at) else {
                return false;
            };
            match step(instruction) {
                Step::Next => {}
                Step::Jump(offset) => match at.checked_add_signed(offset) {
                    Some(target) => {
                        at = target;
                        continue;
                    }
                    None => return false,
                },
                Step::Branch(offset) => match at.checked_add_signed(offset) {
                    Some(target) => ways.push(target),
                    None => return false,
                },
                Step::MachineCsr => {
                    found = true;
                    break;
                }
                Step::Unknown => return false,
            }
            at = at.saturating_add(instruction.size());
        }
    }
    found
}

/// An instruction of 2 or 4 bytes.
#[derive(Clone, Copy, Debug)]
enum Instruction {
    Compressed(u16),
    Full(u32),
}

impl Instruction {
    fn size(self) -> usize {
        match self {
            Self::Compressed(_) => 2,
            Self::Full(_) => 4,
        }
    }
}

/// The instruction at `at` (unprivileged specification, "Base Instruction-Length Encoding").
fn fetch(code: &[u8], at: usize) -> Option<Instruction> {
    let low = u16::from_le_bytes(*code.get(at..)?.first_chunk()?);
    match low {
        low if low & 0b11 != 0b11 => Some(Instruction::Compressed(low)),
        low if low & 0b1_1100 != 0b1_1100 => {
            Some(Instruction::Full(crate::little_endian::u32_at(code, at)?))
        }
        _ => None,
    }
}

/// What an instruction does to the way through the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It goes on behind it.
    Next,
    /// It goes on so many bytes from here.
    Jump(isize),
    /// It goes on behind it, or so many bytes from here.
    Branch(isize),
    /// It needs machine mode.
    MachineCsr,
    /// It goes on somewhere else, or this is no program for machine mode.
    Unknown,
}

fn step(instruction: Instruction) -> Step {
    match instruction {
        Instruction::Full(word) => full(word),
        Instruction::Compressed(half) => compressed(u32::from(half)),
    }
}

/// Unprivileged specification, "RV32/64G Instruction Set Listings".
fn full(word: u32) -> Step {
    let field = |from, bits, to| field(word, from, bits, to);
    let returns = word >> 7 & 0x1f != 0;
    match word & 0x7f {
        // jal and jalr: calls, if they leave an address to return to.
        0x6f | 0x67 if returns => Step::Next,
        0x6f => {
            let offset = field(31, 1, 20) | field(12, 8, 12) | field(20, 1, 11) | field(21, 10, 1);
            Step::Jump(sign_extend(offset, 21))
        }
        0x67 => Step::Unknown,
        0x63 => {
            let offset = field(31, 1, 12) | field(7, 1, 11) | field(25, 6, 5) | field(8, 4, 1);
            Step::Branch(sign_extend(offset, 13))
        }
        0x73 => system(word),
        _ => Step::Next,
    }
}

/// Unprivileged specification, "RVC Instruction Set Listings".
fn compressed(half: u32) -> Step {
    let field = |from, bits, to| field(half, from, bits, to);
    let (first, second) = (field(7, 5, 0), field(2, 5, 0));
    match (half & 0b11, half >> 13) {
        (1, 0b101) => {
            let high = field(12, 1, 11) | field(8, 1, 10) | field(9, 2, 8) | field(6, 1, 7);
            let low = field(7, 1, 6) | field(2, 1, 5) | field(11, 1, 4) | field(3, 3, 1);
            Step::Jump(sign_extend(high | low, 12))
        }
        (1, 0b110 | 0b111) => {
            let offset = field(12, 1, 8)
                | field(5, 2, 6)
                | field(2, 1, 5)
                | field(10, 2, 3)
                | field(3, 2, 1);
            Step::Branch(sign_extend(offset, 9))
        }
        // c.jr, c.jalr and c.ebreak.
        (2, 0b100) if second == 0 => match (half >> 12 & 1, first) {
            (1, 1..) => Step::Next,
            _ => Step::Unknown,
        },
        (0, 0) if half == 0 => Step::Unknown,
        _ => Step::Next,
    }
}

/// Privileged specification, "CSR Address Mapping Conventions": bits 9 and 8 of a CSR's number are the least mode that may
/// access it.
fn system(word: u32) -> Step {
    const MRET: u32 = 0x3020_0073;
    const WFI: u32 = 0x1050_0073;
    match (word >> 12 & 0b111, word >> 28 & 0b11) {
        (0, _) => match word {
            MRET => Step::MachineCsr,
            WFI => Step::Next,
            _ => Step::Unknown,
        },
        (0b100, _) => Step::Unknown,
        (_, 0b11) => Step::MachineCsr,
        (_, 0) => Step::Next,
        _ => Step::Unknown,
    }
}

/// `bits` bits of `word` from bit `from` on, shifted to bit `to`.
fn field(word: u32, from: u32, bits: u32, to: u32) -> u32 {
    let mask = u32::MAX >> 32_u32.saturating_sub(bits);
    (word >> from & mask) << to
}

/// The signed number in the low `bits` bits.
fn sign_extend(value: u32, bits: u32) -> isize {
    let unused = 32_u32.saturating_sub(bits);
    let value = (value << unused).cast_signed() >> unused;
    // At most 21 bits of it are in use.
    isize::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOP: u32 = 0x13;
    /// `csrr a0, mhartid`
    const MHARTID: u32 = 0xf140_2573;
    /// `csrw sie, zero`
    const SIE: u32 = 0x1040_1073;
    const ECALL: u32 = 0x73;
    /// `beq a0, a1, +16`, `j +16`, `j .`, `call .+16`, `ret`
    const BRANCH: u32 = 0x00b5_0863;
    const JUMP: u32 = 0x0100_006f;
    const LOOP: u32 = 0x6f;
    const CALL: u32 = 0x0100_00ef;
    const RET: u32 = 0x8067;

    fn certain(words: &[u32]) -> bool {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        is_certain(&bytes)
    }

    #[test]
    fn programs_for_machine_mode_are_recognised() {
        for program in [
            &[MHARTID][..],
            &[NOP, NOP, MHARTID],
            &[CALL, MHARTID],
            &[JUMP, ECALL, ECALL, ECALL, MHARTID],
            &[BRANCH, NOP, NOP, MHARTID, MHARTID],
            &[BRANCH, NOP, NOP, MHARTID, LOOP],
            &[0x3020_0073],             // mret
            &[0x1050_0073, MHARTID],    // wfi
            &[0xc010_2573, MHARTID],    // rdtime a0
            &[0x3052_9073],             // csrw mtvec, t0
            &[0x0001_0001, MHARTID],    // two c.nop
            &[0xa019_0001, 0, MHARTID], // c.nop; c.j +6
        ] {
            assert!(certain(program), "{program:x?}");
        }
    }

    #[test]
    fn others_are_not() {
        for program in [
            &[][..],
            &[NOP],
            &[LOOP],
            &[SIE, MHARTID],
            &[ECALL, MHARTID],
            &[RET, MHARTID],
            &[JUMP, MHARTID],
            // One of two ways does without.
            &[BRANCH, MHARTID, NOP, NOP, SIE],
            &[BRANCH, MHARTID, NOP, NOP, RET],
            &[0x8082_0001, MHARTID], // c.nop; c.ret
            &[0, MHARTID],
            &[0xffff_ffff, MHARTID],
        ] {
            assert!(!certain(program), "{program:x?}");
        }
        let mut long = [NOP; LIMIT].to_vec();
        long.push(MHARTID);
        assert!(!certain(&long));
    }

    #[test]
    fn offsets_are_decoded() {
        // As the assembler writes them.
        for (word, step) in [
            (0xffdf_f06f, Step::Jump(-4)),
            (0x7ffff06f, Step::Jump(0xf_fffe)),
            (0x8000_006f, Step::Jump(-0x10_0000)),
            (0x0010_006f, Step::Jump(0x800)),
            (0xfe00_0ee3, Step::Branch(-4)),
            (0x7e00_0fe3, Step::Branch(0xffe)),
            (0x8000_0063, Step::Branch(-0x1000)),
        ] {
            assert_eq!(full(word), step, "{word:#x}");
        }
        for (half, step) in [
            (0xbffd, Step::Jump(-2)),
            (0xa001, Step::Jump(0)),
            (0xa021, Step::Jump(8)),
            (0xaffd, Step::Jump(0x7fe)),
            (0xb001, Step::Jump(-0x800)),
            (0xdd7d, Step::Branch(-2)),
            (0xcd7d, Step::Branch(0xfe)),
            (0xd101, Step::Branch(-0x100)),
        ] {
            assert_eq!(compressed(half), step, "{half:#x}");
        }
    }

    /// Where the bits of an offset are, highest first (unprivileged specification, "RV32/64G Instruction Set Listings" and
    /// "RVC Instruction Set Listings").
    #[test]
    fn every_bit_of_an_offset_is_decoded() {
        let jal = [
            20, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 11, 19, 18, 17, 16, 15, 14, 13, 12,
        ];
        let beq_high = [12, 10, 9, 8, 7, 6, 5];
        let beq_low = [4, 3, 2, 1, 11];
        let signed = |bit: u32, sign| {
            let value = 1_isize << bit;
            if bit == sign { -value } else { value }
        };
        for (position, bit) in (12..32).rev().zip(jal) {
            let step = Step::Jump(signed(bit, 20));
            assert_eq!(full(0x6f | 1 << position), step, "jal, {position}");
        }
        let positions = (25..32).rev().chain((7..12).rev());
        for (position, bit) in positions.zip(beq_high.into_iter().chain(beq_low)) {
            let step = Step::Branch(signed(bit, 12));
            assert_eq!(full(0x63 | 1 << position), step, "beq, {position}");
        }
        for (position, bit) in (2..13).rev().zip([11, 4, 9, 8, 10, 6, 7, 3, 2, 1, 5]) {
            let step = Step::Jump(signed(bit, 11));
            assert_eq!(compressed(0xa001 | 1 << position), step, "c.j, {position}");
        }
        for branch in [0xc001, 0xe001] {
            let positions = [12, 11, 10, 6, 5, 4, 3, 2];
            for (position, bit) in positions.into_iter().zip([8, 4, 3, 7, 6, 2, 1, 5]) {
                let step = Step::Branch(signed(bit, 8));
                let half = branch | 1 << position;
                assert_eq!(compressed(half), step, "{branch:#x}, {position}");
            }
        }
    }

    #[test]
    fn each_kind_of_instruction_has_its_step() {
        for (word, step) in [
            (0x0000_8067, Step::Unknown),    // ret
            (0x0000_80e7, Step::Next),       // jalr ra, ra
            (0x0000_0fef, Step::Next),       // jal t6, .
            (0x3020_0073, Step::MachineCsr), // mret
            (0x1050_0073, Step::Next),       // wfi
            (0x1020_0073, Step::Unknown),    // sret
            (0x0010_0073, Step::Unknown),    // ebreak
            (0x3000_4073, Step::Unknown),    // funct3 4 is no access to a CSR, but hlv and others
            (0x3000_1073, Step::MachineCsr), // csrw mstatus, zero
            (0x3000_7073, Step::MachineCsr), // csrci mstatus, 0
            (0x2000_1073, Step::Unknown),    // csrw vsstatus, zero
            (0x1000_1073, Step::Unknown),    // csrw sstatus, zero
            (0x0010_1073, Step::Next),       // fsflags zero
        ] {
            assert_eq!(full(word), step, "{word:#x}");
        }
        for (half, step) in [
            (0x0000, Step::Unknown), // illegal by definition
            (0x0004, Step::Next),    // c.addi4spn s1, sp, 0, which is reserved
            (0x8002, Step::Unknown), // c.jr x0, which is reserved
            (0x8082, Step::Unknown), // c.ret
            (0x8282, Step::Unknown), // c.jr t0
            (0x9002, Step::Unknown), // c.ebreak
            (0x9082, Step::Next),    // c.jalr ra
            (0x9282, Step::Next),    // c.jalr t0
            (0x8086, Step::Next),    // c.mv ra, ra
            (0x9006, Step::Next),    // c.add x0, ra
            (0x8001, Step::Next),    // c.srli
        ] {
            assert_eq!(compressed(half), step, "{half:#x}");
        }
    }

    #[test]
    fn as_many_instructions_as_the_limit_are_looked_at() {
        for (nops, expected) in [(LIMIT - 1, true), (LIMIT, false)] {
            let mut program = [NOP].repeat(nops);
            program.push(MHARTID);
            assert_eq!(certain(&program), expected, "{nops}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(code in proptest::collection::vec(any::<u8>(), 0..4096)) {
            is_certain(&code);
        }
    }
}
