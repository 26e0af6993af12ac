//! The header of a packet (VIRTIO 1.3, section 5.10.6, `struct virtio_vsock_hdr`).

/// Its size in bytes.
pub const HEADER_SIZE: usize = 44;

/// The host's address, `VMADDR_CID_HOST` (vsock(7)).
pub const HOST_CID: u64 = 2;

/// The type of a stream socket (section 5.10.6.1, `VIRTIO_VSOCK_TYPE_STREAM`).
pub const STREAM: u16 = 1;

/// Operations (section 5.10.6, `VIRTIO_VSOCK_OP_*`).
pub mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// The flags of a SHUTDOWN: what its sender will not do any more (section 5.10.6.5, `VIRTIO_VSOCK_SHUTDOWN_F_*`).
pub mod shutdown {
    pub const RECEIVE: u32 = 1 << 0;
    pub const SEND: u32 = 1 << 1;
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// A header. Its fields have the names of the specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub src_cid: u64,
    pub dst_cid: u64,
    pub src_port: u32,
    pub dst_port: u32,
    /// Bytes of payload behind the header.
    pub len: u32,
    /// `type`.
    pub kind: u16,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

/// Splits the first bytes off.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().unwrap_or((&[0; N], &[]));
    *bytes = rest;
    *first
}

impl Header {
    /// The header in these bytes. Any bytes are one.
    pub fn from_bytes(bytes: [u8; HEADER_SIZE]) -> Self {
        let rest = &mut bytes.as_slice();
        Self {
            src_cid: u64::from_le_bytes(take(rest)),
            dst_cid: u64::from_le_bytes(take(rest)),
            src_port: u32::from_le_bytes(take(rest)),
            dst_port: u32::from_le_bytes(take(rest)),
            len: u32::from_le_bytes(take(rest)),
            kind: u16::from_le_bytes(take(rest)),
            op: u16::from_le_bytes(take(rest)),
            flags: u32::from_le_bytes(take(rest)),
            buf_alloc: u32::from_le_bytes(take(rest)),
            fwd_cnt: u32::from_le_bytes(take(rest)),
        }
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let fields = (self.src_cid.to_le_bytes().into_iter())
            .chain(self.dst_cid.to_le_bytes())
            .chain(self.src_port.to_le_bytes())
            .chain(self.dst_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.op.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        let mut bytes = [0; HEADER_SIZE];
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    /// The RST that answers this packet.
    pub fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let bytes: [u8; HEADER_SIZE] = std::array::from_fn(|place| place as u8);
        let header = Header::from_bytes(bytes);
        assert_eq!(header.src_cid, 0x07_06_05_04_03_02_01_00);
        assert_eq!(header.dst_cid, 0x0f_0e_0d_0c_0b_0a_09_08);
        assert_eq!(header.src_port, 0x13_12_11_10);
        assert_eq!(header.dst_port, 0x17_16_15_14);
        assert_eq!(header.len, 0x1b_1a_19_18);
        assert_eq!(header.kind, 0x1d_1c);
        assert_eq!(header.op, 0x1f_1e);
        assert_eq!(header.flags, 0x23_22_21_20);
        assert_eq!(header.buf_alloc, 0x27_26_25_24);
        assert_eq!(header.fwd_cnt, 0x2b_2a_29_28);
    }

    #[test]
    fn a_reset_goes_back_to_who_sent_the_packet() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 4,
            dst_port: 5,
            len: 6,
            kind: 7,
            op: op::RW,
            flags: 8,
            buf_alloc: 9,
            fwd_cnt: 10,
        };
        let reset = Header {
            src_cid: 2,
            dst_cid: 3,
            src_port: 5,
            dst_port: 4,
            kind: 7,
            op: op::RST,
            ..Header::default()
        };
        assert_eq!(header.reset(), reset);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header(bytes in proptest::collection::vec(any::<u8>(), HEADER_SIZE)) {
            let bytes = <[u8; HEADER_SIZE]>::try_from(bytes).unwrap();
            prop_assert_eq!(Header::from_bytes(bytes).to_bytes(), bytes);
        }
    }
}
