use alloc::vec;
use alloc::vec::Vec;

use super::super::test_platform::{Fence, MEMORY, TestPlatform, VIRTUAL};
use super::super::{Return, handle};
use super::*;

/// Calls with a function id that is to be ignored. Returns `a0` and `a1`.
fn call(extension: u64, character: u64, platform: &mut TestPlatform) -> [u64; 2] {
    let call = Call {
        extension,
        function: 0x5555,
        args: [character, 0x1111, 2, 3, 4, 5],
    };
    let answer = handle(&call, platform);
    assert!(matches!(answer, Return::Legacy(_)));
    answer.registers(&call)
}

#[test]
fn putchar_writes_the_low_byte_and_leaves_a1() {
    let mut platform = TestPlatform::default();
    assert_eq!(
        call(CONSOLE_PUTCHAR, 0xffff_ffff_ffff_ff41, &mut platform),
        [0, 0x1111]
    );
    assert_eq!(platform.written, b"A");
    platform.broken = true;
    assert_eq!(
        call(CONSOLE_PUTCHAR, 0x41, &mut platform),
        [u64::MAX, 0x1111]
    );
}

#[test]
fn getchar_returns_the_byte_unsigned_and_leaves_a1() {
    let mut platform = TestPlatform::default();
    platform.input.extend([0xff, 0]);
    assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0xff, 0x1111]);
    assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0, 0x1111]);
}

#[test]
fn getchar_without_a_character_is_minus_one_or_what_the_platform_chose() {
    let mut platform = TestPlatform::default();
    assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [u64::MAX, 0x1111]);
    platform.getchar_empty = 0;
    assert_eq!(call(CONSOLE_GETCHAR, 0, &mut platform), [0, 0x1111]);
}

#[test]
fn the_reserved_extensions_are_not_supported_and_leave_a1() {
    let mut platform = TestPlatform::default();
    for extension in SHUTDOWN + 1..=LAST_EID {
        assert_eq!(
            call(extension, 0, &mut platform),
            [Error::NotSupported.code().cast_unsigned(), 0x1111]
        );
    }
    assert!(platform.written.is_empty());
}

#[test]
fn what_the_platform_leaves_to_others_is_not_supported_and_leaves_a1() {
    let mut platform = TestPlatform {
        extensions: Some(&[CONSOLE_GETCHAR]),
        ..TestPlatform::default()
    };
    for extension in FIRST_EID..=LAST_EID {
        let answer = call(extension, 0, &mut platform);
        let there = extension == CONSOLE_GETCHAR;
        assert_eq!(answer == [(-2_i64).cast_unsigned(), 0x1111], !there);
    }
    assert!(platform.written.is_empty() && platform.fenced.is_empty());
    assert_eq!((platform.timer, platform.end), (None, None));
}

#[test]
fn the_timer_is_set() {
    let mut platform = TestPlatform::default();
    assert_eq!(call(SET_TIMER, u64::MAX, &mut platform), [0, 0x1111]);
    assert_eq!(platform.timer, Some(u64::MAX));
}

#[test]
fn clearing_an_interrupt_tells_whether_there_was_one() {
    let mut platform = TestPlatform {
        ipi_pending: true,
        ..TestPlatform::default()
    };
    assert_eq!(call(CLEAR_IPI, 0, &mut platform), [1, 0x1111]);
    assert_eq!(call(CLEAR_IPI, 0, &mut platform), [0, 0x1111]);
}

#[test]
fn a_shutdown_is_a_reset() {
    let mut platform = TestPlatform::default();
    call(SHUTDOWN, 0, &mut platform);
    assert_eq!(platform.end, Some(End::PowerOff));
}

/// A platform of so many harts, with a list of harts at the beginning of its memory and nothing behind it.
fn with_list(harts: u32, list: &[u64]) -> TestPlatform {
    let bytes: Vec<u8> = list.iter().flat_map(|word| word.to_le_bytes()).collect();
    TestPlatform {
        memory: bytes,
        ..TestPlatform::with_harts(harts)
    }
}

/// Where the list is for the guest.
const LIST: u64 = VIRTUAL + MEMORY;

#[test]
fn a_list_of_harts_is_in_virtual_memory() {
    let mut platform = with_list(4, &[0b1010]);
    assert_eq!(call(SEND_IPI, LIST, &mut platform), [0, 0x1111]);
    assert_eq!(platform.interrupted, [1, 3]);
}

#[test]
fn a_list_has_as_many_words_as_the_machine_has_harts_for() {
    for (harts, words) in [(1, 1), (64, 1), (65, 2), (130, 3), (512, 8)] {
        let mut platform = with_list(harts, &vec![u64::MAX; words]);
        assert_eq!(call(SEND_IPI, LIST, &mut platform), [0, 0x1111]);
        let all: Vec<u32> = (0..harts).collect();
        assert_eq!(platform.interrupted, all, "and no others");
        let mut platform = with_list(harts, &vec![u64::MAX; words - 1]);
        assert_eq!(call(SEND_IPI, LIST, &mut platform), [u64::MAX, 0x1111]);
        assert!(platform.interrupted.is_empty());
    }
}

#[test]
fn a_list_that_is_nowhere_is_all_harts() {
    let mut platform = TestPlatform::with_harts(70);
    assert_eq!(call(SEND_IPI, 0, &mut platform), [0, 0x1111]);
    assert_eq!(platform.interrupted.len(), 70);
}

#[test]
fn a_list_that_cannot_be_loaded_does_nothing() {
    for extension in [
        SEND_IPI,
        REMOTE_FENCE_I,
        REMOTE_SFENCE_VMA,
        REMOTE_SFENCE_VMA_ASID,
    ] {
        let mut platform = with_list(4, &[u64::MAX]);
        for address in [MEMORY, LIST + 1, u64::MAX] {
            call(extension, address, &mut platform);
        }
        assert!(platform.interrupted.is_empty() && platform.fenced.is_empty());
    }
}

#[test]
fn each_fence_is_what_it_is_called() {
    let mut platform = with_list(70, &[0b101, 0b10]);
    for extension in [REMOTE_FENCE_I, REMOTE_SFENCE_VMA, REMOTE_SFENCE_VMA_ASID] {
        let call = Call {
            extension,
            function: 0x5555,
            args: [LIST, 0x1000, 0x2000, 9, 4, 5],
        };
        assert_eq!(handle(&call, &mut platform), Return::Legacy(0));
    }
    let range = FenceRange::Part {
        start: 0x1000,
        size: 0x2000,
    };
    let halves = [(0b101, 0), (0b10, 64)];
    let halves = halves.map(|(mask, base)| HartSet::new(mask, base, 70).unwrap());
    let [low, high] = halves;
    assert_eq!(
        platform.fenced,
        [
            Fence::Instructions(low),
            Fence::Instructions(high),
            Fence::Memory(low, range, None),
            Fence::Memory(high, range, None),
            Fence::Memory(low, range, Some(9)),
            Fence::Memory(high, range, Some(9)),
        ]
    );
}

#[test]
fn a_fence_that_cannot_be_is_an_error() {
    let mut platform = with_list(4, &[1]);
    for (extension, start, size, asid) in [
        (REMOTE_SFENCE_VMA, u64::MAX, 2, 0),
        (REMOTE_SFENCE_VMA_ASID, u64::MAX, 2, 0),
        (REMOTE_SFENCE_VMA_ASID, 0, 0, 0x1_0000),
    ] {
        let call = Call {
            extension,
            function: 0,
            args: [LIST, start, size, asid, 4, 5],
        };
        assert!(matches!(
            handle(&call, &mut platform),
            Return::Legacy(..=-1)
        ));
    }
    assert!(platform.fenced.is_empty());
}
