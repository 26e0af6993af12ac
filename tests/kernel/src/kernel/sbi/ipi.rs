//! Interprocessor interrupts.

use core::sync::atomic::Ordering::Relaxed;

use sbi_spec::spi::{EID_SPI, SEND_IPI};

use super::{Answer, ERR_INVALID_PARAM, ERR_NOT_SUPPORTED, call, expect_error, expect_success};
use crate::kernel::csr::{self, SOFTWARE};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::smp::Barrier;
use crate::kernel::{smp, time, trap};

tests! { TESTS:
    "ipi-each-to-each" => each_to_each,
    "ipi-to-all" => to_all,
    "ipi-mask-and-base" => mask_and_base,
    "ipi-to-nobody" => to_nobody,
    "ipi-to-no-hart" => to_no_hart,
    "ipi-unknown-function" => unknown_function,
}

/// Interrupts the harts of a mask whose bit 0 is the hart `base`; of base -1, all harts.
pub fn send(mask: usize, base: usize) -> Answer {
    call(EID_SPI, SEND_IPI, &[mask, base])
}

/// Every hart interrupts every one, itself included, alone.
fn each_to_each(machine: &Machine) -> Outcome {
    let barrier = Barrier::new(machine);
    let count = |index: usize| trap::hart(index).software.load(Relaxed);
    let before: [u32; trap::MAX_HARTS] = core::array::from_fn(count);
    smp::everywhere(machine, &|me| {
        csr::taking(SOFTWARE, || {
            barrier.wait()?;
            for sender in 0..machine.harts.len() {
                for (receiver, id) in machine.harts.iter().enumerate().filter(|_| sender == me) {
                    expect_success(send(1, *id), "send_ipi")?;
                    let expected = before[receiver].wrapping_add(1 + sender as u32);
                    let came = time::wait_for(|| count(receiver) == expected);
                    check!(
                        came,
                        "hart {id} does not get the interrupt of {}",
                        machine.harts[sender]
                    );
                }
                barrier.wait()?;
            }
            // One of every hart, and no more.
            let sent = machine.harts.len() as u32;
            check_eq!(
                count(me).wrapping_sub(before[me]),
                sent,
                "the number of interrupts"
            );
            Ok(())
        })
    })
}

/// A base of -1 means all harts, whatever the mask.
fn to_all(machine: &Machine) -> Outcome {
    let barrier = Barrier::new(machine);
    for mask in [0, usize::MAX] {
        smp::everywhere(machine, &|me| {
            let hart = trap::this_hart();
            let before = hart.software.load(Relaxed);
            csr::taking(SOFTWARE, || {
                barrier.wait()?;
                if me == 0 {
                    expect_success(send(mask, usize::MAX), "send_ipi to all")?;
                }
                let came = time::wait_for(|| hart.software.load(Relaxed) != before);
                check!(came, "hart {} gets no interrupt", hart.id());
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Only the harts of the mask are interrupted.
fn mask_and_base(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    let barrier = Barrier::new(machine);
    let (first, last) = (machine.harts.iter().min(), machine.harts.iter().max());
    let (Some(&first), Some(&last)) = (first, last) else {
        fail!("there is no hart");
    };
    smp::everywhere(machine, &|me| {
        let hart = trap::this_hart();
        let before = hart.software.load(Relaxed);
        csr::taking(SOFTWARE, || {
            barrier.wait()?;
            if me == 0 {
                expect_success(send(1 << (last - first), first), "send_ipi")?;
            }
            let came = || hart.software.load(Relaxed) != before;
            if hart.id() == last {
                check!(time::wait_for(came), "the last hart gets no interrupt");
            }
            barrier.wait()?;
            check!(
                hart.id() == last || !time::comes(came),
                "hart {} is interrupted",
                hart.id()
            );
            Ok(())
        })
    })
}

/// An empty mask is no error, and no interrupt.
fn to_nobody(machine: &Machine) -> Outcome {
    expect_success(send(0, machine.harts[0]), "send_ipi with an empty mask")?;
    check!(
        !time::comes(|| csr::pending(SOFTWARE)),
        "an empty mask interrupts"
    );
    Ok(())
}

/// A hart that is not there is an invalid parameter ("Hart list parameter").
fn to_no_hart(_: &Machine) -> Outcome {
    expect_error(
        send(1, 0x7fff),
        ERR_INVALID_PARAM,
        "send_ipi to a hart that is not there",
    )
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(
        call(EID_SPI, 0x7fff, &[]),
        ERR_NOT_SUPPORTED,
        "function 0x7fff",
    )
}
