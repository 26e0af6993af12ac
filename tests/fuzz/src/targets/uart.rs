//! The serial port (16550A): registers by any width, input, and readers beside the driver. The device around the registers gets
//! the same accesses, and has to answer the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hv_core::uart::Registers;
use hv_devices::bus::MmioDevice;
use hv_devices::chardev::OutputSink;
use hv_devices::interrupt::IrqLine;
use hv_devices::uart::Uart;
use vmm_sys_util::eventfd::EventFd;

use crate::input::{Input, Script};

/// Interrupt identification, line status, and their bits.
const IIR: u64 = 2;
const LSR: u64 = 5;
const NO_INTERRUPT: u8 = 1;
const DATA_READY: u8 = 1;

#[derive(Default)]
struct Line(AtomicBool);

impl IrqLine for Line {
    fn set_level(&self, asserted: bool) {
        self.0.store(asserted, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Printed(Mutex<Vec<u8>>);

impl OutputSink for Printed {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend(bytes);
    }

    fn try_write(&self, bytes: &[u8]) -> usize {
        self.write(bytes);
        bytes.len()
    }

    fn set_room_event(&self, _: Arc<EventFd>) {}
}

/// Accesses and input, as the input has them.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut registers = Registers::new();
    let (line, printed) = (Arc::<Line>::default(), Arc::<Printed>::default());
    let device = Uart::new(line.clone(), printed.clone());
    let mut sent = Vec::new();
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..3 => {
                let (offset, width) = access(&mut input);
                let mut data = vec![0xa5; width];
                registers.read(offset, &mut data);
                assert!(
                    data.iter().skip(1).all(|byte| *byte == 0),
                    "registers are a byte wide"
                );
                let mut same = vec![0; width];
                device.read(offset, &mut same);
                assert_eq!(data, same);
            }
            3..6 => {
                let (offset, width) = access(&mut input);
                let mut data = input.bytes(width).to_vec();
                data.resize(width, 0);
                let byte = registers.write(offset, &data);
                assert!(byte.is_none_or(|byte| data.first() == Some(&byte)));
                sent.extend(byte);
                device.write(offset, &data);
            }
            6 => {
                let count = input.below(40);
                let bytes = input.bytes(count);
                let taken = registers.receive(bytes);
                assert!(taken <= bytes.len());
                assert_eq!(device.receive(bytes), taken);
            }
            _ => {
                let mut buffer = vec![0; input.below(40)];
                let count = registers.take_received(&mut buffer);
                let mut same = buffer.clone();
                assert_eq!(device.take_received(&mut same), count);
                assert!(count <= buffer.len());
                assert_eq!(buffer[..count], same[..count]);
            }
        }
        registers.wants_input();
        check(&registers, &line);
    }
    assert_eq!(*printed.0.lock().unwrap(), sent);
    let state = device.save();
    let text = serde_json::to_string(&state).unwrap();
    device
        .restore(serde_json::from_str(&text).unwrap())
        .unwrap();
    assert_eq!(device.save(), state);
}

fn access(input: &mut Input<'_>) -> (u64, usize) {
    let offset = match input.byte() {
        register @ 0..128 => u64::from(register % 8),
        _ => input.number(),
    };
    (offset, input.choose(&[1, 1, 2, 4, 8, 0, 3]))
}

fn check(registers: &Registers, line: &Line) {
    assert!(registers.is_possible());
    // Reads that have effects have them on a copy.
    let byte = |offset| {
        let mut data = [0];
        registers.clone().read(offset, &mut data);
        data[0]
    };
    let interrupts = byte(IIR) & NO_INTERRUPT == 0;
    assert_eq!(
        registers.line(),
        interrupts,
        "the line follows the identification"
    );
    assert_eq!(line.0.load(Ordering::Relaxed), interrupts);
    let mut waiting = [0; 64];
    let count = registers.clone().take_received(&mut waiting);
    assert_eq!(byte(LSR) & DATA_READY != 0, count > 0);
    assert!(count <= 16, "more than the FIFO holds");
}

/// What a driver does at its start, and characters in both directions.
pub fn seeds() -> Vec<Vec<u8>> {
    let write = |script: Script, register: u8, value: u8| script.bytes(&[3, register, 0, value]);
    let read = |script: Script, register: u8| script.bytes(&[0, register, 0]);
    let mut start = Script::new();
    for (register, value) in [
        (1, 0),
        (3, 0x80),
        (0, 2),
        (1, 0),
        (3, 3),
        (2, 7),
        (4, 0x0b),
        (1, 0x0f),
    ] {
        start = write(start, register, value);
    }
    let echo = read(read(start.clone(), 0).bytes(&[6, 5]).bytes(b"hello"), 2);
    let echo = write(read(read(echo, 5), 0), 0, b'h');
    let full = read(read(start.clone(), 0).bytes(&[6, 39]).bytes(&[b'x'; 39]), 0).bytes(&[7, 39]);
    let loopback = read(write(write(start, 4, 0x1f), 0, b'l'), 0)
        .bytes(&[6, 3])
        .bytes(b"abc");
    [echo, full, loopback].map(Script::done).into()
}
