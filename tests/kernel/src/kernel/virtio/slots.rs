//! What all slots have in common, with a device in them or without.

use super::transport::{
    CONFIG_GENERATION, DEVICE_ID, INTERRUPT_STATUS, QUEUE_NOTIFY, QUEUE_NUM_MAX, STATUS, Slot,
    VERSION_1,
};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;

tests! { TESTS:
    "virtio-slots-are-eight" => eight,
    "virtio-slots-have-magic-and-version" => magic,
    "virtio-empty-slots-do-nothing" => empty,
    "virtio-devices-reset" => reset,
    "virtio-devices-offer-version-1" => version_1,
    "virtio-devices-have-queues" => queues,
    "virtio-config-generation-rests" => generation,
}

/// The slots with a device, or without.
fn slots(machine: &Machine, with_device: bool) -> impl Iterator<Item = Slot> {
    machine
        .virtio
        .iter()
        .filter_map(|slot| Slot::new(slot.base).ok())
        .filter(move |slot| (slot.read(DEVICE_ID) != 0) == with_device)
}

/// The board has eight, a page each, with consecutive interrupts (QEMU: `hw/riscv/virt.c`).
fn eight(machine: &Machine) -> Outcome {
    check_eq!(machine.virtio.len(), 8, "the number of slots");
    let first = machine.virtio[0];
    check_eq!(first.base, 0x1000_1000, "the first slot's address");
    check_eq!(first.source, 1, "the first slot's interrupt");
    for (index, slot) in machine.virtio.iter().enumerate() {
        check_eq!(
            slot.base,
            first.base + index * 0x1000,
            "the address of slot {index}"
        );
        check_eq!(
            slot.source as usize,
            first.source as usize + index,
            "the interrupt of slot {index}"
        );
    }
    Ok(())
}

fn magic(machine: &Machine) -> Outcome {
    for slot in &machine.virtio {
        Slot::new(slot.base)?;
    }
    Ok(())
}

/// "Drivers MUST ignore a device with DeviceID 0x0", but those that look further find nothing, and break nothing.
fn empty(machine: &Machine) -> Outcome {
    for slot in slots(machine, false) {
        for register in [STATUS, QUEUE_NUM_MAX, INTERRUPT_STATUS] {
            slot.write(STATUS, 3);
            check_eq!(
                slot.read(register),
                0,
                "register {register:#x} of an empty slot"
            );
        }
        slot.write(QUEUE_NOTIFY, 0);
        slot.write(STATUS, 0);
        check_eq!(slot.read(DEVICE_ID), 0, "the device of an empty slot");
    }
    Ok(())
}

/// "When 0 is written to it, this triggers a device reset", after which nothing is set up.
fn reset(machine: &Machine) -> Outcome {
    for slot in slots(machine, true) {
        slot.negotiate(slot.features() & VERSION_1)?;
        slot.reset()?;
        check_eq!(slot.read(STATUS), 0, "the status after a reset");
        check_eq!(
            slot.read(INTERRUPT_STATUS),
            0,
            "InterruptStatus after a reset"
        );
        slot.select_queue(0);
        check!(!slot.queue_in_use(), "queue 0 is in use after a reset");
    }
    Ok(())
}

/// A device of version 2 has to offer it; a legacy one has no such bit.
fn version_1(machine: &Machine) -> Outcome {
    for slot in slots(machine, true) {
        let offered = slot.features() & VERSION_1 != 0;
        check!(
            offered != slot.is_legacy(),
            "VERSION_1 is offered: {offered}, on a legacy device: {}",
            slot.is_legacy()
        );
    }
    Ok(())
}

/// Sizes of queues that exist are powers of two; of those that do not, 0.
fn queues(machine: &Machine) -> Outcome {
    for slot in slots(machine, true) {
        slot.reset()?;
        slot.select_queue(0);
        let size = slot.read(QUEUE_NUM_MAX);
        check!(
            size.is_power_of_two() && size <= 32768,
            "the size of queue 0 is {size}"
        );
        for index in [1000, 0xffff, u32::MAX] {
            slot.select_queue(index);
            check_eq!(slot.read(QUEUE_NUM_MAX), 0, "the size of queue {index}");
        }
        slot.select_queue(0);
    }
    Ok(())
}

/// It changes with the configuration alone.
fn generation(machine: &Machine) -> Outcome {
    for slot in slots(machine, true).filter(|slot| !slot.is_legacy()) {
        let first = slot.read(CONFIG_GENERATION);
        slot.config32(0);
        check_eq!(
            slot.read(CONFIG_GENERATION),
            first,
            "ConfigGeneration without a change"
        );
    }
    Ok(())
}
