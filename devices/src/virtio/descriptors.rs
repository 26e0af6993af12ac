//! The descriptors of a chain, one after the other (VIRTIO 1.3, sections 2.7.5 and 2.7.5.3).
//!
//! The virtio-queue crate has the same iterator. It looks for the guest's memory and checks it anew for each descriptor, which
//! takes as long as everything else that is done for one; here that is done once for each table.

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileMemory};

use crate::memory::{GuestMemoryMmap, GuestSlice};

/// Bytes of a descriptor.
const SIZE: usize = 16;

/// The rest of a chain. It ends without a word at whatever cannot be followed: a descriptor outside of its table, more of them
/// than a table holds, a table outside of memory, an indirect one in an indirect one, or more than 2^32 bytes in all.
pub(super) struct Descriptors<'m> {
    memory: &'m GuestMemoryMmap,
    table: GuestSlice<'m>,
    indirect: bool,
    next: Option<u16>,
    /// How many descriptors more there can be.
    left: usize,
    bytes: u32,
}

impl<'m> Descriptors<'m> {
    /// The chain that begins at `head` of the `size` descriptors at `table`. `None` if these are not in memory.
    pub fn new(
        memory: &'m GuestMemoryMmap,
        table: GuestAddress,
        size: u16,
        head: u16,
    ) -> Option<Self> {
        let size = usize::from(size);
        Some(Self {
            memory,
            table: memory.get_slice(table, size.checked_mul(SIZE)?).ok()?,
            indirect: false,
            next: Some(head),
            left: size,
            bytes: 0,
        })
    }

    /// Goes on in the table that an indirect descriptor refers to.
    fn follow(&mut self, address: GuestAddress, length: u32) -> Option<()> {
        let length = usize::try_from(length).ok()?;
        let count = length / SIZE;
        if self.indirect || !length.is_multiple_of(SIZE) || count > usize::from(u16::MAX) {
            return None;
        }
        self.table = self.memory.get_slice(address, length).ok()?;
        self.indirect = true;
        self.next = Some(0);
        self.left = count;
        Some(())
    }

    fn word(&self, offset: usize) -> Option<u64> {
        let word = match self.table.load(offset, Ordering::Relaxed) {
            Ok(word) => word,
            // Indirect tables need not be aligned.
            Err(_) => self.table.get_ref(offset).ok()?.load(),
        };
        Some(u64::from_le(word))
    }

    fn read(&self, index: u16) -> Option<Descriptor> {
        let offset = usize::from(index).checked_mul(SIZE)?;
        let address = self.word(offset)?;
        let [a, b, c, d, e, f, g, h] = self.word(offset.checked_add(8)?)?.to_le_bytes();
        Some(Descriptor::new(
            address,
            u32::from_le_bytes([a, b, c, d]),
            u16::from_le_bytes([e, f]),
            u16::from_le_bytes([g, h]),
        ))
    }
}

impl Iterator for Descriptors<'_> {
    type Item = Descriptor;

    fn next(&mut self) -> Option<Descriptor> {
        loop {
            let index = self.next.take()?;
            self.left = self.left.checked_sub(1)?;
            let descriptor = self.read(index)?;
            if descriptor.refers_to_indirect_table() {
                self.follow(descriptor.addr(), descriptor.len())?;
                continue;
            }
            self.bytes = self.bytes.checked_add(descriptor.len())?;
            if descriptor.has_next() {
                self.next = Some(descriptor.next());
            }
            return Some(descriptor);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_bindings::virtio_ring::{
        VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
    };
    use virtio_queue::QueueOwnedT;
    use virtio_queue::desc::RawDescriptor;

    use super::*;
    use crate::virtio::testing::{DATA, RAM, RAM_SIZE, Ring, TABLE, memory, queue};

    const ENTRIES: u16 = 8;
    /// Where indirect tables are, one of them not aligned.
    const INDIRECT: [u64; 2] = [DATA, DATA + 0x1003];

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let buffer = (any::<u64>(), prop_oneof![0..0x1000_u32, any::<u32>()]);
        let table = (
            prop_oneof![Just(INDIRECT[0]), Just(INDIRECT[1])],
            prop_oneof![
                (0..=ENTRIES as u32).prop_map(|count| 16 * count),
                0..200_u32
            ],
        );
        let of = |flag: u32| {
            let flags =
                prop::sample::subsequence(vec![VRING_DESC_F_NEXT, VRING_DESC_F_WRITE], 0..=2);
            flags.prop_map(move |flags| (flags.iter().sum::<u32>() | flag) as u16)
        };
        let next = || prop_oneof![0..ENTRIES, any::<u16>()];
        prop_oneof![
            4 => (buffer, of(0), next()),
            1 => (table, of(VRING_DESC_F_INDIRECT), next()),
        ]
        .prop_map(|((address, length), flags, next)| Descriptor::new(address, length, flags, next))
    }

    fn table() -> impl Strategy<Value = Vec<Descriptor>> {
        proptest::collection::vec(descriptor(), usize::from(ENTRIES))
    }

    proptest! {
        /// The crate's iterator says the same of any table.
        #[test]
        fn chains_are_those_of_the_crate(
            ring in table(),
            indirect in [table(), table()],
            head in 0..ENTRIES,
        ) {
            let memory = memory();
            for (address, table) in INDIRECT.into_iter().chain([TABLE]).zip(indirect.iter().chain([&ring])) {
                for (n, descriptor) in (0..).zip(table) {
                    memory.write_obj(RawDescriptor::from(*descriptor), GuestAddress(address + 16 * n)).unwrap();
                }
            }
            Ring::new(&memory, ENTRIES).offer(head);
            let mut queue = queue(ENTRIES, false, 0);
            let fields = |one: Descriptor| (one.addr(), one.len(), one.flags(), one.next());
            let theirs = queue.iter(&memory).unwrap().next().unwrap().map(fields);
            let ours = Descriptors::new(&memory, GuestAddress(TABLE), ENTRIES, head).unwrap().map(fields);
            prop_assert_eq!(ours.collect::<Vec<_>>(), theirs.collect::<Vec<_>>());
        }
    }

    /// Descriptors are counted in 16 bits.
    #[test]
    fn an_indirect_table_has_at_most_as_many_entries_as_can_be_numbered() {
        let memory = memory();
        let most = u32::from(u16::MAX);
        for (length, expected) in [
            (16 * most, Some(most as usize)),
            (16 * (most + 1), None),
            (16 * (most + 2), None),
            (16 * most - 1, None),
            (15, None),
            (0, Some(0)),
        ] {
            let mut descriptors = Descriptors::new(&memory, GuestAddress(TABLE), 1, 0).unwrap();
            let left = descriptors
                .follow(GuestAddress(DATA), length)
                .map(|()| descriptors.left);
            assert_eq!(left, expected, "{length}");
            if left.is_some() {
                let again = descriptors.follow(GuestAddress(DATA), 16);
                assert!(again.is_none(), "no table in a table");
            }
        }
    }

    #[test]
    fn a_table_outside_of_memory_holds_nothing() {
        let memory = memory();
        let end = GuestAddress(RAM + RAM_SIZE as u64 - 16);
        assert!(Descriptors::new(&memory, end, 1, 0).is_some());
        assert!(Descriptors::new(&memory, end, 2, 0).is_none());
        assert!(Descriptors::new(&memory, GuestAddress(0), 1, 0).is_none());
    }
}
