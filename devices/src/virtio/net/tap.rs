//! A tap interface of the host: Ethernet frames by read and write, each behind a `struct virtio_net_hdr`.
//!
//! Source: Linux, `Documentation/networking/tuntap.rst` and `include/uapi/linux/if_tun.h`.

use std::ffi::{CStr, CString, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::VolatileSlice;

use crate::device_file::{DeviceFile, HostDevice};

/// Why a tap interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be the name of an interface.
    #[error("tap interface '{0}': give a name of 1 to 15 characters without '/' and spaces")]
    Name(String),
    /// The host has no tap interfaces, or the user may not open their device at all.
    #[error(transparent)]
    Device(#[from] DeviceFile),
    /// The user may not use this interface, or it does not exist and the user may not make it.
    #[error(
        "tap interface '{0}' is not yours: make it with 'ip tuntap add {0} mode tap user USER' as root"
    )]
    NotYours(String),
    /// Another process has it open.
    #[error(
        "tap interface '{0}' is in use: end the virtual machine that has it, or give another name"
    )]
    Busy(String),
    /// There is an interface of that name, but it is not a tap with one queue.
    #[error("'{0}' is not a tap interface with one queue: give another name")]
    NotTap(String),
    /// Anything else.
    #[error("tap interface '{name}' cannot be opened: {error}")]
    Other {
        /// Its name.
        name: String,
        /// What the host said.
        error: io::Error,
    },
}

/// A tap interface. It stays open, and the interface in being, across reboots of the guest.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// The interface's, as it was when it was opened.
    name: String,
    /// The longest IP packet that it carries, in bytes; `None` if that is unknown.
    mtu: Option<u16>,
    /// The `TUN_F_` bits that the host's kernel knows: what may be left undone in packets to the guest.
    offloads: c_uint,
    /// It is really one, and takes its control requests.
    is_real: bool,
    /// Its end has been reported. A guest can meet it again with every reset and must not fill the log.
    reported: AtomicBool,
}

impl Tap {
    /// Opens the interface `name`. If it does not exist and the user has the permission, creates it for as long as this lives.
    ///
    /// # Errors
    /// An [`OpenError`], in one line.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        let is_possible = (1..libc::IFNAMSIZ).contains(&name.len())
            && !name.bytes().any(|byte| byte == b'/' || byte <= b' ')
            && !matches!(name, "." | "..")
            // To the kernel, a pattern for names.
            && !name.contains('%');
        if !is_possible {
            return Err(OpenError::Name(name.to_owned()));
        }
        let other = |error| OpenError::Other {
            name: name.to_owned(),
            error,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(HostDevice::Tun.path())
            .map_err(|error| DeviceFile::refused(HostDevice::Tun, &error))?;
        attach(&file, name).map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => OpenError::NotYours(name.to_owned()),
            Some(libc::EBUSY) => OpenError::Busy(name.to_owned()),
            Some(libc::EINVAL) => OpenError::NotTap(name.to_owned()),
            _ => other(error),
        })?;
        Self::from_file(file).map_err(other)
    }

    /// Uses a descriptor that the caller has attached to a tap interface, with `IFF_NO_PI` and `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_file(file: File) -> io::Result<Self> {
        let (frames, packets) = (libc::IFF_TAP, libc::IFF_NO_PI | libc::IFF_VNET_HDR);
        let (name, flags) = attached(&file)?;
        if flags & (frames | packets) != frames | packets {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a tap interface with vnet_hdr",
            ));
        }
        set_nonblocking(&file)?;
        let csum = libc::TUN_F_CSUM;
        let tso = csum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        let known = [tso | libc::TUN_F_TSO_ECN, tso, csum];
        let offloads = known
            .into_iter()
            .find(|offloads| set_offloads(&file, *offloads).is_ok());
        Ok(Self {
            file,
            mtu: mtu(&name).ok(),
            name: name.to_string_lossy().into_owned(),
            offloads: offloads.unwrap_or(0),
            is_real: true,
            reported: AtomicBool::new(false),
        })
    }

    /// A socket in place of an interface, whose messages are packets.
    #[cfg(test)]
    pub(super) fn from_socket(file: File, offloads: c_uint) -> Self {
        set_nonblocking(&file).unwrap();
        Self {
            file,
            name: "tap0".into(),
            mtu: None,
            offloads,
            is_real: false,
            reported: AtomicBool::new(false),
        }
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest IP packet that the interface carried when it was opened, in bytes. `None` if the host does not tell.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The interface's descriptor, for the kernel to use.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The `TUN_F_` bits that may be asked for.
    pub(super) fn offloads(&self) -> c_uint {
        self.offloads
    }

    /// Says what a packet begins with, in bytes, and what may be left undone in those to the guest.
    pub(super) fn configure(&self, header: usize, offloads: c_uint) -> io::Result<()> {
        if !self.is_real {
            return Ok(());
        }
        let header = libc::c_int::try_from(header).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the request reads one integer, which lives across the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header) };
        check(result)?;
        set_offloads(&self.file, offloads)
    }

    /// The interface gives nothing more, for this reason.
    pub(super) fn report_gone(&self, error: &io::Error) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            log::warn!(
                "tap interface '{}' is gone, the guest receives nothing: {error}",
                self.name
            );
        }
    }

    /// Takes one packet into `vector`, and what does not fit there into `overflow`. Returns its length in bytes.
    pub(super) fn receive(
        &self,
        vector: &mut Vector<'_>,
        overflow: &mut [u8],
    ) -> io::Result<usize> {
        vector.entries.push(libc::iovec {
            iov_base: overflow.as_mut_ptr().cast(),
            iov_len: overflow.len(),
        });
        let count = libc::c_int::try_from(vector.entries.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `count` valid vectors: the last one is `overflow`, borrowed across the call, and the others lie within
        // guest memory slices that `vector` borrows from the mapping. Only the kernel writes to guest memory here, as
        // the guest may at the same time: it is accessed through raw pointers and volatile slices alone.
        let length = unsafe { libc::readv(self.file.as_raw_fd(), vector.entries.as_ptr(), count) };
        vector.entries.pop();
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// Sends one packet.
    pub(super) fn send(&self, vector: &Vector<'_>) -> io::Result<()> {
        let count = libc::c_int::try_from(vector.entries.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: as in `receive`; here the kernel only reads.
        let length = unsafe { libc::writev(self.file.as_raw_fd(), vector.entries.as_ptr(), count) };
        usize::try_from(length)
            .map(drop)
            .map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Buffers in guest memory, one after the other, as the kernel takes them.
#[derive(Default)]
pub(super) struct Vector<'m> {
    slices: Vec<VolatileSlice<'m>>,
    /// The same, kept beside it so that it need not be made for each packet.
    entries: Vec<libc::iovec>,
}

impl<'m> Vector<'m> {
    /// The most buffers there may be: what the kernel takes (`UIO_MAXIOV`), less one for an overflow.
    pub const MAX: usize = 1023;

    pub fn push(&mut self, slice: VolatileSlice<'m>) {
        let memory = slice.ptr_guard_mut();
        self.entries.push(libc::iovec {
            iov_base: memory.as_ptr().cast(),
            iov_len: memory.len(),
        });
        self.slices.push(slice);
    }

    pub fn len(&self) -> usize {
        self.slices.len()
    }

    pub fn clear(&mut self) {
        self.slices.clear();
        self.entries.clear();
    }

    /// Removes the first `count` buffers.
    pub fn remove_front(&mut self, count: usize) {
        self.slices.drain(..count.min(self.slices.len()));
        self.entries.drain(..count.min(self.entries.len()));
    }

    /// Reads what is at the front into `bytes`, as far as there are buffers.
    pub fn copy_to(&self, mut bytes: &mut [u8]) {
        for slice in &self.slices {
            let count = slice.copy_to(&mut *bytes);
            bytes = bytes.get_mut(count..).unwrap_or_default();
        }
    }

    /// Stores `bytes` from `offset` on, as far as there are buffers.
    pub fn copy_at(&self, mut offset: usize, mut bytes: &[u8]) {
        for slice in &self.slices {
            match slice.offset(offset) {
                Ok(place) => {
                    let count = place.len().min(bytes.len());
                    place.copy_from(bytes);
                    bytes = bytes.get(count..).unwrap_or_default();
                    offset = 0;
                }
                Err(_) => offset = offset.saturating_sub(slice.len()),
            }
            if bytes.is_empty() {
                return;
            }
        }
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An interface request without anything in it.
fn request() -> libc::ifreq {
    // SAFETY: numbers, and a union of numbers and pointers that nobody follows: all zero is one of its values.
    unsafe { std::mem::zeroed() }
}

/// Attaches the open device to the interface `name`.
fn attach(file: &File, name: &str) -> io::Result<()> {
    let mut request = request();
    // The last byte stays zero, as the name is shorter.
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the request reads and writes one `struct ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// The interface to which the device is attached, and with which `IFF_` flags.
fn attached(file: &File) -> io::Result<(CString, libc::c_int)> {
    let mut request = request();
    // SAFETY: the request writes one `struct ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|character| *character as u8)
        .take_while(|byte| *byte != 0)
        .collect();
    // SAFETY: TUNGETIFF has stored flags there, and every value of the bytes is an integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    // There is no zero in it.
    Ok((CString::new(name).unwrap_or_default(), flags.into()))
}

/// The MTU of the interface `name` (netdevice(7), `SIOCGIFMTU`).
fn mtu(name: &CStr) -> io::Result<u16> {
    // Such requests take any socket.
    let socket = UnixDatagram::unbound()?;
    let mut request = request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request reads and writes one `struct ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: SIOCGIFMTU has stored it there, and every value of the bytes is an integer.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    // The loopback interface has one byte more than a packet can be long.
    Ok(u16::try_from(mtu.clamp(0, 0xffff)).unwrap_or(u16::MAX))
}

fn set_offloads(file: &File, offloads: c_uint) -> io::Result<()> {
    // SAFETY: the argument of this request is the number itself.
    check(unsafe {
        libc::ioctl(
            file.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(offloads),
        )
    })
}

fn set_nonblocking(file: &File) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::testing::{DATA, memory};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    #[test]
    fn impossible_names_are_refused() {
        for name in [
            "",
            "0123456789abcdef",
            "a/b",
            "a b",
            "..",
            "tap%d",
            "a\tb",
            "a\0b",
        ] {
            assert!(matches!(Tap::open(name), Err(OpenError::Name(_))), "{name}");
        }
    }

    #[test]
    fn the_host_tells_the_mtu_of_an_interface() {
        // Every network namespace has this one.
        let found = mtu(c"lo").unwrap();
        assert!(found >= 1280, "{found}");
        assert!(mtu(c"no such one").is_err());
    }

    #[test]
    fn a_file_is_no_tap() {
        assert!(Tap::from_file(tempfile::tempfile().unwrap()).is_err());
    }

    #[test]
    fn bytes_are_stored_across_buffers() {
        let memory = memory();
        let mut vector = Vector::default();
        for (offset, length) in [(0, 3), (0x10, 0), (0x100, 2), (0x200, 4)] {
            let address = GuestAddress(DATA + offset);
            vector.push(memory.get_slice(address, length).unwrap());
        }
        assert_eq!(vector.len(), 4);
        vector.copy_at(2, b"abcd");
        vector.copy_at(8, b"xyz");
        let byte = |offset| memory.read_obj::<u8>(GuestAddress(DATA + offset)).unwrap();
        assert_eq!([byte(2), byte(3)], [b'a', 0]);
        assert_eq!([byte(0x100), byte(0x101), byte(0x102)], [b'b', b'c', 0]);
        assert_eq!([byte(0x200), byte(0x201), byte(0x203)], [b'd', 0, b'x']);
        vector.remove_front(3);
        vector.copy_at(1, b"!");
        assert_eq!(byte(0x201), b'!');
        assert_eq!(vector.len(), 1);
    }
}
