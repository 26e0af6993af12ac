use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::test_platform::{MEMORY, TestPlatform};
use super::super::{Error, Return, handle};
use super::*;
use crate::addr::GuestPhysAddr;

fn call(function: u64, [a0, a1, a2]: [u64; 3], platform: &mut TestPlatform) -> Return {
    let call = Call {
        extension: EID,
        function,
        args: [a0, a1, a2, 3, 4, 5],
    };
    handle(&call, platform)
}

fn platform() -> TestPlatform {
    TestPlatform::with_memory(&[0; 16])
}

/// All states, in the order of their numbers.
const STATES: [State; 7] = [
    State::Started,
    State::Stopped,
    State::StartPending,
    State::StopPending,
    State::Suspended,
    State::SuspendPending,
    State::ResumePending,
];

#[test]
fn the_extension_id_spells_its_name() {
    assert_eq!(EID.to_be_bytes(), *b"\0\0\0\0\0HSM");
}

#[test]
fn a_hart_starts_where_it_is_told() {
    let mut platform = platform();
    assert_eq!(
        call(HART_START, [2, MEMORY + 4, 7], &mut platform),
        Return::success(0)
    );
    assert_eq!(platform.started, Some((2, GuestPhysAddr(MEMORY + 4), 7)));
    assert_eq!(
        call(HART_GET_STATUS, [2, 0, 0], &mut platform),
        Return::success(2)
    );
}

#[test]
fn a_hart_that_runs_or_is_about_to_is_already_available() {
    let mut platform = platform();
    for expected in [Return::success(0), Return::error(Error::AlreadyAvailable)] {
        assert_eq!(call(HART_START, [1, MEMORY, 0], &mut platform), expected);
    }
    assert_eq!(
        call(HART_START, [0, MEMORY, 0], &mut platform),
        Return::error(Error::AlreadyAvailable),
        "the hart that calls"
    );
}

#[test]
fn there_is_no_hart_that_does_not_exist() {
    let mut platform = platform();
    for hart in [4, 0x7fff, 1 << 32, u64::MAX] {
        for address in [MEMORY, 0] {
            assert_eq!(
                call(HART_START, [hart, address, 0], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        assert_eq!(
            call(HART_GET_STATUS, [hart, 0, 0], &mut platform),
            Return::error(Error::InvalidParam)
        );
    }
    assert_eq!(platform.started, None);
}

#[test]
fn no_hart_starts_or_resumes_where_no_instruction_can_be() {
    let mut platform = platform();
    for address in [
        0,
        MEMORY - 2,
        MEMORY + 1,
        MEMORY + 15,
        MEMORY + 16,
        u64::MAX,
    ] {
        for hart in [0, 1] {
            assert_eq!(
                call(HART_START, [hart, address, 0], &mut platform),
                Return::error(Error::InvalidAddress)
            );
        }
        assert_eq!(
            call(HART_SUSPEND, [0x8000_0000, address, 0], &mut platform),
            Return::error(Error::InvalidAddress)
        );
    }
    assert_eq!((platform.started, platform.hart_suspended), (None, None));
}

#[test]
fn a_hart_stops_itself() {
    let mut platform = platform();
    assert_eq!(call(HART_STOP, [9; 3], &mut platform), Return::success(0));
    assert_eq!(
        call(HART_GET_STATUS, [0, 0, 0], &mut platform),
        Return::success(3)
    );
    platform.refusal = Some(Error::Failed);
    assert_eq!(
        call(HART_STOP, [9; 3], &mut platform),
        Return::error(Error::Failed)
    );
}

#[test]
fn a_status_is_the_number_of_the_state() {
    for (number, state) in (0..).zip(STATES) {
        let mut platform = platform();
        platform.harts = Harts([state; 4].into());
        assert_eq!(
            call(HART_GET_STATUS, [3, 0, 0], &mut platform),
            Return::success(number)
        );
    }
}

#[test]
fn a_retentive_suspension_has_no_address() {
    for kind in [0, 1 << 63, 1 << 32] {
        let mut platform = platform();
        assert_eq!(
            call(HART_SUSPEND, [kind, 1, 2], &mut platform),
            Return::success(0)
        );
        assert_eq!(platform.hart_suspended, Some(None));
    }
}

#[test]
fn a_non_retentive_suspension_resumes_where_it_is_told() {
    for kind in [0x8000_0000, 1 << 63 | 0x8000_0000] {
        let mut platform = platform();
        assert_eq!(
            call(HART_SUSPEND, [kind, MEMORY + 2, 7], &mut platform),
            Return::success(0)
        );
        assert_eq!(
            platform.hart_suspended,
            Some(Some((GuestPhysAddr(MEMORY + 2), 7)))
        );
    }
}

#[test]
fn other_suspend_types_are_invalid_parameters() {
    let mut platform = platform();
    for kind in [
        1,
        0x0fff_ffff,
        0x1000_0000,
        0x7fff_ffff,
        0x8000_0001,
        0x8fff_ffff,
        0x9000_0000,
        0xffff_ffff,
        u64::MAX,
    ] {
        assert_eq!(
            call(HART_SUSPEND, [kind, MEMORY, 0], &mut platform),
            Return::error(Error::InvalidParam)
        );
    }
    assert_eq!(platform.hart_suspended, None);
}

#[test]
fn what_the_platform_cannot_do_is_its_error() {
    let mut platform = platform();
    platform.refusal = Some(Error::NotSupported);
    assert_eq!(
        call(HART_SUSPEND, [0x8000_0000, MEMORY, 0], &mut platform),
        Return::error(Error::NotSupported)
    );
}

#[test]
fn there_is_no_fifth_function() {
    let mut platform = platform();
    for function in [4, 0xbad, 1 << 32, u64::MAX] {
        assert_eq!(
            call(function, [1, MEMORY, 0], &mut platform),
            Return::error(Error::NotSupported)
        );
    }
}

#[test]
fn a_machine_begins_with_its_boot_hart() {
    let harts = Harts::new(3, 1);
    let states: Vec<_> = (0..4).map(|hart| harts.state(hart)).collect();
    assert_eq!(
        states,
        [
            Some(State::Stopped),
            Some(State::Started),
            Some(State::Stopped),
            None
        ]
    );
    assert!(harts.is_alone(1));
    assert!(!harts.is_alone(0));
}

#[test]
fn a_hart_is_alone_while_all_others_are_stopped() {
    for state in STATES {
        let harts = Harts([State::Started, State::Stopped, state].into());
        assert_eq!(harts.is_alone(0), state == State::Stopped, "{state:?}");
    }
}

/// A transition, the state it begins in, and the one it leads to.
type Edge = (fn(&mut Harts, u32) -> Result<(), Error>, State, State);

/// The specification's figure "SBI HSM State Machine".
const EDGES: [Edge; 8] = [
    (Harts::start, State::Stopped, State::StartPending),
    (Harts::started, State::StartPending, State::Started),
    (Harts::stop, State::Started, State::StopPending),
    (Harts::stopped, State::StopPending, State::Stopped),
    (Harts::suspend, State::Started, State::SuspendPending),
    (Harts::suspended, State::SuspendPending, State::Suspended),
    (Harts::resume, State::Suspended, State::ResumePending),
    (Harts::resumed, State::ResumePending, State::Started),
];

#[test]
fn a_start_says_why_it_fails() {
    for state in STATES {
        let mut harts = Harts([state].into());
        let expected = match state {
            State::Stopped => Ok(()),
            State::StopPending => Err(Error::Failed),
            _ => Err(Error::AlreadyAvailable),
        };
        assert_eq!(harts.start(0), expected, "{state:?}");
        assert_eq!(harts.start(1), Err(Error::InvalidParam));
    }
}

proptest! {
    /// Whatever is asked for, each hart goes along the figure's edges or stays, and no other hart does anything.
    #[test]
    fn harts_go_along_the_edges_of_the_figure(
        steps in proptest::collection::vec((select(&EDGES[..]), 0..6_u32), 0..200),
    ) {
        let mut harts = Harts::new(4, 2);
        for ((transition, from, to), hart) in steps {
            let before = harts.clone();
            let result = transition(&mut harts, hart);
            prop_assert_eq!(result.is_ok(), before.state(hart) == Some(from));
            for other in 0..6 {
                let expected = if result.is_ok() && other == hart { Some(to) } else { before.state(other) };
                prop_assert_eq!(harts.state(other), expected);
            }
        }
    }
}

#[test]
fn every_hart_can_be_halted() {
    for state in STATES {
        let mut harts = Harts(vec![State::Started, state].into());
        harts.halt(1);
        assert_eq!(harts.state(1), Some(State::Stopped));
        assert_eq!(harts.state(0), Some(State::Started));
        harts.halt(2);
    }
}
