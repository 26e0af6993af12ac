//! A connection: a Unix socket of the host at one end, a socket of the guest at the other.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vm_memory::{ReadVolatile, VolatileMemoryError, WriteVolatile};

use super::credit::{BUFFER, Receiving, Sending};
use super::greeting::{self, Greeting, Said};
use super::packet::{HEADER_SIZE, HOST_CID, Header, STREAM, op, shutdown};
use crate::memory::GuestSlice;
use crate::virtio::chain::Buffers;

/// The longest payload of a packet to the guest, in bytes: that of Linux (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
const LONGEST: usize = 64 * 1024;

/// By which the guest knows a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    pub host: u32,
    pub guest: u32,
}

/// How far a connection has come.
#[derive(Debug)]
enum Phase {
    /// The client has not said yet which port it wants.
    Greeting(Greeting),
    /// The client's port is wanted of the guest, which has been asked or is to be.
    Asking { asked: bool },
    /// The guest wanted it, and is to be told that it has it.
    Answering,
    /// Data may flow.
    Open,
    /// The guest is done with it. What it sent before goes out.
    Draining,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stays.
    Stays,
    /// The guest has been told, or has said itself, that it is over: it has ended, but for what goes out.
    Ended,
    /// It ends, and the guest is to be told by a RST.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// `None` in the greeting.
    ports: Option<Ports>,
    phase: Phase,
    receiving: Receiving,
    sending: Sending,
    /// What the host has not taken yet.
    buffer: VecDeque<u8>,
    /// The stream may have something to read.
    readable: bool,
    /// It has nothing to read any more.
    read_ended: bool,
    /// It takes nothing any more.
    write_ended: bool,
    /// Who is at its other end has closed it.
    hung_up: bool,
    /// What the guest has said that it will not do any more.
    guest_shutdown: u32,
    /// What the guest was told of the host.
    told_shutdown: u32,
    /// The guest wants to know how much room there is.
    is_asked: bool,
    /// The guest was asked how much room it has, and has named none since.
    has_asked: bool,
    /// It is among those that may have something to send.
    pub queued: bool,
}

impl Connection {
    fn new(stream: UnixStream, ports: Option<Ports>, phase: Phase) -> Self {
        Self {
            stream,
            ports,
            phase,
            receiving: Receiving::default(),
            sending: Sending::default(),
            buffer: VecDeque::new(),
            readable: true,
            read_ended: false,
            write_ended: false,
            hung_up: false,
            guest_shutdown: 0,
            told_shutdown: 0,
            is_asked: false,
            has_asked: false,
            queued: false,
        }
    }

    /// A client of the host, which is to say what it wants.
    pub fn from_host(stream: UnixStream) -> Self {
        Self::new(stream, None, Phase::Greeting(Greeting::default()))
    }

    /// A connection that the guest asks for by this packet.
    pub fn from_guest(stream: UnixStream, ports: Ports, request: &Header) -> Self {
        let mut connection = Self::new(stream, Some(ports), Phase::Answering);
        connection
            .sending
            .update(request.buf_alloc, request.fwd_cnt);
        connection
    }

    /// The host's end.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Its ports, if it has them already.
    pub fn ports(&self) -> Option<Ports> {
        self.ports
    }

    /// Whether both have nothing to say any more, and only the guest's last word is missing.
    pub fn is_closing(&self) -> bool {
        self.told_shutdown == shutdown::BOTH
    }

    /// Reads what the client wants.
    pub fn greet(&mut self) -> Said {
        match &mut self.phase {
            Phase::Greeting(greeting) => greeting.read(&mut self.stream),
            _ => Said::More,
        }
    }

    /// The client's wish goes to the guest.
    pub fn ask(&mut self, ports: Ports) {
        self.ports = Some(ports);
        self.phase = Phase::Asking { asked: false };
    }

    /// The stream's state may have changed in any way.
    pub fn look(&mut self, hung_up: bool) -> Fate {
        self.readable = true;
        self.hung_up |= hung_up;
        if self.hung_up
            && let Phase::Asking { asked } = self.phase
        {
            // Nobody is there any more to be told.
            return if asked { Fate::Reset } else { Fate::Ended };
        }
        self.flush();
        match self.phase {
            Phase::Draining if self.is_drained() => Fate::Ended,
            _ => Fate::Stays,
        }
    }

    /// Whether nothing is left that could go to the host.
    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The guest is done with it.
    pub fn drain(&mut self) {
        self.ports = None;
        self.phase = Phase::Draining;
        self.readable = false;
    }

    /// A packet of the guest's for this connection. `payload` is what follows the header.
    pub fn receive(&mut self, header: &Header, payload: &Buffers<'_>) -> Fate {
        self.sending.update(header.buf_alloc, header.fwd_cnt);
        if self.sending.room() > 0 {
            self.has_asked = false;
        }
        match (header.op, &self.phase) {
            (op::RST, _) => Fate::Ended,
            (op::RESPONSE, Phase::Asking { asked: true }) => self.open(),
            (op::RW, Phase::Open) => self.receive_data(header.len, payload),
            (op::SHUTDOWN, Phase::Open | Phase::Asking { asked: true }) => {
                self.receive_shutdown(header.flags)
            }
            (op::CREDIT_UPDATE, Phase::Open | Phase::Answering) => Fate::Stays,
            (op::CREDIT_REQUEST, Phase::Open | Phase::Answering) => {
                self.is_asked = true;
                Fate::Stays
            }
            // Operations that do not exist, or not here: a second request, an answer to nothing, data before the answer.
            _ => Fate::Reset,
        }
    }

    /// The guest has accepted the client.
    fn open(&mut self) -> Fate {
        self.phase = Phase::Open;
        let answer = greeting::accepted(self.ports.map_or(0, |ports| ports.host));
        // There is room for it, as it is the first thing that is written.
        match self.stream.write(answer.as_bytes()) {
            Ok(written) if written == answer.len() => Fate::Stays,
            _ => Fate::Reset,
        }
    }

    fn receive_data(&mut self, length: u32, payload: &Buffers<'_>) -> Fate {
        let ended = self.guest_shutdown & shutdown::SEND != 0;
        if ended || u64::from(length) > payload.length() || !self.receiving.receive(length) {
            return Fate::Reset;
        }
        // Both are at most the size of the buffer.
        let mut rest = usize::try_from(length).unwrap_or(0);
        for slice in payload.as_slice() {
            let Ok(slice) = slice.subslice(0, rest.min(slice.len())) else {
                break;
            };
            rest = rest.saturating_sub(slice.len());
            let written = self.write(&slice);
            let Ok(behind) = slice.offset(written) else {
                break;
            };
            if !behind.is_empty() {
                let mut bytes = vec![0; behind.len()];
                behind.copy_to(&mut bytes);
                self.buffer.extend(bytes);
            }
        }
        Fate::Stays
    }

    /// Writes what goes without waiting, and without overtaking what waits already. Returns how much is done with.
    fn write(&mut self, slice: &GuestSlice<'_>) -> usize {
        let mut done = 0_usize;
        while self.buffer.is_empty() && !self.write_ended && done < slice.len() {
            let Ok(rest) = slice.offset(done) else { break };
            match (&self.stream).write_volatile(&rest) {
                Ok(0) => break,
                Ok(count) => done = done.saturating_add(count),
                Err(VolatileMemoryError::IOError(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    _ => self.write_ended = true,
                },
                Err(_) => self.write_ended = true,
            }
        }
        if self.write_ended {
            // Nobody is there to take it.
            done = slice.len();
        }
        self.forward(done);
        done
    }

    /// Writes what waits, as much as goes.
    fn flush(&mut self) {
        while !self.buffer.is_empty() && !self.write_ended {
            let (front, _) = self.buffer.as_slices();
            let length = front.len();
            match (&self.stream).write(front) {
                Ok(0) => return,
                Ok(count) => {
                    self.buffer.drain(..count.min(length));
                    self.forward(count);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return,
                    io::ErrorKind::Interrupted => {}
                    _ => self.write_ended = true,
                },
            }
        }
        if self.write_ended {
            self.forward(self.buffer.len());
        }
        // Most of the time it is empty, and there may be many connections.
        self.buffer = VecDeque::new();
        self.end_writing();
    }

    fn forward(&mut self, count: usize) {
        self.receiving
            .forward(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// The host's end reads no more than what the guest has sent, if that is all.
    fn end_writing(&mut self) {
        if self.guest_shutdown & shutdown::SEND != 0 && self.buffer.is_empty() {
            // It fails if nobody is there any more.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    fn receive_shutdown(&mut self, flags: u32) -> Fate {
        self.guest_shutdown |= flags & shutdown::BOTH;
        if self.guest_shutdown == shutdown::BOTH {
            return Fate::Reset;
        }
        if flags & shutdown::RECEIVE != 0 {
            // Whoever writes to it is told that nobody reads. There is nothing more to send.
            let _ = self.stream.shutdown(Shutdown::Read);
            self.read_ended = true;
        }
        self.end_writing();
        Fate::Stays
    }

    /// The next packet for the guest, if there is one now. Its payload is in `buffers`, behind the header, which is for the caller to
    /// write. There is room for some payload.
    pub fn send(&mut self, cid: u64, buffers: &Buffers<'_>) -> Option<Header> {
        let ports = self.ports?;
        let mut length = 0;
        let mut flags = 0;
        let op = match &mut self.phase {
            Phase::Greeting(_) | Phase::Draining => return None,
            Phase::Asking { asked: true } => return None,
            Phase::Asking { asked } => {
                *asked = true;
                op::REQUEST
            }
            Phase::Answering => {
                self.phase = Phase::Open;
                op::RESPONSE
            }
            Phase::Open => {
                length = self.read(buffers);
                if length > 0 {
                    op::RW
                } else if self.wants_room() {
                    self.has_asked = true;
                    op::CREDIT_REQUEST
                } else if self.shutdown() & !self.told_shutdown != 0 {
                    flags = self.shutdown();
                    self.told_shutdown |= flags;
                    op::SHUTDOWN
                } else if self.is_asked || self.receiving.is_news(self.sending.peer_buffer()) {
                    op::CREDIT_UPDATE
                } else {
                    return None;
                }
            }
        };
        self.is_asked = false;
        Some(Header {
            src_cid: HOST_CID,
            dst_cid: cid,
            src_port: ports.host,
            dst_port: ports.guest,
            len: length,
            kind: STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.receiving.announce(),
        })
    }

    /// Whether the host has something for the guest, as far as is known.
    fn has_data(&self) -> bool {
        self.readable && !self.read_ended
    }

    /// Whether only the guest's room is missing. It is asked once: a guest that has none says so when it has some.
    fn wants_room(&self) -> bool {
        self.has_data() && self.sending.room() == 0 && !self.has_asked
    }

    /// What the host will not do any more.
    fn shutdown(&self) -> u32 {
        let mut flags = 0;
        if self.read_ended {
            flags |= shutdown::SEND;
        }
        if self.write_ended || (self.hung_up && self.read_ended) {
            flags |= shutdown::RECEIVE;
        }
        flags
    }

    /// Reads from the host what fits into a packet. Returns how many bytes that is.
    fn read(&mut self, buffers: &Buffers<'_>) -> u32 {
        let room = usize::try_from(self.sending.room()).unwrap_or(usize::MAX);
        let limit = room.min(LONGEST);
        let mut done = 0_usize;
        for slice in buffers.behind(HEADER_SIZE) {
            let rest = limit.saturating_sub(done);
            let Ok(mut slice) = slice.subslice(0, rest.min(slice.len())) else {
                break;
            };
            if slice.is_empty() || !self.has_data() {
                break;
            }
            let count = self.read_slice(&mut slice);
            done = done.saturating_add(count);
            if count < slice.len() {
                // Whether there is more shows the next time.
                break;
            }
        }
        let done = u32::try_from(done).unwrap_or(u32::MAX);
        self.sending.send(done);
        done
    }

    /// Reads once. Returns how many bytes, none if there are none now or any more.
    fn read_slice(&mut self, slice: &mut GuestSlice<'_>) -> usize {
        loop {
            match (&self.stream).read_volatile(slice) {
                Ok(0) => self.read_ended = true,
                Ok(count) => return count,
                Err(VolatileMemoryError::IOError(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => self.readable = false,
                    io::ErrorKind::Interrupted => continue,
                    // Its other end was closed with data in it that nobody has read.
                    _ => self.read_ended = true,
                },
                Err(_) => self.read_ended = true,
            }
            return 0;
        }
    }
}
