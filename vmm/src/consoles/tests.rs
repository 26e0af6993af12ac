//! Who is connected to whom.

use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;

use hv_test_limit::{LIMIT as LONG, join, until, watch, within};

use super::*;

/// The consoles of a machine.
#[derive(Default)]
struct Asked {
    serial: Option<Chardev>,
    virtio: Option<Chardev>,
    ports: Vec<PortConfig>,
}

fn open(asked: Asked) -> Result<Consoles, Error> {
    let stop = Stop::new(None).unwrap();
    let (serial, virtio) = (asked.serial.as_ref(), asked.virtio.as_ref());
    Consoles::open(serial, virtio, &asked.ports, &Inputs::default(), &stop)
}

/// An open file as a chardev, and what goes into it.
fn stdio() -> (Chardev, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let chardev = Chardev::Stdio(Stdio {
        input: None,
        output: File::from(OwnedFd::from(writer)),
        filter: None,
        resized: None,
    });
    (chardev, reader)
}

/// What appears on the open file when the guest prints by the UART and by SBI, and what SBI reads from.
fn printed(config: Asked, mut reader: PipeReader) -> (String, bool) {
    let consoles = open(config).unwrap();
    consoles.serial().write(b"uart");
    assert!(consoles.flush(LONG));
    consoles.firmware_output().write(b"sbi");
    assert!(consoles.flush(LONG));
    let reads_from_port = consoles.firmware_input().is_some();
    drop(consoles);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    (text, reads_from_port)
}

#[test]
fn early_output_follows_the_open_files() {
    let _watch = watch();
    type Make = fn(Chardev) -> Asked;
    let cases: [(Make, &str, bool); 4] = [
        (
            |stdio| Asked {
                serial: Some(stdio),
                ..Asked::default()
            },
            "uartsbi",
            false,
        ),
        (
            |stdio| Asked {
                virtio: Some(stdio),
                ..Asked::default()
            },
            "uartsbi",
            true,
        ),
        (
            |stdio| Asked {
                serial: Some(Chardev::Pty),
                virtio: Some(stdio),
                ..Asked::default()
            },
            "sbi",
            true,
        ),
        (
            |stdio| Asked {
                serial: Some(stdio),
                virtio: Some(Chardev::Pty),
                ..Asked::default()
            },
            "uartsbi",
            false,
        ),
    ];
    for (config, expected, reads_from_port) in cases {
        let (stdio, reader) = stdio();
        let (text, port) = printed(config(stdio), reader);
        assert_eq!((text.as_str(), port), (expected, reads_from_port));
    }
}

fn port(number: usize) -> PortConfig {
    PortConfig {
        name: format!("port{number}"),
        chardev: Chardev::Pty,
    }
}

#[test]
fn ports_are_counted_and_named() {
    let _watch = watch();
    let asked = |virtio: Option<Chardev>, ports: usize| Asked {
        virtio,
        ports: (0..ports).map(port).collect(),
        ..Asked::default()
    };
    let consoles = open(asked(Some(Chardev::Pty), MAX_PORTS - 1)).unwrap();
    let names: Vec<_> = consoles
        .terminals()
        .iter()
        .map(|one| &one.console)
        .collect();
    assert_eq!(names.len(), MAX_PORTS);
    assert_eq!(names[..2], ["virtio console", "port port0"]);
    assert!(consoles.ports().unwrap().get(MAX_PORTS - 1).is_some());
    assert_eq!(consoles.subscribers().count(), MAX_PORTS);
    assert!(matches!(
        open(asked(Some(Chardev::Pty), MAX_PORTS)),
        Err(Error::TooManyPorts { asked: MAX_PORTS, max }) if max == MAX_PORTS - 1
    ));
    assert!(open(asked(None, MAX_PORTS)).is_ok());

    let none = open(Asked::default()).unwrap();
    assert!(none.ports().is_none());
    assert_eq!(none.subscribers().count(), 0);
    none.serial().write(b"dropped");
    assert!(none.flush(Duration::ZERO));
}

/// A client that does not read keeps nobody from ending.
#[test]
fn a_stuck_client_holds_back_its_channel_alone() {
    let _watch = watch();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let config = Asked {
        ports: vec![PortConfig {
            name: "stuck".into(),
            chardev: Chardev::Unix(path.clone()),
        }],
        ..Asked::default()
    };
    let consoles = open(config).unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut events = event_manager::EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
    for subscriber in consoles.subscribers() {
        event_manager::SubscriberOps::add_subscriber(&mut events, subscriber);
    }
    assert!(
        events
            .run_with_timeout(hv_test_limit::MILLISECONDS)
            .unwrap()
            > 0
    );
    let output = consoles.outputs[0].thread.clone();
    consoles.power_on();
    until(|| {
        output.try_write(&[b'x'; 16384]);
        !output.flush(Duration::from_millis(100))
    });
    until(|| output.try_write(&[b'x'; 16384]) == 0);
    assert!(consoles.flush(Duration::from_millis(10)));
    consoles.power_off();
    within({
        let output = output.clone();
        move || output.write(&[b'x'; 16384])
    });
    // The next boot waits for it again.
    consoles.power_on();
    assert_eq!(output.try_write(b"x"), 0);
}

/// SBI speaks by the virtio console only if that one has the standard streams to itself.
#[test]
fn the_console_of_sbi_is_the_serial_port_unless_only_the_other_has_the_open_files() {
    let _watch = watch();
    let (first, _reader) = stdio();
    let (second, _reader) = stdio();
    for (serial, virtio) in [(Chardev::Pty, Chardev::Pty), (first, second)] {
        let config = Asked {
            serial: Some(serial),
            virtio: Some(virtio),
            ..Asked::default()
        };
        let consoles = open(config).unwrap();
        assert!(consoles.firmware_input().is_none());
    }
}

/// An event loop with all that these consoles have to be served.
fn events(consoles: &Consoles) -> event_manager::EventManager<Box<dyn MutEventSubscriber>> {
    let mut events = event_manager::EventManager::new().unwrap();
    for subscriber in consoles.subscribers() {
        event_manager::SubscriberOps::add_subscriber(&mut events, subscriber);
    }
    events
}

/// Open files with this for the guest to read.
fn typed(text: &str) -> Chardev {
    let (reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, text.as_bytes()).unwrap();
    Chardev::Stdio(Stdio {
        input: Some(File::from(OwnedFd::from(reader))),
        output: File::options().write(true).open("/dev/null").unwrap(),
        filter: None,
        resized: None,
    })
}

struct NoLine;

impl hv_devices::interrupt::IrqLine for NoLine {
    fn set_level(&self, _: bool) {}
}

#[test]
fn input_reaches_the_device_of_its_console() {
    let _watch = watch();
    let mut bytes = [0; 16];

    let config = Asked {
        serial: Some(typed("to the uart")),
        ..Asked::default()
    };
    let consoles = open(config).unwrap();
    let uart = Arc::new(Uart::new(Arc::new(NoLine), consoles.serial().clone()));
    consoles.attach_serial(&uart).unwrap();
    let mut loops = events(&consoles);
    let mut received: Vec<u8> = Vec::new();
    while received.len() < 11 {
        // It takes one at a time, from when the guest begins to ask.
        let count = uart.take_received(&mut bytes);
        received.extend(&bytes[..count]);
        if received.len() < 11 {
            assert!(loops.run_with_timeout(hv_test_limit::MILLISECONDS).unwrap() > 0);
        }
    }
    assert_eq!(received, b"to the uart");

    let config = Asked {
        virtio: Some(typed("to the port")),
        ..Asked::default()
    };
    let consoles = open(config).unwrap();
    let mut loops = events(&consoles);
    assert!(loops.run_with_timeout(hv_test_limit::MILLISECONDS).unwrap() > 0);
    let count = consoles.firmware_input().unwrap().take_received(&mut bytes);
    assert_eq!(&bytes[..count], b"to the port");
    // Its input, and the size of its terminal.
    assert_eq!(consoles.subscribers().count(), 2);
}

/// One thread makes a machine, and another may run it.
#[test]
fn input_is_served_on_another_thread_than_the_one_that_opened_it() {
    let _watch = watch();
    let consoles = open(Asked {
        serial: Some(Chardev::Pty),
        virtio: Some(typed("to the port")),
        ..Asked::default()
    })
    .unwrap();
    let received = std::thread::spawn(move || {
        let mut bytes = [0; 16];
        let mut loops = events(&consoles);
        let input = consoles.firmware_input().unwrap();
        loop {
            let count = input.take_received(&mut bytes);
            if count != 0 {
                return bytes[..count].to_vec();
            }
            assert!(loops.run_with_timeout(hv_test_limit::MILLISECONDS).unwrap() > 0);
        }
    });
    assert_eq!(join(received), b"to the port");
}

/// What is wrong with a machine leaves the files of its consoles as they were.
#[test]
fn a_file_is_emptied_when_the_guest_begins() {
    let _watch = watch();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "from before").unwrap();
    let config = || Asked {
        serial: Some(Chardev::File(path.clone())),
        ..Asked::default()
    };
    let consoles = open(config()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"from before");
    assert!(matches!(
        open(config()),
        Err(Error::Chardev(chardev::OpenError::FileInUse { .. }))
    ));
    consoles.empty_files().unwrap();
    consoles.serial().write(b"now");
    assert!(consoles.flush(LONG));
    assert_eq!(std::fs::read(&path).unwrap(), b"now");
    assert!(consoles.lost().is_empty());
}

#[test]
fn output_that_cannot_be_written_is_told_of() {
    let _watch = watch();
    let config = Asked {
        serial: Some(Chardev::File("/dev/full".into())),
        ..Asked::default()
    };
    let consoles = open(config).unwrap();
    consoles.empty_files().unwrap();
    consoles.serial().write(b"text");
    assert!(consoles.flush(LONG));
    consoles.close(LONG);
    let error = Error::OutputLost {
        outcome: crate::Outcome::PowerOff,
        lost: consoles.lost(),
    };
    let text = error.to_string();
    assert!(
        text.starts_with("4 bytes of the serial port's output were not written to /dev/full: "),
        "{text}"
    );
}

/// A line of the log that a guest prints by each of its consoles is shown once, and what has no end yet at the latest when
/// all is to be out.
#[test]
fn a_virtio_console_alone_shows_the_log_once() {
    let _watch = watch();
    let (virtio, reader) = stdio();
    let config = Asked {
        virtio: Some(virtio),
        ..Asked::default()
    };
    let consoles = open(config).unwrap();
    consoles.power_on();
    consoles.serial().write(b"[    0.000000] Linux\r\n");
    consoles
        .firmware_output()
        .write(b"[    0.000000] Linux\r\n");
    consoles.serial().write(b"[    1.000000] up to he");
    assert!(consoles.flush(LONG));
    let mut text = [0; 45];
    let mut reader = reader;
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"[    0.000000] Linux\r\n[    1.000000] up to he");
    // The log of the next boot, of which the last line never ends.
    consoles.power_off();
    consoles.power_on();
    consoles
        .firmware_output()
        .write(b"[    0.000000] Linux\r\n[    9.0");
    consoles.close(LONG);
    drop(consoles);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "[    0.000000] Linux\r\n[    9.0");
}

/// An open file gets everything, however slow its reader is. Who sits at a console on a socket or a pseudo-terminal and does
/// not read holds up nobody.
#[test]
fn a_slow_reader_of_an_open_file_is_waited_for_and_one_of_a_socket_is_not() {
    let _watch = watch();
    let (serial, mut reader) = stdio();
    let consoles = open(Asked {
        serial: Some(serial),
        ..Asked::default()
    })
    .unwrap();
    consoles.power_on();
    let long = vec![b'x'; 1 << 20];
    let writer = std::thread::spawn({
        let (serial, long) = (consoles.serial().clone(), long.clone());
        move || serial.write(&long)
    });
    let mut read = vec![0; long.len()];
    reader.read_exact(&mut read).unwrap();
    assert!(read == long);
    join(writer);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let consoles = open(Asked {
        serial: Some(Chardev::Unix(path.clone())),
        ..Asked::default()
    })
    .unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut loops = events(&consoles);
    assert!(loops.run_with_timeout(hv_test_limit::MILLISECONDS).unwrap() > 0);
    consoles.power_on();
    consoles.serial().write(&vec![b'x'; 8 << 20]);
    assert!(consoles.flush(Duration::from_millis(10)), "not waited for");
}
