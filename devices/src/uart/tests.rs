//! What is around the registers, which `hv_core::uart` tests itself.

use super::*;
use crate::virtio::testing::TestLine;

/// Register offsets.
const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const FIFO_CONTROL: u64 = 2;

#[derive(Default)]
struct Sink(Mutex<Vec<u8>>);

impl OutputSink for Sink {
    fn write(&self, bytes: &[u8]) {
        lock(&self.0).extend_from_slice(bytes);
    }
    fn try_write(&self, bytes: &[u8]) -> usize {
        self.write(bytes);
        bytes.len()
    }
    fn set_room_event(&self, _event: Arc<EventFd>) {}
}

/// Remembers every call.
#[derive(Default)]
struct Calls(Mutex<Vec<bool>>);

impl IrqLine for Calls {
    fn set_level(&self, asserted: bool) {
        lock(&self.0).push(asserted);
    }
}

#[test]
fn characters_leave_in_order() {
    let sink = Arc::<Sink>::default();
    let uart = Uart::new(Arc::<TestLine>::default(), sink.clone());
    uart.write(DATA, b"a");
    uart.write(DATA, &[b'b', 0xff, 0xff, 0xff]);
    uart.write(DATA, &[]);
    uart.write(INTERRUPT_ENABLE, b"c");
    assert_eq!(*lock(&sink.0), b"ab");
}

#[test]
fn the_line_is_driven_when_it_changes() {
    let calls = Arc::<Calls>::default();
    let uart = Uart::new(calls.clone(), Arc::<Sink>::default());
    uart.write(FIFO_CONTROL, &[1]);
    uart.write(INTERRUPT_ENABLE, &[1]);
    assert!(lock(&calls.0).is_empty());
    assert_eq!(uart.receive(b"ab"), 2);
    assert_eq!(uart.receive(b"c"), 1);
    assert_eq!(*lock(&calls.0), [true]);
    let mut data = [0; 4];
    for expected in b"ab" {
        uart.read(DATA, &mut data);
        assert_eq!(data, [*expected, 0, 0, 0]);
    }
    assert_eq!(*lock(&calls.0), [true]);
    assert_eq!(uart.take_received(&mut data), 1);
    assert_eq!(data[0], b'c');
    assert_eq!(*lock(&calls.0), [true, false]);
}

#[test]
fn the_room_event_asks_for_the_rest_of_the_input() {
    let uart = Uart::new(Arc::<TestLine>::default(), Arc::<Sink>::default());
    uart.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(uart.receive(b"xy"), 1);
    let mut data = [0];
    uart.read(DATA, &mut data);
    assert_eq!(data, *b"x");
    // The guest was quicker than whoever brings input: the event catches up at the next access.
    let room = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    uart.set_room_event(room.try_clone().unwrap());
    uart.read(DATA, &mut data);
    assert_eq!(room.read().unwrap(), 1);
    uart.read(DATA, &mut data);
    assert!(room.read().is_err(), "it was told");
    assert_eq!(uart.receive(b"y"), 1);
    uart.read(DATA, &mut data);
    assert!(room.read().is_err(), "nobody waits for room");
}

/// What the receiver holds, what it was programmed to, and the line are there afterwards.
#[test]
fn a_uart_goes_on_after_a_save() {
    let uart = Uart::new(Arc::<TestLine>::default(), Arc::<Sink>::default());
    uart.write(FIFO_CONTROL, &[1]);
    uart.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(uart.receive(b"abc"), 3);
    let mut data = [0];
    uart.read(DATA, &mut data);
    let saved = serde_json::to_string(&uart.save()).unwrap();

    let (calls, sink) = (Arc::<Calls>::default(), Arc::<Sink>::default());
    let other = Uart::new(calls.clone(), sink.clone());
    other
        .restore(serde_json::from_str(&saved).unwrap())
        .unwrap();
    assert_eq!(*lock(&calls.0), [true]);
    assert_eq!(other.save(), uart.save());
    for expected in b"bc" {
        other.read(DATA, &mut data);
        assert_eq!(data, [*expected]);
    }
    assert_eq!(*lock(&calls.0), [true, false]);
    other.write(DATA, b"x");
    assert_eq!(*lock(&sink.0), b"x");
}

#[test]
fn a_uart_that_cannot_be_is_refused() {
    let uart = Uart::new(Arc::<TestLine>::default(), Arc::<Sink>::default());
    let saved = serde_json::to_value(uart.save()).unwrap();
    let long: Vec<u8> = vec![0; 17];
    for (field, value) in [
        ("received", serde_json::json!(long)),
        ("received", serde_json::json!([1, 2])),
        ("unread", serde_json::json!(long)),
        ("ier", 0x10.into()),
        ("mcr", 0x20.into()),
        ("trigger", 0.into()),
        ("trigger", usize::MAX.into()),
        ("msr_deltas", 0x10.into()),
    ] {
        let mut damaged = saved.clone();
        damaged["registers"][field] = value;
        let state = serde_json::from_value(damaged).unwrap();
        let refused = uart.restore(state);
        assert!(matches!(refused, Err(RestoreError::Damaged(_))), "{field}");
        assert_eq!(serde_json::to_value(uart.save()).unwrap(), saved);
    }
}

/// Whoever brings input knows no UART.
#[test]
fn a_uart_is_a_sink_of_input() {
    let uart = Uart::new(Arc::<TestLine>::default(), Arc::<Sink>::default());
    let sink: &dyn InputSink = &uart;
    let room = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    sink.set_room_event(room.try_clone().unwrap());
    uart.write(FIFO_CONTROL, &[1]);
    uart.write(INTERRUPT_ENABLE, &[1]);
    assert_eq!(sink.receive(&[b'x'; 20]), 16);
    let mut buffer = [0; 10];
    assert_eq!(sink.take_received(&mut buffer), 10);
    assert_eq!(buffer, [b'x'; 10]);
    assert!(room.read().is_err());
    assert_eq!(sink.take_received(&mut buffer), 6);
    assert_eq!(room.read().unwrap(), 1);
}
