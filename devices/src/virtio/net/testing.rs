//! A back end for tests, in memory: it counts what is asked of it, and fails on demand.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex};

use super::{Backend, Info, IoVector, MAX_PACKET};

/// How often a back end was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub receives: u32,
    pub sends: u32,
}

pub struct TestBackend {
    info: Info,
    state: Mutex<State>,
    sent: Condvar,
    readiness: UnixStream,
}

struct State {
    calls: Calls,
    /// The room for the last packet that it was asked for, in bytes.
    offered: usize,
    configured: Vec<(usize, u64)>,
    /// Packets for the guest.
    incoming: VecDeque<Vec<u8>>,
    /// Packets of the guest.
    outgoing: VecDeque<Vec<u8>>,
    /// How many of these there may be before it takes no more.
    room: usize,
    /// The errors of the next calls (errno).
    receive_errors: VecDeque<i32>,
    send_errors: VecDeque<i32>,
    /// The other end of `readiness`: what is written here makes that readable, and what is not read here keeps it from being
    /// writable.
    control: UnixStream,
    readable: bool,
    writable: bool,
}

/// Properties of a back end that has none.
pub fn info() -> Info {
    Info {
        name: "a test".into(),
        mtu: None,
        features: 0,
    }
}

impl TestBackend {
    pub fn new(info: Info) -> Self {
        let (readiness, control) = UnixStream::pair().unwrap();
        for end in [&readiness, &control] {
            end.set_nonblocking(true).unwrap();
        }
        Self {
            info,
            state: Mutex::new(State {
                calls: Calls::default(),
                offered: 0,
                configured: Vec::new(),
                incoming: VecDeque::new(),
                outgoing: VecDeque::new(),
                room: usize::MAX,
                receive_errors: VecDeque::new(),
                send_errors: VecDeque::new(),
                control,
                readable: false,
                writable: true,
            }),
            sent: Condvar::new(),
            readiness,
        }
    }

    /// Changes the state, and makes the descriptor as ready as it is then.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let result = change(&mut state);
        let readable = !state.incoming.is_empty();
        if readable != state.readable {
            state.readable = readable;
            if readable {
                state.control.write_all(b"!").unwrap();
            } else {
                drain(&self.readiness);
            }
        }
        let writable = state.outgoing.len() < state.room;
        if writable != state.writable {
            state.writable = writable;
            if writable {
                drain(&state.control);
            } else {
                while (&self.readiness).write(&[0; 4096]).is_ok() {}
            }
        }
        result
    }

    /// A packet comes for the guest.
    pub fn arrive(&self, packet: Vec<u8>) {
        self.change(|state| state.incoming.push_back(packet));
    }

    /// How many packets for the guest nobody has taken.
    pub fn incoming(&self) -> usize {
        self.state.lock().unwrap().incoming.len()
    }

    /// Waits for the next packet of the guest.
    pub fn sent(&self) -> Vec<u8> {
        let state = self.state.lock().unwrap();
        let limit = hv_test_limit::LIMIT;
        let (state, result) = self
            .sent
            .wait_timeout_while(state, limit, |state| state.outgoing.is_empty())
            .unwrap();
        assert!(!result.timed_out(), "the guest's packet did not come");
        drop(state);
        self.try_sent().unwrap()
    }

    /// The next packet of the guest, if there is one.
    pub fn try_sent(&self) -> Option<Vec<u8>> {
        self.change(|state| state.outgoing.pop_front())
    }

    /// It takes no more than `packets` of the guest before somebody fetches them.
    pub fn set_room(&self, packets: usize) {
        self.change(|state| state.room = packets);
    }

    /// The next packets for the guest are not given, for these reasons.
    pub fn fail_receive(&self, errors: impl IntoIterator<Item = i32>) {
        self.change(|state| state.receive_errors.extend(errors));
    }

    /// The next packets of the guest are not taken, for these reasons.
    pub fn fail_send(&self, errors: impl IntoIterator<Item = i32>) {
        self.change(|state| state.send_errors.extend(errors));
    }

    pub fn calls(&self) -> Calls {
        self.state.lock().unwrap().calls
    }

    /// How much room the guest had for the last packet that was asked for, in bytes.
    pub fn offered(&self) -> usize {
        self.state.lock().unwrap().offered
    }

    /// What it was told since the last time: bytes of a header, and features.
    pub fn take_configured(&self) -> Vec<(usize, u64)> {
        std::mem::take(&mut self.state.lock().unwrap().configured)
    }
}

fn drain(mut end: &UnixStream) {
    while end.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
}

impl Backend for TestBackend {
    fn info(&self) -> &Info {
        &self.info
    }

    fn configure(&self, header: usize, features: u64) -> io::Result<()> {
        self.change(|state| state.configured.push((header, features)));
        Ok(())
    }

    fn receive(&self, buffers: &mut IoVector<'_>, overflow: &mut [u8]) -> io::Result<usize> {
        assert!(overflow.len() >= MAX_PACKET, "any packet fits");
        self.change(|state| {
            state.calls.receives += 1;
            state.offered = buffers.slices().iter().map(|slice| slice.len()).sum();
            if let Some(error) = state.receive_errors.pop_front() {
                return Err(io::Error::from_raw_os_error(error));
            }
            let packet = state.incoming.pop_front();
            let packet = packet.ok_or(io::ErrorKind::WouldBlock)?;
            let stored = buffers.copy_at(0, &packet);
            let rest = &packet[stored..];
            overflow[..rest.len()].copy_from_slice(rest);
            Ok(packet.len())
        })
    }

    fn send(&self, buffers: &IoVector<'_>) -> io::Result<()> {
        let length = buffers.slices().iter().map(|slice| slice.len()).sum();
        self.change(|state| {
            state.calls.sends += 1;
            if let Some(error) = state.send_errors.pop_front() {
                return Err(io::Error::from_raw_os_error(error));
            }
            if state.outgoing.len() >= state.room {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut packet = vec![0; length];
            buffers.copy_to(&mut packet);
            if !packet.is_empty() {
                state.outgoing.push_back(packet);
            }
            Ok(())
        })?;
        self.sent.notify_all();
        Ok(())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.readiness.as_fd()
    }
}
