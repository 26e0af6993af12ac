//! Causes as the specification numbers them, not by the constants that the code has.

use proptest::prelude::*;

use super::*;

const INTERRUPT: u64 = 1 << 63;

const CSRS: TrapCsrs = TrapCsrs {
    scause: 0,
    stval: 0xffff_ffc0_1234_5677,
    htval: 0x1000_0004 >> 2,
    htinst: 0x2003,
};

fn decoded(scause: u64) -> Exit {
    decode(&TrapCsrs { scause, ..CSRS })
}

#[test]
fn interrupts_of_the_host_are_told_apart() {
    assert_eq!(decoded(INTERRUPT | 1), Exit::HostSoftware);
    assert_eq!(decoded(INTERRUPT | 5), Exit::HostTimer);
    assert_eq!(decoded(INTERRUPT | 9), Exit::HostExternal);
}

#[test]
fn the_guests_own_interrupts_and_those_of_other_modes_are_none_of_the_hosts() {
    for number in [0, 2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 63] {
        assert_eq!(
            decoded(INTERRUPT | number),
            Exit::UnknownInterrupt,
            "{number}"
        );
    }
}

#[test]
fn a_call_from_vs_mode_is_for_the_sbi_and_no_other_is() {
    assert_eq!(decoded(10), Exit::SbiCall);
    for cause in [8, 9, 11] {
        let exception = Exception {
            cause,
            value: CSRS.stval,
        };
        assert_eq!(decoded(cause), Exit::NotDelegated(exception), "{cause}");
    }
}

#[test]
fn an_access_has_the_last_bits_of_its_virtual_address() {
    for (scause, is_store, fault) in [(21, false, 5), (23, true, 7)] {
        let Exit::Mmio(access) = decoded(scause) else {
            panic!("{scause}");
        };
        let expected = Access {
            address: GuestPhysAddr(0x1000_0007),
            virtual_address: CSRS.stval,
            instruction: CSRS.htinst,
            is_store,
        };
        assert_eq!(access, expected);
        let fault = Exception {
            cause: fault,
            value: CSRS.stval,
        };
        assert_eq!(access.fault(), fault);
    }
}

#[test]
fn what_a_hart_without_the_h_extension_does_not_know_is_translated() {
    for (scause, cause) in [(20, 1), (22, 2)] {
        let exception = Exception {
            cause,
            value: CSRS.stval,
        };
        assert_eq!(decoded(scause), Exit::Reflect(exception), "{scause}");
    }
}

proptest! {
    /// Whatever the CSRs hold, there is an answer, and the guest never learns of a cause that only the H extension has, but for
    /// those that no hart gives.
    #[test]
    fn every_trap_is_something(
        scause in prop_oneof![0..64_u64, (0..64_u64).prop_map(|number| INTERRUPT | number), any::<u64>()],
        stval: u64,
        htval: u64,
        htinst: u64,
    ) {
        match decode(&TrapCsrs { scause, stval, htval, htinst }) {
            Exit::Reflect(exception) => {
                prop_assert!((1..=2).contains(&exception.cause));
                prop_assert_eq!(exception.value, stval);
            }
            Exit::NotDelegated(exception) => {
                prop_assert_eq!(exception, Exception { cause: scause, value: stval });
                prop_assert!(![10, 20, 21, 22, 23].contains(&scause) && scause < INTERRUPT);
            }
            Exit::Mmio(access) => {
                prop_assert_eq!(access.address.0 & 3, stval & 3);
                prop_assert_eq!(access.address.0 & !3, htval << 2);
            }
            Exit::SbiCall => prop_assert_eq!(scause, 10),
            Exit::HostSoftware | Exit::HostTimer | Exit::HostExternal | Exit::UnknownInterrupt => {
                prop_assert!(scause >= INTERRUPT);
            }
        }
    }
}
