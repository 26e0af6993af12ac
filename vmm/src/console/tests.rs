//! Who is connected to whom.

use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// An open file as a back end, and what goes into it.
fn stdio() -> (ConsoleBackend, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    let backend = ConsoleBackend::Stdio(Stdio {
        input: None,
        output: File::from(OwnedFd::from(writer)),
        escape: false,
        resized: None,
    });
    (backend, reader)
}

/// What appears on the open file when the guest prints by the UART and by SBI, and what SBI reads from.
fn printed(config: ConsoleConfig, mut reader: PipeReader) -> (String, bool) {
    let consoles = Consoles::open(&config, &Stop::new(None).unwrap()).unwrap();
    drop(config);
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
    type Make = fn(ConsoleBackend) -> ConsoleConfig;
    let cases: [(Make, &str, bool); 4] = [
        (
            |stdio| ConsoleConfig {
                serial: Some(stdio),
                ..ConsoleConfig::default()
            },
            "uartsbi",
            false,
        ),
        (
            |stdio| ConsoleConfig {
                virtio: Some(stdio),
                ..ConsoleConfig::default()
            },
            "uartsbi",
            true,
        ),
        (
            |stdio| ConsoleConfig {
                serial: Some(ConsoleBackend::Pty),
                virtio: Some(stdio),
                ..ConsoleConfig::default()
            },
            "sbi",
            true,
        ),
        (
            |stdio| ConsoleConfig {
                serial: Some(stdio),
                virtio: Some(ConsoleBackend::Pty),
                ..ConsoleConfig::default()
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
        backend: ConsoleBackend::Pty,
    }
}

#[test]
fn ports_are_counted_and_named() {
    let stop = Stop::new(None).unwrap();
    let mut config = ConsoleConfig {
        virtio: Some(ConsoleBackend::Pty),
        ports: (1..MAX_PORTS).map(port).collect(),
        ..ConsoleConfig::default()
    };
    let consoles = Consoles::open(&config, &stop).unwrap();
    let names: Vec<_> = consoles
        .terminals()
        .iter()
        .map(|one| &one.console)
        .collect();
    assert_eq!(names.len(), MAX_PORTS);
    assert_eq!(names[..2], ["virtio console", "port port1"]);
    assert!(consoles.ports().unwrap().get(MAX_PORTS - 1).is_some());
    assert_eq!(consoles.subscribers().count(), MAX_PORTS);
    config.ports.push(port(0));
    assert!(Consoles::open(&config, &stop).is_err());
    config.virtio = None;
    assert!(Consoles::open(&config, &stop).is_ok());

    let none = Consoles::open(&ConsoleConfig::default(), &stop).unwrap();
    assert!(none.ports().is_none());
    assert_eq!(none.subscribers().count(), 0);
    none.serial().write(b"dropped");
    assert!(none.flush(Duration::ZERO));
}

/// A client that does not read keeps nobody from ending.
#[test]
fn a_stuck_client_holds_back_its_channel_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let config = ConsoleConfig {
        ports: vec![PortConfig {
            name: "stuck".into(),
            backend: ConsoleBackend::Unix(path.clone()),
        }],
        ..ConsoleConfig::default()
    };
    let stop = Stop::new(None).unwrap();
    let consoles = Consoles::open(&config, &stop).unwrap();
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut events = event_manager::EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
    for subscriber in consoles.subscribers() {
        event_manager::SubscriberOps::add_subscriber(&mut events, subscriber);
    }
    assert!(events.run_with_timeout(60_000).unwrap() > 0);
    let output = consoles.outputs[0].thread.clone();
    consoles.power_on();
    while output.flush(Duration::from_millis(100)) {
        output.try_write(&[b'x'; 16384]);
    }
    while output.try_write(&[b'x'; 16384]) != 0 {}
    assert!(consoles.flush(Duration::from_millis(10)));
    consoles.power_off();
    output.write(&[b'x'; 16384]);
}
