//! The way of a guest's files into its memory. Core's [`hv_core::placement`] decides where each lies.

use alloc::vec::Vec;

use hv_bare::bundle;
use hv_bare::lifecycle::Start;
use hv_core::addr::GuestPhysAddr;
use hv_core::devicetree::{self, given};
use hv_core::kernel;
use hv_core::machine::Machine;
use hv_core::placement::FreeMemory;
use hv_core::sbi::BadMemory;

use super::{Error, GuestMemory};

/// The largest device tree of the user's, bytes: some copies of it fit on the heap.
const MAX_TREE: usize = 512 << 10;

/// Puts the guest's files into its memory, and answers where its first hart begins.
pub fn load(
    files: &bundle::Guest<'_>,
    machine: &Machine,
    seed: Option<[u8; 32]>,
    memory: &GuestMemory,
) -> Result<Start, Error> {
    let ram = memory.range();
    let placement = kernel::place(files.kernel, &ram).map_err(|problem| match problem {
        // Its advice is for another flavor's user.
        kernel::Problem::TooLarge { .. } => Error::DoesNotFit("kernel"),
        problem => Error::Kernel(problem),
    })?;
    let mut machine = machine.clone();
    machine.rng_seed = seed;
    let mut free = FreeMemory::behind(&ram, &placement.occupied);
    let initrd = files.initrd;
    machine.initrd = initrd.map(|_| 0..0);
    // What was there before is not this guest's to know: the firmware's, another guest's, or its own before a reset.
    memory.clear();
    let size = tree(files, &machine)?.len() as u64;
    let tree_at = free.take(size).ok_or(Error::DoesNotFit("device tree"))?;
    if let Some(initrd) = initrd {
        let range = free
            .take(initrd.len() as u64)
            .ok_or(Error::DoesNotFit("initial RAM disk"))?;
        write(memory, range.start, initrd, "initial RAM disk")?;
        machine.initrd = Some(range);
    }
    let blob = tree(files, &machine)?;
    write(memory, tree_at.start, &blob, "device tree")?;

    for segment in &placement.segments {
        let bytes = usize::try_from(segment.offset).ok().and_then(|start| {
            let end = start.checked_add(usize::try_from(segment.length).ok()?)?;
            files.kernel.get(start..end)
        });
        write(memory, segment.address, bytes.unwrap_or_default(), "kernel")?;
    }
    Ok(Start {
        pc: placement.entry,
        opaque: tree_at.start,
    })
}

fn write(
    memory: &GuestMemory,
    address: u64,
    bytes: &[u8],
    what: &'static str,
) -> Result<(), Error> {
    memory
        .write(GuestPhysAddr(address), bytes)
        .map_err(|BadMemory| Error::DoesNotFit(what))
}

/// The device tree: the bundle's, or the machine's, with free space behind its last block.
fn tree(files: &bundle::Guest<'_>, machine: &Machine) -> Result<Vec<u8>, Error> {
    let mut blob = match files.device_tree {
        None => devicetree::build(machine).map_err(Error::Tree)?,
        // The user's may be of any size, and the heap is not.
        Some(blob) if blob.len() > MAX_TREE => return Err(Error::DoesNotFit("device tree")),
        Some(blob) => {
            let line = Some(files.command_line).filter(|line| !line.is_empty());
            let entropy = |seed: &mut [u8]| {
                let fresh = machine.rng_seed.iter().flatten().cycle();
                for (byte, fresh) in seed.iter_mut().zip(fresh) {
                    *byte = *fresh;
                }
                machine.rng_seed.is_some()
            };
            given::check(blob)
                .and_then(|()| given::complete(blob, line, machine.initrd.clone(), entropy))
                .map_err(Error::GivenTree)?
        }
    };
    devicetree::add_room(&mut blob);
    Ok(blob)
}
