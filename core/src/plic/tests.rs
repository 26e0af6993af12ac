//! What the specification says, sentence by sentence.

use super::*;

const PENDING: u64 = 0x1000;
/// The context of hart 0's S-mode.
const S0: u64 = 1;
/// The context of hart 1's S-mode.
const S1: u64 = 3;
/// The context of hart 0's M-mode.
const M0: u64 = 0;

const fn priority(source: u64) -> u64 {
    4 * source
}
const fn enable(context: u64, word: u64) -> u64 {
    0x2000 + 0x80 * context + 4 * word
}
const fn threshold(context: u64) -> u64 {
    0x20_0000 + 0x1000 * context
}
const fn claim(context: u64) -> u64 {
    threshold(context) + 4
}

/// A controller of two harts with 95 sources, and the notifications it gave.
struct Board {
    plic: Plic,
    notified: Notified,
    /// A loop over sources or registers that has no end shows as one.
    _watch: hv_test_limit::Watch,
}

#[derive(Default)]
struct Notified {
    lines: Vec<(u32, bool)>,
    /// Each source completed, and how many notifications came before.
    completed: Vec<(u32, usize)>,
}

impl HartLines for Notified {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        self.lines.push((hart, asserted));
    }

    fn completed(&mut self, source: u32) {
        self.completed.push((source, self.lines.len()));
    }
}

impl Board {
    fn new() -> Self {
        Self {
            plic: Plic::new(2, 95),
            notified: Notified::default(),
            _watch: hv_test_limit::watch(),
        }
    }

    /// With these sources at priority 1 and enabled for S-mode of hart 0.
    fn with_enabled(sources: &[u64]) -> Self {
        let mut board = Self::new();
        for source in sources {
            board.write(priority(*source), 1);
            board.enable(S0, *source);
        }
        board
    }

    fn enable(&mut self, context: u64, source: u64) {
        let word = self.read(enable(context, source / 32));
        self.write(enable(context, source / 32), word | 1 << (source % 32));
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0xa5; 4];
        self.plic.read(offset, &mut data, &mut self.notified);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.plic
            .write(offset, &value.to_le_bytes(), &mut self.notified);
    }

    fn set(&mut self, source: u32, level: bool) {
        self.plic.set_source(source, level, &mut self.notified);
    }

    /// The notifications since the last time this was asked.
    fn notified(&mut self) -> Vec<(u32, bool)> {
        mem::take(&mut self.notified.lines)
    }
}

#[test]
fn an_interrupt_goes_from_wire_to_completion() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.notified(), [(0, true)]);
    assert_eq!(board.read(PENDING), 1 << 10);
    assert_eq!(board.read(claim(S0)), 10);
    assert_eq!(board.notified(), [(0, false)]);
    assert_eq!(board.read(PENDING), 0);
    board.set(10, false);
    board.write(claim(S0), 10);
    assert_eq!(board.notified(), []);
    assert!(!board.plic.line(0));
}

#[test]
fn a_claim_that_finds_nothing_returns_zero() {
    let mut board = Board::with_enabled(&[10]);
    assert_eq!(board.read(claim(S0)), 0);
    assert_eq!(board.read(claim(M0)), 0);
    assert_eq!(board.read(claim(15871)), 0);
}

#[test]
fn a_level_still_high_at_completion_is_pending_again() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    assert_eq!(board.read(claim(S0)), 0, "claimed, so masked");
    board.notified();
    board.write(claim(S0), 10);
    assert_eq!(board.notified(), [(0, true)]);
    assert_eq!(board.read(claim(S0)), 10);
}

#[test]
fn a_completion_is_told_of_before_the_level_counts_again() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.notified();
    board.write(claim(S0), 10);
    assert_eq!(board.notified.completed, [(10, 0)]);
    assert_eq!(board.notified(), [(0, true)]);
}

#[test]
fn only_what_is_completed_is_told_of() {
    let mut board = Board::with_enabled(&[10, 11]);
    board.set(10, true);
    board.write(claim(S0), 10);
    board.read(claim(S0));
    for (context, source) in [(S0, 0), (S0, 11), (S0, 96), (S0, 10 << 8), (M0, 10)] {
        board.write(claim(context), source);
    }
    assert_eq!(board.notified.completed, []);
    board.write(claim(S0), 10);
    board.write(claim(S0), 10);
    assert_eq!(board.notified.completed.len(), 1);
}

#[test]
fn an_interrupt_between_claim_and_completion_is_not_lost() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.set(10, false);
    board.set(10, true);
    assert_eq!(board.read(PENDING), 0, "the gateway holds it back");
    board.write(claim(S0), 10);
    assert_eq!(board.read(claim(S0)), 10);
}

#[test]
fn a_request_is_not_taken_back_when_the_level_falls() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    board.set(10, false);
    assert_eq!(board.notified(), [(0, true)]);
    assert_eq!(board.read(claim(S0)), 10);
    board.write(claim(S0), 10);
    assert_eq!(board.read(claim(S0)), 0);
}

#[test]
fn one_level_makes_one_request() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.set(10, false);
    board.write(claim(S0), 10);
    assert_eq!(board.read(claim(S0)), 0);
}

#[test]
fn priority_zero_never_interrupts() {
    let mut board = Board::with_enabled(&[10]);
    board.write(priority(10), 0);
    board.set(10, true);
    assert_eq!(board.notified(), []);
    assert_eq!(board.read(PENDING), 1 << 10);
    assert_eq!(board.read(claim(S0)), 0);
    board.write(priority(10), 1);
    assert_eq!(board.notified(), [(0, true)]);
}

#[test]
fn the_highest_priority_comes_first_and_then_the_lowest_number() {
    let mut board = Board::with_enabled(&[3, 4, 40, 41]);
    board.write(priority(40), 7);
    board.write(priority(41), 7);
    for source in [41, 40, 4, 3] {
        board.set(source, true);
    }
    let claims: Vec<u32> = (0..5).map(|_| board.read(claim(S0))).collect();
    assert_eq!(claims, [40, 41, 3, 4, 0]);
}

#[test]
fn the_line_stays_up_until_the_last_request_is_claimed() {
    let mut board = Board::with_enabled(&[3, 4]);
    board.set(3, true);
    board.set(4, true);
    assert_eq!(board.notified(), [(0, true)]);
    board.read(claim(S0));
    assert_eq!(board.notified(), []);
    board.read(claim(S0));
    assert_eq!(board.notified(), [(0, false)]);
}

#[test]
fn the_threshold_masks_priorities_up_to_its_own() {
    let mut board = Board::with_enabled(&[10]);
    board.write(priority(10), 3);
    board.set(10, true);
    assert_eq!(board.notified(), [(0, true)]);
    board.write(threshold(S0), 3);
    assert_eq!(board.notified(), [(0, false)]);
    board.write(threshold(S0), 2);
    assert_eq!(board.notified(), [(0, true)], "lowering it looks again");
}

#[test]
fn a_claim_is_not_affected_by_the_threshold() {
    let mut board = Board::with_enabled(&[10]);
    board.write(threshold(S0), 7);
    board.set(10, true);
    assert!(!board.plic.line(0));
    assert_eq!(board.read(claim(S0)), 10);
}

#[test]
fn priorities_and_thresholds_keep_three_bits() {
    let mut board = Board::new();
    for register in [priority(1), priority(95), threshold(S0), threshold(M0)] {
        board.write(register, u32::MAX);
        assert_eq!(board.read(register), 7);
        board.write(register, 8);
        assert_eq!(board.read(register), 0);
    }
}

#[test]
fn enabling_and_disabling_move_the_line() {
    let mut board = Board::new();
    board.write(priority(33), 1);
    board.set(33, true);
    assert_eq!(board.read(claim(S0)), 0, "not enabled");
    board.write(enable(S0, 1), 1 << 1);
    assert_eq!(board.notified(), [(0, true)]);
    board.write(enable(S0, 1), 0);
    assert_eq!(board.notified(), [(0, false)]);
    assert_eq!(board.read(claim(S0)), 0);
    assert_eq!(board.read(PENDING + 4), 1 << 1, "pending all the same");
}

#[test]
fn all_enabled_harts_are_notified_and_one_can_claim() {
    let mut board = Board::with_enabled(&[10]);
    board.enable(S1, 10);
    board.set(10, true);
    assert_eq!(board.notified(), [(0, true), (1, true)]);
    assert_eq!(board.read(claim(S1)), 10);
    assert_eq!(board.notified(), [(0, false), (1, false)]);
    assert_eq!(board.read(claim(S0)), 0);
}

#[test]
fn any_context_that_has_the_source_enabled_can_complete_it() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.write(claim(S1), 10);
    assert_eq!(board.read(PENDING), 0, "not enabled for hart 1: ignored");
    board.enable(S1, 10);
    board.write(claim(S1), 10);
    assert_eq!(board.read(PENDING), 1 << 10);
}

#[test]
fn a_completion_for_a_source_disabled_meanwhile_is_ignored() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.write(enable(S0, 0), 0);
    board.write(claim(S0), 10);
    assert_eq!(board.read(PENDING), 0);
    board.write(enable(S0, 0), 1 << 10);
    assert_eq!(board.read(claim(S0)), 0, "still in service");
    board.write(claim(S0), 10);
    assert_eq!(board.read(claim(S0)), 10);
}

#[test]
fn completing_what_is_not_claimed_does_nothing() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    board.notified();
    for id in [0, 10, 11, 95, 96, 1024, u32::MAX] {
        board.write(claim(S0), id);
    }
    assert_eq!(board.read(PENDING), 1 << 10);
    assert_eq!(board.notified(), []);
}

#[test]
fn machine_mode_contexts_hold_state_and_drive_no_line() {
    let mut board = Board::new();
    board.write(priority(10), 1);
    board.write(enable(M0, 0), 1 << 10);
    board.write(threshold(M0), 5);
    assert_eq!(board.read(enable(M0, 0)), 1 << 10);
    assert_eq!(board.read(threshold(M0)), 5);
    assert_eq!(board.read(enable(S0, 0)), 0);
    board.set(10, true);
    assert_eq!(board.notified(), []);
    assert_eq!(board.read(claim(M0)), 10);
    board.write(claim(M0), 10);
    assert_eq!(board.read(PENDING), 1 << 10);
}

#[test]
fn source_zero_does_not_exist() {
    let mut board = Board::new();
    board.write(priority(0), 7);
    assert_eq!(board.read(priority(0)), 0);
    board.write(enable(S0, 0), 1);
    assert_eq!(board.read(enable(S0, 0)), 0);
    board.set(0, true);
    assert_eq!(board.read(PENDING), 0);
}

#[test]
fn sources_end_at_the_last() {
    let mut board = Board::with_enabled(&[95]);
    board.write(priority(96), 7);
    assert_eq!(board.read(priority(96)), 0);
    board.write(enable(S0, 3), u32::MAX);
    assert_eq!(board.read(enable(S0, 3)), 0);
    board.set(96, true);
    board.set(u32::MAX, true);
    assert_eq!(board.notified(), []);
    board.set(95, true);
    assert_eq!(board.read(claim(S0)), 95);

    let mut odd = Plic::new(1, 40);
    let mut word = [0; 4];
    odd.write(enable(S0, 1), &[0xff; 4], &mut board.notified);
    odd.read(enable(S0, 1), &mut word, &mut board.notified);
    assert_eq!(
        u32::from_le_bytes(word),
        0x1ff,
        "bits above source 40 are hardwired to zero"
    );
}

#[test]
fn pending_bits_cannot_be_written() {
    let mut board = Board::with_enabled(&[10]);
    board.write(PENDING, u32::MAX);
    assert_eq!(board.read(PENDING), 0);
    board.set(10, true);
    board.write(PENDING, 0);
    assert_eq!(board.read(PENDING), 1 << 10);
}

#[test]
fn an_operating_system_may_sweep_over_all_enable_words() {
    let mut board = Board::new();
    for offset in (0x1000..=0x1f_1ffc_u64).step_by(4) {
        board.write(offset, u32::MAX);
    }
    assert_eq!(board.read(enable(S1, 0)), 0xffff_fffe);
    assert_eq!(board.read(enable(S1, 2)), 0xffff_ffff);
    assert_eq!(board.read(enable(S1, 3)), 0);
    assert_eq!(
        board.read(enable(4, 0)),
        0,
        "a hart that the machine does not have"
    );
    assert_eq!(board.read(enable(15871, 31)), 0);
}

#[test]
fn reserved_registers_read_as_zero() {
    let mut board = Board::new();
    for offset in [
        0xffc,
        0x1080,
        0x1ffc,
        0x1f_2000,
        0x1f_fffc,
        threshold(S0) + 8,
        0x3ff_fffc,
        0x400_0000,
        u64::MAX - 3,
    ] {
        board.write(offset, u32::MAX);
        assert_eq!(board.read(offset), 0, "{offset:#x}");
    }
}

#[test]
fn a_read_of_eight_bytes_is_two_registers() {
    let mut board = Board::with_enabled(&[10]);
    board.write(threshold(S0), 6);
    board.set(10, true);
    let mut data = [0; 8];
    board
        .plic
        .read(threshold(S0), &mut data, &mut board.notified);
    assert_eq!(data, [6, 0, 0, 0, 10, 0, 0, 0]);
    assert_eq!(board.read(claim(S0)), 0, "it claimed");
    assert_eq!(board.read(PENDING), 0);
}

#[test]
fn a_narrow_read_is_part_of_a_register() {
    let mut board = Board::with_enabled(&[10, 40]);
    board.write(priority(40), 5);
    let mut byte = [0xff];
    board
        .plic
        .read(priority(40), &mut byte, &mut board.notified);
    assert_eq!(byte, [5]);
    board
        .plic
        .read(enable(S0, 0) + 1, &mut byte, &mut board.notified);
    assert_eq!(byte, [1 << 2]);
    let mut half = [0xff; 2];
    board
        .plic
        .read(enable(S0, 0) + 3, &mut half, &mut board.notified);
    assert_eq!(
        half,
        [0, 0],
        "the last byte of one register and the first of the next"
    );
    board.set(10, true);
    board.plic.read(claim(S0), &mut byte, &mut board.notified);
    assert_eq!(byte, [10]);
    assert_eq!(board.read(PENDING), 0, "it claimed");
}

#[test]
fn a_narrow_write_keeps_the_other_bytes() {
    let mut board = Board::new();
    board.write(enable(S0, 1), 0x1234_5678);
    board
        .plic
        .write(enable(S0, 1) + 2, &[0xff], &mut board.notified);
    assert_eq!(board.read(enable(S0, 1)), 0x12ff_5678);
    board
        .plic
        .write(enable(S0, 1) + 3, &[0xaa, 0xbb], &mut board.notified);
    assert_eq!(board.read(enable(S0, 1)), 0xaaff_5678);
    assert_eq!(board.read(enable(S0, 2)), 0xbb);
}

#[test]
fn a_narrow_completion_counts_the_other_bytes_as_zero() {
    let mut board = Board::with_enabled(&[10]);
    board.set(10, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.plic.write(claim(S0) + 1, &[10], &mut board.notified);
    assert_eq!(board.read(PENDING), 0, "that is source 2560");
    board.plic.write(claim(S0), &[10], &mut board.notified);
    assert_eq!(board.read(PENDING), 1 << 10);
}

#[test]
fn an_access_does_not_go_round_the_end_of_the_address_space() {
    let mut board = Board::new();
    board.plic.write(u64::MAX - 1, &[7; 8], &mut board.notified);
    let mut data = [0xff; 8];
    board
        .plic
        .read(u64::MAX - 1, &mut data, &mut board.notified);
    assert_eq!(data, [0; 8]);
    assert_eq!(board.read(priority(1)), 0);
}

#[test]
fn reset_keeps_the_wires_and_nothing_else() {
    let mut board = Board::with_enabled(&[10, 11]);
    board.set(10, true);
    board.set(11, true);
    assert_eq!(board.read(claim(S0)), 10);
    board.set(11, false);
    for context in [M0, S1] {
        board.write(threshold(context), 5);
        board.write(enable(context, 1), u32::MAX);
    }
    board.notified();
    board.plic.reset(&mut board.notified);
    assert_eq!(board.notified(), [(0, false)]);

    let mut fresh = Plic::new(2, 95);
    fresh.set_source(10, true, &mut board.notified);
    assert_eq!(board.plic, fresh);
}

#[test]
fn no_size_is_too_large_or_too_small() {
    let mut board = Board {
        plic: Plic::new(u32::MAX, u32::MAX),
        notified: Notified::default(),
        _watch: hv_test_limit::watch(),
    };
    board.write(priority(1023), 1);
    board.write(enable(15871, 31), u32::MAX);
    board.set(1023, true);
    assert_eq!(board.notified(), [(7935, true)]);
    assert_eq!(board.read(claim(15871)), 1023);

    let mut board = Board {
        plic: Plic::new(0, 0),
        notified: Notified::default(),
        _watch: hv_test_limit::watch(),
    };
    board.write(enable(S0, 0), u32::MAX);
    board.set(0, true);
    board.set(1, true);
    board.write(threshold(S0), 0);
    assert_eq!(board.read(claim(S0)), 0);
    assert_eq!(board.notified(), []);
}
