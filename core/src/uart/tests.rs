//! Checked against the PC16550D data sheet, section 8, and against what drivers do to tell UARTs apart.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use proptest::prelude::*;

use super::*;

/// The registers, with an IRQ line and a source of input.
#[derive(Default)]
struct Bench(RefCell<State>);

#[derive(Default)]
struct State {
    registers: Registers,
    sent: Vec<u8>,
    line: bool,
    /// How often the line changed.
    changes: usize,
    /// Whether input was asked for and nobody has looked.
    asked: bool,
}

impl Bench {
    fn new() -> Self {
        Self::default()
    }
    fn with_fifos() -> Self {
        let bench = Self::new();
        bench.write(register::IIR_FCR, fcr::ENABLE);
        bench
    }
    fn with<T>(&self, access: impl FnOnce(&mut Registers) -> T) -> T {
        let state = &mut *self.0.borrow_mut();
        let result = access(&mut state.registers);
        state.changes += usize::from(state.registers.line() != state.line);
        state.line = state.registers.line();
        state.asked |= state.registers.wants_input();
        assert!(!state.registers.wants_input(), "it is said once");
        result
    }
    fn read_wide(&self, offset: u64, data: &mut [u8]) {
        self.with(|registers| registers.read(offset, data));
    }
    fn write_wide(&self, offset: u64, data: &[u8]) {
        let sent = self.with(|registers| registers.write(offset, data));
        self.0.borrow_mut().sent.extend(sent);
    }
    fn read(&self, register: u64) -> u8 {
        let mut data = [0];
        self.read_wide(register, &mut data);
        data[0]
    }
    fn write(&self, register: u64, value: u8) {
        self.write_wide(register, &[value]);
    }
    fn receive(&self, bytes: &[u8]) -> usize {
        self.with(|registers| registers.receive(bytes))
    }
    fn take_received(&self, buffer: &mut [u8]) -> usize {
        self.with(|registers| registers.take_received(buffer))
    }
    fn level(&self) -> bool {
        self.0.borrow().line
    }
    fn changes(&self) -> usize {
        self.0.borrow().changes
    }
    fn asked(&self) -> bool {
        mem::take(&mut self.0.borrow_mut().asked)
    }
    fn registers(&self) -> Registers {
        self.0.borrow().registers.clone()
    }
    /// The guest waits for a character as a driver without interrupts does.
    fn poll_for_input(&self) {
        for _ in 0..POLLS_OF_A_READER {
            self.read(register::LSR);
        }
    }
    fn interrupt(&self) -> u8 {
        self.read(register::IIR_FCR) & 0x0f
    }
    fn sent(&self) -> Vec<u8> {
        self.0.borrow().sent.clone()
    }
}

#[test]
fn power_on_state() {
    let bench = Bench::new();
    // Data sheet, table III, "UART Reset Configuration".
    assert_eq!(bench.read(register::IER_DLM), 0);
    assert_eq!(bench.read(register::IIR_FCR), 0x01);
    assert_eq!(bench.read(register::LCR), 0);
    assert_eq!(bench.read(register::MCR), 0);
    assert_eq!(bench.read(register::LSR), 0x60);
    assert_eq!(bench.read(register::MSR), 0xb0);
    assert_eq!(bench.changes(), 0);
    // Not named there, and zero here.
    assert_eq!(bench.read(register::RBR_THR_DLL), 0);
    assert_eq!(bench.read(register::SCR), 0);
    bench.write(register::LCR, lcr::DIVISOR_LATCH_ACCESS);
    assert_eq!(bench.read(register::RBR_THR_DLL), 0);
    assert_eq!(bench.read(register::IER_DLM), 0);
}

/// Each register that holds what is written holds each bit that it has, and disturbs no other.
#[test]
fn registers_read_as_written() {
    for value in (0..8).map(|bit| 1 << bit).chain([0, 0xff, 0x5a, 0xa5]) {
        let bench = Bench::new();
        bench.write(register::LCR, value & 0x7f);
        bench.write(register::IER_DLM, value);
        bench.write(register::MCR, value);
        bench.write(register::SCR, !value);
        // Read-only.
        bench.write(register::LSR, value);
        bench.write(register::MSR, value);
        bench.write(register::LCR, value | 0x80);
        bench.write(register::RBR_THR_DLL, value ^ 0x11);
        bench.write(register::IER_DLM, value ^ 0x22);
        assert_eq!(bench.read(register::LCR), value | 0x80);
        assert_eq!(bench.read(register::RBR_THR_DLL), value ^ 0x11);
        assert_eq!(bench.read(register::IER_DLM), value ^ 0x22);
        bench.write(register::LCR, value & 0x7f);
        assert_eq!(bench.read(register::IER_DLM), value & 0x0f);
        assert_eq!(bench.read(register::MCR), value & 0x1f);
        assert_eq!(bench.read(register::SCR), !value);
        assert_eq!(bench.read(register::LSR), 0x60);
    }
}

#[test]
fn trigger_levels_are_those_of_the_fifo() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    // "This bit must be a 1 when other FCR bits are written to or they will not be programmed."
    bench.write(register::IIR_FCR, 3 << fcr::TRIGGER_SHIFT);
    assert_eq!(bench.receive(b"x"), 1);
    assert_eq!(bench.read(register::IIR_FCR), iir::RECEIVED_DATA);
    // What the receiver of a 16450 held is gone with the switch to FIFOs, and the level counts from here.
    bench.write(register::IIR_FCR, fcr::ENABLE | 3 << fcr::TRIGGER_SHIFT);
    assert_eq!(bench.receive(b"y"), 1);
    assert_eq!(
        bench.read(register::IIR_FCR),
        iir::FIFOS_ENABLED | iir::CHARACTER_TIMEOUT
    );
    bench.write(register::IIR_FCR, 3 << fcr::TRIGGER_SHIFT);
    assert_eq!(bench.receive(b""), 0);
    assert_eq!(bench.read(register::IIR_FCR), iir::RECEIVED_DATA);
}

/// A guest throws its input away and adds characters of its own, in turn. What comes again is never more than a FIFO holds.
#[test]
fn what_comes_again_is_at_most_a_fifo() {
    let bench = Bench::with_fifos();
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    let line: Vec<u8> = (b'a'..).take(FIFO_SIZE).collect();
    assert_eq!(bench.receive(&line), FIFO_SIZE);
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    bench.write(register::MCR, mcr::LOOP);
    for _ in 0..3 {
        bench.write(register::RBR_THR_DLL, b'!');
    }
    bench.write(register::MCR, 0);
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    assert!(bench.registers().is_possible());
    assert_eq!(bench.receive(b""), 0);
    let read: Vec<u8> = line
        .iter()
        .map(|_| bench.read(register::RBR_THR_DLL))
        .collect();
    assert_eq!(read, line);
    assert_eq!(bench.read(register::LSR), 0x60);
}

#[test]
fn changes_of_modem_lines_add_up_until_they_are_read() {
    let bench = Bench::new();
    bench.write(register::MCR, mcr::LOOP | 0x0f);
    bench.read(register::MSR);
    // Each line goes away and comes back; a second change of one does not undo the first.
    for output in [
        mcr::RTS,
        mcr::DTR,
        mcr::OUT1,
        mcr::OUT2,
        mcr::RTS,
        mcr::OUT1,
    ] {
        bench.write(register::MCR, mcr::LOOP | 0x0f & !output);
        bench.write(register::MCR, mcr::LOOP | 0x0f);
    }
    assert_eq!(bench.read(register::MSR), 0xff);
    assert_eq!(bench.read(register::MSR), 0xf0);
}

#[test]
fn registers_that_no_uart_can_hold() {
    let fifos = |registers: &mut Registers| registers.fifos_enabled = true;
    let mut good = Registers::new();
    fifos(&mut good);
    good.received.extend([0; FIFO_SIZE]);
    good.unread.extend([0; FIFO_SIZE]);
    (good.ier, good.mcr, good.msr_deltas) = (0x0f, 0x1f, 0x0f);
    for trigger in [1, 4, 8, 14] {
        good.trigger = trigger;
        assert!(good.is_possible(), "{trigger}");
    }
    let changes: [fn(&mut Registers); 8] = [
        |registers| registers.received.push_back(0),
        |registers| registers.fifos_enabled = false,
        |registers| registers.unread.push_back(0),
        |registers| registers.ier = 0x10,
        |registers| registers.mcr = 0x20,
        |registers| registers.trigger = 0,
        |registers| registers.trigger = 2,
        |registers| registers.msr_deltas = 0x10,
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut registers = good.clone();
        change(&mut registers);
        assert!(!registers.is_possible(), "{index}");
    }
}

#[test]
fn characters_leave_in_order_whatever_the_width_of_the_access() {
    let bench = Bench::new();
    bench.write(register::RBR_THR_DLL, b'a');
    bench.write_wide(0, &[b'b', 0xff]);
    bench.write_wide(0, &[b'c', 0, 0, 0]);
    bench.write_wide(0, &[b'd', 0, 0, 0, 0, 0, 0, 0]);
    bench.write_wide(0, &[]);
    assert_eq!(bench.sent(), b"abcd");
    let mut wide = [0; 4];
    bench.read_wide(register::LSR, &mut wide);
    assert_eq!(wide, [0x60, 0, 0, 0]);
}

#[test]
fn nothing_answers_beyond_the_registers() {
    let bench = Bench::new();
    for offset in [8, 0xff, u64::MAX] {
        bench.write(offset, 0xff);
        assert_eq!(bench.read(offset), 0);
    }
    assert!(bench.sent().is_empty());
}

#[test]
fn divisor_latch_hides_data_and_interrupt_enable() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, 0x05);
    bench.write(register::LCR, 0x83);
    bench.write(register::RBR_THR_DLL, 0x0c);
    bench.write(register::IER_DLM, 0xab);
    assert_eq!(bench.read(register::RBR_THR_DLL), 0x0c);
    assert_eq!(bench.read(register::IER_DLM), 0xab);
    bench.write(register::LCR, 0x03);
    assert_eq!(bench.read(register::IER_DLM), 0x05);
    assert_eq!(bench.read(register::RBR_THR_DLL), 0);
    assert!(bench.sent().is_empty());
}

#[test]
fn unused_bits_read_zero_and_scratch_holds_all() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, 0xf0);
    bench.write(register::MCR, 0xe0);
    bench.write(register::SCR, 0xa5);
    assert_eq!(bench.read(register::IER_DLM), 0);
    assert_eq!(bench.read(register::MCR), 0);
    assert_eq!(bench.read(register::SCR), 0xa5);
}

/// The order of tests in Linux, drivers/tty/serial/8250/8250_port.c, autoconfig(), down to "16550A" and no further.
#[test]
fn drivers_detect_a_16550a() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, 0);
    assert_eq!(bench.read(register::IER_DLM) & 0x0f, 0);
    bench.write(register::IER_DLM, 0x0f);
    assert_eq!(bench.read(register::IER_DLM) & 0x0f, 0x0f);
    bench.write(register::IER_DLM, 0);
    bench.write(register::MCR, mcr::LOOP | 0x0a);
    assert_eq!(bench.read(register::MSR) & 0xf0, 0x90, "loopback test");
    bench.write(register::MCR, 0);
    bench.write(register::LCR, 0xbf);
    bench.write(register::IIR_FCR, 0);
    bench.write(register::LCR, 0);
    bench.write(register::IIR_FCR, fcr::ENABLE);
    assert_eq!(bench.read(register::IIR_FCR) >> 6, 3);
    for lcr in [0x80, 0xbf] {
        bench.write(register::LCR, lcr);
        assert_ne!(
            bench.read(register::IIR_FCR),
            0,
            "no enhanced feature register: not a 16650"
        );
    }
    // Bit 5 of FCR and IIR belongs to the 64-byte FIFO of a 16750.
    bench.write(register::LCR, 0x80);
    bench.write(register::IIR_FCR, fcr::ENABLE | 0x20);
    assert_eq!(bench.read(register::IIR_FCR) >> 5, 6);
    bench.write(register::LCR, 0);
    bench.write(register::IER_DLM, 0x40);
    assert_eq!(
        bench.read(register::IER_DLM),
        0,
        "no UART unit enable: not an XScale"
    );
}

#[test]
fn transmitter_empty_interrupt() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, ier::TRANSMITTER_EMPTY);
    assert!(
        bench.level(),
        "enabling it while the transmitter is empty raises it"
    );
    assert_eq!(bench.interrupt(), iir::TRANSMITTER_EMPTY);
    assert!(!bench.level(), "reading IIR clears it");
    assert_eq!(bench.interrupt(), iir::NONE);
    bench.write(register::RBR_THR_DLL, b'x');
    assert!(bench.level(), "the character has left");
    // The test for chips that do not raise it again (Linux, serial8250_do_startup).
    bench.write(register::IER_DLM, 0);
    assert!(!bench.level());
    bench.write(register::IER_DLM, ier::TRANSMITTER_EMPTY);
    assert_eq!(bench.interrupt(), iir::TRANSMITTER_EMPTY);
    bench.write(register::IER_DLM, 0);
    bench.write(register::IER_DLM, ier::TRANSMITTER_EMPTY);
    assert_eq!(bench.interrupt(), iir::TRANSMITTER_EMPTY);
}

#[test]
fn reading_iir_clears_the_transmitter_interrupt_only_if_it_is_shown() {
    let bench = Bench::with_fifos();
    bench.write(
        register::IER_DLM,
        ier::TRANSMITTER_EMPTY | ier::RECEIVED_DATA,
    );
    assert_eq!(bench.receive(b"x"), 1);
    assert_eq!(bench.interrupt(), iir::RECEIVED_DATA);
    assert_eq!(bench.read(register::RBR_THR_DLL), b'x');
    assert_eq!(
        bench.interrupt(),
        iir::TRANSMITTER_EMPTY,
        "it was waiting behind the one of higher priority"
    );
}

#[test]
fn received_data_interrupt_follows_the_fifo() {
    let bench = Bench::with_fifos();
    bench.poll_for_input();
    assert_eq!(bench.receive(b"ab"), 2);
    assert!(!bench.level());
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    assert!(bench.level());
    assert_eq!(bench.read(register::LSR), 0x61);
    assert_eq!(bench.interrupt(), iir::RECEIVED_DATA);
    assert!(bench.level(), "only reading the data clears it");
    assert_eq!(bench.read(register::RBR_THR_DLL), b'a');
    assert!(bench.level());
    assert_eq!(bench.read(register::RBR_THR_DLL), b'b');
    assert!(!bench.level());
    assert_eq!(bench.read(register::LSR), 0x60);
    assert_eq!(bench.changes(), 2);
}

#[test]
fn below_the_trigger_level_it_is_a_character_timeout() {
    for (bits, level) in [(0, 1), (1, 4), (2, 8), (3, 14)] {
        let bench = Bench::new();
        bench.write(register::IER_DLM, ier::RECEIVED_DATA);
        bench.write(register::IIR_FCR, fcr::ENABLE | bits << fcr::TRIGGER_SHIFT);
        for count in 1..=16 {
            assert_eq!(bench.receive(b"x"), 1);
            let expected = if count >= level {
                iir::RECEIVED_DATA
            } else {
                iir::CHARACTER_TIMEOUT
            };
            assert_eq!(
                bench.interrupt(),
                expected,
                "level {level}, {count} characters"
            );
        }
    }
}

#[test]
fn fifo_control_empties_the_receiver() {
    for (before, value) in [
        (fcr::ENABLE, fcr::ENABLE | fcr::RECEIVER_RESET),
        (fcr::ENABLE, 0),
        (0, fcr::ENABLE),
    ] {
        let bench = Bench::new();
        bench.write(register::IIR_FCR, before);
        bench.poll_for_input();
        assert_eq!(bench.receive(b"x"), 1);
        bench.write(register::IIR_FCR, value);
        assert_eq!(bench.read(register::LSR) & lsr::DATA_READY, 0, "{value:#x}");
    }
    let bench = Bench::with_fifos();
    bench.poll_for_input();
    assert_eq!(bench.receive(b"x"), 1);
    bench.write(register::IIR_FCR, fcr::ENABLE | 0xc0);
    assert_eq!(
        bench.read(register::RBR_THR_DLL),
        b'x',
        "a new trigger level alone keeps the data"
    );
}

#[test]
fn input_waits_for_room_and_is_asked_for() {
    let bench = Bench::with_fifos();
    bench.poll_for_input();
    assert_eq!(bench.receive(&[b'x'; 100]), FIFO_SIZE);
    assert_eq!(bench.receive(b"y"), 0);
    for _ in 1..FIFO_SIZE {
        bench.read(register::RBR_THR_DLL);
        assert!(!bench.asked(), "not before all is read");
    }
    bench.read(register::RBR_THR_DLL);
    assert!(bench.asked());
    assert_eq!(bench.receive(&[b'x'; FIFO_SIZE]), FIFO_SIZE);
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    assert!(!bench.asked(), "nobody waits for room");
}

/// Linux's 8250 driver enables the received-data interrupt and then the FIFO, which empties the receiver.
#[test]
fn characters_that_a_starting_driver_throws_away_come_again() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    assert_eq!(bench.receive(b"cat"), 1, "no FIFO yet");
    bench.write(register::IIR_FCR, fcr::ENABLE);
    assert_eq!(bench.read(register::LSR) & lsr::DATA_READY, 0);
    assert!(bench.asked());
    assert_eq!(bench.receive(b"at"), 2);
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    assert!(bench.asked());
    assert_eq!(bench.receive(b""), 0);
    let read: Vec<u8> = (0..3).map(|_| bench.read(register::RBR_THR_DLL)).collect();
    assert_eq!(read, b"cat");
    assert!(!bench.asked());
}

#[test]
fn input_waits_until_the_guest_reads_it() {
    let bench = Bench::with_fifos();
    assert_eq!(bench.receive(b"early"), 0);
    // A driver that sends looks at LSR before each character; one that starts clears the FIFO and reads what is left.
    for _ in 0..1000 {
        bench.read(register::LSR);
        bench.write(register::RBR_THR_DLL, b'x');
    }
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    bench.read(register::RBR_THR_DLL);
    assert!(!bench.asked());
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    assert!(bench.asked(), "now it can come");
    assert_eq!(bench.receive(b"early"), 5);
}

#[test]
fn a_guest_that_polls_gets_its_input() {
    let bench = Bench::with_fifos();
    assert_eq!(bench.receive(b"x"), 0);
    bench.poll_for_input();
    assert!(bench.asked());
    assert_eq!(bench.receive(b"x"), 1);
    assert_eq!(bench.read(register::LSR) & lsr::DATA_READY, lsr::DATA_READY);
    assert_eq!(bench.read(register::RBR_THR_DLL), b'x');
}

#[test]
fn without_fifos_the_receiver_holds_one_character() {
    let bench = Bench::new();
    bench.poll_for_input();
    assert_eq!(bench.receive(b"ab"), 1);
    assert_eq!(bench.read(register::RBR_THR_DLL), b'a');
    assert_eq!(bench.receive(b"b"), 1);
}

#[test]
fn received_characters_can_be_taken_around_the_registers() {
    let bench = Bench::with_fifos();
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    assert_eq!(bench.receive(b"0123456789abcdefXYZ"), FIFO_SIZE);
    let mut buffer = [0; 10];
    assert_eq!(bench.take_received(&mut buffer), 10);
    assert_eq!(buffer, *b"0123456789");
    assert!(bench.level());
    assert_eq!(bench.take_received(&mut buffer), 6);
    assert_eq!(buffer[..6], *b"abcdef");
    assert!(!bench.level());
    assert!(bench.asked());
    assert_eq!(bench.take_received(&mut buffer), 0);
}

#[test]
fn loopback_connects_transmitter_to_receiver() {
    let bench = Bench::with_fifos();
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    bench.write(register::MCR, mcr::LOOP);
    assert_eq!(bench.receive(b"x"), 0, "the serial input is disconnected");
    assert!(!bench.asked());
    bench.write(register::RBR_THR_DLL, b'l');
    assert_eq!(bench.read(register::RBR_THR_DLL), b'l');
    assert!(bench.sent().is_empty());
    bench.write(register::MCR, 0);
    assert!(bench.asked(), "connected again");
}

#[test]
fn overrun_in_loopback_is_a_line_status_interrupt() {
    let bench = Bench::with_fifos();
    bench.write(register::IER_DLM, ier::LINE_STATUS);
    bench.write(register::MCR, mcr::LOOP);
    for n in 0..17 {
        assert!(!bench.level());
        bench.write(register::RBR_THR_DLL, n);
    }
    assert_eq!(bench.interrupt(), iir::LINE_STATUS);
    assert_eq!(bench.read(register::LSR), 0x63);
    assert!(!bench.level(), "reading LSR clears it");
    assert_eq!(bench.read(register::LSR), 0x61);
    assert_eq!(
        bench.read(register::RBR_THR_DLL),
        0,
        "the FIFO keeps the older characters"
    );
}

#[test]
fn modem_lines_in_loopback_and_their_changes() {
    let bench = Bench::new();
    assert_eq!(bench.read(register::MSR), 0xb0);
    bench.write(register::IER_DLM, ier::MODEM_STATUS);
    bench.write(register::MCR, mcr::LOOP);
    assert_eq!(bench.interrupt(), iir::MODEM_STATUS);
    assert_eq!(
        bench.read(register::MSR),
        0x0b,
        "CTS, DSR and DCD went away"
    );
    assert!(!bench.level(), "reading MSR clears it");
    for (output, status) in [(mcr::RTS, 0x11), (mcr::DTR, 0x22), (mcr::OUT2, 0x88)] {
        bench.write(register::MCR, mcr::LOOP | output);
        assert_eq!(bench.read(register::MSR), status);
        bench.write(register::MCR, mcr::LOOP);
        assert_eq!(bench.read(register::MSR), status & 0x0f);
    }
    bench.write(register::MCR, mcr::LOOP | mcr::OUT1);
    assert_eq!(
        bench.read(register::MSR),
        0x40,
        "a ring that begins is no change"
    );
    bench.write(register::MCR, mcr::LOOP);
    assert_eq!(bench.read(register::MSR), 0x04, "a ring that ends is");
}

#[test]
fn lines_that_stay_as_they_are_are_no_change() {
    let bench = Bench::new();
    bench.write(register::MCR, mcr::LOOP | mcr::RTS | mcr::OUT1);
    bench.read(register::MSR);
    bench.write(register::MCR, mcr::LOOP | mcr::RTS | mcr::OUT1);
    assert_eq!(bench.read(register::MSR), 0x50);
}

#[test]
fn enabling_another_interrupt_raises_no_transmitter_interrupt() {
    let bench = Bench::new();
    bench.write(register::IER_DLM, ier::TRANSMITTER_EMPTY);
    assert_eq!(bench.interrupt(), iir::TRANSMITTER_EMPTY);
    let both = ier::TRANSMITTER_EMPTY | ier::RECEIVED_DATA;
    bench.write(register::IER_DLM, both);
    assert_eq!(bench.interrupt(), iir::NONE);
    bench.write(register::IER_DLM, both);
    assert_eq!(bench.interrupt(), iir::NONE, "nor does enabling it again");
}

#[test]
fn line_control_reads_as_written() {
    let bench = Bench::new();
    for value in [0x03, 0x9b, 0x1b, 0] {
        bench.write(register::LCR, value);
        assert_eq!(bench.read(register::LCR), value);
    }
}

#[test]
fn a_guest_that_reads_around_the_registers_gets_input() {
    let bench = Bench::with_fifos();
    assert_eq!(bench.receive(b"x"), 0, "nobody listens");
    assert_eq!(bench.take_received(&mut [0]), 0);
    assert!(bench.asked());
    assert_eq!(bench.receive(b"x"), 1);
    let mut buffer = [0];
    assert_eq!((bench.take_received(&mut buffer), buffer), (1, *b"x"));
}

#[test]
fn what_a_guest_sent_itself_does_not_come_again() {
    let bench = Bench::with_fifos();
    bench.write(register::MCR, mcr::LOOP);
    bench.write(register::RBR_THR_DLL, b'l');
    bench.write(register::IIR_FCR, fcr::ENABLE | fcr::RECEIVER_RESET);
    assert_eq!(bench.read(register::LSR), 0x60);
    bench.write(register::MCR, 0);
    bench.write(register::IER_DLM, ier::RECEIVED_DATA);
    assert_eq!(bench.receive(b"x"), 1);
    assert_eq!(bench.read(register::RBR_THR_DLL), b'x');
    assert_eq!(bench.read(register::LSR), 0x60);
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Receive(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..10_u64, 0..9_usize).prop_map(|(offset, width)| Step::Read(offset, width)),
        (0..10_u64, proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(offset, data)| Step::Write(offset, data)),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Step::Receive),
    ]
}

proptest! {
    /// Whatever a guest does: the line tells what IIR tells, and input is read in the order in which it came.
    #[test]
    fn line_and_identification_agree(steps in proptest::collection::vec(step(), 0..200)) {
        let bench = Bench::new();
        let mut received: VecDeque<u8> = VecDeque::new();
        for step in steps {
            let wrote = matches!(step, Step::Write(..));
            match step {
                Step::Read(offset, width) => {
                    let before = bench.registers();
                    let mut data = vec![0; width];
                    bench.read_wide(offset, &mut data);
                    if offset == 0 && width > 0 && !before.divisor_latch() {
                        prop_assert_eq!(data[0], received.pop_front().unwrap_or(0));
                    }
                    prop_assert!(data.iter().skip(1).all(|byte| *byte == 0));
                }
                Step::Write(offset, data) => bench.write_wide(offset, &data),
                Step::Receive(bytes) => {
                    let before = bench.registers();
                    let taken = bench.receive(&bytes);
                    let after = bench.registers();
                    let given = before.received.iter().chain(&before.unread).chain(&bytes[..taken]);
                    prop_assert!(given.eq(after.received.iter().chain(&after.unread)));
                    received = after.received;
                }
            }
            let registers = bench.registers();
            prop_assert_eq!(bench.level(), registers.interrupt() != iir::NONE);
            prop_assert!(registers.received.len() <= FIFO_SIZE);
            prop_assert!(registers.unread.len() <= FIFO_SIZE);
            prop_assert!(registers.is_possible());
            if wrote {
                // Loopback and FIFO control change the queue from within.
                received = registers.received;
            } else {
                prop_assert_eq!(&registers.received, &received);
            }
        }
    }
}
