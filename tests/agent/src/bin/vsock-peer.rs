//! Either side of a guest's vsock for the tests, since busybox knows neither vsocks nor Unix sockets.
//!
//! ```text
//! vsock-peer serve ADDRESS                    sends back what each client sends, for ever
//! vsock-peer exchange ADDRESS COUNT BYTES     sends as many bytes to a server by each of COUNT connections at once, and compares
//!                                             what comes back
//! vsock-peer hold ADDRESS                     connects, prints "connected", and waits for the end of the connection
//! ```
//!
//! An address is `unix:PATH`, `vsock:PORT` (the guest's port, or the host's for a client), or `guest:PORT:PATH`: the guest's port by way of
//! hvrun's socket at this path.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::ExitCode;
use std::thread;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// How much is written or read at once, bytes.
const PIECE: usize = 64 * 1024;

const USAGE: &str = "usage: vsock-peer serve ADDRESS | exchange ADDRESS COUNT BYTES | hold ADDRESS";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match perform(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vsock-peer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn perform(words: &[&str]) -> Result<()> {
    match *words {
        ["serve", address] => serve(address),
        ["exchange", address, count, bytes] => exchange(address, count.parse()?, bytes.parse()?),
        ["hold", address] => {
            let mut stream = connect(address)?;
            println!("connected");
            io::copy(&mut stream, &mut io::sink())?;
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

fn serve(address: &str) -> Result<()> {
    match address.split_once(':') {
        Some(("unix", path)) => {
            for client in UnixListener::bind(path)?.incoming() {
                let client = client?;
                thread::spawn(|| echo(client));
            }
        }
        Some(("vsock", port)) => {
            let listener = vsock(port.parse()?, libc::VMADDR_CID_ANY, libc::bind)?;
            // SAFETY: the call has no pointers.
            checked(unsafe { libc::listen(listener.as_raw_fd(), 128) })?;
            println!("serving");
            loop {
                let null = std::ptr::null_mut();
                // SAFETY: the address is not wanted.
                let client =
                    checked(unsafe { libc::accept(listener.as_raw_fd(), null, null.cast()) })?;
                // SAFETY: the descriptor was made just now, and nobody else has it.
                let client = UnixStream::from(unsafe { OwnedFd::from_raw_fd(client) });
                thread::spawn(|| echo(client));
            }
        }
        _ => return Err(USAGE.into()),
    }
    Ok(())
}

/// Sends back what comes, until nothing more does.
fn echo(mut stream: UnixStream) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(piece.get(..count).unwrap_or_default())?;
    }
}

/// Connections one after the other are opened first, so that all of them exist at the same time.
fn exchange(address: &str, count: u64, bytes: u64) -> Result<()> {
    let streams: Vec<_> = (0..count)
        .map(|_| connect(address))
        .collect::<Result<_>>()?;
    let mut threads = Vec::new();
    for (number, stream) in (0..).zip(streams) {
        let sender = stream.try_clone()?;
        threads.push(thread::spawn(move || send(sender, number, bytes)));
        threads.push(thread::spawn(move || compare(stream, number, bytes)));
    }
    for thread in threads {
        thread.join().map_err(|_| "a thread has panicked")??;
    }
    println!("{count} connections, {bytes} bytes each");
    Ok(())
}

fn send(mut stream: UnixStream, number: u64, bytes: u64) -> Result<()> {
    let mut pattern = Pattern::new(number);
    let mut rest = bytes;
    while rest > 0 {
        let count = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
        stream.write_all(&pattern.take(count))?;
        rest = rest.saturating_sub(count as u64);
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

fn compare(mut stream: UnixStream, number: u64, bytes: u64) -> Result<()> {
    let mut pattern = Pattern::new(number);
    let mut piece = vec![0; PIECE];
    let mut done = 0_u64;
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            break;
        }
        if piece.get(..count) != Some(&*pattern.take(count)) {
            return Err(
                format!("connection {number}: other bytes than were sent, from {done} on").into(),
            );
        }
        done = done.saturating_add(count as u64);
    }
    match done == bytes {
        true => Ok(()),
        false => Err(format!("connection {number}: {done} bytes of {bytes} came back").into()),
    }
}

/// Bytes that repeat only after a long time, other ones for each connection (xorshift64).
struct Pattern(u64);

impl Pattern {
    fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()[3]
        };
        std::iter::repeat_with(next).take(count).collect()
    }
}

fn connect(address: &str) -> Result<UnixStream> {
    match address.split(':').collect::<Vec<_>>()[..] {
        ["unix", path] => Ok(UnixStream::connect(path)?),
        ["vsock", port] => {
            let socket = vsock(port.parse()?, libc::VMADDR_CID_HOST, libc::connect)?;
            Ok(UnixStream::from(socket))
        }
        ["guest", port, path] => {
            let mut stream = UnixStream::connect(path)?;
            writeln!(stream, "CONNECT {port}")?;
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                line.extend(byte);
            }
            match line.starts_with(b"OK ") {
                true => Ok(stream),
                false => Err("hvrun does not say OK".into()),
            }
        }
        _ => Err(USAGE.into()),
    }
}

/// `bind` or `connect`.
type Call =
    unsafe extern "C" fn(libc::c_int, *const libc::sockaddr, libc::socklen_t) -> libc::c_int;

/// A stream socket (vsock(7)) that was bound or connected to this address. It reads and writes as a Unix socket does.
#[allow(clippy::cast_possible_truncation)] // AF_VSOCK is 40, and the size of an address 16.
fn vsock(port: u32, cid: u32, call: Call) -> io::Result<OwnedFd> {
    // SAFETY: the call has no pointers.
    let fd = checked(unsafe {
        libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the descriptor was made just now, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros are a valid address: integers.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    address.svm_port = port;
    address.svm_cid = cid;
    let size = size_of::<libc::sockaddr_vm>() as libc::socklen_t;
    // SAFETY: the address lives across the call, and is as long as is said.
    checked(unsafe { call(fd, (&raw const address).cast(), size) })?;
    Ok(socket)
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
