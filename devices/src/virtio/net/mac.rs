//! Ethernet addresses.

use std::fmt::{self, Display, Formatter};
use std::io;
use std::str::FromStr;

use crate::entropy;

/// The Ethernet address of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub(super) [u8; 6]);

/// A text that is no address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six numbers.
    #[error("not an Ethernet address: give six hexadecimal bytes, such as 52:54:00:12:34:56")]
    Form,
    /// All zero, or an address of a group of interfaces.
    #[error(
        "not the Ethernet address of one interface: give one whose first byte is even, such as 52:54:00:12:34:56"
    )]
    NotOne,
}

impl Mac {
    /// An address from the range that anybody may use.
    ///
    /// # Errors
    /// If the host has no random numbers.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 6];
        entropy::fill(&mut bytes)?;
        // "Locally administered", and not a group (IEEE 802, section 8).
        if let Some(first) = bytes.first_mut() {
            *first = *first & !1 | 2;
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacError::Form)?;
            if !matches!(part.len(), 1 | 2) || !part.bytes().all(|digit| digit.is_ascii_hexdigit())
            {
                return Err(MacError::Form);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacError::Form);
        }
        let [first, ..] = bytes;
        if bytes == [0; 6] || first & 1 != 0 {
            return Err(MacError::NotOne);
        }
        Ok(Self(bytes))
    }
}

impl Display for Mac {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, written) in [
            ("52:54:00:12:34:56", "52:54:00:12:34:56"),
            ("2-a-B-c-D-ff", "02:0a:0b:0c:0d:ff"),
        ] {
            assert_eq!(text.parse::<Mac>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52:54:00:12:34:+6",
            "52:54:00:12:34:056",
            "525400123456",
            "52:54::12:34:56",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError::Form), "{text}");
        }
        for text in [
            "00:00:00:00:00:00",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(text.parse::<Mac>(), Err(MacError::NotOne), "{text}");
        }
    }

    #[test]
    fn a_random_address_is_a_local_one() {
        let mut seen = 0;
        for _ in 0..100 {
            let mac = Mac::random().unwrap();
            assert_eq!(mac.0[0] & 3, 2);
            assert_eq!(mac.to_string().parse(), Ok(mac));
            seen |= mac.0[0];
        }
        assert_eq!(seen, 0xfe, "all other bits are random");
    }
}
