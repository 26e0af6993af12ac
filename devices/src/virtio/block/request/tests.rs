//! Checked against VIRTIO 1.3, section 5.2.6.

use std::io::Write;
use std::sync::Mutex;

use hv_test_limit::{Watch, watch};
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{Call, TestBackend};
use super::super::{ImageFormat, OnError, Raw, RequestError};
use super::*;
use crate::memory::GuestMemoryMmap;
use crate::virtio::chain::MAX_DESCRIPTORS;
use crate::virtio::testing::{DATA, RAM, RAM_SIZE, chain, memory, readable, writable};

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const SECTORS: u64 = 64;
/// What the status byte holds before a request.
const UNTOUCHED: u8 = 0xee;

/// Requests on a raw image.
struct Bench {
    file: NamedTempFile,
    memory: GuestMemoryMmap,
    executor: Executor,
    /// Requests are tried on the spot first. Whether that works is up to the file system.
    now: bool,
    _watch: Watch,
}

impl Bench {
    fn new(read_only: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&Self::content()).unwrap();
        let disk = Raw::open(file.path(), read_only, ImageFormat::Raw).unwrap();
        let executor = Executor::new(
            Arc::new(disk),
            "a-serial".parse().unwrap(),
            false,
            Policy::default(),
        );
        Self {
            file,
            memory: memory(),
            executor,
            now: false,
            _watch: watch(),
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
        let used = self
            .executor
            .execute(&mut chain_of, &AtomicBool::new(false))?;
        Ok(used.expect("it is not given up"))
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
        assert_eq!(
            bench
                .executor
                .execute(&mut chain_of, &AtomicBool::new(false)),
            Ok(Some(513))
        );
        let from = sector as usize * 512;
        assert_eq!(bench.get(BUFFER, 512), Bench::content()[from..from + 512]);
    }
}

/// Requests on a back end that tells what was asked of it.
struct Account {
    backend: Arc<TestBackend>,
    memory: GuestMemoryMmap,
    executor: Executor,
}

/// The largest request here.
const LARGE: u64 = 2 * PIECE + 3 * SECTOR_SIZE;

impl Account {
    fn new(backend: TestBackend, write_through: bool) -> Self {
        let backend = Arc::new(backend);
        Self {
            executor: Executor::new(
                backend.clone(),
                Serial::default(),
                write_through,
                Policy::default(),
            ),
            backend,
            memory: GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 32 << 20)]).unwrap(),
        }
    }

    fn disk(write_through: bool) -> Self {
        Self::new(TestBackend::new(SECTORS, false), write_through)
    }

    /// The chain of a request, whose segment for discard and write-zeroes is two sectors from sector 1 on.
    fn chain(&self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> Chain<'_> {
        let memory = &self.memory;
        memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
        memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
        memory.write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
        let mut buffers = vec![readable(HEADER, 16)];
        buffers.extend_from_slice(data);
        if matches!(kind, VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) {
            memory.write_obj(1_u64, GuestAddress(BUFFER)).unwrap();
            memory.write_obj(2_u64, GuestAddress(BUFFER + 8)).unwrap();
            buffers.push(readable(BUFFER, 16));
        }
        buffers.push(writable(STATUS, 1));
        let mut chain_of = Chain::default();
        chain_of
            .load(memory, chain(0, &buffers).into_iter())
            .unwrap();
        chain_of
    }

    fn status(&self) -> u32 {
        let status: u8 = self.memory.read_obj(GuestAddress(STATUS)).unwrap();
        status.into()
    }

    /// Executes a request, and returns its status and what it took.
    fn execute(&self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u32, Vec<Call>) {
        let mut chain_of = self.chain(kind, sector, data);
        let never = AtomicBool::new(false);
        let used = self.executor.execute(&mut chain_of, &never).unwrap();
        assert!(used.is_some(), "it is not given up");
        (self.status(), self.backend.calls())
    }

    /// Tries a request on the spot. Returns the used length and what it took.
    fn execute_now(&self, kind: u32, data: &[(u64, u32, u16)]) -> (Option<u32>, Vec<Call>) {
        let mut chain_of = self.chain(kind, 1, data);
        let used = self.executor.execute_now(&mut chain_of).unwrap();
        (used, self.backend.calls())
    }
}

const SECTOR: u32 = SECTOR_SIZE as u32;

#[test]
fn a_flush_is_one_sync() {
    for write_through in [false, true] {
        let account = Account::disk(write_through);
        assert_eq!(
            account.execute(VIRTIO_BLK_T_FLUSH, 0, &[]),
            (VIRTIO_BLK_S_OK, vec![Call::Flush])
        );
    }
}

#[test]
fn every_change_is_synced_where_the_driver_cannot_flush() {
    for (kind, data, call) in [
        (
            VIRTIO_BLK_T_OUT,
            vec![readable(BUFFER, SECTOR)],
            Call::Write(512, 512),
        ),
        (VIRTIO_BLK_T_DISCARD, vec![], Call::Discard(512, 1024)),
        (
            VIRTIO_BLK_T_WRITE_ZEROES,
            vec![],
            Call::WriteZeroes(512, 1024, false),
        ),
    ] {
        let synced = Account::disk(true).execute(kind, 1, &data);
        assert_eq!(synced, (VIRTIO_BLK_S_OK, vec![call, Call::Flush]), "{kind}");
        let cached = Account::disk(false).execute(kind, 1, &data);
        assert_eq!(cached, (VIRTIO_BLK_S_OK, vec![call]), "{kind}");
    }
    for write_through in [false, true] {
        let account = Account::disk(write_through);
        let (status, calls) = account.execute(VIRTIO_BLK_T_IN, 1, &[writable(BUFFER, SECTOR)]);
        assert_eq!(
            (status, calls),
            (VIRTIO_BLK_S_OK, vec![Call::Read(512, 512)])
        );
    }
}

#[test]
fn what_fails_is_not_synced_and_what_was_not_synced_has_failed() {
    let account = Account::disk(true);
    account.backend.error.store(libc::EIO, Ordering::Relaxed);
    let data = [readable(BUFFER, SECTOR)];
    assert_eq!(
        account.execute(VIRTIO_BLK_T_OUT, 1, &data),
        (VIRTIO_BLK_S_IOERR, vec![Call::Write(512, 512)])
    );
    account.backend.error.store(0, Ordering::Relaxed);
    account
        .backend
        .sync_error
        .store(libc::ENOSPC, Ordering::Relaxed);
    for (kind, data) in [
        (VIRTIO_BLK_T_OUT, &data[..]),
        (VIRTIO_BLK_T_DISCARD, &[]),
        (VIRTIO_BLK_T_WRITE_ZEROES, &[]),
    ] {
        let (status, calls) = account.execute(kind, 1, data);
        assert_eq!((status, calls.len()), (VIRTIO_BLK_S_IOERR, 2), "{kind}");
        assert_eq!(calls.last(), Some(&Call::Flush));
    }
}

#[test]
fn the_quick_path_reads_and_writes_without_a_sync() {
    let account = Account::disk(false);
    let read = account.execute_now(VIRTIO_BLK_T_IN, &[writable(BUFFER, SECTOR)]);
    assert_eq!(read, (Some(SECTOR + 1), vec![Call::ReadNow(512, 512)]));
    assert_eq!(account.status(), VIRTIO_BLK_S_OK);
    let write = account.execute_now(VIRTIO_BLK_T_OUT, &[readable(BUFFER, SECTOR)]);
    assert_eq!(write, (Some(1), vec![Call::WriteNow(512, 512)]));
    assert_eq!(account.status(), VIRTIO_BLK_S_OK);
}

/// Whatever the back end would do.
#[test]
fn nothing_that_changes_a_read_only_disk_reaches_its_back_end() {
    for kind in [
        VIRTIO_BLK_T_OUT,
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
    ] {
        let account = Account::new(TestBackend::new(SECTORS, true), false);
        let data = match kind {
            VIRTIO_BLK_T_OUT => vec![readable(BUFFER, SECTOR)],
            _ => Vec::new(),
        };
        let refused = account.execute(kind, 1, &data);
        assert_eq!(refused, (VIRTIO_BLK_S_IOERR, vec![]), "{kind}");
    }
}

#[test]
fn the_quick_path_is_not_for_what_has_to_be_synced_or_may_wait() {
    for (read_only, write_through) in [(false, true), (true, false), (true, true)] {
        let backend = TestBackend::new(SECTORS, read_only);
        let account = Account::new(backend, write_through);
        let write = account.execute_now(VIRTIO_BLK_T_OUT, &[readable(BUFFER, SECTOR)]);
        assert_eq!(write, (None, vec![]), "{read_only} {write_through}");
        let (read, _) = account.execute_now(VIRTIO_BLK_T_IN, &[writable(BUFFER, SECTOR)]);
        assert!(read.is_some(), "a read is as quick as ever");
    }
    let account = Account::new(TestBackend::new(LARGE / 512, false), false);
    for kind in [
        VIRTIO_BLK_T_FLUSH,
        VIRTIO_BLK_T_DISCARD,
        VIRTIO_BLK_T_WRITE_ZEROES,
        VIRTIO_BLK_T_GET_ID,
        77,
    ] {
        assert_eq!(account.execute_now(kind, &[]), (None, vec![]), "{kind}");
    }
    let limit = MAX_NOW as u32;
    let (fits, _) = account.execute_now(VIRTIO_BLK_T_IN, &[writable(BUFFER, limit)]);
    assert_eq!(fits, Some(limit + 1));
    let beyond = account.execute_now(VIRTIO_BLK_T_IN, &[writable(BUFFER, limit + SECTOR)]);
    assert_eq!(beyond, (None, vec![]));
    assert_eq!(account.status(), u32::from(UNTOUCHED));
}

#[test]
fn what_the_back_end_declines_is_not_done() {
    let mut backend = TestBackend::new(SECTORS, false);
    backend.quick = false;
    let account = Account::new(backend, false);
    for (kind, data) in [
        (VIRTIO_BLK_T_IN, writable(BUFFER, SECTOR)),
        (VIRTIO_BLK_T_OUT, readable(BUFFER, SECTOR)),
    ] {
        let (used, calls) = account.execute_now(kind, &[data]);
        assert_eq!((used, calls.len()), (None, 1), "{kind}");
        assert_eq!(account.status(), u32::from(UNTOUCHED), "{kind}");
        let (status, calls) = account.execute(kind, 1, &[data]);
        assert_eq!((status, calls.len()), (VIRTIO_BLK_S_OK, 1), "{kind}");
    }
}

/// Every error of the host is an I/O error of the guest's request, and of no other.
#[test]
fn errors_of_the_host_reach_the_guest() {
    for error in [
        libc::EIO,
        libc::ENOSPC,
        libc::EFBIG,
        libc::EDQUOT,
        libc::ENOMEM,
    ] {
        let account = Account::disk(false);
        for kind in [
            VIRTIO_BLK_T_IN,
            VIRTIO_BLK_T_OUT,
            VIRTIO_BLK_T_FLUSH,
            VIRTIO_BLK_T_DISCARD,
            VIRTIO_BLK_T_WRITE_ZEROES,
        ] {
            let data = match kind {
                VIRTIO_BLK_T_IN => vec![writable(BUFFER, SECTOR)],
                VIRTIO_BLK_T_OUT => vec![readable(BUFFER, SECTOR)],
                _ => vec![],
            };
            account.backend.error.store(error, Ordering::Relaxed);
            let (now, _) = account.execute_now(kind, &data);
            assert_eq!(now, None, "the worker finds out and reports");
            let (status, calls) = account.execute(kind, 1, &data);
            assert_eq!(
                (status, calls.len()),
                (VIRTIO_BLK_S_IOERR, 1),
                "{kind} {error}"
            );
            account.backend.error.store(0, Ordering::Relaxed);
            let (status, calls) = account.execute(kind, 1, &data);
            assert_eq!(
                (status, calls.len()),
                (VIRTIO_BLK_S_OK, 1),
                "{kind} {error}"
            );
        }
    }
}

/// A request that is held has no status, and can be carried out later. Which ones are is the policy's to say; a flush is not.
#[test]
fn the_policy_says_what_is_held() {
    const KINDS: [(u32, &str); 5] = [
        (VIRTIO_BLK_T_IN, "read"),
        (VIRTIO_BLK_T_OUT, "write"),
        (VIRTIO_BLK_T_DISCARD, "discard"),
        (VIRTIO_BLK_T_WRITE_ZEROES, "write zeroes"),
        (VIRTIO_BLK_T_FLUSH, "flush"),
    ];
    let held_by = |policy: OnError, error: i32| match policy {
        OnError::Report => false,
        OnError::HoldNoSpace => [libc::ENOSPC, libc::EDQUOT].contains(&error),
        OnError::Hold => true,
    };
    for policy in [OnError::Report, OnError::HoldNoSpace, OnError::Hold] {
        for error in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EFBIG] {
            for (kind, operation) in KINDS {
                let told = Arc::<Mutex<Vec<RequestError>>>::default();
                let listener = told.clone();
                let mut account = Account::disk(false);
                account.executor.policy = Policy::new(
                    policy,
                    Arc::new(move |error| listener.lock().unwrap().push(error)),
                );
                let data = match kind {
                    VIRTIO_BLK_T_IN => vec![writable(BUFFER, SECTOR)],
                    VIRTIO_BLK_T_OUT => vec![readable(BUFFER, SECTOR)],
                    _ => vec![],
                };
                account.backend.error.store(error, Ordering::Relaxed);
                let mut chain_of = account.chain(kind, 1, &data);
                let never = AtomicBool::new(false);
                let used = account.executor.execute(&mut chain_of, &never).unwrap();
                let told = std::mem::take(&mut *told.lock().unwrap());
                let context = format!("{policy:?} {error} {operation}");
                if kind == VIRTIO_BLK_T_FLUSH || !held_by(policy, error) {
                    assert!(used.is_some() && told.is_empty(), "{context}");
                    assert_eq!(account.status(), VIRTIO_BLK_S_IOERR, "{context}");
                    continue;
                }
                assert_eq!(used, None, "{context}");
                assert_eq!(account.status(), u32::from(UNTOUCHED), "{context}");
                let length = match kind {
                    VIRTIO_BLK_T_IN | VIRTIO_BLK_T_OUT => 512,
                    _ => 1024,
                };
                assert_eq!(
                    told,
                    [RequestError {
                        operation,
                        offset: 512,
                        length,
                        kind: std::io::Error::from_raw_os_error(error).kind(),
                        reason: nix::errno::Errno::from_raw(error).desc().into(),
                    }]
                );
                account.backend.calls();
                account.backend.error.store(0, Ordering::Relaxed);
                let (status, calls) = account.execute(kind, 1, &data);
                assert_eq!((status, calls.len()), (VIRTIO_BLK_S_OK, 1), "{context}");
            }
        }
    }
}

/// What the driver cannot flush itself is written and synced by one request, of which the sync is not repeated.
#[test]
fn a_sync_that_fails_is_never_held() {
    let mut account = Account::disk(true);
    account.executor.policy = Policy::new(OnError::Hold, Arc::new(|error| panic!("{error:?}")));
    account
        .backend
        .sync_error
        .store(libc::EIO, Ordering::Relaxed);
    let (status, calls) = account.execute(VIRTIO_BLK_T_OUT, 1, &[readable(BUFFER, SECTOR)]);
    assert_eq!(status, VIRTIO_BLK_S_IOERR);
    assert_eq!(calls, [Call::Write(512, 512), Call::Flush]);
}

/// The piece that failed is told, not the request.
#[test]
fn a_long_request_is_held_at_the_piece_that_failed() {
    let (sender, told) = std::sync::mpsc::channel();
    let mut account = Account::new(TestBackend::new(LARGE / 512, false), false);
    account.executor.policy = Policy::new(
        OnError::Hold,
        Arc::new(move |error| sender.send(error).unwrap()),
    );
    account.backend.fail_from.store(PIECE, Ordering::Relaxed);
    account.backend.error.store(libc::ENOSPC, Ordering::Relaxed);
    let data = [readable(BUFFER, LARGE as u32)];
    let mut chain_of = account.chain(VIRTIO_BLK_T_OUT, 0, &data);
    let never = AtomicBool::new(false);
    let used = account.executor.execute(&mut chain_of, &never).unwrap();
    assert_eq!(used, None);
    let told = told.try_recv().unwrap();
    assert_eq!((told.offset, told.length), (PIECE, PIECE));
    let calls = account.backend.calls();
    assert_eq!(calls, [Call::Write(0, PIECE), Call::Write(PIECE, PIECE)]);
    // From its start, as the guest may have changed the buffers.
    account.backend.error.store(0, Ordering::Relaxed);
    let (status, calls) = account.execute(VIRTIO_BLK_T_OUT, 0, &data);
    assert_eq!((status, calls.len()), (VIRTIO_BLK_S_OK, 3));
    assert_eq!(calls[0], Call::Write(0, PIECE));
}

#[test]
fn segments_of_the_greatest_length_are_taken() {
    let mut account = Account::disk(false);
    account.executor.sectors = u64::MAX;
    for (kind, max) in [
        (VIRTIO_BLK_T_DISCARD, MAX_DISCARD_SECTORS),
        (VIRTIO_BLK_T_WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS),
    ] {
        for (sectors, taken) in [(max, true), (max + 1, false)] {
            let mut chain_of = account.chain(kind, 0, &[]);
            let count = GuestAddress(BUFFER + 8);
            account.memory.write_obj(sectors, count).unwrap();
            // It fails at its first piece, as the back end is not that large, or before.
            account.backend.error.store(libc::EIO, Ordering::Relaxed);
            let never = AtomicBool::new(false);
            account.executor.execute(&mut chain_of, &never).unwrap();
            let asked = !account.backend.calls().is_empty();
            assert_eq!(asked, taken, "{kind} {sectors}");
        }
    }
}

#[test]
fn zeros_are_written_in_pieces() {
    let account = Account::new(TestBackend::new(LARGE / 512, false), true);
    let mut chain_of = account.chain(VIRTIO_BLK_T_WRITE_ZEROES, 0, &[]);
    let sectors = u32::try_from(LARGE / 512 - 1).unwrap();
    let count = GuestAddress(BUFFER + 8);
    account.memory.write_obj(sectors, count).unwrap();
    let never = AtomicBool::new(false);
    account.executor.execute(&mut chain_of, &never).unwrap();
    let call = Call::WriteZeroes;
    assert_eq!(
        account.backend.calls(),
        [
            call(512, PIECE, false),
            call(512 + PIECE, PIECE, false),
            call(512 + 2 * PIECE, 1024, false),
            Call::Flush
        ]
    );
    assert!(account.backend.bytes()[512..].iter().all(|byte| *byte == 0));
}

/// A long request is done in pieces, however it is cut into buffers.
#[test]
fn long_requests_are_done_in_pieces() {
    let (large, piece) = (LARGE as u32, PIECE as u32);
    let cuts: [&[u32]; 5] = [
        &[large],
        &[piece, piece, 3 * SECTOR],
        &[512, piece, large - piece - 512],
        &[piece - 1, 1, 1, large - piece - 1],
        &[1 << 20; 8],
    ];
    let account = Account::new(TestBackend::new(LARGE / 512, false), false);
    let content = account.backend.bytes();
    for cut in cuts {
        let mut at = BUFFER;
        let mut data = Vec::new();
        for length in cut {
            data.push((at, *length));
            at += u64::from(*length);
        }
        let total = (at - BUFFER) as usize;
        let place = |kind: fn(u64, u32) -> (u64, u32, u16)| {
            data.iter()
                .map(|(at, length)| kind(*at, *length))
                .collect::<Vec<_>>()
        };
        let (status, calls) = account.execute(VIRTIO_BLK_T_IN, 0, &place(writable));
        assert_eq!(status, VIRTIO_BLK_S_OK);
        let mut end = 0;
        for call in &calls {
            let Call::Read(offset, length) = *call else {
                panic!("{call:?}");
            };
            assert_eq!(offset, end, "{calls:?}");
            assert!(0 < length && length <= PIECE, "{calls:?}");
            end += length;
        }
        assert_eq!(end, total as u64);
        assert!(calls.len() <= 4, "no more than it takes: {calls:?}");
        let mut found = vec![0; total];
        account
            .memory
            .read_slice(&mut found, GuestAddress(BUFFER))
            .unwrap();
        assert!(found == content[..total], "{cut:?}");

        found.reverse();
        account
            .memory
            .write_slice(&found, GuestAddress(BUFFER))
            .unwrap();
        let (status, writes) = account.execute(VIRTIO_BLK_T_OUT, 0, &place(readable));
        assert_eq!((status, writes.len()), (VIRTIO_BLK_S_OK, calls.len()));
        assert!(account.backend.bytes()[..total] == found, "{cut:?}");
        found.reverse();
        account
            .memory
            .write_slice(&found, GuestAddress(BUFFER))
            .unwrap();
        account.execute(VIRTIO_BLK_T_OUT, 0, &place(readable));
    }
}

#[test]
fn a_reset_is_noticed_between_two_pieces() {
    let large = LARGE as u32;
    for (kind, data) in [
        (VIRTIO_BLK_T_IN, vec![writable(BUFFER, large)]),
        (VIRTIO_BLK_T_IN, vec![writable(BUFFER, 1 << 20); 8]),
        (VIRTIO_BLK_T_OUT, vec![readable(BUFFER, large)]),
    ] {
        let account = Account::new(TestBackend::new(LARGE / 512, false), true);
        let mut chain_of = account.chain(kind, 0, &data);
        let stop = &account.backend.stop;
        assert_eq!(account.executor.execute(&mut chain_of, stop), Ok(None));
        assert_eq!(account.backend.calls().len(), 1, "{kind}");
        assert_eq!(
            account.status(),
            u32::from(UNTOUCHED),
            "nobody waits for it"
        );
    }
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        let account = Account::disk(true);
        let mut chain_of = account.chain(kind, 0, &[]);
        let stop = AtomicBool::new(true);
        assert_eq!(account.executor.execute(&mut chain_of, &stop), Ok(None));
        assert_eq!(account.backend.calls(), []);
    }
}
