//! What is used of QEMU's interface for plugins (qemu-plugin.h, version 4), and of GLib beneath it.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The plugin's number.
pub type Id = u64;

/// The version of the interface.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    score: *mut c_void,
    offset: usize,
}

/// GLib's `GArray` and `GByteArray`.
#[repr(C)]
struct Array {
    data: *mut u8,
    length: c_uint,
}

#[repr(C)]
struct Descriptor {
    handle: *mut c_void,
    name: *const c_char,
    feature: *const c_char,
}

const ADD_U64: c_int = 0;
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_init_cb(id: Id, call: extern "C" fn(Id, c_uint));
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, call: extern "C" fn(Id, Block));
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const c_void) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const c_void, index: usize) -> *mut c_void;
    fn qemu_plugin_insn_data(instruction: *const c_void, to: *mut u8, size: usize) -> usize;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut c_void,
        call: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut c_void,
        op: c_int,
        entry: Entry,
        value: u64,
    );
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut c_void;
    fn qemu_plugin_scoreboard_find(score: *mut c_void, hart: c_uint) -> *mut u64;
    fn qemu_plugin_get_registers() -> *mut Array;
    fn qemu_plugin_read_register(handle: *mut c_void, buffer: *mut Array) -> c_int;
    fn g_byte_array_new() -> *mut Array;
    fn g_byte_array_set_size(array: *mut Array, size: c_uint) -> *mut Array;
}

/// Has `call` called when the hart begins to run.
pub fn on_hart(id: Id, call: extern "C" fn(Id, c_uint)) {
    // SAFETY: the function is there for as long as the plugin, which is never unloaded.
    unsafe { qemu_plugin_register_vcpu_init_cb(id, call) };
}

/// Has `call` called for each block that is translated.
pub fn on_translation(id: Id, call: extern "C" fn(Id, Block)) {
    // SAFETY: as above.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, call) };
}

/// A block while it is translated.
#[repr(transparent)]
pub struct Block(*mut c_void);

impl Block {
    /// Its address.
    pub fn address(&self) -> u64 {
        // SAFETY: QEMU gave it to the callback that this runs in.
        unsafe { qemu_plugin_tb_vaddr(self.0) }
    }

    /// Its instructions.
    pub fn length(&self) -> usize {
        // SAFETY: as above.
        unsafe { qemu_plugin_tb_n_insns(self.0) }
    }

    /// One of them.
    pub fn instruction(&self, number: usize) -> Instruction<'_> {
        // SAFETY: as above; the number is one of the block's.
        Instruction(unsafe { qemu_plugin_tb_get_insn(self.0, number) }, self)
    }
}

/// An instruction of a block.
pub struct Instruction<'b>(
    *mut c_void,
    #[expect(dead_code, reason = "it lives as long")] &'b Block,
);

impl Instruction<'_> {
    /// Its 32 bits, the upper 16 of a compressed one zero.
    pub fn word(&self) -> u32 {
        let mut bytes = [0; 4];
        // SAFETY: QEMU writes at most as many bytes as there are.
        unsafe { qemu_plugin_insn_data(self.0, bytes.as_mut_ptr(), bytes.len()) };
        u32::from_le_bytes(bytes)
    }

    /// Has `call` called when it is executed.
    pub fn call(&self, call: extern "C" fn(c_uint, *mut c_void)) {
        // SAFETY: the function is there for as long as the plugin, and makes nothing of the pointer.
        unsafe {
            qemu_plugin_register_vcpu_insn_exec_cb(
                self.0,
                call,
                NO_REGISTERS,
                std::ptr::null_mut(),
            );
        }
    }
}

/// Numbers that translated code counts up, for hart 0.
pub struct Counter {
    score: *mut c_void,
    length: usize,
}

// SAFETY: the numbers belong to hart 0, in whose callbacks alone they are used.
unsafe impl Send for Counter {}
// SAFETY: as above.
unsafe impl Sync for Counter {}

impl Counter {
    /// As many numbers.
    pub fn new(length: usize) -> Self {
        // SAFETY: it allocates.
        let score = unsafe { qemu_plugin_scoreboard_new(length * size_of::<u64>()) };
        Self { score, length }
    }

    /// Adds a block's instructions to a number each time it is executed.
    pub fn count(&self, block: &Block, slot: usize) {
        let entry = Entry {
            score: self.score,
            offset: slot * size_of::<u64>(),
        };
        // SAFETY: the slot is one of the score's elements.
        unsafe {
            qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
                block.0,
                ADD_U64,
                entry,
                block.length() as u64,
            );
        }
    }

    /// The numbers.
    #[expect(clippy::mut_from_ref, reason = "hart 0's callbacks follow one another")]
    pub fn values(&self) -> &mut [u64] {
        // SAFETY: the element of hart 0 has as many numbers, and nobody else uses them while its callback runs.
        unsafe {
            std::slice::from_raw_parts_mut(qemu_plugin_scoreboard_find(self.score, 0), self.length)
        }
    }
}

/// The register that tells a hart's mode.
pub struct Registers {
    privilege: *mut c_void,
    buffer: *mut Array,
}

// SAFETY: the handles are numbers, and the buffer is used by one callback at a time, under the state's lock.
unsafe impl Send for Registers {}

impl Registers {
    /// Those of the hart whose callback this is called in.
    pub fn find() -> Option<Self> {
        // SAFETY: an array of descriptors whose names are strings, made for the caller.
        let named = unsafe {
            let array = &*qemu_plugin_get_registers();
            let descriptors =
                std::slice::from_raw_parts(array.data.cast::<Descriptor>(), array.length as usize);
            move |wanted: &str| {
                let found = descriptors
                    .iter()
                    .find(|one| CStr::from_ptr(one.name).to_bytes() == wanted.as_bytes());
                found.map(|one| one.handle)
            }
        };
        Some(Self {
            privilege: named("priv")?,
            // SAFETY: it allocates.
            buffer: unsafe { g_byte_array_new() },
        })
    }

    fn read(&self, handle: *mut c_void) -> u64 {
        // SAFETY: the buffer is an array of GLib's, the handle one of QEMU's.
        let bytes = unsafe {
            g_byte_array_set_size(self.buffer, 0);
            qemu_plugin_read_register(handle, self.buffer);
            let buffer = &*self.buffer;
            std::slice::from_raw_parts(buffer.data, buffer.length as usize)
        };
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    /// The hart's privilege, and 1 if it is virtualized: bit 2 of QEMU's register for debuggers.
    pub fn mode(&mut self) -> (u64, u64) {
        let mode = self.read(self.privilege);
        (mode & 0b11, mode >> 2 & 1)
    }
}
