//! TCP between a guest and its host.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};

use crate::clock::timed;

/// How much is written or read at once, bytes.
const PIECE: usize = 64 * 1024;

/// `AF_INET` and `IFF_UP | IFF_RUNNING`, in the widths that the structures have.
const AF_INET: libc::sa_family_t = 2;
const IFF_UP_RUNNING: libc::c_short = 0x41;

/// What a client asks the server for; a count of 8 bytes follows.
mod wish {
    pub(super) const TAKE: u8 = b't';
    pub(super) const GIVE: u8 = b'g';
    pub(super) const ECHO: u8 = b'e';
}

/// A request about an interface (netdevice(7)).
fn named(interface: &str) -> io::Result<libc::ifreq> {
    let name = CString::new(interface)?;
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let places = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    for (to, from) in places.zip(name.as_bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    Ok(request)
}

/// Makes a tap interface that stays (linux/if_tun.h).
pub(crate) fn tap(interface: &str) -> io::Result<u64> {
    const IFF_TAP_NO_PI: libc::c_short = 0x1002;
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    let mut request = named(interface)?;
    request.ifr_ifru.ifru_flags = IFF_TAP_NO_PI;
    // SAFETY: the first request reads an `ifreq`, the second takes a number.
    let failed = unsafe {
        libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) != 0
            || libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST as _, 1) != 0
    };
    match failed {
        true => Err(io::Error::last_os_error()),
        false => Ok(0),
    }
}

/// Gives an interface an address in a network of 256, and switches it on.
pub(crate) fn up(interface: &str, address: &str) -> io::Result<u64> {
    let address: Ipv4Addr = address.parse().map_err(io::Error::other)?;
    // SAFETY: a new descriptor, which nobody else has.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(fd)
    };
    let mut request = named(interface)?;
    let internet = |address: Ipv4Addr| {
        // SAFETY: as above.
        let mut place: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        place.sin_family = AF_INET;
        place.sin_addr.s_addr = u32::from(address).to_be();
        // SAFETY: the two structures have the same size, and any bytes make a `sockaddr`.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(place) }
    };
    let tell = |kind, request: &mut libc::ifreq| {
        // SAFETY: these requests read an `ifreq`.
        match unsafe { libc::ioctl(socket.as_raw_fd(), kind, std::ptr::from_mut(request)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    request.ifr_ifru.ifru_addr = internet(address);
    tell(libc::SIOCSIFADDR as _, &mut request)?;
    request.ifr_ifru.ifru_netmask = internet(Ipv4Addr::new(255, 255, 255, 0));
    tell(libc::SIOCSIFNETMASK as _, &mut request)?;
    request.ifr_ifru.ifru_flags = IFF_UP_RUNNING;
    tell(libc::SIOCSIFFLAGS as _, &mut request)?;
    Ok(0)
}

/// Serves one client after the other, for ever.
pub(crate) fn serve(address: &str) -> io::Result<u64> {
    let listener = TcpListener::bind(address)?;
    println!("@serving");
    for client in listener.incoming() {
        // A client that is gone is no reason to refuse the next.
        let _ = client.and_then(attend);
    }
    Ok(0)
}

fn attend(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut head = [0; 9];
    client.read_exact(&mut head)?;
    let [wish, count @ ..] = head;
    let count = u64::from_le_bytes(count);
    match wish {
        wish::TAKE => {
            take(&mut client, count)?;
            client.write_all(&[0])
        }
        wish::GIVE => give(&mut client, count),
        wish::ECHO => {
            let mut byte = [0];
            for _ in 0..count {
                client.read_exact(&mut byte)?;
                client.write_all(&byte)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn take(stream: &mut TcpStream, mut count: u64) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    while count > 0 {
        let read = stream.read(&mut piece)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        count = count.saturating_sub(read as u64);
    }
    Ok(())
}

fn give(stream: &mut TcpStream, mut count: u64) -> io::Result<()> {
    let piece = vec![0x5a; PIECE];
    while count > 0 {
        let part = usize::try_from(count).unwrap_or(PIECE).min(PIECE);
        stream.write_all(piece.get(..part).unwrap_or_default())?;
        count -= part as u64;
    }
    Ok(())
}

fn ask(address: &str, wish: u8, count: u64) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wish])?;
    stream.write_all(&count.to_le_bytes())?;
    Ok(stream)
}

/// The time until the server has all of `bytes`.
pub(crate) fn send(address: &str, bytes: u64) -> io::Result<u64> {
    let mut stream = ask(address, wish::TAKE, bytes)?;
    timed(|| {
        give(&mut stream, bytes)?;
        stream.read_exact(&mut [0])
    })
}

/// The time until `bytes` have come from the server.
pub(crate) fn receive(address: &str, bytes: u64) -> io::Result<u64> {
    let mut stream = ask(address, wish::GIVE, bytes)?;
    timed(|| take(&mut stream, bytes))
}

/// The time of `count` round trips of one byte.
pub(crate) fn ping(address: &str, count: u64) -> io::Result<u64> {
    let mut stream = ask(address, wish::ECHO, count)?;
    timed(|| {
        let mut byte = [0];
        for _ in 0..count {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
        }
        Ok(())
    })
}
