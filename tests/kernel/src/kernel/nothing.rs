//! Addresses at which nothing is. Whether an access there traps or goes nowhere is the platform's choice; either way the
//! machine goes on.

use super::csr::{LOAD_ACCESS_FAULT, STORE_ACCESS_FAULT};
use super::machine::Machine;
use super::mmio;
use super::report::Outcome;
use super::trap::{Exception, attempt};

tests! { TESTS:
    "nothing-loads" => loads,
    "nothing-stores" => stores,
    "test-device-ignores-other-values" => test_device,
}

/// Holes of the board: below everything, between the devices, and above RAM.
fn holes(machine: &Machine) -> [usize; 4] {
    [
        0x9_0000,
        0x1001_0000,
        0x2000_0000,
        machine.ram_end + (16 << 30),
    ]
}

fn accept(result: Result<(), Exception>, fault: usize, address: usize) -> Outcome {
    match result {
        Ok(()) => Ok(()),
        Err(exception) if exception.cause == fault => {
            check_eq!(exception.value, address, "stval");
            Ok(())
        }
        Err(exception) => fail!(
            "an access of {address:#x} traps with cause {}",
            exception.cause
        ),
    }
}

fn loads(machine: &Machine) -> Outcome {
    for address in holes(machine) {
        for result in [
            attempt(|| mmio::read8(address)).map(|_| ()),
            attempt(|| mmio::read16(address)).map(|_| ()),
            attempt(|| mmio::read32(address)).map(|_| ()),
            attempt(|| mmio::read64(address)).map(|_| ()),
        ] {
            accept(result, LOAD_ACCESS_FAULT, address)?;
        }
    }
    Ok(())
}

fn stores(machine: &Machine) -> Outcome {
    for address in holes(machine) {
        for result in [
            attempt(|| mmio::write8(address, 1)),
            attempt(|| mmio::write16(address, 1)),
            attempt(|| mmio::write32(address, 1)),
            attempt(|| mmio::write64(address, 1)),
        ] {
            accept(result, STORE_ACCESS_FAULT, address)?;
        }
    }
    Ok(())
}

/// A value that is no command, and one at another offset, leave the machine running.
fn test_device(machine: &Machine) -> Outcome {
    let Some(device) = machine.test_device else {
        skip!("there is no test device");
    };
    for value in [0, 0x1234, 0x3332, 0x5554, 0x7776, 0xffff_0000] {
        mmio::write32(device, value);
    }
    mmio::write32(device + 4, 0x5555);
    let _ = mmio::read32(device);
    Ok(())
}
