//! The whole device behind its registers, checked against VIRTIO 1.3, section 5.3.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use vmm_sys_util::eventfd::EventFd;

use super::control::event;
use super::device::feature;
use super::*;
use crate::borrowed;
use crate::bus::MmioDevice;
use crate::chardev::{InputSink, OutputSink};
use crate::lock;
use crate::state::RestoreError;
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{
    DATA, Driver, damages, descriptor_flags, readable, until, wait_asleep, writable,
};

/// Output with as much room as a test gives it.
struct Sink {
    state: Mutex<(Vec<u8>, usize)>,
    room: Mutex<Option<Arc<EventFd>>>,
}

impl Sink {
    fn new(room: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new((Vec::new(), room)),
            room: Mutex::default(),
        })
    }
    fn text(&self) -> Vec<u8> {
        lock(&self.state).0.clone()
    }
    fn give_room(&self, room: usize) {
        lock(&self.state).1 = room;
        lock(&self.room).as_ref().unwrap().write(1).unwrap();
    }
}

impl OutputSink for Sink {
    fn write(&self, _bytes: &[u8]) {
        unreachable!("the worker must not block");
    }
    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = bytes.len().min(state.1);
        state.0.extend_from_slice(&bytes[..taken]);
        state.1 -= taken;
        taken
    }
    fn set_room_event(&self, event: Arc<EventFd>) {
        *lock(&self.room) = Some(event);
    }
}

fn port(name: &str, is_console: bool, output: &Arc<Sink>) -> PortConfig {
    PortConfig {
        name: name.into(),
        is_console,
        on_terminal: true,
        output: output.clone(),
    }
}

/// A device with one port.
fn single(room: usize) -> (Driver, Arc<Port>, Arc<Sink>) {
    let sink = Sink::new(room);
    let ports = Ports::new(vec![port("", false, &sink)]).unwrap();
    let first = ports.get(0).unwrap();
    assert!(ports.get(1).is_none());
    let console = Console::new(Arc::new(ports)).unwrap();
    (Driver::new(Box::new(console)), first, sink)
}

#[test]
fn one_port_has_two_queues_and_several_have_two_more() {
    let sink = Sink::new(0);
    let ports = |count| Ports::new((0..count).map(|_| port("", true, &sink)).collect());
    let device = |count| Console::new(Arc::new(ports(count).unwrap())).unwrap();
    let one = device(1);
    assert_eq!(one.device_id(), 3);
    assert_eq!(one.name(), "virtio console");
    assert_eq!(one.queue_sizes().len(), 2);
    assert_eq!(one.features(), 0b101);
    let three = device(3);
    assert_eq!(three.queue_sizes().len(), 8);
    assert_eq!(three.features(), 0b111);
    assert!(ports(0).is_err());
    assert!(ports(MAX_PORTS).is_ok());
    assert!(ports(MAX_PORTS + 1).is_err());
}

/// The name can only be told over the control queues, and a channel would be a console without them.
#[test]
fn a_single_channel_is_announced() {
    let sink = Sink::new(usize::MAX);
    let ports = Arc::new(Ports::new(vec![port("org.example", false, &sink)]).unwrap());
    let console = Console::new(ports.clone()).unwrap();
    assert_eq!(console.queue_sizes().len(), 4);
    let mut single = Several {
        driver: Driver::new(Box::new(console)),
        ports: vec![ports.get(0).unwrap()],
        sinks: vec![sink],
    };
    single.driver.start(feature::MULTIPORT);
    single.say(0, event::DEVICE_READY, 1);
    assert_eq!(single.hear(), (0, event::DEVICE_ADD, 1, vec![]));
    single.say(0, event::PORT_READY, 1);
    let name = b"org.example".to_vec();
    assert_eq!(single.hear(), (0, event::PORT_NAME, 1, name));
    assert_eq!(single.hear(), (0, event::PORT_OPEN, 1, vec![]));
}

/// What is not a person may have sent something before there is a driver, which waits until that has opened the console.
#[test]
fn a_single_console_that_nobody_sits_at_is_announced() {
    let sink = Sink::new(0);
    let console = PortConfig {
        on_terminal: false,
        ..port("", true, &sink)
    };
    let ports = Arc::new(Ports::new(vec![console]).unwrap());
    let port = ports.get(0).unwrap();
    let mut single = Several {
        driver: Driver::new(Box::new(Console::new(ports).unwrap())),
        ports: vec![port],
        sinks: vec![sink],
    };
    single.ports[0].receive(b"early");
    single.driver.start(feature::MULTIPORT);
    single.driver.give(0, 0, &[writable(DATA + 0x1000, 8)]);
    single.say(0, event::DEVICE_READY, 1);
    assert_eq!(single.hear(), (0, event::DEVICE_ADD, 1, vec![]));
    single.say(0, event::PORT_READY, 1);
    assert_eq!(single.hear(), (0, event::CONSOLE_PORT, 1, vec![]));
    assert_eq!(single.hear(), (0, event::PORT_OPEN, 1, vec![]));
    assert_eq!(single.driver.used(0), None);
    single.say(0, event::PORT_OPEN, 1);
    assert_eq!(single.driver.wait_used(0), (0, 5));
    // A driver that knows nothing of ports gets it at once, as ever.
    single.ports[0].receive(b"early");
    single.driver.start(0);
    single.driver.give(0, 0, &[writable(DATA, 8)]);
    assert_eq!(single.driver.wait_used(0), (0, 5));
}

#[test]
fn what_the_guest_writes_goes_out_in_order() {
    let (mut driver, _, sink) = single(usize::MAX);
    driver.start(0);
    driver.put(DATA, b"hello, world");
    driver.give(1, 0, &[readable(DATA, 5), readable(DATA + 5, 2)]);
    driver.give(1, 2, &[readable(DATA + 7, 5)]);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert_eq!(driver.wait_used(1), (2, 0));
    assert_eq!(sink.text(), b"hello, world");
    let long: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    driver.put(DATA, &long);
    driver.give(1, 0, &[readable(DATA, 1_000_000)]);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert!(sink.text().ends_with(&long));
    driver.give(1, 0, &[readable(DATA, 0)]);
    assert_eq!(driver.wait_used(1), (0, 0));
}

#[test]
fn a_full_output_stops_its_port_alone_and_loses_nothing() {
    let (mut driver, port, sink) = single(3);
    driver.start(0);
    driver.put(DATA, b"abcdef");
    driver.give(1, 0, &[readable(DATA, 6)]);
    // Input still arrives, and a reset still works.
    driver.give(0, 0, &[writable(DATA + 0x1000, 16)]);
    assert_eq!(port.receive(b"in"), 2);
    assert_eq!(driver.wait_used(0), (0, 2));
    assert_eq!(driver.used(1), None);
    assert_eq!(sink.text(), b"abc");
    sink.give_room(2);
    sink.give_room(usize::MAX);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert_eq!(sink.text(), b"abcdef");
    sink.give_room(0);
    driver.give(1, 0, &[readable(DATA, 6)]);
    driver.start(0);
}

/// A device with one port, of whose chain of 6 bytes the output has taken 3.
fn half_printed() -> (Driver, Arc<Port>, Arc<Sink>) {
    let (mut driver, port, sink) = single(3);
    driver.start(0);
    driver.put(DATA, b"abcdef");
    driver.give(1, 0, &[readable(DATA, 2), readable(DATA + 2, 4)]);
    // The answer to input tells that the output has been tried.
    driver.give(0, 0, &[writable(DATA + 0x1000, 16)]);
    assert_eq!(port.receive(b"in"), 2);
    assert_eq!(driver.wait_used(0), (0, 2));
    (driver, port, sink)
}

/// The output takes the other 3, once the device runs again.
fn print_the_rest(driver: &mut Driver, sink: &Sink) {
    driver.transport.pause();
    sink.give_room(usize::MAX);
    driver.transport.resume();
    assert_eq!(driver.wait_used(1), (0, 0));
    assert_eq!(sink.text(), b"abcdef");
}

/// What of a chain was printed before a pause is not printed again.
#[test]
fn a_chain_that_is_half_printed_goes_on_after_a_pause() {
    let (mut driver, port, sink) = half_printed();
    for _ in 0..3 {
        driver.transport.pause();
        assert_eq!(sink.text(), b"abc");
        assert_eq!(driver.used(1), None);
        driver.transport.resume();
    }
    print_the_rest(&mut driver, &sink);
    driver.give(1, 0, &[readable(DATA, 6)]);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert_eq!(sink.text(), b"abcdefabcdef");
    // A reset forgets it.
    sink.give_room(1);
    driver.give(1, 0, &[readable(DATA, 6)]);
    driver.give(0, 0, &[writable(DATA + 0x1000, 16)]);
    assert_eq!(port.receive(b"in"), 2);
    assert_eq!(driver.wait_used(0), (0, 2));
    driver.start(0);
    sink.give_room(usize::MAX);
    driver.give(1, 0, &[readable(DATA, 6)]);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert!(sink.text().ends_with(b"defaabcdef"));
}

#[test]
fn input_waits_for_buffers_and_the_sender_for_room() {
    let (mut driver, port, _) = single(0);
    let room = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    port.set_room_event(room.try_clone().unwrap());
    assert_eq!(port.receive(&[b'x'; 5000]), 4096);
    assert_eq!(port.receive(b"y"), 0);
    driver.start(0);
    driver.give(0, 0, &[writable(DATA, 4000)]);
    assert_eq!(driver.wait_used(0), (0, 4000));
    let buffers = [writable(DATA, 50), writable(DATA + 0x1000, 5000)];
    driver.give(0, 0, &buffers);
    assert_eq!(driver.wait_used(0), (0, 96));
    assert_eq!(
        driver.get(DATA + 0x1000, 47),
        [&[b'x'; 46][..], &[0]].concat()
    );
    assert_eq!(room.read().unwrap(), 1);
    assert_eq!(port.receive(b"y"), 1);
}

/// A guest that reads its console by SBI gets all of the input, until a driver starts that wants it.
#[test]
fn input_goes_to_who_reads_it() {
    let (mut driver, port, _) = single(0);
    driver.start(0);
    let mut byte = [0];
    assert_eq!(port.take_received(&mut byte), 0);
    driver.give(0, 0, &[writable(DATA, 8)]);
    assert_eq!(port.receive(b"sbi"), 3);
    driver.give(0, 2, &[writable(DATA + 0x1000, 8)]);
    assert_eq!((port.take_received(&mut byte), byte), (1, *b"s"));
    assert_eq!(driver.used(0), None);
    driver.start(0);
    driver.give(0, 0, &[writable(DATA, 8)]);
    assert_eq!(driver.wait_used(0), (0, 2));
    assert_eq!(driver.get(DATA, 2), b"bi");
}

#[test]
fn the_size_of_the_terminal_is_in_the_configuration_space() {
    let (mut driver, port, _) = single(0);
    assert_eq!(driver.config(0), [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    port.set_size(80, 25);
    driver.start(feature::SIZE);
    let changes = |driver: &Driver| {
        let interrupt = driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        interrupt & VIRTIO_MMIO_INT_CONFIG != 0
    };
    driver.line.wait(|| changes(&driver));
    assert_eq!(driver.config(0), [80, 0, 25, 0]);
    driver.start(feature::SIZE);
    assert!(!changes(&driver));
    port.set_size(300, 1);
    driver.line.wait(|| changes(&driver));
    assert_eq!(driver.config(0), [44, 1, 1, 0]);
    assert_eq!(driver.config(u64::MAX / 2), [0; 4]);
}

#[test]
fn a_character_can_be_printed_before_anything_is_set_up() {
    let (driver, _, sink) = single(1);
    let register = u64::from(VIRTIO_MMIO_CONFIG) + 8;
    driver.transport.write(register, &[b'!', 0, 0, 0]);
    driver.transport.write(register - 1, b"?");
    driver.transport.write(register, b"?");
    assert_eq!(sink.text(), b"!");
}

/// A device with a console and a channel, and the conversation of a driver.
struct Several {
    driver: Driver,
    ports: Vec<Arc<Port>>,
    sinks: Vec<Arc<Sink>>,
}

impl Several {
    fn new() -> Self {
        let sinks = vec![Sink::new(usize::MAX), Sink::new(usize::MAX)];
        let ports = vec![
            port("", true, &sinks[0]),
            port("org.example", false, &sinks[1]),
        ];
        let all = Arc::new(Ports::new(ports).unwrap());
        let ports = vec![all.get(0).unwrap(), all.get(1).unwrap()];
        Self {
            driver: Driver::new(Box::new(Console::new(all).unwrap())),
            ports,
            sinks,
        }
    }

    fn say(&mut self, id: u32, event: u16, value: u16) {
        let message = [
            &id.to_le_bytes()[..],
            &event.to_le_bytes(),
            &value.to_le_bytes(),
        ]
        .concat();
        self.driver.put(DATA, &message);
        self.driver.give(3, 0, &[readable(DATA, 8)]);
        assert_eq!(self.driver.wait_used(3), (0, 0));
    }

    fn hear(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let buffer = DATA + 0x100;
        self.driver.give(2, 0, &[writable(buffer, 64)]);
        let (_, length) = self.driver.wait_used(2);
        let message = self.driver.get(buffer, length as usize);
        let half = |at: usize| u16::from_le_bytes([message[at], message[at + 1]]);
        let id = u32::from(half(0)) | u32::from(half(2)) << 16;
        (id, half(4), half(6), message[8..].to_vec())
    }

    /// Everything up to both ports open.
    fn meet(&mut self) {
        self.driver.start(feature::MULTIPORT | feature::SIZE);
        self.say(0, event::DEVICE_READY, 1);
        assert_eq!(self.hear(), (0, event::DEVICE_ADD, 1, vec![]));
        assert_eq!(self.hear(), (1, event::DEVICE_ADD, 1, vec![]));
        self.say(0, event::PORT_READY, 1);
        assert_eq!(self.hear(), (0, event::CONSOLE_PORT, 1, vec![]));
        assert_eq!(self.hear(), (0, event::PORT_OPEN, 1, vec![]));
        self.say(1, event::PORT_READY, 1);
        let name = b"org.example".to_vec();
        assert_eq!(self.hear(), (1, event::PORT_NAME, 1, name));
        assert_eq!(self.hear(), (1, event::PORT_OPEN, 1, vec![]));
        self.say(0, event::PORT_OPEN, 1);
        self.say(1, event::PORT_OPEN, 1);
    }
}

#[test]
fn ports_are_introduced_and_carry_bytes() {
    let mut several = Several::new();
    several.meet();
    several.driver.put(DATA, b"to the console, to the channel");
    several.driver.give(1, 0, &[readable(DATA, 14)]);
    several.driver.give(5, 0, &[readable(DATA + 16, 14)]);
    assert_eq!(several.driver.wait_used(1), (0, 0));
    assert_eq!(several.driver.wait_used(5), (0, 0));
    assert_eq!(several.sinks[0].text(), b"to the console");
    assert_eq!(several.sinks[1].text(), b"to the channel");
    several.driver.give(4, 0, &[writable(DATA, 8)]);
    several.ports[1].receive(b"answer");
    assert_eq!(several.driver.wait_used(4), (0, 6));
    assert_eq!(several.driver.get(DATA, 6), b"answer");
}

/// Which ports are open in the guest is told once, and holds after a pause.
#[test]
fn a_pause_forgets_no_port() {
    let mut several = Several::new();
    several.meet();
    several.driver.transport.pause();
    several.ports[1].receive(b"answer");
    several.driver.give(4, 0, &[writable(DATA, 8)]);
    several.driver.transport.resume();
    assert_eq!(several.driver.wait_used(4), (0, 6));
    several.say(1, event::PORT_OPEN, 0);
    several.driver.transport.pause();
    several.driver.transport.resume();
    several.ports[1].receive(b"later");
    several.driver.give(4, 0, &[writable(DATA, 8)]);
    several.say(1, event::PORT_NAME, 0);
    assert_eq!(several.driver.used(4), None);
}

#[test]
fn input_for_a_port_that_is_closed_is_kept() {
    let mut several = Several::new();
    several.meet();
    several.say(1, event::PORT_OPEN, 0);
    several.driver.give(4, 0, &[writable(DATA + 0x1000, 8)]);
    several.ports[1].receive(b"later");
    several.say(1, event::PORT_NAME, 0);
    assert_eq!(several.driver.used(4), None);
    several.say(1, event::PORT_OPEN, 1);
    assert_eq!(several.driver.wait_used(4), (0, 5));
}

#[test]
fn a_resize_is_told_columns_first() {
    let mut several = Several::new();
    several.meet();
    several.ports[1].set_size(1, 2);
    wait_asleep(THREAD);
    several.ports[0].set_size(132, 50);
    assert_eq!(
        several.hear(),
        (0, event::RESIZE, 0, vec![132, 0, 50, 0]),
        "of the console alone"
    );
    assert_eq!(several.driver.config(0), [132, 0, 50, 0]);
}

#[test]
fn nonsense_is_ignored_and_a_driver_that_does_not_listen_bounded() {
    let mut several = Several::new();
    several.driver.start(feature::MULTIPORT);
    several.say(0, event::DEVICE_READY, 0);
    several.say(2, event::PORT_READY, 1);
    several.say(u32::MAX, event::PORT_OPEN, 1);
    several.say(0, 0xffff, 1);
    several.driver.give(3, 0, &[readable(DATA, 7)]);
    assert_eq!(several.driver.wait_used(3), (0, 0), "too short");
    several.driver.give(3, 0, &[writable(DATA, 8)]);
    assert_eq!(several.driver.wait_used(3), (0, 0), "the wrong way round");
    for _ in 0..200 {
        several.say(0, event::DEVICE_READY, 1);
    }
    for n in 0..256 {
        assert_eq!(several.hear(), (n % 2, event::DEVICE_ADD, 1, vec![]));
    }
    let buffer = [writable(DATA + 0x100, 64)];
    several.driver.give(2, 0, &buffer);
    several.say(0, event::PORT_NAME, 1);
    assert_eq!(several.driver.used(2), None);
}

#[test]
fn a_driver_without_multiport_has_port_0() {
    let mut several = Several::new();
    several.driver.start(0);
    several.driver.give(0, 0, &[writable(DATA, 8)]);
    several.ports[0].receive(b"hello");
    assert_eq!(several.driver.wait_used(0), (0, 5));
}

#[test]
fn an_output_thread_is_an_output() {
    use std::io::Read;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
    let output = crate::chardev::OutputThread::spawn(file, "test").unwrap();
    let output = Arc::new(output);
    let ports = Ports::new(vec![PortConfig {
        name: String::new(),
        is_console: true,
        on_terminal: true,
        output: output.clone(),
    }]);
    let console = Console::new(Arc::new(ports.unwrap())).unwrap();
    let mut driver = Driver::new(Box::new(console));
    driver.start(0);
    let text: Vec<u8> = (0..500_000_u32).map(|n| (n % 253) as u8).collect();
    driver.put(DATA, &text);
    driver.give(1, 0, &[readable(DATA, 500_000)]);
    let mut read = vec![0; text.len()];
    reader.read_exact(&mut read).unwrap();
    assert!(read == text);
    assert_eq!(driver.wait_used(1), (0, 0));
    assert!(output.close(hv_test_limit::LIMIT));
}

/// The thread's name. Other tests may have threads of that name, which fall asleep as well.
const THREAD: &str = "virtio-console";

#[test]
fn a_worker_that_sleeps_is_woken() {
    let (mut driver, port, sink) = single(3);
    driver.start(feature::SIZE);
    wait_asleep(THREAD);
    driver.give(0, 0, &[writable(DATA, 8)]);
    wait_asleep(THREAD);
    assert_eq!(port.receive(b"in"), 2);
    assert_eq!(driver.wait_used(0), (0, 2));
    driver.put(DATA, b"abcdef");
    wait_asleep(THREAD);
    driver.give(1, 0, &[readable(DATA, 6)]);
    wait_asleep(THREAD);
    assert_eq!((driver.used(1), sink.text()), (None, b"abc".to_vec()));
    sink.give_room(usize::MAX);
    assert_eq!(driver.wait_used(1), (0, 0));
    wait_asleep(THREAD);
    let interrupts = driver.line.assertions();
    port.set_size(80, 25);
    driver
        .line
        .wait(|| driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0);
    wait_asleep(THREAD);
    assert_eq!(
        driver.line.assertions(),
        interrupts + 1,
        "one change is one interrupt"
    );
}

#[test]
fn a_driver_that_knows_no_sizes_is_told_none() {
    let (mut driver, port, _) = single(0);
    driver.start(0);
    wait_asleep(THREAD);
    port.set_size(80, 25);
    wait_asleep(THREAD);
    assert_eq!(driver.line.assertions(), 0);
    assert_eq!(driver.config(0), [0; 4]);
}

#[test]
fn a_driver_without_multiport_has_no_other_port() {
    let mut several = Several::new();
    several.driver.start(0);
    several.driver.put(DATA, b"to nobody");
    for queue in 2..6 {
        several.driver.give(queue, 0, &[readable(DATA, 9)]);
    }
    wait_asleep(THREAD);
    assert!((2..6).all(|queue| several.driver.used(queue).is_none()));
    assert!(several.sinks.iter().all(|sink| sink.text().is_empty()));
}

#[test]
fn only_consoles_that_the_driver_knows_have_a_size() {
    let mut several = Several::new();
    several.driver.start(feature::MULTIPORT);
    several.ports[0].set_size(1, 2);
    wait_asleep(THREAD);
    several.driver.give(2, 0, &[writable(DATA + 0x100, 64)]);
    wait_asleep(THREAD);
    assert_eq!(several.driver.used(2), None, "no port is ready");

    let mut several = Several::new();
    several.meet();
    several.driver.give(2, 0, &[writable(DATA + 0x100, 64)]);
    several.ports[1].set_size(1, 2);
    wait_asleep(THREAD);
    assert_eq!(several.driver.used(2), None, "a channel has no size");
}

/// One notification may be for as much as a turn takes. Then the device has to look once more, and ask for the next one.
#[test]
fn a_whole_turn_comes_with_one_notification() {
    const WHOLE: u16 = 64;
    let mut several = Several::new();
    let features = feature::MULTIPORT | feature::SIZE;
    several.driver.start_with(features, WHOLE);
    wait_asleep(THREAD);
    several.driver.put(DATA, &[0; 8]);
    for queue in [3, 1] {
        for head in 0..WHOLE {
            several.driver.offer(queue, head, &[readable(DATA, 8)]);
        }
        several.driver.notify(queue);
        for head in 0..WHOLE {
            assert_eq!(several.driver.wait_used(queue), (head.into(), 0));
        }
        wait_asleep(THREAD);
        assert!(several.driver.is_asked(queue), "{queue}");
    }
    assert_eq!(several.sinks[0].text(), [0; 8 * WHOLE as usize]);
    several.say(0, event::PORT_OPEN, 1);
    several.ports[0].receive(&[7; WHOLE as usize + 1]);
    wait_asleep(THREAD);
    for head in 0..WHOLE {
        several.driver.offer(0, head, &[writable(DATA, 1)]);
    }
    several.driver.notify(0);
    for head in 0..WHOLE {
        assert_eq!(several.driver.wait_used(0), (head.into(), 1));
    }
    wait_asleep(THREAD);
    assert!(several.driver.is_asked(0));
}

/// What is left to do of one queue is not forgotten because of another.
#[test]
fn whole_turns_of_two_queues_come_with_one_notification() {
    const WHOLE: u16 = 64;
    let mut several = Several::new();
    let features = feature::MULTIPORT | feature::SIZE;
    several.driver.start_with(features, WHOLE);
    wait_asleep(THREAD);
    several.driver.put(DATA, &[0; 8]);
    for queue in [3, 1] {
        for head in 0..WHOLE {
            several.driver.offer(queue, head, &[readable(DATA, 8)]);
        }
    }
    several.driver.notify(3);
    for queue in [3, 1] {
        for head in 0..WHOLE {
            assert_eq!(several.driver.wait_used(queue), (head.into(), 0));
        }
    }
    wait_asleep(THREAD);
    for queue in [3, 1] {
        assert!(several.driver.is_asked(queue), "{queue}");
    }
}

/// A size that was known before the driver knew the port is told when it does.
#[test]
fn a_console_is_introduced_with_its_size() {
    let mut several = Several::new();
    several.ports[0].set_size(80, 25);
    several.driver.start(feature::MULTIPORT | feature::SIZE);
    several.say(0, event::DEVICE_READY, 1);
    assert_eq!(several.hear(), (0, event::DEVICE_ADD, 1, vec![]));
    assert_eq!(several.hear(), (1, event::DEVICE_ADD, 1, vec![]));
    several.say(0, event::PORT_READY, 1);
    assert_eq!(several.hear(), (0, event::CONSOLE_PORT, 1, vec![]));
    let size = vec![80, 0, 25, 0];
    assert_eq!(several.hear(), (0, event::RESIZE, 0, size));
    assert_eq!(several.hear(), (0, event::PORT_OPEN, 1, vec![]));
}

#[test]
fn a_buffer_that_is_not_in_memory_breaks_the_device_until_its_reset() {
    let (mut driver, port, sink) = single(usize::MAX);
    for _ in 0..2 {
        driver.start(0);
        driver.give(1, 0, &[readable(0x10, 8)]);
        until(|| driver.read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET != 0);
        driver.start(0);
        driver.put(DATA, b"text");
        driver.give(1, 0, &[readable(DATA, 4)]);
        assert_eq!(driver.wait_used(1), (0, 0));
    }
    assert_eq!(sink.text(), b"texttext");
    assert!(!port.has_input());
}

#[test]
fn a_buffer_without_room_comes_back_empty() {
    let (mut driver, port, _) = single(0);
    driver.start(0);
    assert_eq!(port.receive(b"in"), 2);
    driver.give(0, 0, &[readable(DATA, 8)]);
    assert_eq!(driver.wait_used(0), (0, 0));
    driver.give(0, 1, &[writable(DATA, 8)]);
    assert_eq!(driver.wait_used(0), (1, 2));
}

/// Input that the port has no room for, or none at all.
#[test]
fn nothing_new_wakes_nobody() {
    let sink = Sink::new(0);
    let ports = Ports::new(vec![port("", false, &sink)]).unwrap();
    assert_eq!(descriptor_flags(&borrowed(&ports.wake)), (true, true));
    let port = ports.get(0).unwrap();
    assert_eq!(port.receive(b""), 0);
    assert!(ports.wake.read().is_err());
    assert!(port.receive(&[0; 5000]) < 5000);
    assert!(ports.wake.read().is_ok());
    assert_eq!(port.receive(b"x"), 0);
    assert!(ports.wake.read().is_err());
}

#[test]
fn input_that_is_read_elsewhere_is_not_the_drivers() {
    let (_driver, port, _) = single(0);
    port.receive(b"sbi");
    let mut byte = [0];
    assert_eq!(port.take_received(&mut byte), 1);
    assert!(!port.has_input());
    assert_eq!(port.take_input(&mut byte), 0);
    port.driver_is_ready();
    assert!(port.has_input());
    assert_eq!((port.take_input(&mut byte), byte), (1, *b"b"));
}

/// Has a device with new ports take the place of the one with these.
fn migrate_single(driver: &mut Driver, sink: &Arc<Sink>) -> Arc<Port> {
    let ports = Ports::new(vec![port("", false, sink)]).unwrap();
    let first = ports.get(0).unwrap();
    driver.migrate(Box::new(Console::new(Arc::new(ports)).unwrap()));
    first
}

/// What was printed before the save is not printed again, and the rest is; input that waited still waits.
#[test]
fn a_console_goes_on_after_a_save() {
    let (mut driver, mut port, sink) = half_printed();
    port.receive(b"later");
    for _ in 0..3 {
        port = migrate_single(&mut driver, &sink);
        assert_eq!(sink.text(), b"abc");
        driver.transport.resume();
    }
    print_the_rest(&mut driver, &sink);
    driver.give(0, 0, &[writable(DATA + 0x1000, 16)]);
    assert_eq!(driver.wait_used(0), (0, 5));
    assert_eq!(driver.get(DATA + 0x1000, 5), b"later");
    port.receive(b"new");
    driver.give(0, 0, &[writable(DATA + 0x1000, 16)]);
    assert_eq!(driver.wait_used(0), (0, 3));
}

impl Several {
    /// Another device of the same configuration.
    fn device(&mut self) -> Box<Console> {
        let ports = vec![
            port("", true, &self.sinks[0]),
            port("org.example", false, &self.sinks[1]),
        ];
        let all = Arc::new(Ports::new(ports).unwrap());
        self.ports = vec![all.get(0).unwrap(), all.get(1).unwrap()];
        Box::new(Console::new(all).unwrap())
    }
}

/// Which ports are open in the guest holds after a save, and what the driver was not told yet is told.
#[test]
fn the_conversation_goes_on_after_a_save() {
    let mut several = Several::new();
    several.driver.start(feature::MULTIPORT);
    several.say(0, event::DEVICE_READY, 1);
    let device = several.device();
    several.driver.migrate(device);
    several.driver.transport.resume();
    for port in 0..2 {
        assert_eq!(several.hear(), (port, event::DEVICE_ADD, 1, vec![]));
    }
    several.say(1, event::PORT_READY, 1);
    let device = several.device();
    several.driver.migrate(device);
    several.driver.transport.resume();
    let name = b"org.example".to_vec();
    assert_eq!(several.hear(), (1, event::PORT_NAME, 1, name));
    assert_eq!(several.hear(), (1, event::PORT_OPEN, 1, vec![]));
    several.say(1, event::PORT_OPEN, 1);
    let device = several.device();
    several.driver.migrate(device);
    several.driver.transport.resume();
    several.ports[1].receive(b"answer");
    several.driver.give(4, 0, &[writable(DATA, 8)]);
    assert_eq!(several.driver.wait_used(4), (0, 6));
}

/// A terminal of another size is a change of size.
#[test]
fn the_terminal_after_a_save_may_have_another_size() {
    let (mut driver, port, sink) = single(usize::MAX);
    driver.start(feature::SIZE);
    port.set_size(80, 25);
    driver
        .line
        .clone()
        .wait(|| driver.config(0) == [80, 0, 25, 0]);
    let status = driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
    driver.write(
        virtio_bindings::virtio_mmio::VIRTIO_MMIO_INTERRUPT_ACK,
        status,
    );
    let state = driver.transport.save();
    for (columns, told) in [(80, false), (132, true)] {
        let (other, port, _) = single(usize::MAX);
        port.set_size(columns, 25);
        port.take_resized();
        other.transport.restore(state.clone()).unwrap();
        assert_eq!(port.take_resized().is_some(), told);
    }
    drop(sink);
}

#[test]
fn other_ports_are_not_taken_for_these() {
    let mut several = Several::new();
    let state = several.driver.transport.save();
    let sink = Sink::new(0);
    for ports in [
        vec![port("", true, &sink), port("org.other", false, &sink)],
        vec![port("", true, &sink)],
    ] {
        let console = Console::new(Arc::new(Ports::new(ports).unwrap())).unwrap();
        let refused = Driver::new(Box::new(console))
            .transport
            .restore(state.clone());
        assert!(matches!(refused, Err(RestoreError::Mismatch(_))));
    }
    let device = several.device();
    several.driver.migrate(device);
}

/// A conversation is about as many ports as there are, and what waits to be told can have been told.
#[test]
fn a_conversation_about_other_ports_is_refused() {
    let mut several = Several::new();
    several.meet();
    several.driver.transport.pause();
    let text = serde_json::to_string(&several.driver.transport.save()).unwrap();
    let (ready, open) = ("\"ready\":[true,true]", "\"open\":[true,true]");
    let pending = "\"pending\":[]";
    let mut restored = |part: &str, other: &str| {
        assert!(text.contains(part), "{text}");
        let state = serde_json::from_str(&text.replace(part, other)).unwrap();
        Driver::new(several.device()).transport.restore(state)
    };
    let message = |length| format!("\"pending\":[{:?}]", vec![0; length]);
    let messages = |count| format!("\"pending\":{:?}", vec![[0; 1]; count]);
    // The longest one has the name of the channel.
    let longest = 8 + "org.example".len();
    for (part, other) in [
        (ready, "\"ready\":[true]".to_owned()),
        (ready, "\"ready\":[true,true,true]".to_owned()),
        (open, "\"open\":[true]".to_owned()),
        (open, "\"open\":[true,true,true]".to_owned()),
        (pending, message(longest + 1)),
        (pending, messages(257)),
    ] {
        assert!(restored(part, &other).is_err(), "{other}");
    }
    for other in [message(longest), messages(256)] {
        restored(pending, &other).unwrap();
    }
}

/// The size that a terminal has before there is a device is what a driver reads first.
#[test]
fn a_size_that_was_set_early_is_in_the_configuration_space() {
    let sink = Sink::new(0);
    let ports = Arc::new(Ports::new(vec![port("", true, &sink)]).unwrap());
    ports.get(0).unwrap().set_size(100, 50);
    let driver = Driver::new(Box::new(Console::new(ports).unwrap()));
    assert_eq!(driver.config(0), [100, 0, 50, 0]);
}

/// A driver that has lost a port is told nothing of it any more.
#[test]
fn a_port_that_is_not_ready_any_more_is_not_told_of() {
    let mut several = Several::new();
    several.meet();
    several.say(0, event::PORT_READY, 0);
    several.ports[0].set_size(99, 33);
    // Something else is told, and is what comes next.
    several.say(1, event::PORT_READY, 1);
    let (id, event, _, _) = several.hear();
    assert_eq!((id, event), (1, event::PORT_NAME));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_state_harms_nothing_but_the_device(damages in damages()) {
        let mut several = Several::new();
        several.driver.start(feature::MULTIPORT);
        several.say(0, event::DEVICE_READY, 1);
        several.say(1, event::PORT_READY, 1);
        several.ports[0].receive(b"input");
        several.driver.put(DATA, b"output");
        several.driver.offer(1, 0, &[readable(DATA, 6)]);
        let device = several.device();
        several.driver.migrate_damaged(device, &damages);
        several.driver.start(feature::MULTIPORT);
        several.driver.give(1, 0, &[readable(DATA, 6)]);
        prop_assert_eq!(several.driver.wait_used(1), (0, 0));
        several.say(0, event::DEVICE_READY, 1);
    }
}
