//! Fuzz targets: what a guest, or a file, can do to devices, loaders and the bare-metal hypervisor's library.
//!
//! A target is a function of bytes that panics if something is wrong. Beside that nothing panics, each asserts what the
//! specification promises. Two runners call them: libFuzzer, guided by coverage (`cargo lab fuzz`; `src/bin/fuzz.rs`), and this
//! package's test, which runs the seeds and some random changes of them, in every build.

// A panic is what a target reports. It runs on a machine with 64 bits, and its inputs are small.
#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]

pub mod files;
pub mod input;
pub mod mutation;
pub mod targets;

use targets::{
    boot_files, bundle, clock, device_tree, instruction, kernel, keys, merged, plic, sbi, screen,
    uart, virtio,
};

/// What is fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// By which it is chosen.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Runs it on an input, and panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// The longest input that is worth a try, bytes.
    pub longest: usize,
    /// How many random inputs the test of this package runs.
    pub rounds: usize,
}

/// All targets.
pub const TARGETS: [Target; 17] = [
    Target {
        name: "instruction",
        about: "decoder of loads and stores, htinst and traps",
        run: instruction::run,
        seeds: instruction::seeds,
        longest: 512,
        rounds: 5000,
    },
    Target {
        name: "plic",
        about: "interrupt controller: registers and sources",
        run: plic::run,
        seeds: plic::seeds,
        longest: 512,
        rounds: 400,
    },
    Target {
        name: "uart",
        about: "serial port: registers and input",
        run: uart::run,
        seeds: uart::seeds,
        longest: 512,
        rounds: 3000,
    },
    Target {
        name: "clock",
        about: "real-time clock and test device: registers",
        run: clock::run,
        seeds: clock::seeds,
        longest: 512,
        rounds: 5000,
    },
    Target {
        name: "sbi",
        about: "SBI calls",
        run: sbi::run,
        seeds: sbi::seeds,
        longest: 1024,
        rounds: 3000,
    },
    Target {
        name: "kernel",
        about: "kernel files: Image, ELF, flat",
        run: kernel::run,
        seeds: kernel::seeds,
        longest: 4096,
        rounds: 5000,
    },
    Target {
        name: "boot-files",
        about: "compressed kernels and initrds, device trees",
        run: boot_files::run,
        seeds: boot_files::seeds,
        longest: 8192,
        rounds: 400,
    },
    Target {
        name: "device-tree",
        about: "device trees of the user's",
        run: device_tree::run,
        seeds: device_tree::seeds,
        longest: 8192,
        rounds: 150,
    },
    Target {
        name: "bundle",
        about: "hv-bare's bundles, host trees and partitioning",
        run: bundle::run,
        seeds: bundle::seeds,
        longest: 8192,
        rounds: 1000,
    },
    Target {
        name: "keys",
        about: "hvrun's keys in the input",
        run: keys::run,
        seeds: keys::seeds,
        longest: 512,
        rounds: 5000,
    },
    Target {
        name: "screen",
        about: "hv-bare's console of several guests",
        run: screen::run,
        seeds: screen::seeds,
        longest: 1024,
        rounds: 1000,
    },
    Target {
        name: "merged",
        about: "several consoles on one output",
        run: merged::run,
        seeds: merged::seeds,
        longest: 1024,
        rounds: 1000,
    },
    Target {
        name: "virtio-block",
        about: "block device, both forms of virtio-mmio",
        run: virtio::block,
        seeds: virtio::block_seeds,
        longest: 1024,
        rounds: 100,
    },
    Target {
        name: "virtio-net",
        about: "network device, both forms of virtio-mmio",
        run: virtio::net,
        seeds: virtio::net_seeds,
        longest: 1024,
        rounds: 100,
    },
    Target {
        name: "virtio-console",
        about: "console device, both forms of virtio-mmio",
        run: virtio::console,
        seeds: virtio::console_seeds,
        longest: 1024,
        rounds: 100,
    },
    Target {
        name: "virtio-rng",
        about: "entropy device, both forms of virtio-mmio",
        run: virtio::rng,
        seeds: virtio::rng_seeds,
        longest: 1024,
        rounds: 100,
    },
    Target {
        name: "virtio-vsock",
        about: "vsock device, both forms of virtio-mmio",
        run: virtio::vsock,
        seeds: virtio::vsock_seeds,
        longest: 1024,
        rounds: 100,
    },
];
