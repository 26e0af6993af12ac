//! What is behind the devices, in memory. Each checks what it is asked for.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hv_devices::chardev::OutputSink;
use hv_devices::virtio::vsock::Endpoint;
use hv_devices::virtio::{block, net};
use tempfile::TempDir;
use vm_memory::VolatileSlice;
use vmm_sys_util::eventfd::EventFd;

use crate::input::Input;

/// Bytes of a sector, and of the disk.
const SECTOR: u64 = 512;
const SECTORS: u64 = 64;

/// A disk.
pub struct Disk {
    info: block::Info,
    bytes: Mutex<Vec<u8>>,
    /// It fails.
    pub broken: AtomicBool,
    /// The quick path is taken.
    pub quick: AtomicBool,
}

impl Disk {
    pub fn new(read_only: bool) -> Self {
        Self {
            info: block::Info {
                name: "a test".into(),
                sectors: SECTORS,
                read_only,
            },
            bytes: Mutex::new(vec![0xd1; (SECTORS * SECTOR) as usize]),
            broken: AtomicBool::new(false),
            quick: AtomicBool::new(true),
        }
    }

    fn check(
        &self,
        offset: u64,
        length: u64,
        is_write: bool,
    ) -> io::Result<std::ops::Range<usize>> {
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= SECTORS * SECTOR);
        let end = end.unwrap_or_else(|| panic!("{length} bytes at {offset} are not on the disk"));
        assert!(
            !(is_write && self.info.read_only),
            "a disk that is read-only is written"
        );
        if self.broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("it is broken"));
        }
        Ok(offset as usize..end as usize)
    }

    fn length(buffers: &[VolatileSlice<'_>]) -> u64 {
        buffers.iter().map(|slice| slice.len() as u64).sum()
    }
}

impl block::Backend for Disk {
    fn info(&self) -> &block::Info {
        &self.info
    }

    fn read(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let range = self.check(offset, Self::length(buffers), false)?;
        let bytes = self.bytes.lock().unwrap();
        let mut rest = &bytes[range];
        for slice in buffers {
            slice.copy_from(&rest[..slice.len()]);
            rest = &rest[slice.len()..];
        }
        Ok(())
    }

    fn write(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
        let range = self.check(offset, Self::length(buffers), true)?;
        let mut bytes = self.bytes.lock().unwrap();
        let mut rest = &mut bytes[range];
        for slice in buffers {
            let (here, behind) = rest.split_at_mut(slice.len());
            slice.copy_to(here);
            rest = behind;
        }
        Ok(())
    }

    fn read_now(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> bool {
        self.quick.load(Ordering::Relaxed) && self.read(buffers, offset).is_ok()
    }

    fn write_now(&self, buffers: &[VolatileSlice<'_>], offset: u64) -> bool {
        self.quick.load(Ordering::Relaxed) && self.write(buffers, offset).is_ok()
    }

    fn flush(&self) -> io::Result<()> {
        self.check(0, 0, false).map(drop)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length, true).map(drop)
    }

    fn write_zeroes(&self, offset: u64, length: u64, _: bool) -> io::Result<()> {
        let range = self.check(offset, length, true)?;
        self.bytes.lock().unwrap()[range].fill(0);
        Ok(())
    }
}

/// A network: packets are datagrams of a pair of sockets, of which the other end is `host`.
pub struct Network {
    info: net::Info,
    guest: UnixDatagram,
    pub host: UnixDatagram,
}

impl Network {
    pub fn new(features: u64) -> Self {
        let (guest, host) = UnixDatagram::pair().expect("sockets can be made");
        for end in [&guest, &host] {
            end.set_nonblocking(true)
                .expect("a socket can be made non-blocking");
        }
        Self {
            info: net::Info {
                name: "a test".into(),
                mtu: (features != 0).then_some(1400),
                features,
            },
            guest,
            host,
        }
    }

    /// Takes a packet of the guest's.
    pub fn take(&self) -> bool {
        self.host.recv(&mut [0; 256]).is_ok()
    }
}

impl net::Backend for Network {
    fn info(&self) -> &net::Info {
        &self.info
    }

    fn configure(&self, header: usize, _: u64) -> io::Result<()> {
        assert!(matches!(header, 10 | 12), "a header of {header} bytes");
        Ok(())
    }

    fn receive(&self, buffers: &mut net::IoVector<'_>, overflow: &mut [u8]) -> io::Result<usize> {
        let mut packet = [0; 4096];
        let length = self.guest.recv(&mut packet)?;
        let packet = &packet[..length];
        let stored = buffers.copy_at(0, packet);
        let rest = &packet[stored..];
        overflow[..rest.len()].copy_from_slice(rest);
        Ok(length)
    }

    fn send(&self, buffers: &net::IoVector<'_>) -> io::Result<()> {
        let length: usize = buffers.slices().iter().map(VolatileSlice::len).sum();
        assert!(buffers.slices().len() <= net::IoVector::MAX);
        let mut packet = vec![0; length];
        assert_eq!(buffers.copy_to(&mut packet), length);
        if !packet.is_empty() {
            self.guest.send(&packet)?;
        }
        Ok(())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.guest.as_fd()
    }
}

/// What a console prints to: it has room for some bytes, and more when the host gives it.
#[derive(Default)]
pub struct Printer(Mutex<Room>);

#[derive(Default)]
struct Room {
    bytes: usize,
    event: Option<Arc<EventFd>>,
}

impl Printer {
    pub fn set_room(&self, bytes: usize) {
        let mut room = self.0.lock().unwrap();
        room.bytes = bytes;
        if let Some(event) = &room.event {
            let _ = event.write(1);
        }
    }
}

impl OutputSink for Printer {
    fn write(&self, _: &[u8]) {}

    fn try_write(&self, bytes: &[u8]) -> usize {
        let mut room = self.0.lock().unwrap();
        let count = bytes.len().min(room.bytes);
        room.bytes -= count;
        count
    }

    fn set_room_event(&self, event: Arc<EventFd>) {
        self.0.lock().unwrap().event = Some(event);
    }
}

/// The address of a guest with a vsock.
pub const CID: u32 = 3;

/// Programs of the host that have to do with a guest's vsock.
pub struct Programs {
    directory: TempDir,
    pub endpoint: Arc<Endpoint>,
    server: Option<UnixListener>,
    streams: Vec<UnixStream>,
}

impl Programs {
    /// Without `server`, nobody serves the guest.
    pub fn new(server: bool) -> io::Result<Self> {
        let directory = TempDir::new()?;
        let endpoint = Endpoint::open(CID, &directory.path().join("v"));
        let server = server.then(|| UnixListener::bind(directory.path().join("v_80")));
        let server = server.transpose()?;
        if let Some(server) = &server {
            server.set_nonblocking(true)?;
        }
        Ok(Self {
            endpoint: Arc::new(endpoint.map_err(io::Error::other)?),
            directory,
            server,
            streams: Vec::new(),
        })
    }

    /// A client comes, a server accepts, or one of them does something. Nothing of it waits.
    pub fn act(&mut self, input: &mut Input<'_>) {
        let what = input.below(6);
        let count = self.streams.len();
        let number = input.below(count.max(1));
        match (what, self.streams.get_mut(number)) {
            (0, _) if count < 16 => {
                if let Ok(mut client) = UnixStream::connect(self.directory.path().join("v")) {
                    let _ = writeln!(client, "CONNECT {}", 1 + input.below(2));
                    self.streams.push(client);
                }
            }
            (1, _) => {
                if let Some(Ok((stream, _))) = self.server.as_ref().map(UnixListener::accept) {
                    self.streams.push(stream);
                }
            }
            (2, Some(stream)) => {
                let _ = stream.set_nonblocking(true);
                let _ = stream.write(&vec![0x5a; usize::from(input.u16())]);
            }
            (3, Some(stream)) => {
                let _ = stream.set_nonblocking(true);
                let _ = stream.read(&mut vec![0; usize::from(input.u16())]);
            }
            (4, Some(stream)) => {
                let how = input.choose(&[std::net::Shutdown::Write, std::net::Shutdown::Read]);
                let _ = stream.shutdown(how);
            }
            (5, Some(_)) => drop(self.streams.swap_remove(number)),
            _ => {}
        }
    }
}
