//! Reads and writes of a raw image in the host's memory, past the guest's page cache.

use super::Result;
use super::guest::{Bench, DISK, Done, Results};
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;

/// A figure: its name, the task, block size in bytes, requests, depth; and whether it is for one request or for all.
struct Access(&'static str, &'static str, u64, u64, u64, bool);

const ACCESSES: [Access; 6] = [
    Access("read 64 MiB", "disk-read", 1 << 20, 64, 1, false),
    Access("write 64 MiB", "disk-write", 1 << 20, 64, 1, false),
    Access("one 4 KiB read", "disk-read", 4096, 2000, 1, true),
    Access("one 4 KiB write", "disk-write", 4096, 2000, 1, true),
    Access(
        "one 4 KiB read, 32 at a time",
        "disk-read",
        4096,
        4000,
        32,
        true,
    ),
    Access(
        "one 4 KiB write, 32 at a time",
        "disk-write",
        4096,
        4000,
        32,
        true,
    ),
];

impl Access {
    fn task(&self, path: &str) -> String {
        let Access(_, task, block, count, depth, _) = self;
        format!("{task}:{path}:{block}:{count}:{depth}")
    }
}

/// The disk in a guest.
const GUEST: &str = "/dev/vda";

/// What a guest does.
pub(super) fn tasks() -> Vec<String> {
    ACCESSES.iter().map(|access| access.task(GUEST)).collect()
}

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    record(&bench.standard_guest(vmm, Size::Usual)?, place)
}

pub(super) fn record(done: &Done, place: &mut Place<'_>) -> Result<()> {
    times(&done.results, GUEST, place)
}

/// The same requests for the file itself.
pub(super) fn floor(bench: &Bench, place: &mut Place<'_>) -> Result<()> {
    let mut results = Results::default();
    for access in &ACCESSES {
        results.merge(bench.in_host(&access.task(DISK))?);
    }
    times(&results, DISK, place)
}

fn times(results: &Results, path: &str, place: &mut Place<'_>) -> Result<()> {
    for access in &ACCESSES {
        let Access(name, _, _, count, _, each) = access;
        let time = float(results.one(&access.task(path))?);
        place.time(name, if *each { time / float(*count) } else { time });
    }
    Ok(())
}
