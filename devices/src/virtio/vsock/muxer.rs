//! All connections of a device, and what goes to the guest next.
//!
//! Nothing here blocks. What may happen to a stream is noted once when it happens (epoll's edges), and the connection is queued then: so a
//! guest without receive buffers, or without room, costs nothing until it has some.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Fate, Ports};
use super::endpoint::HostSocket;
use super::greeting::Said;
use super::packet::{HOST_CID, Header, STREAM, op};
use crate::virtio::chain::Buffers;

/// The most connections: each has a descriptor, of which a process has 1024 as a rule, and up to [`BUFFER`](super::credit::BUFFER) bytes of
/// data that the host has not taken.
pub const MAX_CONNECTIONS: usize = 512;

/// How many packets without a connection may wait for their RST before no further packet is taken from the guest.
const MAX_RESETS: usize = 256;

/// The host's ports of connections that clients make: those that Firecracker takes.
const FIRST_HOST_PORT: u32 = 1 << 30;
const LAST_HOST_PORT: u32 = (1 << 31) - 1;

/// What names a connection among the events: never twice the same.
type Token = u64;

/// The first one. Those below are for other events.
pub const FIRST_TOKEN: Token = 16;

/// The event of a client that wants to connect.
pub const LISTENER: Token = 1;

/// All connections of a device.
pub struct Muxer {
    cid: u64,
    host: Arc<HostSocket>,
    connections: BTreeMap<Token, Connection>,
    /// Those that the guest knows, or is to be told of.
    by_ports: BTreeMap<Ports, Token>,
    /// Those that may have something for the guest.
    queue: VecDeque<Token>,
    /// RSTs for the guest.
    resets: VecDeque<Header>,
    next_token: Token,
    next_host_port: u32,
    /// Clients may want to connect.
    acceptable: bool,
    /// That the host has no descriptor left has been reported.
    reported: bool,
}

impl Muxer {
    /// No connections yet.
    pub fn new(host: Arc<HostSocket>) -> Self {
        Self {
            cid: host.cid().into(),
            host,
            connections: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            queue: VecDeque::new(),
            resets: VecDeque::new(),
            next_token: FIRST_TOKEN,
            next_host_port: FIRST_HOST_PORT,
            acceptable: true,
            reported: false,
        }
    }

    /// Waits for all that can happen by `events`, from now on. What happened meanwhile shows at once.
    ///
    /// # Errors
    /// The host has no memory left.
    pub fn watch(&mut self, events: &Epoll) -> io::Result<()> {
        let wanted = EventSet::IN | EventSet::EDGE_TRIGGERED;
        let listener = EpollEvent::new(wanted, LISTENER);
        events.ctl(
            ControlOperation::Add,
            self.host.listener().as_raw_fd(),
            listener,
        )?;
        for (token, connection) in &self.connections {
            watch(events, *token, connection.stream())?;
        }
        self.acceptable = true;
        for token in self.connections.keys().copied().collect::<Vec<_>>() {
            self.enqueue(token);
        }
        Ok(())
    }

    /// Takes the clients that want to connect, as far as there is room.
    pub fn accept(&mut self, events: &Epoll) {
        while self.acceptable && self.has_room() {
            match self.host.listener().accept() {
                Ok(None) => self.acceptable = false,
                Ok(Some(stream)) => {
                    let token = self.add(events, Connection::from_host(stream));
                    if let Some(token) = token {
                        self.greet(token);
                    }
                }
                Err(error) => {
                    // Until one of the others has ended, or another client comes.
                    self.acceptable = false;
                    if !std::mem::replace(&mut self.reported, true) {
                        log::warn!("the vsock's socket takes no more clients for now: {error}");
                    }
                }
            }
        }
    }

    /// Whether there may be clients that want to connect, and room for one.
    pub fn may_accept(&self) -> bool {
        let mut connections = self.connections.values();
        self.acceptable
            && (self.connections.len() < MAX_CONNECTIONS || connections.any(Connection::is_closing))
    }

    /// There may be clients that want to connect.
    pub fn clients_came(&mut self) {
        self.acceptable = true;
    }

    /// The state of this connection's stream may have changed.
    pub fn look(&mut self, token: Token, set: EventSet) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let hung_up = set.intersects(EventSet::HANG_UP | EventSet::ERROR);
        match connection.look(hung_up) {
            Fate::Stays => {
                self.greet(token);
                self.enqueue(token);
            }
            fate => self.end(token, fate),
        }
    }

    /// A packet of the guest's.
    pub fn receive(&mut self, events: &Epoll, header: &Header, payload: &Buffers<'_>) {
        if header.src_cid != self.cid {
            // In somebody else's name, to whom no answer is due.
            return;
        }
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        let known = self.by_ports.get(&ports).copied();
        if header.dst_cid != HOST_CID || header.kind != STREAM {
            return self.refuse(header);
        }
        match known {
            Some(token) => {
                let connection = self.connections.get_mut(&token);
                let fate = connection.map(|connection| connection.receive(header, payload));
                match fate {
                    Some(Fate::Stays) => self.enqueue(token),
                    Some(fate) => self.end(token, fate),
                    None => {}
                }
            }
            None if header.op == op::REQUEST => self.connect(events, ports, header),
            None => self.refuse(header),
        }
    }

    /// Whether packets of the guest's can be taken: each may need an answer.
    pub fn can_receive(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Whether there may be something for the guest.
    pub fn may_send(&self) -> bool {
        !self.resets.is_empty() || !self.queue.is_empty()
    }

    /// The next packet for the guest, with its payload in `buffers` behind the header.
    pub fn send(&mut self, buffers: &Buffers<'_>) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        while let Some(token) = self.queue.pop_front() {
            let Some(connection) = self.connections.get_mut(&token) else {
                continue;
            };
            connection.queued = false;
            if let Some(header) = connection.send(self.cid, buffers) {
                // There may be more, which comes after what the others have.
                self.enqueue(token);
                return Some(header);
            }
        }
        None
    }

    /// A connection that the guest asks for.
    fn connect(&mut self, events: &Epoll, ports: Ports, request: &Header) {
        if !self.has_room() {
            return self.refuse(request);
        }
        let Ok(stream) = self.host.connect(ports.host) else {
            // Nobody listens there, or there is no room for one more.
            return self.refuse(request);
        };
        let connection = Connection::from_guest(stream, ports, request);
        match self.add(events, connection) {
            Some(token) => {
                self.by_ports.insert(ports, token);
                self.enqueue(token);
            }
            None => self.refuse(request),
        }
    }

    /// Answers a packet by a RST. A RST has no answer.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.resets.push_back(header.reset());
        }
    }

    /// Reads which port a client wants, if it has not said so yet.
    fn greet(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        match connection.greet() {
            Said::More => {}
            Said::Nonsense => self.end(token, Fate::Ended),
            Said::Port(guest) => {
                let ports = self.free_ports(guest);
                if let Some(connection) = self.connections.get_mut(&token) {
                    connection.ask(ports);
                    self.by_ports.insert(ports, token);
                    self.enqueue(token);
                }
            }
        }
    }

    /// A port of the host's for a connection to this port of the guest.
    fn free_ports(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports {
                host: self.next_host_port,
                guest,
            };
            self.next_host_port = match self.next_host_port {
                LAST_HOST_PORT => FIRST_HOST_PORT,
                port => port.saturating_add(1),
            };
            // There are far more of them than connections.
            if !self.by_ports.contains_key(&ports) {
                return ports;
            }
        }
    }

    /// Whether there is room for one more connection. One that has ended, except that the guest has not said so, makes room for it.
    fn has_room(&mut self) -> bool {
        if self.connections.len() < MAX_CONNECTIONS {
            return true;
        }
        let mut connections = self.connections.iter();
        let closing = connections.find(|(_, connection)| connection.is_closing());
        let Some((&token, _)) = closing else {
            return false;
        };
        self.end(token, Fate::Reset);
        self.connections.len() < MAX_CONNECTIONS
    }

    /// Adds a connection. `None` if the host cannot wait for it: it has ended then.
    fn add(&mut self, events: &Epoll, connection: Connection) -> Option<Token> {
        let token = self.next_token;
        watch(events, token, connection.stream()).ok()?;
        self.next_token = token.wrapping_add(1);
        self.connections.insert(token, connection);
        Some(token)
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(&token)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.queue.push_back(token);
        }
    }

    /// A connection ends. What the guest has sent goes out before its stream is closed.
    fn end(&mut self, token: Token, fate: Fate) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if let Some(ports) = connection.ports() {
            self.by_ports.remove(&ports);
            if fate == Fate::Reset {
                self.resets.push_back(Header {
                    src_cid: HOST_CID,
                    dst_cid: self.cid,
                    src_port: ports.host,
                    dst_port: ports.guest,
                    kind: STREAM,
                    op: op::RST,
                    ..Header::default()
                });
            }
        }
        // Or a guest that makes and resets connections, and takes nothing, would have the queue grow for ever.
        if std::mem::take(&mut connection.queued) {
            self.queue.retain(|queued| *queued != token);
        }
        if connection.is_drained() {
            self.connections.remove(&token);
            // There is a descriptor to spare.
            self.acceptable = true;
        } else {
            connection.drain();
        }
    }
}

/// Waits for all that can happen to a connection's stream. It need not be undone: the kernel does so when the stream is closed.
fn watch(events: &Epoll, token: Token, stream: &UnixStream) -> io::Result<()> {
    let wanted = EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED;
    let event = EpollEvent::new(wanted, token);
    events.ctl(ControlOperation::Add, stream.as_raw_fd(), event)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::virtio::vsock::Endpoint;

    /// A guest that makes and resets connections, and never gives a receive buffer, leaves nothing behind.
    #[test]
    fn connections_that_have_ended_are_not_queued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let server = UnixListener::bind(directory.path().join("v_5")).unwrap();
        let endpoint = Endpoint::open(3, &path).unwrap();
        let mut muxer = Muxer::new(Arc::clone(&endpoint.socket));
        let events = Epoll::new().unwrap();
        for src_port in 0..1000 {
            let mut packet = Header {
                src_cid: 3,
                dst_cid: HOST_CID,
                src_port,
                dst_port: 5,
                kind: STREAM,
                op: op::REQUEST,
                ..Header::default()
            };
            muxer.receive(&events, &packet, &Buffers::default());
            assert_eq!(muxer.queue.len(), 1);
            server.accept().unwrap();
            packet.op = op::RST;
            muxer.receive(&events, &packet, &Buffers::default());
            assert!(!muxer.may_send());
            assert!(muxer.connections.is_empty() && muxer.by_ports.is_empty());
        }
    }
}
