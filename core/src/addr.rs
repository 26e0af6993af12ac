//! Addresses carry their address space in their type: what a guest calls physical is never confused with an address
//! of this process or of the host.

use core::fmt;

macro_rules! physical_address {
    ($(#[$attribute:meta])* $name:ident) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` above this one, or `None` beyond the end of the 64-bit address space.
            #[must_use]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }

            /// How many bytes this address lies above `base`, or `None` if it lies below.
            #[must_use]
            pub const fn checked_offset_from(self, base: Self) -> Option<u64> {
                self.0.checked_sub(base.0)
            }

            /// The lowest multiple of `alignment` at or above this address. `None` if there is none in 64 bits, or if
            /// `alignment` is zero.
            #[must_use]
            pub const fn checked_align_up(self, alignment: u64) -> Option<Self> {
                match self.0.checked_next_multiple_of(alignment) {
                    Some(address) => Some(Self(address)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:#x})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl From<$name> for u64 {
            fn from(address: $name) -> Self {
                address.0
            }
        }
    };
}

physical_address! {
    /// A guest-physical address: what the guest's own page tables yield, before second-stage translation.
    GuestPhysAddr
}

physical_address! {
    /// A host-physical address: the result of second-stage translation, as it is on the machine's bus. Only a hypervisor
    /// on the bare machine uses any.
    HostPhysAddr
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn arithmetic_never_wraps() {
        let top = GuestPhysAddr(u64::MAX);
        assert_eq!(top.checked_add(0), Some(top));
        assert_eq!(top.checked_add(1), None);
        assert_eq!(top.checked_align_up(4096), None);
        assert_eq!(GuestPhysAddr(1).checked_align_up(0), None);
        assert_eq!(
            GuestPhysAddr(1).checked_align_up(4096),
            Some(GuestPhysAddr(4096))
        );
        assert_eq!(
            GuestPhysAddr(4096).checked_align_up(4096),
            Some(GuestPhysAddr(4096))
        );
        assert_eq!(GuestPhysAddr(1).checked_offset_from(GuestPhysAddr(2)), None);
        assert_eq!(
            GuestPhysAddr(5).checked_offset_from(GuestPhysAddr(2)),
            Some(3)
        );
    }

    #[test]
    fn addresses_print_in_hexadecimal() {
        assert_eq!(
            format!("{:?}", GuestPhysAddr(0x8000_0000)),
            "GuestPhysAddr(0x80000000)"
        );
        assert_eq!(format!("{}", GuestPhysAddr(0x8000_0000)), "0x80000000");
        assert_eq!(format!("{:x}", GuestPhysAddr(0x8000_0000)), "80000000");
        assert_eq!(
            format!("{:?}", HostPhysAddr(0x8000_0000)),
            "HostPhysAddr(0x80000000)"
        );
    }
}
