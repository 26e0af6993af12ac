//! A hart's interrupt file (AIA, chapter "Incoming MSI Controller").

use core::sync::atomic::Ordering::Relaxed;

use super::aia;
use crate::kernel::csr::{self, EXTERNAL, ILLEGAL_INSTRUCTION};
use crate::kernel::external::Claim;
use crate::kernel::machine::{AiaNode, Machine};
use crate::kernel::mmio;
use crate::kernel::report::Outcome;
use crate::kernel::smp::{self, Barrier};
use crate::kernel::time;
use crate::kernel::trap::{self, attempt};

tests! { TESTS:
    "imsic-message-to-itself" => message,
    "imsic-claim-of-nothing" => claim_of_nothing,
    "imsic-lowest-identity-first" => lowest_first,
    "imsic-delivery-off" => delivery,
    "imsic-threshold" => threshold,
    "imsic-disabled-identity-is-pending" => disabled,
    "imsic-pending-by-register" => pending_by_register,
    "imsic-claim-reads-without-claiming" => top_read_only,
    "imsic-identities-that-are-none" => no_identities,
    "imsic-every-identity" => every_identity,
    "imsic-odd-registers-are-illegal" => odd_registers,
    "imsic-page-reads-zero" => page,
    "imsic-message-each-to-each" => each_to_each,
}

// Indirectly accessed registers.
const EIDELIVERY: usize = 0x70;
const EITHRESHOLD: usize = 0x72;
const EIP0: usize = 0x80;
const EIE0: usize = 0xc0;

/// The register that has eip or eie of an identity, of which 64-bit harts have the even-numbered ones alone.
fn array(first: usize, identity: u32) -> usize {
    first + identity as usize / 64 * 2
}

fn read(register: usize) -> usize {
    csr_write!("0x150", register);
    csr_read!("0x151")
}

fn write(register: usize, value: usize) {
    csr_write!("0x150", register);
    csr_write!("0x151", value);
}

fn change(first: usize, identity: u32, set: bool) {
    csr_write!("0x150", array(first, identity));
    let bit = 1 << (identity % 64);
    if set {
        csr_set!("0x151", bit);
    } else {
        csr_clear!("0x151", bit);
    }
}

fn is_set(first: usize, identity: u32) -> bool {
    read(array(first, identity)) >> (identity % 64) & 1 != 0
}

/// `stopei`, without a claim.
fn top() -> usize {
    csr_read!("0x15c")
}

/// Sends a message to the file whose page this is (AIA, "Memory region for an interrupt file": seteipnum_le).
pub fn send(page: usize, identity: u32) {
    mmio::write32(page, identity);
}

/// Delivery of this hart's file: on, with no identity enabled or pending and no threshold; off when this is dropped.
pub struct Delivery(());

/// The identities that tests use.
const USED: u32 = 64 * 4;

impl Delivery {
    pub fn new() -> Self {
        let delivery = Self(());
        delivery.clear();
        write(EITHRESHOLD, 0);
        write(EIDELIVERY, 1);
        delivery
    }

    /// Lets this identity interrupt.
    pub fn enable(&self, identity: u32) {
        change(EIE0, identity, true);
    }

    fn disable(&self, identity: u32) {
        change(EIE0, identity, false);
    }

    fn clear(&self) {
        for first in (0..USED).step_by(64) {
            write(array(EIE0, first), 0);
            write(array(EIP0, first), 0);
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        write(EIDELIVERY, 0);
        self.clear();
    }
}

/// Asserts that this identity interrupts, and claims it.
fn expect(identity: u32) -> Outcome {
    check!(
        time::wait_for(|| csr::pending(EXTERNAL)),
        "identity {identity} does not interrupt"
    );
    check_eq!(
        top(),
        (identity as usize) << 16 | identity as usize,
        "stopei"
    );
    check_eq!(csr::claim_top(), identity, "the claim");
    Ok(())
}

/// Asserts that nothing interrupts.
fn silence(when: &str) -> Outcome {
    check!(
        !time::comes(|| csr::pending(EXTERNAL)),
        "there is an interrupt {when}"
    );
    Ok(())
}

fn setup(machine: &Machine) -> Outcome<(&AiaNode, usize, Delivery)> {
    let aia = aia(machine)?;
    Ok((aia, aia.files[0].page, Delivery::new()))
}

fn message(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    delivery.enable(5);
    for _ in 0..3 {
        send(page, 5);
        expect(5)?;
        check!(!is_set(EIP0, 5), "the claim leaves the identity pending");
        silence("after the claim")?;
    }
    // What comes again before it is claimed is one.
    send(page, 5);
    send(page, 5);
    expect(5)?;
    silence("after the claim of two messages")
}

fn claim_of_nothing(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    for _ in 0..3 {
        check_eq!(top(), 0, "stopei with nothing pending");
        check_eq!(csr::claim_top(), 0, "the claim of nothing");
    }
    delivery.enable(1);
    send(page, 1);
    expect(1)
}

fn lowest_first(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    let identities = [1, 2, 15, 16, 30, 31];
    for identity in identities.into_iter().rev() {
        delivery.enable(identity);
        send(page, identity);
    }
    check!(
        time::wait_for(|| identities.iter().all(|identity| is_set(EIP0, *identity))),
        "not all messages arrive"
    );
    for identity in identities {
        expect(identity)?;
    }
    silence("after all claims")
}

/// With eidelivery 0, what is pending does not interrupt; with 1 it does. What stopei shows does not depend on it.
fn delivery(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    delivery.enable(9);
    write(EIDELIVERY, 0);
    check_eq!(read(EIDELIVERY), 0, "eidelivery");
    send(page, 9);
    check!(
        time::wait_for(|| is_set(EIP0, 9)),
        "the identity is not pending"
    );
    silence("with delivery off")?;
    check_eq!(top() >> 16, 9, "stopei with delivery off");
    write(EIDELIVERY, 1);
    check_eq!(read(EIDELIVERY), 1, "eidelivery");
    expect(9)
}

/// With threshold P, identities P and higher do not interrupt, as if they were disabled. 0 is no threshold.
fn threshold(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    delivery.enable(20);
    for (threshold, interrupts) in [(20, false), (1, false), (21, true), (0, true)] {
        write(EITHRESHOLD, threshold);
        check_eq!(read(EITHRESHOLD), threshold, "eithreshold");
        send(page, 20);
        check!(
            time::wait_for(|| is_set(EIP0, 20)),
            "the identity is not pending"
        );
        if interrupts {
            expect(20)?;
        } else {
            silence("of an identity that is not below the threshold")?;
            check_eq!(top(), 0, "stopei with all at the threshold or above");
        }
    }
    // A threshold counts for what is pending already.
    write(EITHRESHOLD, 20);
    send(page, 20);
    silence("of an identity that is not below the threshold")?;
    write(EITHRESHOLD, 0);
    expect(20)
}

fn disabled(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    send(page, 7);
    check!(
        time::wait_for(|| is_set(EIP0, 7)),
        "an identity is not pending while it is disabled"
    );
    silence("of a disabled identity")?;
    delivery.enable(7);
    check!(is_set(EIE0, 7), "eie is not set");
    check!(
        time::wait_for(|| csr::pending(EXTERNAL)),
        "an identity does not interrupt once enabled"
    );
    delivery.disable(7);
    silence("of an identity that was disabled again")?;
    check!(is_set(EIP0, 7), "disabling an identity takes its interrupt");
    delivery.enable(7);
    expect(7)
}

/// Software may make an identity pending, and take that back.
fn pending_by_register(machine: &Machine) -> Outcome {
    let (_, _, delivery) = setup(machine)?;
    delivery.enable(11);
    change(EIP0, 11, true);
    check!(
        time::wait_for(|| csr::pending(EXTERNAL)),
        "identity 11 does not interrupt"
    );
    change(EIP0, 11, false);
    silence("that was taken back")?;
    change(EIP0, 11, true);
    expect(11)
}

/// A read of stopei claims nothing; any write claims what is on top.
fn top_read_only(machine: &Machine) -> Outcome {
    let (_, page, delivery) = setup(machine)?;
    delivery.enable(3);
    send(page, 3);
    check!(
        time::wait_for(|| csr::pending(EXTERNAL)),
        "identity 3 does not interrupt"
    );
    for _ in 0..3 {
        check_eq!(top(), 3 << 16 | 3, "stopei");
    }
    csr_write!("0x15c", 0);
    check_eq!(top(), 0, "stopei after a write");
    check!(
        !is_set(EIP0, 3),
        "a write of stopei leaves the identity pending"
    );
    Ok(())
}

/// A message of no identity is ignored.
fn no_identities(machine: &Machine) -> Outcome {
    let (aia, page, _delivery) = setup(machine)?;
    for identity in [0, aia.identities + 1, 2048, u32::MAX] {
        send(page, identity);
    }
    for register in (EIP0..EIP0 + (aia.identities as usize + 1) / 32).step_by(2) {
        check_eq!(
            read(register),
            0,
            "register {register:#x} after messages of no identity"
        );
    }
    // Identity 0 is none, and cannot be made pending or enabled.
    write(EIP0, 1);
    write(EIE0, 1);
    check_eq!(read(EIP0) & 1, 0, "bit 0 of eip0");
    check_eq!(read(EIE0) & 1, 0, "bit 0 of eie0");
    Ok(())
}

/// All of them, and each alone.
fn every_identity(machine: &Machine) -> Outcome {
    let (aia, page, delivery) = setup(machine)?;
    for identity in 1..=aia.identities {
        delivery.enable(identity);
        check!(
            is_set(EIE0, identity),
            "identity {identity} cannot be enabled"
        );
        send(page, identity);
        let came = time::wait_for(|| csr::pending(EXTERNAL));
        let claimed = csr::claim_top();
        delivery.disable(identity);
        check!(came, "identity {identity} does not interrupt");
        check_eq!(claimed, identity, "the claim");
    }
    Ok(())
}

/// "When XLEN = 64, the odd-numbered registers do not exist, and attempting to access one raises an illegal instruction
/// exception" (of eip and eie).
fn odd_registers(machine: &Machine) -> Outcome {
    let _setup = setup(machine)?;
    for register in [EIP0 + 1, EIE0 + 1] {
        csr_write!("0x150", register);
        match attempt(|| csr_read!("0x151")) {
            Err(exception) => check_eq!(
                exception.cause,
                ILLEGAL_INSTRUCTION,
                "the exception's cause"
            ),
            Ok(value) => fail!("register {register:#x} reads {value:#x}"),
        }
    }
    Ok(())
}

/// Reads of a file's page, and writes beside its one register, do nothing.
fn page(machine: &Machine) -> Outcome {
    let (_, page, _delivery) = setup(machine)?;
    for offset in [0, 4, 0x800, 0xffc] {
        check_eq!(
            mmio::read32(page + offset),
            0,
            "offset {offset:#x} of the page"
        );
    }
    for offset in [8, 0x800, 0xffc] {
        mmio::write32(page + offset, 13);
    }
    check!(
        !is_set(EIP0, 13),
        "a write beside the register is a message"
    );
    Ok(())
}

/// The identity of messages of the hart with index 0; those of the others follow.
const FIRST: u32 = 10;

/// Every hart interrupts every one, itself included.
fn each_to_each(machine: &Machine) -> Outcome {
    let aia = aia(machine)?;
    let barrier = Barrier::new(machine);
    smp::everywhere(machine, &|me| {
        let hart = trap::this_hart();
        hart.set_claim(Claim::Stopei);
        let delivery = Delivery::new();
        for sender in 0..machine.harts.len() {
            delivery.enable(FIRST + sender as u32);
        }
        let outcome = csr::taking(EXTERNAL, || {
            barrier.wait()?;
            for sender in 0..machine.harts.len() {
                for receiver in 0..machine.harts.len() {
                    let other = trap::hart(receiver);
                    let before = other.external.load(Relaxed);
                    barrier.wait()?;
                    if sender == me {
                        send(aia.files[receiver].page, FIRST + sender as u32);
                        let came = time::wait_for(|| other.external.load(Relaxed) != before);
                        check!(
                            came,
                            "hart {} does not get the message of {}",
                            other.id(),
                            hart.id()
                        );
                        let identity = other.identity.load(Relaxed);
                        check_eq!(
                            identity,
                            FIRST + sender as u32,
                            "the identity at hart {}",
                            other.id()
                        );
                    }
                    barrier.wait()?;
                }
            }
            Ok(())
        });
        drop(delivery);
        outcome
    })
}
