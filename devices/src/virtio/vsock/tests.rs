//! The device as a driver and programs of the host see it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use hv_test_limit::LIMIT;
use proptest::prelude::*;
use tempfile::TempDir;
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS;

use super::credit::BUFFER;
use super::muxer::MAX_CONNECTIONS;
use super::packet::{HEADER_SIZE, Header, STREAM, op, shutdown};
use super::{Endpoint, Vsock};
use crate::virtio::VirtioDevice;
use crate::virtio::testing::{DATA, Driver, readable, wait_asleep, writable};

const CID: u32 = 33;

/// The queues.
const RX: u16 = 0;
const TX: u16 = 1;
const EVENT: u16 = 2;

const QUEUE_SIZE: u16 = 128;

/// Where receive buffers are, and how large.
const RX_DATA: u64 = DATA;
const RX_SIZE: u32 = 4096;
/// Where packets of the guest are.
const TX_DATA: u64 = DATA + 0x10_0000;

/// A guest's buffer for each connection.
const GUEST_BUFFER: u32 = 256 * 1024;

/// A guest with a driver, and the host's side.
struct Guest {
    directory: TempDir,
    endpoint: Arc<Endpoint>,
    driver: Driver,
}

fn endpoint(directory: &TempDir) -> Arc<Endpoint> {
    Arc::new(Endpoint::open(CID, &directory.path().join("v")).unwrap())
}

fn device(endpoint: &Arc<Endpoint>) -> Box<Vsock> {
    Box::new(Vsock::new(endpoint.clone()).unwrap())
}

impl Guest {
    /// Its driver is not ready yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = endpoint(&directory);
        Self {
            driver: Driver::new(device(&endpoint)),
            directory,
            endpoint,
        }
    }

    /// Ready, with this many receive buffers.
    fn started(buffers: u16) -> Self {
        let mut guest = Self::new();
        guest.start();
        (0..buffers).for_each(|n| guest.give_buffer(n));
        guest
    }

    fn start(&mut self) {
        self.driver.start_with(1, QUEUE_SIZE);
    }

    fn path(&self, port: u32) -> PathBuf {
        self.directory.path().join(format!("v_{port}"))
    }

    /// A server of the host's.
    fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(port)).unwrap()
    }

    /// A client of the host's.
    fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.directory.path().join("v")).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client
    }

    fn give_buffer(&mut self, n: u16) {
        let buffer = writable(RX_DATA + u64::from(n) * u64::from(RX_SIZE), RX_SIZE);
        self.driver.give(RX, n, &[buffer]);
    }

    /// The packet in this used buffer, which is given back.
    fn take(&mut self, (head, length): (u32, u32)) -> (Header, Vec<u8>) {
        let address = RX_DATA + u64::from(head) * u64::from(RX_SIZE);
        let bytes = self.driver.get(address, length as usize);
        let (header, payload) = bytes.split_first_chunk().unwrap();
        let header = Header::from_bytes(*header);
        assert_eq!(header.len as usize, payload.len());
        assert_eq!(header.dst_cid, u64::from(CID));
        let payload = payload.to_vec();
        self.give_buffer(head as u16);
        (header, payload)
    }

    /// The next packet from the device.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let used = self.driver.wait_used(RX);
        self.take(used)
    }

    /// The next packet, which has this operation.
    fn expect(&mut self, op: u16) -> Header {
        let (header, payload) = self.receive();
        assert_eq!(header.op, op, "{header:?}");
        assert!(payload.is_empty());
        header
    }

    /// The device says that the host has closed its end, in one step or two.
    fn expect_closed(&mut self) -> Header {
        loop {
            let header = self.expect(op::SHUTDOWN);
            if header.flags == shutdown::BOTH {
                return header;
            }
            assert_eq!(header.flags, shutdown::SEND);
        }
    }

    /// The next data, of which there are so many bytes.
    fn expect_data(&mut self, length: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < length {
            let (header, payload) = self.receive();
            assert_eq!(header.op, op::RW, "{header:?}");
            data.extend(payload);
        }
        assert_eq!(data.len(), length);
        data
    }

    /// Nothing has come, once the device has nothing to do.
    fn expect_nothing(&mut self) {
        wait_asleep("virtio-vsock");
        assert_eq!(self.driver.used(RX), None);
    }

    /// Sends these bytes as a packet.
    fn send_bytes(&mut self, header: [u8; HEADER_SIZE], payload: &[u8]) {
        self.driver.put(TX_DATA, &header);
        self.driver.put(TX_DATA + 0x100, payload);
        let header = readable(TX_DATA, HEADER_SIZE as u32);
        let payload = readable(TX_DATA + 0x100, payload.len() as u32);
        self.driver.give(TX, 0, &[header, payload]);
        assert_eq!(self.driver.wait_used(TX), (0, 0));
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        self.send_bytes(header.to_bytes(), payload);
    }
}

/// A connection as the guest has it.
#[derive(Clone, Copy)]
struct Socket {
    guest: u32,
    host: u32,
    received: u32,
}

impl Socket {
    fn new(guest: u32, host: u32) -> Self {
        Self {
            guest,
            host,
            received: 0,
        }
    }

    fn packet(&self, op: u16) -> Header {
        Header {
            src_cid: CID.into(),
            dst_cid: 2,
            src_port: self.guest,
            dst_port: self.host,
            kind: STREAM,
            op,
            buf_alloc: GUEST_BUFFER,
            fwd_cnt: self.received,
            ..Header::default()
        }
    }

    fn send(&self, guest: &mut Guest, op: u16) {
        guest.send(self.packet(op), &[]);
    }

    fn send_data(&self, guest: &mut Guest, data: &[u8]) {
        let mut packet = self.packet(op::RW);
        packet.len = data.len() as u32;
        guest.send(packet, data);
    }

    fn send_shutdown(&self, guest: &mut Guest, flags: u32) {
        let mut packet = self.packet(op::SHUTDOWN);
        packet.flags = flags;
        guest.send(packet, &[]);
    }
}

/// A client that the guest has accepted.
fn accepted(guest: &mut Guest, port: u32) -> (UnixStream, Socket) {
    let mut client = guest.client();
    writeln!(client, "CONNECT {port}").unwrap();
    let request = guest.expect(op::REQUEST);
    assert_eq!((request.src_cid, request.dst_port), (2, port));
    let socket = Socket::new(port, request.src_port);
    socket.send(guest, op::RESPONSE);
    read_line(&mut client, &format!("OK {}\n", socket.host));
    (client, socket)
}

/// A server that has accepted the guest.
fn served(
    guest: &mut Guest,
    guest_port: u32,
    listener: &UnixListener,
    port: u32,
) -> (UnixStream, Socket) {
    let socket = Socket::new(guest_port, port);
    socket.send(guest, op::REQUEST);
    let response = guest.expect(op::RESPONSE);
    assert_eq!((response.src_port, response.dst_port), (port, guest_port));
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(LIMIT)).unwrap();
    (server, socket)
}

fn read_line(stream: &mut UnixStream, expected: &str) {
    let mut bytes = vec![0; expected.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
}

fn expect_end(stream: &mut UnixStream) {
    // A reset connection is an end as well.
    let read = stream.read(&mut [0]);
    assert!(
        matches!(&read, Ok(0))
            || matches!(&read, Err(error) if error.kind() == ErrorKind::ConnectionReset),
        "{read:?}"
    );
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[test]
fn it_is_a_vsock_device_with_its_guest_s_address() {
    let mut guest = Guest::new();
    let device = device(&guest.endpoint);
    assert_eq!((device.device_id(), device.features()), (19, 1));
    assert_eq!(device.queue_sizes().len(), 3);
    assert_eq!(device.name(), "vsock");
    guest.start();
    assert_eq!(guest.driver.config::<8>(0), u64::from(CID).to_le_bytes());
    assert_eq!(guest.driver.config::<4>(4), [0; 4]);
    assert_eq!(guest.driver.config::<4>(8), [0; 4]);
}

#[test]
fn a_client_of_the_host_reaches_the_guest() {
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1234);
    client.write_all(b"from the host").unwrap();
    assert_eq!(guest.expect_data(13), b"from the host");
    socket.send_data(&mut guest, b"from the guest");
    read_line(&mut client, "from the guest");
    // Half of it ends, the other half does not.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::SEND);
    socket.send_data(&mut guest, b"still here");
    read_line(&mut client, "still here");
    socket.send_shutdown(&mut guest, shutdown::BOTH);
    let reset = guest.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (socket.host, 1234));
    expect_end(&mut client);
}

#[test]
fn a_guest_reaches_a_server_of_the_host() {
    let mut guest = Guest::started(8);
    let listener = guest.listen(80);
    let (mut server, socket) = served(&mut guest, 5000, &listener, 80);
    socket.send_data(&mut guest, b"a question");
    read_line(&mut server, "a question");
    socket.send_shutdown(&mut guest, shutdown::SEND);
    expect_end(&mut server);
    server.write_all(b"an answer").unwrap();
    assert_eq!(guest.expect_data(9), b"an answer");
    drop(server);
    guest.expect_closed();
    socket.send(&mut guest, op::RST);
    guest.expect_nothing();
}

#[test]
fn a_guest_that_nobody_serves_is_told_so() {
    let mut guest = Guest::started(8);
    for port in [0, 80, u32::MAX] {
        Socket::new(5000, port).send(&mut guest, op::REQUEST);
        let reset = guest.expect(op::RST);
        assert_eq!((reset.src_port, reset.dst_port), (port, 5000));
    }
    drop(guest.listen(80));
    Socket::new(5000, 80).send(&mut guest, op::REQUEST);
    guest.expect(op::RST);
    std::fs::remove_file(guest.path(80)).unwrap();
    // A server that does not accept: when no more may wait for it, the guest does not either.
    let _listener = guest.listen(80);
    let mut port = 6000;
    loop {
        Socket::new(port, 80).send(&mut guest, op::REQUEST);
        let (answer, _) = guest.receive();
        match answer.op {
            op::RESPONSE => port += 1,
            op::RST => break,
            _ => panic!("{answer:?}"),
        }
    }
    assert!(port > 6100);
}

#[test]
fn a_client_that_nobody_in_the_guest_serves_is_let_go() {
    let mut guest = Guest::started(8);
    let mut client = guest.client();
    client.write_all(b"CONNECT 9\n").unwrap();
    let request = guest.expect(op::REQUEST);
    Socket::new(9, request.src_port).send(&mut guest, op::RST);
    expect_end(&mut client);
    // As is one that says something else.
    let mut client = guest.client();
    client.write_all(b"HELLO\n").unwrap();
    expect_end(&mut client);
    guest.expect_nothing();
    // One that leaves before the guest has answered.
    let mut client = guest.client();
    client.write_all(b"CONNECT 10\n").unwrap();
    let request = guest.expect(op::REQUEST);
    drop(client);
    let reset = guest.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, 10));
}

#[test]
fn a_client_may_come_before_the_guest_s_driver() {
    let mut guest = Guest::new();
    let mut client = guest.client();
    client.write_all(b"CONNECT 7\nearly").unwrap();
    guest.start();
    (0..8).for_each(|n| guest.give_buffer(n));
    let request = guest.expect(op::REQUEST);
    let socket = Socket::new(7, request.src_port);
    socket.send(&mut guest, op::RESPONSE);
    assert_eq!(guest.expect_data(5), b"early");
    read_line(&mut client, &format!("OK {}\n", socket.host));
}

#[test]
fn much_goes_both_ways_at_the_same_time() {
    let mut guest = Guest::started(64);
    let (client, mut socket) = accepted(&mut guest, 1);
    let sent = pattern(3 << 20);
    let host = std::thread::scope(|scope| {
        let (mut reader, mut writer) = (client.try_clone().unwrap(), client);
        let data = &sent;
        scope.spawn(move || {
            writer.write_all(data).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let host = scope.spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            bytes
        });
        // An echo, with the credit of both sides.
        let (mut waiting, mut echoed, mut ended) = (Vec::new(), 0_u32, false);
        let mut forwarded = 0_u32;
        while !ended || !waiting.is_empty() {
            let room = BUFFER - echoed.wrapping_sub(forwarded);
            let count = waiting.len().min(room as usize).min(60_000);
            if count > 0 {
                let data: Vec<u8> = waiting.drain(..count).collect();
                socket.send_data(&mut guest, &data);
                echoed = echoed.wrapping_add(count as u32);
                continue;
            }
            let (header, payload) = guest.receive();
            forwarded = header.fwd_cnt;
            assert_eq!(header.buf_alloc, BUFFER);
            socket.received = socket.received.wrapping_add(payload.len() as u32);
            match header.op {
                op::RW => waiting.extend(payload),
                op::CREDIT_UPDATE => {}
                op::CREDIT_REQUEST => socket.send(&mut guest, op::CREDIT_UPDATE),
                op::SHUTDOWN => ended = true,
                _ => panic!("{header:?}"),
            }
        }
        socket.send_shutdown(&mut guest, shutdown::BOTH);
        host.join().unwrap()
    });
    assert!(host == sent);
}

/// A server that does not read takes what its socket holds, and then the connection's buffer is filled. Nothing beyond that is taken.
#[test]
fn a_guest_that_sends_more_than_there_is_room_for_is_reset() {
    let mut guest = Guest::started(8);
    let listener = guest.listen(80);
    let (mut server, socket) = served(&mut guest, 5000, &listener, 80);
    let data = pattern(60_000);
    let mut sent: Vec<u8> = Vec::new();
    loop {
        socket.send_data(&mut guest, &data);
        // What is told of room does not matter to this guest.
        wait_asleep("virtio-vsock");
        let mut is_reset = false;
        while let Some(used) = guest.driver.used(RX) {
            is_reset |= guest.take(used).0.op == op::RST;
        }
        if is_reset {
            break;
        }
        sent.extend(&data);
        assert!(sent.len() < 4 << 20);
    }
    // What was taken before arrives.
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes).unwrap();
    assert!(bytes == sent);
    socket.send_data(&mut guest, b"more");
    guest.expect(op::RST);
}

#[test]
fn a_guest_hears_of_room_when_a_slow_server_reads() {
    let mut guest = Guest::started(8);
    let listener = guest.listen(80);
    let (mut server, socket) = served(&mut guest, 5000, &listener, 80);
    let mut sent = 0_u32;
    let mut forwarded = 0;
    // Up to what it may send.
    loop {
        let room = BUFFER - (sent - forwarded);
        if room == 0 {
            wait_asleep("virtio-vsock");
        }
        while let Some(used) = guest.driver.used(RX) {
            let (header, _) = guest.take(used);
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt;
        }
        let room = BUFFER - (sent - forwarded);
        if room == 0 {
            break;
        }
        let count = room.min(30_000);
        socket.send_data(&mut guest, &vec![7; count as usize]);
        sent += count;
    }
    // Asked, it says what it did not yet find worth telling.
    socket.send(&mut guest, op::CREDIT_REQUEST);
    let told = guest.expect(op::CREDIT_UPDATE).fwd_cnt;
    assert!(told - forwarded < BUFFER / 4);
    forwarded = told;
    let mut bytes = vec![0; sent as usize];
    server.read_exact(&mut bytes).unwrap();
    let mut last = forwarded;
    while last != sent && sent - last >= BUFFER / 4 {
        last = guest.expect(op::CREDIT_UPDATE).fwd_cnt;
    }
    socket.send(&mut guest, op::CREDIT_REQUEST);
    assert_eq!(guest.expect(op::CREDIT_UPDATE).fwd_cnt, sent);
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::started(8);
    let mut client = guest.client();
    client.write_all(b"CONNECT 1\n").unwrap();
    let request = guest.expect(op::REQUEST);
    let mut socket = Socket::new(1, request.src_port);
    let mut packet = socket.packet(op::RESPONSE);
    packet.buf_alloc = 100;
    guest.send(packet, &[]);
    read_line(&mut client, &format!("OK {}\n", socket.host));
    let data = pattern(250);
    client.write_all(&data).unwrap();
    assert_eq!(guest.expect_data(100), data[..100]);
    // The device asks once, also if it is told that there is none.
    guest.expect(op::CREDIT_REQUEST);
    packet.op = op::CREDIT_UPDATE;
    guest.send(packet, &[]);
    guest.expect_nothing();
    packet.fwd_cnt = 30;
    guest.send(packet, &[]);
    assert_eq!(guest.expect_data(30), data[100..130]);
    guest.expect(op::CREDIT_REQUEST);
    // More than what was sent: nonsense, which gives no room.
    packet.fwd_cnt = 131;
    guest.send(packet, &[]);
    guest.expect_nothing();
    packet.fwd_cnt = 130;
    packet.buf_alloc = u32::MAX;
    guest.send(packet, &[]);
    assert_eq!(guest.expect_data(120), data[130..]);
    socket.received = 250;
    socket.send_shutdown(&mut guest, shutdown::BOTH);
    guest.expect(op::RST);
    expect_end(&mut client);
}

/// Whatever waits for the guest, it costs nothing while the guest has no buffers.
#[test]
fn the_thread_sleeps_while_the_guest_has_no_buffers() {
    let mut guest = Guest::started(0);
    let mut clients = Vec::new();
    for port in 0..3 {
        let mut client = guest.client();
        write!(client, "CONNECT {port}\nhello").unwrap();
        clients.push(client);
    }
    Socket::new(1, 1).send(&mut guest, op::REQUEST);
    wait_asleep("virtio-vsock");
    guest.give_buffer(0);
    assert_eq!(guest.receive().0.op, op::RST, "first come, first served");
    let mut ports: Vec<u32> = (0..3).map(|_| guest.expect(op::REQUEST).dst_port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [0, 1, 2]);
}

/// Their answers are bounded, so at some point packets are left in the queue. None is lost.
#[test]
fn a_guest_that_takes_no_answers_has_to_wait() {
    let mut guest = Guest::started(0);
    let mut offered = 0_u32;
    // Many times the same packet.
    let packet = Socket::new(1, 1).packet(op::RW);
    guest.driver.put(TX_DATA, &packet.to_bytes());
    let buffer = [readable(TX_DATA, HEADER_SIZE as u32)];
    loop {
        (0..64).for_each(|head| guest.driver.offer(TX, head, &buffer));
        guest.driver.notify(TX);
        offered += 64;
        wait_asleep("virtio-vsock");
        let mut taken = 0;
        while guest.driver.used(TX).is_some() {
            taken += 1;
        }
        if taken < 64 {
            break;
        }
        assert!(offered < 1000);
    }
    (0..64).for_each(|n| guest.give_buffer(n));
    for _ in 0..offered {
        guest.expect(op::RST);
    }
    guest.expect_nothing();
}

#[test]
fn packets_that_are_none_have_no_effect_or_are_reset() {
    let mut guest = Guest::started(8);
    let socket = Socket::new(7, 8);
    let request = socket.packet(op::REQUEST);
    // In another guest's name, or in that of the host.
    for src_cid in [0, 2, u64::from(CID) + 1, u64::from(CID) | 1 << 32] {
        guest.send(Header { src_cid, ..request }, &[]);
    }
    // Shorter than a header.
    guest
        .driver
        .give(TX, 0, &[readable(TX_DATA, HEADER_SIZE as u32 - 1)]);
    assert_eq!(guest.driver.wait_used(TX), (0, 0));
    socket.send(&mut guest, op::RST);
    guest.expect_nothing();
    // To another guest, of another type, or of no connection.
    for dst_cid in [0, 1, 5, u64::MAX] {
        guest.send(Header { dst_cid, ..request }, &[]);
        assert_eq!(guest.expect(op::RST).src_cid, dst_cid);
    }
    let _listener = guest.listen(8);
    for kind in [0, 2, 3, u16::MAX] {
        guest.send(Header { kind, ..request }, &[]);
        assert_eq!(guest.expect(op::RST).kind, kind);
    }
    for op in [
        0,
        op::RESPONSE,
        op::SHUTDOWN,
        op::RW,
        op::CREDIT_UPDATE,
        op::CREDIT_REQUEST,
        8,
        u16::MAX,
    ] {
        guest.send(Header { op, ..request }, &[]);
        guest.expect(op::RST);
    }
}

/// What ends a connection in each of its states, and what does not.
#[test]
fn an_operation_in_the_wrong_state_resets_the_connection() {
    let all = || (0..=9).chain([u16::MAX]);
    // A client waits for the guest's answer.
    for op in all() {
        let mut guest = Guest::started(8);
        let mut client = guest.client();
        client.write_all(b"CONNECT 1\n").unwrap();
        let request = guest.expect(op::REQUEST);
        let mut packet = Socket::new(1, request.src_port).packet(op);
        packet.flags = shutdown::BOTH;
        guest.send(packet, &[]);
        match op {
            op::RESPONSE => read_line(&mut client, &format!("OK {}\n", request.src_port)),
            op::RST => expect_end(&mut client),
            _ => {
                guest.expect(op::RST);
                expect_end(&mut client);
            }
        }
    }
    // It is open.
    for op in all() {
        let mut guest = Guest::started(8);
        let (mut client, socket) = accepted(&mut guest, 1);
        let mut packet = socket.packet(op);
        packet.flags = shutdown::SEND;
        guest.send(packet, &[]);
        match op {
            op::RST | op::SHUTDOWN => expect_end(&mut client),
            op::RW | op::CREDIT_UPDATE => guest.expect_nothing(),
            op::CREDIT_REQUEST => {
                guest.expect(op::CREDIT_UPDATE);
            }
            _ => {
                guest.expect(op::RST);
                expect_end(&mut client);
            }
        }
    }
    // The guest sends nothing more, and then it does.
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1);
    socket.send_shutdown(&mut guest, shutdown::SEND);
    socket.send_data(&mut guest, b"x");
    guest.expect(op::RST);
    expect_end(&mut client);
}

#[test]
fn a_payload_is_as_long_as_its_header_says() {
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1);
    let mut packet = socket.packet(op::RW);
    packet.len = 3;
    guest.send(packet, b"abcdef");
    read_line(&mut client, "abc");
    for len in [7, BUFFER, u32::MAX] {
        let (mut client, socket) = accepted(&mut guest, 2);
        let mut packet = socket.packet(op::RW);
        packet.len = len;
        guest.send(packet, b"abcdef");
        guest.expect(op::RST);
        expect_end(&mut client);
    }
    // The others go on.
    packet.len = 6;
    guest.send(packet, b"ghijkl");
    read_line(&mut client, "ghijkl");
}

#[test]
fn a_half_that_the_guest_does_not_read_takes_nothing() {
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1);
    socket.send_shutdown(&mut guest, shutdown::RECEIVE);
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::SEND);
    assert_eq!(
        client.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    socket.send_data(&mut guest, b"the other half");
    read_line(&mut client, "the other half");
    // The host's end can do the same.
    client.shutdown(Shutdown::Read).unwrap();
    socket.send_data(&mut guest, b"nobody reads this");
    assert_eq!(guest.expect(op::SHUTDOWN).flags, shutdown::BOTH);
    // What is on its way has no effect.
    socket.send_data(&mut guest, b"nor this");
    socket.send_shutdown(&mut guest, shutdown::BOTH);
    guest.expect(op::RST);
}

#[test]
fn buffers_may_be_cut_into_any_pieces() {
    let mut guest = Guest::started(0);
    // No room for anything, or for nothing but a header.
    for (head, length) in [(0, 0), (1, HEADER_SIZE as u32 - 1), (2, HEADER_SIZE as u32)] {
        guest.driver.give(RX, head, &[writable(RX_DATA, length)]);
    }
    let mut client = guest.client();
    client.write_all(b"CONNECT 1\n").unwrap();
    for head in 0..3 {
        assert_eq!(guest.driver.wait_used(RX), (head, 0));
    }
    let pieces = |at: u64| -> Vec<_> {
        let sizes = [1, 20, 22, 2, 0, 3, 5];
        sizes
            .iter()
            .scan(at, |place, size| {
                let piece = writable(*place, *size);
                *place += u64::from(*size);
                Some(piece)
            })
            .collect()
    };
    let header = |guest: &Guest| {
        let bytes = guest.driver.get(RX_DATA, HEADER_SIZE);
        Header::from_bytes(bytes.try_into().unwrap())
    };
    guest.driver.give(RX, 0, &pieces(RX_DATA));
    assert_eq!(guest.driver.wait_used(RX), (0, HEADER_SIZE as u32));
    let request = header(&guest);
    assert_eq!(request.op, op::REQUEST);
    // The guest's packets as well.
    let packet = Socket::new(1, request.src_port).packet(op::RESPONSE);
    guest.driver.put(TX_DATA, &packet.to_bytes());
    let split = [
        readable(TX_DATA, 10),
        readable(TX_DATA + 10, 30),
        readable(TX_DATA + 40, 4),
    ];
    guest.driver.give(TX, 0, &split);
    read_line(&mut client, &format!("OK {}\n", request.src_port));
    let mut packet = Socket::new(1, request.src_port).packet(op::RW);
    packet.len = 5;
    guest.driver.put(TX_DATA, &packet.to_bytes());
    guest.driver.put(TX_DATA + 44, b"abcdefg");
    let split = [
        readable(TX_DATA, 46),
        readable(TX_DATA + 46, 2),
        readable(TX_DATA + 48, 3),
    ];
    guest.driver.give(TX, 8, &split);
    read_line(&mut client, "abcde");
    client.write_all(b"0123456789").unwrap();
    guest.driver.give(RX, 8, &pieces(RX_DATA));
    assert_eq!(guest.driver.wait_used(RX), (8, HEADER_SIZE as u32 + 9));
    assert_eq!(guest.driver.get(RX_DATA + 44, 9), b"012345678");
    assert_eq!(header(&guest).len, 9);
}

/// Each has a server that does not accept it, so that it costs this process one descriptor.
#[test]
fn connections_are_bounded() {
    let mut guest = Guest::started(64);
    let listeners: Vec<_> = (0..8).map(|port| guest.listen(port)).collect();
    let mut open = Vec::new();
    let refused = loop {
        let number = open.len() as u32;
        let socket = Socket::new(10_000 + number / 8, number % 8);
        socket.send(&mut guest, op::REQUEST);
        let (answer, _) = guest.receive();
        match answer.op {
            op::RESPONSE => open.push(socket),
            op::RST => break socket,
            _ => panic!("{answer:?}"),
        }
    };
    assert_eq!(open.len(), MAX_CONNECTIONS);
    // A client of the host waits.
    let mut client = guest.client();
    client.write_all(b"CONNECT 1\n").unwrap();
    guest.expect_nothing();
    // As soon as there is room, it is served.
    open.pop().unwrap().send(&mut guest, op::RST);
    let request = guest.expect(op::REQUEST);
    refused.send(&mut guest, op::REQUEST);
    guest.expect(op::RST);
    // One that only waits for the guest's last word makes room.
    Socket::new(1, request.src_port).send(&mut guest, op::RESPONSE);
    read_line(&mut client, &format!("OK {}\n", request.src_port));
    drop(client);
    guest.expect_closed();
    refused.send(&mut guest, op::REQUEST);
    let mut answers = [guest.receive().0, guest.receive().0];
    answers.sort_by_key(|answer| answer.op);
    let [response, reset] = answers;
    assert_eq!(
        (response.op, response.src_port),
        (op::RESPONSE, refused.host)
    );
    assert_eq!((reset.op, reset.src_port), (op::RST, request.src_port));
    drop(listeners);
}

/// A pause may come at any time, and afterwards everything is noticed that happened meanwhile.
#[test]
fn connections_survive_a_pause() {
    let mut guest = Guest::started(8);
    let listener = guest.listen(80);
    let (mut client, socket) = accepted(&mut guest, 1);
    let (mut server, other) = served(&mut guest, 2, &listener, 80);
    for round in 0..5 {
        guest.driver.transport.pause();
        let text = format!("round {round}");
        client.write_all(text.as_bytes()).unwrap();
        server.write_all(text.as_bytes()).unwrap();
        let mut third = guest.client();
        third.write_all(b"CONNECT 3\n").unwrap();
        guest.driver.transport.resume();
        let mut ops: Vec<u16> = (0..3).map(|_| guest.receive().0.op).collect();
        ops.sort_unstable();
        assert_eq!(ops, [op::REQUEST, op::RW, op::RW]);
        // And it goes on.
        socket.send_data(&mut guest, b"to the client");
        other.send_data(&mut guest, b"to the server");
        read_line(&mut client, "to the client");
        read_line(&mut server, "to the server");
        client.write_all(b"after").unwrap();
        assert_eq!(guest.expect_data(5), b"after");
        drop(third);
        guest.expect(op::RST);
    }
    guest.driver.transport.pause();
    drop(client);
    guest.driver.transport.resume();
    guest.expect_closed();
}

/// A buffer that was taken and not used is still there after a pause, as are packets that were not taken.
#[test]
fn no_buffer_is_lost_by_a_pause() {
    let mut guest = Guest::started(1);
    for round in 0..20 {
        guest.driver.transport.pause();
        guest.driver.transport.resume();
        Socket::new(round, 1).send(&mut guest, op::RW);
        assert_eq!(guest.expect(op::RST).dst_port, round);
    }
}

#[test]
fn a_reset_ends_all_connections() {
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1);
    let mut greeting = guest.client();
    greeting.write_all(b"CONN").unwrap();
    wait_asleep("virtio-vsock");
    guest.driver.write(VIRTIO_MMIO_STATUS, 0);
    expect_end(&mut client);
    expect_end(&mut greeting);
    guest.start();
    (0..8).for_each(|n| guest.give_buffer(n));
    socket.send_data(&mut guest, b"x");
    guest.expect(op::RST);
    accepted(&mut guest, 1);
    guest.driver.give(EVENT, 0, &[writable(TX_DATA, 4)]);
    wait_asleep("virtio-vsock");
    assert_eq!(guest.driver.used(EVENT), None, "the driver knows that");
}

/// What was sent before a reset, or by a guest that is done, reaches the host.
#[test]
fn what_a_guest_sent_before_its_end_arrives() {
    let mut guest = Guest::started(8);
    let listener = guest.listen(80);
    for op in [op::RST, op::SHUTDOWN] {
        let (mut server, socket) = served(&mut guest, 5000, &listener, 80);
        let mut sent = 0;
        let mut forwarded = 0;
        while sent - forwarded < BUFFER {
            let count = (BUFFER - (sent - forwarded)).min(30_000);
            socket.send_data(&mut guest, &vec![7; count as usize]);
            sent += count;
            if sent - forwarded == BUFFER {
                wait_asleep("virtio-vsock");
            }
            while let Some(used) = guest.driver.used(RX) {
                forwarded = guest.take(used).0.fwd_cnt;
            }
        }
        let mut packet = socket.packet(op);
        packet.flags = shutdown::BOTH;
        guest.send(packet, &[]);
        if op == op::SHUTDOWN {
            guest.expect(op::RST);
        }
        // It is forgotten at once.
        socket.send(&mut guest, op::CREDIT_UPDATE);
        guest.expect(op::RST);
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), sent as usize);
    }
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_gone() {
    let mut guest = Guest::started(8);
    let (mut client, socket) = accepted(&mut guest, 1);
    let other = Guest::new();
    guest.driver.migrate(device(&other.endpoint));
    expect_end(&mut client);
    guest.driver.transport.resume();
    wait_asleep("virtio-vsock");
    // One buffer is too small.
    guest.driver.give(EVENT, 0, &[writable(TX_DATA, 3)]);
    assert_eq!(guest.driver.wait_used(EVENT), (0, 3));
    guest.driver.put(TX_DATA, &[0xee; 8]);
    guest.driver.give(EVENT, 1, &[writable(TX_DATA, 8)]);
    assert_eq!(guest.driver.wait_used(EVENT), (1, 4));
    assert_eq!(
        guest.driver.get(TX_DATA, 8),
        [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]
    );
    // Once.
    guest.driver.give(EVENT, 2, &[writable(TX_DATA, 8)]);
    socket.send_data(&mut guest, b"x");
    guest.expect(op::RST);
    assert_eq!(guest.driver.used(EVENT), None);
    // New clients come to the new place.
    let old = std::mem::replace(&mut guest.directory, other.directory);
    accepted(&mut guest, 1);
    drop(old);
}

#[test]
fn a_state_of_another_guest_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = |cid, name| {
        let endpoint = Endpoint::open(cid, &directory.path().join(name)).unwrap();
        Vsock::new(Arc::new(endpoint)).unwrap()
    };
    let mut vsock = open(3, "a");
    let other = open(4, "b");
    let error = vsock.restore(other.save()).unwrap_err();
    assert!(error.to_string().contains("CID 4"), "{error}");
    vsock.restore(vsock.save()).unwrap();
    assert!(vsock.restore(serde_json::Value::Null).is_err());
    assert!(
        vsock
            .restore(serde_json::json!({"cid": 3, "more": 1}))
            .is_err()
    );
}

/// Any number that is worth a try, now and then.
fn field(often: &'static [u64]) -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => proptest::sample::select(often),
        1 => any::<u64>(),
        1 => (0..64_u32).prop_map(|bit| 1 << bit),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Packet(Header, Vec<u8>),
    Client(u32),
    ClientSends(usize),
    ClientReads(usize),
    ClientLeaves(usize),
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let cids = (field(&[33]), field(&[2]));
    let ports = (
        field(&[1, 2]),
        field(&[80, 81, 1 << 30, (1 << 30) + 1, (1 << 30) + 2]),
    );
    let shape = (
        field(&[0, 1, 100]),
        field(&[1]),
        field(&[1, 2, 3, 4, 5, 6, 7]),
        field(&[0, 1, 2, 3]),
    );
    let credit = (field(&[0, 1, 4096, 1 << 18]), field(&[0, 1, 100]));
    let payload = proptest::collection::vec(any::<u8>(), 0..200);
    let packet = (cids, ports, shape, credit, payload).prop_map(
        |((src_cid, dst_cid), ports, (len, kind, op, flags), credit, payload)| {
            let header = Header {
                src_cid,
                dst_cid,
                src_port: ports.0 as u32,
                dst_port: ports.1 as u32,
                len: len as u32,
                kind: kind as u16,
                op: op as u16,
                flags: flags as u32,
                buf_alloc: credit.0 as u32,
                fwd_cnt: credit.1 as u32,
            };
            Step::Packet(header, payload)
        },
    );
    prop_oneof![
        10 => packet,
        2 => (1..3_u32).prop_map(Step::Client),
        2 => any::<usize>().prop_map(Step::ClientSends),
        1 => any::<usize>().prop_map(Step::ClientReads),
        1 => any::<usize>().prop_map(Step::ClientLeaves),
        1 => Just(Step::Pause),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, the device answers as the specification has it, and serves a driver that behaves afterwards.
    #[test]
    fn no_packet_breaks_it(steps in proptest::collection::vec(step(), 1..60)) {
        let mut guest = Guest::started(32);
        let listeners = [guest.listen(80), guest.listen(81)];
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        let mut streams: Vec<UnixStream> = Vec::new();
        for step in steps {
            match step {
                Step::Packet(header, payload) => guest.send(header, &payload),
                Step::Client(port) => {
                    let mut client = guest.client();
                    writeln!(client, "CONNECT {port}").unwrap();
                    client.set_nonblocking(true).unwrap();
                    streams.push(client);
                }
                Step::ClientSends(n) if !streams.is_empty() => {
                    let n = n % streams.len();
                    let _ = streams[n].write(&[n as u8; 5000]);
                }
                Step::ClientReads(n) if !streams.is_empty() => {
                    let n = n % streams.len();
                    let _ = streams[n].read(&mut [0; 5000]);
                }
                Step::ClientLeaves(n) if !streams.is_empty() => drop(streams.swap_remove(n % streams.len())),
                Step::Pause => {
                    guest.driver.transport.pause();
                    guest.driver.transport.resume();
                }
                _ => {}
            }
            for listener in &listeners {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true).unwrap();
                    streams.push(stream);
                }
            }
            while let Some(used) = guest.driver.used(RX) {
                let (header, _) = guest.take(used);
                prop_assert!((1..=7).contains(&header.op), "{:?}", header);
            }
        }
        prop_assert!(!guest.driver.line.needs_reset());
        prop_assert_eq!(guest.driver.read(VIRTIO_MMIO_STATUS), 15);
        drop(streams);
        guest.driver.write(VIRTIO_MMIO_STATUS, 0);
        guest.start();
        (0..8).for_each(|n| guest.give_buffer(n));
        // Clients that had not been accepted before the reset come first.
        let mut client = guest.client();
        client.write_all(b"CONNECT 9\n").unwrap();
        let request = loop {
            let (header, _) = guest.receive();
            if (header.op, header.dst_port) == (op::REQUEST, 9) {
                break header;
            }
        };
        let socket = Socket::new(9, request.src_port);
        socket.send(&mut guest, op::RESPONSE);
        read_line(&mut client, &format!("OK {}\n", socket.host));
        socket.send_data(&mut guest, b"fine");
        read_line(&mut client, "fine");
    }

    /// Nor does any state of it, or any driver.
    #[test]
    fn a_damaged_state_is_refused_or_works(
        damages in crate::virtio::testing::damages(),
    ) {
        let mut guest = Guest::started(4);
        accepted(&mut guest, 1);
        let other = Guest::new();
        guest.driver.migrate_damaged(device(&other.endpoint), &damages);
    }
}

/// It is there while the endpoint is.
#[test]
fn the_socket_goes_with_its_endpoint() {
    let guest = Guest::started(1);
    let path = guest.directory.path().join("v");
    let Guest {
        directory,
        endpoint,
        driver,
    } = guest;
    drop(driver);
    assert!(path.exists());
    let _client = UnixStream::connect(&path).unwrap();
    drop(endpoint);
    assert!(!path.exists());
    drop(directory);
}
