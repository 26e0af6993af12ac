//! Guests of a few instructions, whose run is as short as their VMM makes it.

/// Prints one character by the UART and switches the machine off (SBI SRST).
const ONE_CHARACTER: [u32; 3] = [
    0x1000_02b7, // lui  t0, 0x10000      the UART's transmitter holding register
    0x0400_0313, // li   t1, '@'
    0x0062_8023, // sb   t1, 0(t0)
];

/// What [`SBI_CONSOLE`] prints, bytes: whatever is in its memory.
pub(super) const SBI_BYTES: u64 = 4 << 20;

/// Prints [`SBI_BYTES`] by the debug console (SBI DBCN), in as many calls as it takes.
const SBI_CONSOLE: [u32; 12] = [
    0x0040_0437, // lui  s0, 0x400        bytes that are left
    0x0000_0497, // auipc s1, 0
    0x4442_48b7, // lui  a7, 0x44424      "DBCN", of which the low half is added
    0x34e8_8893, // addi a7, a7, 0x34e
    0x0000_0813, // li   a6, 0            Console Write
    0x0004_0513, // mv   a0, s0
    0x0004_8593, // mv   a1, s1
    0x0000_0613, // li   a2, 0
    0x0000_0073, // ecall
    0x0005_1663, // bnez a0, .+12         an error
    0x40b4_0433, // sub  s0, s0, a1
    0xfc04_1ee3, // bnez s0, .-36
];

/// What both end with.
const SWITCH_OFF: [u32; 7] = [
    0x5352_58b7, // lui  a7, 0x53525      "SRST"
    0x3548_8893, // addi a7, a7, 0x354
    0x0000_0813, // li   a6, 0            System reset
    0x0000_0513, // li   a0, 0            by shutdown
    0x0000_0593, // li   a1, 0            for no reason
    0x0000_0073, // ecall
    0x0000_006f, // j    .
];

/// A kernel `Image` whose guest prints one character and switches its machine off.
pub(super) fn one_character() -> Vec<u8> {
    image(&ONE_CHARACTER)
}

/// A kernel `Image` whose guest prints [`SBI_BYTES`] by SBI and switches its machine off.
pub(super) fn sbi_console() -> Vec<u8> {
    image(&SBI_CONSOLE)
}

/// The instructions behind the header of a kernel's Image (Linux, Documentation/arch/riscv/boot-image-header.rst).
fn image(program: &[u32]) -> Vec<u8> {
    const SIZE: usize = 8192;
    let mut image = Vec::with_capacity(SIZE);
    image.extend(0x0400_006f_u64.to_le_bytes()); // code0: j .+64
    image.extend(0x20_0000_u64.to_le_bytes()); // text_offset
    image.extend((SIZE as u64).to_le_bytes()); // image_size
    image.extend(0_u64.to_le_bytes()); // flags: little-endian
    image.extend(2_u64.to_le_bytes()); // version 0.2
    image.extend(0_u64.to_le_bytes());
    image.extend(b"RISCV\0\0\0RSC\x05\0\0\0\0");
    for instruction in program.iter().chain(&SWITCH_OFF) {
        image.extend(instruction.to_le_bytes());
    }
    image.resize(SIZE, 0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_follows_a_header_of_64_bytes() {
        let image = one_character();
        assert_eq!(image[48..56], *b"RISCV\0\0\0");
        assert_eq!(image[56..60], *b"RSC\x05");
        assert_eq!(image[64..68], ONE_CHARACTER[0].to_le_bytes());
    }
}
