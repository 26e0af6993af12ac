//! Reads and writes of a disk or a file, past the page cache, at a queue depth of choice.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::clock::timed;

/// What O_DIRECT asks of a buffer's address, bytes.
const ALIGNMENT: usize = 4096;

/// One after the other, from the start of the disk on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    block: usize,
    count: u64,
    depth: usize,
}

impl Access {
    /// `count` requests of `block` bytes, `depth` of them at a time.
    pub(crate) fn new(block: u64, count: u64, depth: u64) -> io::Result<Self> {
        let small = |number: u64| usize::try_from(number).map_err(io::Error::other);
        if block == 0 || depth == 0 || !block.is_multiple_of(512) {
            return Err(io::Error::other("no such access"));
        }
        Ok(Self {
            block: small(block)?,
            count,
            depth: small(depth)?,
        })
    }
}

/// Memory that O_DIRECT takes.
struct Buffer(*mut u8, Layout);

impl Buffer {
    fn new(size: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(size, ALIGNMENT).map_err(io::Error::other)?;
        // SAFETY: the callers' sizes are not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        if memory.is_null() {
            handle_alloc_error(layout);
        }
        let buffer = Self(memory, layout);
        // Touched, so that the first request does not pay for its pages.
        // SAFETY: the memory was just allocated with this size.
        unsafe { memory.write_bytes(0x5a, size) };
        Ok(buffer)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: allocated with this size, initialised, and borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1.size()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.0, self.1) };
    }
}

/// Makes a file that has all its blocks, and answers its size.
pub(crate) fn make(path: &str, size: u64) -> io::Result<u64> {
    let mut file = File::create(path)?;
    let block = vec![0xa5; 1 << 20];
    let mut left = size;
    while left > 0 {
        let part = left.min(1 << 20);
        file.write_all(
            block
                .get(..usize::try_from(part).unwrap_or(0))
                .unwrap_or_default(),
        )?;
        left -= part;
    }
    Ok(size)
}

/// The time that the reads take.
pub(crate) fn read(path: &str, access: Access) -> io::Result<u64> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    transfer(&file, access, IOCB_CMD_PREAD)
}

/// The time that the writes take, without a flush, as those of dd.
pub(crate) fn write(path: &str, access: Access) -> io::Result<u64> {
    let file = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)?;
    transfer(&file, access, IOCB_CMD_PWRITE)
}

fn transfer(file: &File, access: Access, command: u16) -> io::Result<u64> {
    if access.depth > 1 {
        return asynchronous(file, access, command);
    }
    let mut buffer = Buffer::new(access.block)?;
    timed(|| {
        for number in 0..access.count {
            let offset = number * access.block as u64;
            match command {
                IOCB_CMD_PREAD => file.read_exact_at(buffer.bytes(), offset)?,
                _ => file.write_all_at(buffer.bytes(), offset)?,
            }
        }
        Ok(())
    })
}

// linux/aio_abi.h
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// `struct iocb`, little-endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ControlBlock {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

fn check(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Linux's own asynchronous requests (io_submit(2)).
fn asynchronous(file: &File, access: Access, command: u16) -> io::Result<u64> {
    let mut context = 0_usize;
    // SAFETY: the kernel writes a context to the variable.
    check(unsafe { libc::syscall(libc::SYS_io_setup, access.depth, &raw mut context) })?;
    let mut buffers = Vec::new();
    for _ in 0..access.depth {
        buffers.push(Buffer::new(access.block)?);
    }
    let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let mut blocks: Vec<ControlBlock> = (0_u64..)
        .zip(&buffers)
        .map(|(slot, buffer)| ControlBlock {
            data: slot,
            opcode: command,
            fd,
            buffer: buffer.0 as u64,
            bytes: access.block as u64,
            ..ControlBlock::default()
        })
        .collect();
    let time = timed(|| {
        let mut next = 0;
        let mut done = 0;
        let mut free: Vec<usize> = (0..access.depth).collect();
        let mut events = vec![Event::default(); access.depth];
        while done < access.count {
            let mut pointers: Vec<*mut ControlBlock> = Vec::with_capacity(access.depth);
            while next < access.count {
                let Some(slot) = free.pop() else { break };
                let Some(block) = blocks.get_mut(slot) else {
                    break;
                };
                block.offset =
                    i64::try_from(next * access.block as u64).map_err(io::Error::other)?;
                pointers.push(&raw mut *block);
                next += 1;
            }
            if !pointers.is_empty() {
                // SAFETY: the control blocks and their buffers live until all their events have come, below.
                let taken = check(unsafe {
                    libc::syscall(
                        libc::SYS_io_submit,
                        context,
                        pointers.len(),
                        pointers.as_ptr(),
                    )
                })?;
                if taken != pointers.len() {
                    return Err(io::Error::other("not all requests were taken"));
                }
            }
            // SAFETY: the kernel writes at most as many events as there is room for.
            let count = check(unsafe {
                libc::syscall(
                    libc::SYS_io_getevents,
                    context,
                    1_usize,
                    events.len(),
                    events.as_mut_ptr(),
                    0_usize,
                )
            })?;
            for event in events.iter().take(count) {
                if event.result != access.block as i64 {
                    return Err(io::Error::other(format!(
                        "a request answered {}",
                        event.result
                    )));
                }
                free.push(usize::try_from(event.data).map_err(io::Error::other)?);
                done += 1;
            }
        }
        Ok(())
    });
    // SAFETY: it waits for whatever is still under way; the buffers are dropped after it.
    check(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    time
}
