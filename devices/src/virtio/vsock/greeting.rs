//! How a client of the host says which port of the guest it wants: `CONNECT PORT` and a newline. It is answered `OK HOST_PORT` and a
//! newline once the guest has accepted. The form is Firecracker's (docs/vsock.md there).

use std::io::{self, Read};

use arrayvec::ArrayVec;

/// The longest line, in bytes: far more than a port needs.
const LONGEST: usize = 32;

/// What a client has said so far.
#[derive(Debug, Default)]
pub struct Greeting(ArrayVec<u8, LONGEST>);

/// What is known then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// The line has no end yet.
    More,
    /// The guest's port that the client wants.
    Port(u32),
    /// Something else, or nothing any more.
    Nonsense,
}

impl Greeting {
    /// Reads the line from a client that does not block, and nothing behind it.
    pub fn read(&mut self, client: &mut impl Read) -> Said {
        loop {
            let mut byte = [0];
            match client.read(&mut byte) {
                Ok(1) if byte == [b'\n'] => return self.port().map_or(Said::Nonsense, Said::Port),
                Ok(1) => {
                    let [byte] = byte;
                    if self.0.try_push(byte).is_err() {
                        return Said::Nonsense;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Said::More,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Said::Nonsense,
            }
        }
    }

    fn port(&self) -> Option<u32> {
        let mut words = std::str::from_utf8(&self.0).ok()?.split_ascii_whitespace();
        let command = words.next()?;
        let port = words.next()?.parse().ok()?;
        (command.eq_ignore_ascii_case("connect") && words.next().is_none()).then_some(port)
    }
}

/// The answer, with the host's port of the connection.
pub fn accepted(host_port: u32) -> String {
    format!("OK {host_port}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        Greeting::default().read(&mut text.as_bytes())
    }

    #[test]
    fn a_client_names_a_port() {
        for (text, port) in [
            ("CONNECT 52\n", 52),
            ("connect 0\n", 0),
            ("Connect  4294967295 \r\n", u32::MAX),
        ] {
            assert_eq!(said(text), Said::Port(port), "{text:?}");
        }
        for text in [
            "",
            "\n",
            "CONNECT\n",
            "CONNECT x\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "CONNECT 1 2\n",
            "GET / HTTP/1.1\r\n",
            "CONNECT 52",
            "CONNECT 0000000000000000000000000000000001\n",
            "\u{fc}CONNECT 1\n",
        ] {
            assert_eq!(said(text), Said::Nonsense, "{text:?}");
        }
        assert_eq!(accepted(1 << 30), "OK 1073741824\n");
    }

    /// What follows the line is the guest's.
    #[test]
    fn nothing_behind_the_line_is_read() {
        let mut bytes = b"CONNECT 7\nhello".as_slice();
        assert_eq!(Greeting::default().read(&mut bytes), Said::Port(7));
        assert_eq!(bytes, b"hello");
    }

    #[test]
    fn a_line_may_come_in_pieces() {
        let (mut client, mut server) = std::os::unix::net::UnixStream::pair().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut greeting = Greeting::default();
        for piece in ["CON", "", "NECT 1", "2"] {
            std::io::Write::write_all(&mut client, piece.as_bytes()).unwrap();
            assert_eq!(greeting.read(&mut server), Said::More);
        }
        std::io::Write::write_all(&mut client, b"\n").unwrap();
        assert_eq!(greeting.read(&mut server), Said::Port(12));
    }
}
