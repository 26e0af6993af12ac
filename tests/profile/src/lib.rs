//! A plugin for QEMU's TCG that counts the executed instructions of a machine with one hart, by mode and by translated block, between two
//! marks: instructions without effect that the lab's probe executes (`tests/probe/src/clock.rs`).
//!
//! Arguments: `out=FILE`, to which the counts of each marked stretch are appended, and `guest=on` for the marks of guests in place of those of
//! the host's own programs. A stretch is a line `stretch`, then a line for each block: mode (`U`, `S`, `M`, or `VU` and `VS` of
//! guests), address, instructions; all numbers hexadecimal.

mod qemu;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use qemu::{Block, Counter, Id, Registers};

/// Blocks that are counted each by itself. What is translated beyond them shares the last.
const BLOCKS: usize = 1 << 20;

/// The marks of the host and of its guests: begin and end.
const MARKS: [[u32; 2]; 2] = [mark(0x2b1, 0x2b2), mark(0x2b3, 0x2b4)];

/// `slti x0, x0, begin` and `slti x0, x0, end`.
const fn mark(begin: u32, end: u32) -> [u32; 2] {
    const SLTI: u32 = 0x2013;
    [begin << 20 | SLTI, end << 20 | SLTI]
}

/// A block's mode, as privilege and virtualization, and its address.
type Key = (u64, u64, u64);

struct Plugin {
    out: Mutex<BufWriter<File>>,
    marks: [u32; 2],
    counter: Counter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registers: Option<Registers>,
    slots: HashMap<Key, usize>,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

/// Called by QEMU when it loads the plugin.
///
/// # Safety
/// `argv` has `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let mut out = None;
    let mut marks = MARKS[0];
    for number in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: QEMU gives `argc` strings that end with a zero.
        let argument = unsafe { CStr::from_ptr(*argv.add(number)) }.to_string_lossy();
        match argument.split_once('=') {
            Some(("out", path)) => out = File::options().append(true).create(true).open(path).ok(),
            Some(("guest", "on")) => marks = MARKS[1],
            _ => {}
        }
    }
    let Some(out) = out else { return 1 };
    let plugin = Plugin {
        out: Mutex::new(BufWriter::new(out)),
        marks,
        counter: Counter::new(BLOCKS),
        state: Mutex::default(),
    };
    if PLUGIN.set(plugin).is_err() {
        return 1;
    }
    qemu::on_hart(id, hart_begins);
    qemu::on_translation(id, translated);
    0
}

extern "C" fn hart_begins(_: Id, _: c_uint) {
    if let Some(plugin) = PLUGIN.get() {
        let mut state = plugin.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.registers = Registers::find();
    }
}

extern "C" fn translated(_: Id, block: Block) {
    let Some(plugin) = PLUGIN.get() else { return };
    let mut state = plugin.state.lock().unwrap_or_else(PoisonError::into_inner);
    // A block is translated when it is first executed, and for one mode, which is the hart's now.
    let (privilege, virtualized) = state.registers.as_mut().map_or((0, 0), Registers::mode);
    let key = (privilege, virtualized, block.address());
    let next = state.slots.len().min(BLOCKS - 1);
    let slot = *state.slots.entry(key).or_insert(next);
    plugin.counter.count(&block, slot);
    for number in 0..block.length() {
        let instruction = block.instruction(number);
        match plugin
            .marks
            .iter()
            .position(|mark| *mark == instruction.word())
        {
            Some(0) => instruction.call(begin),
            Some(_) => instruction.call(end),
            None => {}
        }
    }
}

extern "C" fn begin(_: c_uint, _: *mut c_void) {
    if let Some(plugin) = PLUGIN.get() {
        plugin.counter.values().fill(0);
    }
}

extern "C" fn end(_: c_uint, _: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    let state = plugin.state.lock().unwrap_or_else(PoisonError::into_inner);
    let mut out = plugin.out.lock().unwrap_or_else(PoisonError::into_inner);
    let values = plugin.counter.values();
    let _ = writeln!(out, "stretch");
    for (&(privilege, virtualized, address), &slot) in &state.slots {
        let mode = match (privilege, virtualized) {
            (0, 0) => "U",
            (1, 0) => "S",
            (0, _) => "VU",
            (1, _) => "VS",
            _ => "M",
        };
        if let Some(count) = values.get(slot).filter(|count| **count > 0) {
            let _ = writeln!(out, "{mode} {address:x} {count:x}");
        }
    }
    // The machine may be killed at any time.
    let _ = out.flush();
}
