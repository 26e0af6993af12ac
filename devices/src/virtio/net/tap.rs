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

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};

use super::backend::{Backend, Info};
use super::io_vector::IoVector;
use crate::device_file::{DeviceFile, HostDevice};
use crate::memory::note_write;

/// What may be left undone in packets from the guest: the host's kernel does it for any tap interface.
const FROM_GUEST: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN;

/// What may be left undone in packets to the guest, by what the interface has to be told.
const TO_GUEST: [(u32, c_uint); 4] = [
    (VIRTIO_NET_F_GUEST_CSUM, libc::TUN_F_CSUM),
    (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
    (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
    (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
];

/// What the interface gives and takes: Ethernet frames, each behind a header and without a protocol (`IFF_` bits).
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

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

impl OpenError {
    /// The host does not attach the device to the interface `name`, for this reason.
    fn attach(name: &str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM) => Self::NotYours(name.to_owned()),
            Some(libc::EBUSY) => Self::Busy(name.to_owned()),
            Some(libc::EINVAL) => Self::NotTap(name.to_owned()),
            _ => Self::other(name, error),
        }
    }

    fn other(name: &str, error: io::Error) -> Self {
        Self::Other {
            name: name.to_owned(),
            error,
        }
    }
}

/// Whether an interface can have this name.
fn is_possible(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && !name.bytes().any(|byte| byte == b'/' || byte <= b' ')
        && !matches!(name, "." | "..")
        // To the kernel, a pattern for names.
        && !name.contains('%')
}

/// A tap interface. It stays open, and the interface in being, across reboots of the guest.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// The interface's, as it was when it was opened.
    name: String,
    info: Info,
    /// Its end has been reported. A guest can meet it again with every reset and must not fill the log.
    reported: AtomicBool,
}

impl Tap {
    /// Opens the interface `name`. If it does not exist and the user has the permission, creates it for as long as this lives.
    ///
    /// # Errors
    /// An [`OpenError`], in one line.
    pub fn open(name: &str) -> Result<Self, OpenError> {
        if !is_possible(name) {
            return Err(OpenError::Name(name.to_owned()));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(HostDevice::Tun.path())
            .map_err(|error| DeviceFile::refused(HostDevice::Tun, &error))?;
        attach(&file, name).map_err(|error| OpenError::attach(name, error))?;
        Self::from_file(file).map_err(|error| OpenError::other(name, error))
    }

    /// Uses a descriptor that the caller has attached to a tap interface, with `IFF_NO_PI` and `IFF_VNET_HDR`.
    ///
    /// # Errors
    /// If it is something else.
    pub fn from_file(file: File) -> io::Result<Self> {
        let (name, flags) = attached(&file)?;
        if flags & FLAGS != FLAGS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a tap interface with vnet_hdr",
            ));
        }
        set_nonblocking(&file)?;
        let offloads = known_offloads(|offloads| set_offloads(&file, offloads).is_ok());
        let mtu = mtu(&name).ok();
        let name = name.to_string_lossy().into_owned();
        Ok(Self::new(file, name, mtu, offloads))
    }

    /// An interface whose kernel knows `offloads`: `TUN_F_` bits, what may be left undone in packets to the guest.
    fn new(file: File, name: String, mtu: Option<u16>, offloads: c_uint) -> Self {
        Self {
            file,
            info: Info {
                name: format!("tap '{name}'"),
                mtu,
                features: features(offloads),
            },
            name,
            reported: AtomicBool::new(false),
        }
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's descriptor, for the kernel to use.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The interface gives nothing more, for this reason.
    #[cold]
    fn report_gone(&self, error: &io::Error) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            log::warn!(
                "tap interface '{}' is gone, the guest receives nothing: {error}",
                self.name
            );
        }
    }
}

impl Backend for Tap {
    /// The MTU is the interface's as it was when it was opened; `None` if the host does not tell.
    fn info(&self) -> &Info {
        &self.info
    }

    fn configure(&self, header: usize, features: u64) -> io::Result<()> {
        let header = libc::c_int::try_from(header).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the request reads one integer, which lives across the call.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header) };
        check(result)?;
        set_offloads(&self.file, offloads(features))
    }

    fn receive(&self, buffers: &mut IoVector<'_>, overflow: &mut [u8]) -> io::Result<usize> {
        let length = buffers.with_overflow(overflow, |entries| {
            let count = libc::c_int::try_from(entries.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: `count` valid vectors: the last one is `overflow`, borrowed across the call, and the others lie within
            // guest memory slices that `buffers` borrows from the mapping. Only the kernel writes to guest memory here, as
            // the guest may at the same time: it is accessed through raw pointers and volatile slices alone.
            unsafe { libc::readv(self.file.as_raw_fd(), entries.as_ptr(), count) }
        });
        let length = usize::try_from(length);
        if let Ok(length) = length {
            note_write(buffers.slices().iter().copied(), length);
        }
        length.map_err(|_| {
            let error = io::Error::last_os_error();
            if !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) {
                self.report_gone(&error);
            }
            error
        })
    }

    fn send(&self, buffers: &IoVector<'_>) -> io::Result<()> {
        let entries = buffers.entries();
        let count = libc::c_int::try_from(entries.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `count` valid vectors of guest memory, as in `receive`; here the kernel only reads.
        let length = unsafe { libc::writev(self.file.as_raw_fd(), entries.as_ptr(), count) };
        usize::try_from(length)
            .map(drop)
            .map_err(|_| io::Error::last_os_error())
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The most offloads that an interface takes, `TUN_F_` bits: kernels know one after the other.
fn known_offloads(is_taken: impl Fn(c_uint) -> bool) -> c_uint {
    let csum = libc::TUN_F_CSUM;
    let tso = csum | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let known = [tso | libc::TUN_F_TSO_ECN, tso, csum];
    known
        .into_iter()
        .find(|offloads| is_taken(*offloads))
        .unwrap_or(0)
}

/// The offloads of an interface whose kernel knows `offloads`, `TUN_F_` bits, as features of a device.
fn features(offloads: c_uint) -> u64 {
    TO_GUEST
        .iter()
        .filter(|(_, flag)| offloads & flag != 0)
        .fold(FROM_GUEST, |features, (bit, _)| features | 1 << bit)
}

/// What the interface has to be told of the driver's features. A driver that wants segments put together has to take
/// packets without a checksum (VIRTIO 1.3, section 5.1.3.1); the interface refuses anything else.
fn offloads(features: u64) -> c_uint {
    let wanted = TO_GUEST
        .iter()
        .filter(|(bit, _)| features & 1 << bit != 0)
        .fold(0, |offloads, (_, flag)| offloads | flag);
    if wanted & libc::TUN_F_CSUM == 0 {
        0
    } else if wanted & (libc::TUN_F_TSO4 | libc::TUN_F_TSO6) == 0 {
        libc::TUN_F_CSUM
    } else {
        wanted
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
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(FLAGS).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the request reads and writes one `struct ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// The interface to which the device is attached, and with which `IFF_` flags.
fn attached(file: &File) -> io::Result<(CString, libc::c_int)> {
    let mut request = request();
    // SAFETY: the request writes one `struct ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &mut request) })?;
    // SAFETY: TUNGETIFF has stored flags there, and every value of the bytes is an integer.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_in(&request), flags.into()))
}

/// The name in a request.
fn name_in(request: &libc::ifreq) -> CString {
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|character| *character as u8)
        .take_while(|byte| *byte != 0)
        .collect();
    // There is no zero in it.
    CString::new(name).unwrap_or_default()
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
    use std::os::fd::OwnedFd;

    use hv_test_limit::LIMIT;
    use vm_memory::{GuestAddress, GuestMemoryBackend};

    use super::*;
    use crate::virtio::testing::{DATA, descriptor_flags, logged, memory};

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
        for name in [
            "t",
            "tap0",
            "vm-1.eth_0",
            "0123456789abcde",
            "...",
            "tap\u{fc}",
        ] {
            assert!(is_possible(name), "{name}");
        }
    }

    #[test]
    fn each_error_of_attaching_has_its_words() {
        for (errno, part) in [
            (libc::EPERM, "is not yours: make it with"),
            (libc::EBUSY, "is in use"),
            (libc::EINVAL, "is not a tap interface"),
            (libc::ENFILE, "cannot be opened: "),
        ] {
            let text = OpenError::attach("tap7", io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains("'tap7'") && text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_kernel_is_asked_for_what_it_knows() {
        use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6};
        let tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        for known in [tso | TUN_F_TSO_ECN, tso, TUN_F_CSUM, 0] {
            assert_eq!(known_offloads(|wanted| wanted & !known == 0), known);
        }
    }

    #[test]
    fn a_name_ends_before_the_first_zero() {
        let mut request = request();
        assert_eq!(name_in(&request).as_c_str(), c"");
        for (to, from) in request.ifr_name.iter_mut().zip(b"tap0\0x") {
            *to = *from as libc::c_char;
        }
        assert_eq!(name_in(&request).as_c_str(), c"tap0");
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
        assert!(attach(&tempfile::tempfile().unwrap(), "tap0").is_err());
    }

    #[test]
    fn features_are_what_the_kernel_can_do() {
        let always = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 13;
        assert_eq!(features(0), always);
        assert_eq!(features(libc::TUN_F_CSUM), always | 1 << 1);
        let all = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        assert_eq!(features(all), always | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9);
    }

    #[test]
    fn the_interface_is_told_what_makes_sense() {
        use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6};
        for (features, told) in [
            (0, 0),
            (1 << 1, TUN_F_CSUM),
            (1 << 7 | 1 << 8, 0),
            (1 << 1 | 1 << 9, TUN_F_CSUM),
            (1 << 1 | 1 << 7, TUN_F_CSUM | TUN_F_TSO4),
            (
                1 << 1 | 1 << 7 | 1 << 8 | 1 << 9,
                TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
            ),
        ] {
            assert_eq!(offloads(features), told, "{features:#x}");
        }
    }

    /// By a socket, which is read and written as an interface is.
    #[test]
    fn packets_are_read_and_written_in_guest_memory() {
        let memory = memory();
        let slice = |offset, length| {
            let address = GuestAddress(DATA + offset);
            memory.get_slice(address, length).unwrap()
        };
        let (ours, peer) = UnixDatagram::pair().unwrap();
        let tap = Tap::new(File::from(OwnedFd::from(ours)), "tap0".into(), None, 0);
        assert_eq!(tap.name(), "tap0");
        set_nonblocking(&tap.file).unwrap();
        assert_eq!(descriptor_flags(&tap.file), (true, true));
        assert!(tap.configure(12, 0).is_err(), "a socket has no such thing");
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        let mut vector = IoVector::default();
        vector.push(slice(0, 3));
        vector.push(slice(0x100, 2));
        let mut overflow = [0xee; 4];
        let nothing = tap.receive(&mut vector, &mut overflow).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        for (packet, expected, rest) in [
            (&b"abcd"[..], *b"abcd\0", [0xee; 4]),
            (b"ABCDEF", *b"ABCDE", [b'F', 0xee, 0xee, 0xee]),
        ] {
            peer.send(packet).unwrap();
            let length = tap.receive(&mut vector, &mut overflow).unwrap();
            assert_eq!(length, packet.len());
            let mut stored = [0; 5];
            assert_eq!(vector.copy_to(&mut stored), 5);
            assert_eq!((stored, overflow), (expected, rest));
        }
        tap.send(&vector).unwrap();
        let mut sent = [0; 10];
        assert_eq!(peer.recv(&mut sent).unwrap(), 5);
        assert_eq!(&sent[..5], b"ABCDE");
        // The socket takes some, and then none before somebody reads.
        let mut sends = std::iter::repeat_with(|| tap.send(&vector)).take(1 << 20);
        let full = sends.find_map(Result::err);
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        // A directory can be neither read nor written.
        let gone = Tap::new(File::open("/").unwrap(), "tap0".into(), None, 0);
        for expected in [1, 0, 0] {
            let receive = || assert!(gone.receive(&mut vector, &mut overflow).is_err());
            assert_eq!(logged(receive).len(), expected, "it is told once");
        }
        assert!(gone.send(&vector).is_err());
        assert!(!tap.reported.load(Ordering::Relaxed));
    }
}
