//! Checked against VIRTIO 1.3, section 5.2.6.

use std::io::Write;

use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::virtio::chain::MAX_DESCRIPTORS;
use crate::virtio::testing::{DATA, RAM, RAM_SIZE, chain, memory, readable, writable};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const SECTORS: u64 = 64;
/// What the status byte holds before a request.
const UNTOUCHED: u8 = 0xee;

struct Bench {
    file: NamedTempFile,
    memory: GuestMemoryMmap,
    executor: Executor,
    /// Requests are tried on the spot first. Whether that works is up to the file system.
    now: bool,
}

impl Bench {
    fn new(read_only: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&Self::content()).unwrap();
        let executor = Executor {
            disk: Arc::new(Disk::open(file.path(), read_only).unwrap()),
            serial: "a-serial".parse().unwrap(),
            write_through: false,
            reported: AtomicBool::new(false),
        };
        Self {
            file,
            memory: memory(),
            executor,
            now: false,
        }
    }

    /// One for each way that a request can go.
    fn both(read_only: bool) -> impl Iterator<Item = Self> {
        [false, true].into_iter().map(move |now| Self {
            now,
            ..Self::new(read_only)
        })
    }

    fn content() -> Vec<u8> {
        (0..SECTORS * SECTOR_SIZE)
            .map(|n| (n / 512 + n % 251) as u8)
            .collect()
    }

    fn image(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }

    fn header(&self, kind: u32, sector: u64) {
        self.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory
            .write_obj(0_u32, GuestAddress(HEADER + 4))
            .unwrap();
        self.memory
            .write_obj(sector, GuestAddress(HEADER + 8))
            .unwrap();
        self.memory
            .write_obj(UNTOUCHED, GuestAddress(STATUS))
            .unwrap();
    }

    fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    fn run(&self, buffers: &[(u64, u32, u16)]) -> Result<u32, Malformed> {
        let mut chain_of = Chain::default();
        if self.now {
            chain_of.load(&self.memory, chain(0, buffers).into_iter())?;
            if let Some(used) = self.executor.execute_now(&mut chain_of)? {
                return Ok(used);
            }
            assert_eq!(self.get(STATUS, 1), [UNTOUCHED], "it is not done");
        }
        chain_of.load(&self.memory, chain(0, buffers).into_iter())?;
        self.executor.execute(&mut chain_of)
    }

    /// A request in the usual cut: header, data, status. Returns status and used length.
    fn request(&self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u32, u32) {
        self.header(kind, sector);
        let mut buffers = vec![readable(HEADER, 16)];
        buffers.extend_from_slice(data);
        buffers.push(writable(STATUS, 1));
        let used = self.run(&buffers).unwrap();
        (self.get(STATUS, 1)[0].into(), used)
    }

    fn segments(&self, segments: &[(u64, u32, u32)]) -> (u64, u32, u16) {
        for (n, (sector, count, flags)) in (0..).zip(segments) {
            let at = BUFFER + 16 * n;
            self.memory.write_obj(*sector, GuestAddress(at)).unwrap();
            self.memory.write_obj(*count, GuestAddress(at + 8)).unwrap();
            self.memory
                .write_obj(*flags, GuestAddress(at + 12))
                .unwrap();
        }
        readable(BUFFER, 16 * segments.len() as u32)
    }
}

#[test]
fn reads() {
    for bench in Bench::both(false) {
        let data = [writable(BUFFER, 512), writable(BUFFER + 4096, 1024)];
        assert_eq!(
            bench.request(VIRTIO_BLK_T_IN, 3, &data),
            (VIRTIO_BLK_S_OK, 1537)
        );
        assert_eq!(bench.get(BUFFER, 512), Bench::content()[3 * 512..4 * 512]);
        assert_eq!(
            bench.get(BUFFER + 4096, 1024),
            Bench::content()[4 * 512..6 * 512]
        );
    }
}

#[test]
fn writes() {
    for (write_through, mut bench) in [false, true]
        .into_iter()
        .flat_map(|write_through| Bench::both(false).map(move |bench| (write_through, bench)))
    {
        bench.executor.write_through = write_through;
        bench.fill(BUFFER, &[0xab; 1024]);
        assert_eq!(
            bench.request(VIRTIO_BLK_T_OUT, 62, &[readable(BUFFER, 1024)]),
            (VIRTIO_BLK_S_OK, 1)
        );
        assert_eq!(bench.image()[62 * 512..], [0xab; 1024]);
        assert_eq!(bench.image()[..62 * 512], Bench::content()[..62 * 512]);
        assert_eq!(
            bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]),
            (VIRTIO_BLK_S_OK, 1)
        );
    }
}

#[test]
fn the_cut_into_descriptors_makes_no_difference() {
    for bench in Bench::both(false) {
        // Header in three pieces, the last of them with the beginning of the data.
        bench.fill(BUFFER, &[0xcd; 512]);
        bench.header(VIRTIO_BLK_T_OUT, 1);
        bench.fill(HEADER + 16, &[0xcd; 12]);
        let pieces = [
            readable(HEADER, 1),
            readable(HEADER + 1, 7),
            readable(HEADER + 8, 8 + 12),
            readable(BUFFER, 500),
            writable(STATUS, 1),
        ];
        assert_eq!(bench.run(&pieces), Ok(1));
        assert_eq!(bench.get(STATUS, 1), [0]);
        assert_eq!(bench.image()[512..1024], [0xcd; 512]);

        // The status as the last byte of the data's buffer, and the data in odd pieces.
        bench.header(VIRTIO_BLK_T_IN, 2);
        let pieces = [
            readable(HEADER, 16),
            writable(BUFFER, 1),
            writable(BUFFER + 1, 3),
            writable(BUFFER + 4, 509),
        ];
        assert_eq!(bench.run(&pieces), Ok(513));
        assert_eq!(bench.get(BUFFER, 512), Bench::content()[1024..1536]);
        assert_eq!(bench.get(BUFFER + 512, 1), [0]);
    }
}

#[test]
fn what_is_not_on_the_disk_is_an_io_error() {
    for bench in Bench::both(false) {
        for kind in [VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT] {
            let buffer = if kind == VIRTIO_BLK_T_IN {
                writable
            } else {
                readable
            };
            let no_data_written = if kind == VIRTIO_BLK_T_IN { 0 } else { 1 };
            for (sector, length) in [
                (SECTORS, 512),
                (SECTORS - 1, 1024),
                (u64::MAX, 512),
                (u64::MAX / 512, 512),
                (0, 511),
                (0, 513),
                (0, (SECTORS as u32 + 1) * 512),
            ] {
                let result = bench.request(kind, sector, &[buffer(BUFFER, length)]);
                assert_eq!(
                    result,
                    (VIRTIO_BLK_S_IOERR, no_data_written),
                    "{kind} {sector} {length}"
                );
            }
        }
        assert_eq!(bench.image(), Bench::content());
    }
}

#[test]
fn a_request_without_data_succeeds() {
    for bench in Bench::both(false) {
        assert_eq!(bench.request(VIRTIO_BLK_T_IN, 0, &[]), (VIRTIO_BLK_S_OK, 1));
        assert_eq!(
            bench.request(VIRTIO_BLK_T_OUT, SECTORS, &[]),
            (VIRTIO_BLK_S_OK, 1)
        );
    }
}

#[test]
fn serial() {
    for bench in Bench::both(false) {
        bench.fill(BUFFER, &[0xff; 32]);
        assert_eq!(
            bench.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(BUFFER, 20)]),
            (VIRTIO_BLK_S_OK, 21)
        );
        assert_eq!(
            bench.get(BUFFER, 21),
            *b"a-serial\0\0\0\0\0\0\0\0\0\0\0\0\xff"
        );
        assert_eq!(
            bench.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(BUFFER, 32)]),
            (VIRTIO_BLK_S_OK, 20)
        );
        assert_eq!(
            bench.request(VIRTIO_BLK_T_GET_ID, 0, &[writable(BUFFER, 3)]),
            (VIRTIO_BLK_S_OK, 4)
        );
        assert_eq!(bench.get(BUFFER, 4), *b"a-se");
    }
}

#[test]
fn unknown_types_are_unsupported() {
    for bench in Bench::both(false) {
        for kind in [2, 3, 5, 10, 14, 15, 0x8000_0000, u32::MAX] {
            assert_eq!(
                bench.request(kind, 0, &[]),
                (VIRTIO_BLK_S_UNSUPP, 1),
                "{kind}"
            );
        }
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    for bench in Bench::both(true) {
        let segment = bench.segments(&[(0, 1, 0)]);
        for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
            assert_eq!(bench.request(kind, 0, &[segment]), (VIRTIO_BLK_S_IOERR, 1));
        }
        assert_eq!(
            bench.request(VIRTIO_BLK_T_OUT, 0, &[readable(BUFFER, 512)]),
            (VIRTIO_BLK_S_IOERR, 1)
        );
        assert_eq!(
            bench.request(VIRTIO_BLK_T_FLUSH, 0, &[]),
            (VIRTIO_BLK_S_OK, 1)
        );
        assert_eq!(
            bench.request(VIRTIO_BLK_T_IN, 0, &[writable(BUFFER, 512)]),
            (VIRTIO_BLK_S_OK, 513)
        );
        assert_eq!(bench.image(), Bench::content());
    }
}

#[test]
fn write_zeroes_reads_as_zeros_afterwards() {
    for flags in [0, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP] {
        let bench = Bench::new(false);
        let segment = bench.segments(&[(1, 2, flags)]);
        assert_eq!(
            bench.request(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[segment]),
            (VIRTIO_BLK_S_OK, 1)
        );
        assert_eq!(bench.image()[512..1536], [0; 1024]);
        assert_eq!(bench.image()[..512], Bench::content()[..512]);
        assert_eq!(bench.image()[1536..], Bench::content()[1536..]);
    }
}

#[test]
fn discard_leaves_the_rest_alone() {
    let bench = Bench::new(false);
    let segments = bench.segments(&[(8, 8, 0), (24, 8, 0), (40, 0, 0)]);
    assert_eq!(
        bench.request(VIRTIO_BLK_T_DISCARD, 0, &[segments]),
        (VIRTIO_BLK_S_OK, 1)
    );
    for (from, to) in [(0, 8), (16, 24), (32, SECTORS as usize)] {
        assert_eq!(
            bench.image()[from * 512..to * 512],
            Bench::content()[from * 512..to * 512]
        );
    }
}

#[test]
fn discard_and_write_zeroes_keep_to_their_limits() {
    let bench = Bench::new(false);
    let request =
        |kind, segments: &[(u64, u32, u32)]| bench.request(kind, 0, &[bench.segments(segments)]).0;
    let (discard, zero) = (VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES);
    // Unknown flags, and unmap on a discard: "MUST set the status byte to VIRTIO_BLK_S_UNSUPP".
    for flags in [1, 2, 3, 0x8000_0000] {
        assert_eq!(request(discard, &[(0, 1, flags)]), VIRTIO_BLK_S_UNSUPP);
    }
    for flags in [2, 3, 0x8000_0000] {
        assert_eq!(request(zero, &[(0, 1, flags)]), VIRTIO_BLK_S_UNSUPP);
    }
    for kind in [discard, zero] {
        for segment in [
            (SECTORS, 1, 0),
            (0, SECTORS as u32 + 1, 0),
            (u64::MAX, 1, 0),
            (0, u32::MAX, 0),
        ] {
            assert_eq!(request(kind, &[segment]), VIRTIO_BLK_S_IOERR, "{segment:?}");
        }
        assert_eq!(request(kind, &[]), VIRTIO_BLK_S_IOERR);
        assert_eq!(
            bench.request(kind, 0, &[readable(BUFFER, 15)]).0,
            VIRTIO_BLK_S_IOERR
        );
        assert_eq!(
            bench.request(kind, 0, &[readable(BUFFER, 17)]).0,
            VIRTIO_BLK_S_IOERR
        );
    }
    assert_eq!(request(zero, &[(0, 1, 0); 2]), VIRTIO_BLK_S_IOERR);
    assert_eq!(request(discard, &[(0, 1, 0); 17]), VIRTIO_BLK_S_IOERR);
    assert_eq!(bench.image(), Bench::content());
    assert_eq!(request(discard, &[(0, 0, 0); 16]), VIRTIO_BLK_S_OK);
}

#[test]
fn what_is_no_request() {
    for bench in Bench::both(false) {
        bench.header(VIRTIO_BLK_T_IN, 0);
        let end_of_ram = RAM + RAM_SIZE as u64;
        let (header, status) = (readable(HEADER, 16), writable(STATUS, 1));
        assert_eq!(bench.run(&[header]), Err(Malformed::NoStatus));
        assert_eq!(
            bench.run(&[header, writable(STATUS, 0)]),
            Err(Malformed::NoStatus)
        );
        assert_eq!(bench.run(&[status]), Err(Malformed::ShortHeader));
        assert_eq!(
            bench.run(&[readable(HEADER, 15), status]),
            Err(Malformed::ShortHeader)
        );
        assert_eq!(bench.run(&[status, header]), Err(Malformed::Order));
        assert_eq!(
            bench.run(&[header, readable(BUFFER, 16), status, header]),
            Err(Malformed::Order)
        );
        for (address, length) in [
            (0, 1),
            (end_of_ram, 1),
            (end_of_ram - 511, 512),
            (u64::MAX - 3, 512),
            (RAM, u32::MAX),
        ] {
            assert!(matches!(
                bench.run(&[header, writable(address, length), status]),
                Err(Malformed::Address(_))
            ));
        }
        assert_eq!(
            bench.run(&vec![status; MAX_DESCRIPTORS + 1]),
            Err(Malformed::TooLong)
        );
        let mut chain_of = Chain::default();
        assert_eq!(
            chain_of.load(&bench.memory, std::iter::empty()),
            Err(Malformed::Chain)
        );
        let cut = chain(0, &[header, status, status]).into_iter().take(2);
        assert_eq!(chain_of.load(&bench.memory, cut), Err(Malformed::Chain));
        assert_eq!(bench.get(STATUS, 1), [UNTOUCHED]);
        assert_eq!(bench.image(), Bench::content());
    }
}

#[test]
fn a_chain_can_be_used_again() {
    let bench = Bench::new(false);
    let mut chain_of = Chain::default();
    for sector in 0..4 {
        bench.header(VIRTIO_BLK_T_IN, sector);
        let buffers = [
            readable(HEADER, 16),
            writable(BUFFER, 512),
            writable(STATUS, 1),
        ];
        chain_of
            .load(&bench.memory, chain(0, &buffers).into_iter())
            .unwrap();
        assert_eq!(bench.executor.execute(&mut chain_of), Ok(513));
        let from = sector as usize * 512;
        assert_eq!(bench.get(BUFFER, 512), Bench::content()[from..from + 512]);
    }
}
