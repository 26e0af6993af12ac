use proptest::prelude::*;
use proptest::sample::select;

use super::super::test_platform::{MEMORY, TestPlatform};
use super::super::{Return, handle, ipi, rfence, time};
use super::*;

fn call(function: u64, args: [u64; 5], platform: &mut TestPlatform) -> Return {
    let [a0, a1, a2, a3, a4] = args;
    let call = Call {
        extension: EID,
        function,
        args: [a0, a1, a2, a3, a4, 5],
    };
    handle(&call, platform)
}

/// The answer to a call with these arguments and zeros.
fn ask<const N: usize>(function: u64, first: [u64; N], platform: &mut TestPlatform) -> Return {
    let mut args = [0; 5];
    args[..N].copy_from_slice(&first);
    call(function, args, platform)
}

fn value(counter: u64, platform: &mut TestPlatform) -> u64 {
    match ask(COUNTER_FW_READ, [counter], platform) {
        Return::Sbiret(Ok(value)) => value,
        other => panic!("{other:?}"),
    }
}

/// The set of all counters.
const ALL: u64 = (1 << COUNTERS) - 1;
/// Counters that are not there, by base and mask.
const MISSING: [[u64; 2]; 7] = [
    [16, 1],
    [15, 0b10],
    [0, 1 << 16],
    [0, u64::MAX],
    [u64::MAX, 1],
    [u64::MAX, 0b10],
    [1 << 32, 1],
];

#[test]
fn the_extension_id_spells_its_name() {
    assert_eq!(EID.to_be_bytes(), *b"\0\0\0\0\0PMU");
}

#[test]
fn every_counter_is_a_firmware_counter_of_64_bits() {
    let mut platform = TestPlatform::default();
    assert_eq!(ask(NUM_COUNTERS, [], &mut platform), Return::success(16));
    for counter in 0..16 {
        let Return::Sbiret(Ok(value)) = ask(COUNTER_GET_INFO, [counter], &mut platform) else {
            panic!("counter {counter} is not there");
        };
        assert_eq!((value >> 63, value >> 12 & 0x3f), (1, 63));
        assert_eq!(
            ask(COUNTER_FW_READ_HI, [counter], &mut platform),
            Return::success(0)
        );
    }
    for function in [COUNTER_GET_INFO, COUNTER_FW_READ, COUNTER_FW_READ_HI] {
        for counter in [16, 64, 1 << 32, u64::MAX] {
            assert_eq!(
                ask(function, [counter], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
    }
}

#[test]
fn events_are_numbered_as_in_the_specification() {
    assert_eq!(Event::SetTimer.index(), 0xf_0005);
    assert_eq!(Event::SfenceVmaAsidReceived.index(), 0xf_000d);
    for event in Event::ALL {
        assert_eq!(Event::from_guest(event.index(), 0), Some(event));
        assert_eq!(Event::from_guest(event.index(), 1), None);
    }
}

#[test]
fn a_counter_counts_from_start_to_stop() {
    let mut platform = TestPlatform::default();
    let configured = ask(
        COUNTER_CONFIG_MATCHING,
        [0, ALL, 0, 0xf_0005],
        &mut platform,
    );
    assert_eq!(configured, Return::success(0));
    let set_timer = |platform: &mut TestPlatform| {
        for extension in [time::EID, 0] {
            let call = Call {
                extension,
                function: 0,
                args: [1; 6],
            };
            handle(&call, platform);
        }
    };
    set_timer(&mut platform);
    assert_eq!(value(0, &mut platform), 0, "not started");
    assert_eq!(
        ask(
            COUNTER_START,
            [0, 1, START_SET_INIT_VALUE, 100],
            &mut platform
        ),
        Return::success(0)
    );
    set_timer(&mut platform);
    assert_eq!(value(0, &mut platform), 102);
    assert_eq!(ask(COUNTER_STOP, [0, 1], &mut platform), Return::success(0));
    set_timer(&mut platform);
    assert_eq!(value(0, &mut platform), 102);
    assert_eq!(
        ask(COUNTER_START, [0, 1, 0, 7], &mut platform),
        Return::success(0)
    );
    set_timer(&mut platform);
    assert_eq!(value(0, &mut platform), 104, "it goes on");
}

#[test]
fn what_is_sent_is_counted_once_for_each_other_hart() {
    let mut platform = TestPlatform::default();
    for (extension, function, event) in [
        (ipi::EID, 0, Event::IpiSent),
        (rfence::EID, 0, Event::FenceISent),
        (rfence::EID, 1, Event::SfenceVmaSent),
        (rfence::EID, 2, Event::SfenceVmaAsidSent),
    ] {
        platform.counters = Some(Counters::new());
        let flags = CONFIG_AUTO_START;
        for event in Event::ALL {
            let args = [0, ALL, flags, event.index()];
            let _ = ask(COUNTER_CONFIG_MATCHING, args, &mut platform);
        }
        for (mask, base) in [(0b111, 0), (0b1, 0), (0b1, 3), (0, u64::MAX), (0b1, 9)] {
            let call = Call {
                extension,
                function,
                args: [mask, base, 0, 0, 0, 0],
            };
            handle(&call, &mut platform);
        }
        for (counter, counted) in (0..).zip(Event::ALL) {
            let expected = if counted == event { 2 + 1 + 3 } else { 0 };
            assert_eq!(value(counter, &mut platform), expected);
        }
    }
}

#[test]
fn a_value_wraps() {
    let mut counters = Counters::new();
    counters
        .configure(1, CONFIG_AUTO_START, Event::IpiReceived.index(), 0)
        .unwrap();
    counters.count(Event::IpiReceived, u64::MAX);
    counters.count(Event::IpiReceived, 3);
    assert_eq!(counters.get(0).unwrap().value, 2);
}

#[test]
fn each_event_takes_the_next_free_counter_of_the_set() {
    let mut platform = TestPlatform::default();
    let mut configure = |base, mask| {
        ask(
            COUNTER_CONFIG_MATCHING,
            [base, mask, 0, 0xf_0006],
            &mut platform,
        )
    };
    assert_eq!(configure(3, 0b101), Return::success(3));
    assert_eq!(configure(3, 0b101), Return::success(5), "3 has an event");
    assert_eq!(configure(3, 0b101), Return::error(Error::NotSupported));
    assert_eq!(configure(4, 0b1), Return::success(4));
    assert_eq!(configure(4, 0), Return::error(Error::NotSupported));
}

#[test]
fn a_counter_is_free_once_it_is_stopped_and_reset() {
    let mut platform = TestPlatform::default();
    let args = [2, 1, CONFIG_AUTO_START, 0xf_0006];
    assert_eq!(
        ask(COUNTER_CONFIG_MATCHING, args, &mut platform),
        Return::success(2)
    );
    for stop in [0, STOP_RESET] {
        assert_eq!(
            ask(COUNTER_CONFIG_MATCHING, args, &mut platform),
            Return::error(Error::NotSupported)
        );
        let _ = ask(COUNTER_STOP, [2, 1, stop], &mut platform);
    }
    assert_eq!(
        ask(COUNTER_CONFIG_MATCHING, args, &mut platform),
        Return::success(2)
    );
}

#[test]
fn matching_can_be_skipped() {
    let mut platform = TestPlatform::default();
    let flags = CONFIG_SKIP_MATCH | CONFIG_AUTO_START;
    for event in [Event::IpiReceived, Event::FenceIReceived] {
        let args = [2, 0b110, flags, event.index()];
        assert_eq!(
            ask(COUNTER_CONFIG_MATCHING, args, &mut platform),
            Return::success(3)
        );
    }
    let counters = platform.counters.as_mut().unwrap();
    counters.count(Event::IpiReceived, 5);
    counters.count(Event::FenceIReceived, 7);
    assert_eq!(value(3, &mut platform), 7);
}

#[test]
fn the_value_is_cleared_only_where_that_is_asked_for() {
    let mut platform = TestPlatform::default();
    let _ = ask(
        COUNTER_START,
        [0, 1, START_SET_INIT_VALUE, 9],
        &mut platform,
    );
    let _ = ask(COUNTER_STOP, [0, 1], &mut platform);
    for (flags, expected) in [(CONFIG_AUTO_START, 9), (CONFIG_CLEAR_VALUE, 0)] {
        let args = [0, 1, flags, 0xf_0005];
        let _ = ask(COUNTER_CONFIG_MATCHING, args, &mut platform);
        assert_eq!(value(0, &mut platform), expected);
        let _ = ask(COUNTER_STOP, [0, 1, STOP_RESET], &mut platform);
    }
}

#[test]
fn what_cannot_be_counted_is_not_supported() {
    let mut platform = TestPlatform::default();
    for (index, data) in [
        (0, 0),
        (1, 0),
        (0x1_0000, 0),
        (0x2_0000, 1),
        (0x3_0000, 1),
        (0xf_0000, 0),
        (0xf_0004, 0),
        (0xf_0005, 1),
        (0xf_000e, 0),
        (0xf_0015, 0),
        (0xf_0016, 0),
        (0xf_0100, 0),
        (0xf_ffff, 5),
        (0x10_0000 | 0xf_0005, 0),
        (u64::MAX, 0),
    ] {
        for flags in [0, CONFIG_SKIP_MATCH] {
            assert_eq!(
                call(
                    COUNTER_CONFIG_MATCHING,
                    [0, ALL, flags, index, data],
                    &mut platform
                ),
                Return::error(Error::NotSupported)
            );
        }
    }
    assert_eq!(platform.counters, Some(Counters::new()));
}

#[test]
fn counters_that_are_not_there_and_reserved_flags_are_invalid_parameters() {
    let mut platform = TestPlatform::default();
    for (function, reserved) in [
        (COUNTER_CONFIG_MATCHING, 1 << 8),
        (COUNTER_START, 1 << 2),
        (COUNTER_STOP, 1 << 2),
    ] {
        for [base, mask] in MISSING {
            assert_eq!(
                ask(function, [base, mask, 0, 0xf_0005], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
        for flags in [reserved, 1 << 63, reserved | 1] {
            assert_eq!(
                ask(function, [0, 1, flags, 0xf_0005], &mut platform),
                Return::error(Error::InvalidParam)
            );
        }
    }
    assert_eq!(platform.counters, Some(Counters::new()));
}

#[test]
fn the_filters_are_hints() {
    let mut platform = TestPlatform::default();
    assert_eq!(
        ask(
            COUNTER_CONFIG_MATCHING,
            [0, ALL, 0xf8, 0xf_0005],
            &mut platform
        ),
        Return::success(0)
    );
}

#[test]
fn some_that_stand_or_count_already_do_not_keep_the_others_from_it() {
    let mut platform = TestPlatform::default();
    assert_eq!(
        ask(COUNTER_START, [0, 0b010], &mut platform),
        Return::success(0)
    );
    assert_eq!(
        ask(
            COUNTER_START,
            [0, 0b111, START_SET_INIT_VALUE, 5],
            &mut platform
        ),
        Return::error(Error::AlreadyStarted)
    );
    assert_eq!(
        [0, 1, 2].map(|counter| value(counter, &mut platform)),
        [5, 0, 5]
    );
    assert_eq!(
        ask(COUNTER_STOP, [0, 0b010], &mut platform),
        Return::success(0)
    );
    assert_eq!(
        ask(COUNTER_STOP, [0, 0b111], &mut platform),
        Return::error(Error::AlreadyStopped)
    );
    assert_eq!(platform.counters.as_ref().unwrap().started, 0);
}

#[test]
fn linux_can_stop_and_reset_everything_at_the_beginning() {
    let mut platform = TestPlatform::default();
    let _ = ask(
        COUNTER_CONFIG_MATCHING,
        [0, ALL, 0, 0xf_0005],
        &mut platform,
    );
    assert_eq!(
        ask(COUNTER_STOP, [0, ALL, STOP_RESET], &mut platform),
        Return::error(Error::AlreadyStopped)
    );
    assert_eq!(platform.counters, Some(Counters::new()));
}

#[test]
fn there_are_no_snapshots() {
    let mut platform = TestPlatform::with_memory(&[0; 4096]);
    assert_eq!(
        ask(SNAPSHOT_SET_SHMEM, [MEMORY], &mut platform),
        Return::error(Error::NotSupported)
    );
    assert_eq!(
        ask(COUNTER_START, [0, 1, START_INIT_SNAPSHOT], &mut platform),
        Return::error(Error::NoShmem)
    );
    assert_eq!(
        ask(COUNTER_STOP, [0, 1, STOP_TAKE_SNAPSHOT], &mut platform),
        Return::error(Error::NoShmem)
    );
    assert_eq!(platform.counters, Some(Counters::new()));
}

#[test]
fn there_is_no_tenth_function_and_none_without_counters() {
    let mut platform = TestPlatform::with_memory(&[0; 16]);
    for function in [9, 0xbad, 1 << 32] {
        assert_eq!(
            ask(function, [], &mut platform),
            Return::error(Error::NotSupported)
        );
    }
    platform.counters = None;
    for function in 0..10 {
        assert_eq!(
            ask(function, [MEMORY, 1], &mut platform),
            Return::error(Error::NotSupported)
        );
    }
}

/// A table of events, each with its data, as `EVENT_GET_INFO` has it.
fn table(events: &[(u32, u64)]) -> TestPlatform {
    let mut platform = TestPlatform::default();
    for (index, data) in events {
        platform.memory.extend(index.to_le_bytes());
        platform.memory.extend([0xa5; 4]);
        platform.memory.extend(data.to_le_bytes());
    }
    platform
}

#[test]
fn a_table_of_events_is_answered_entry_by_entry() {
    let mut platform = table(&[(0xf_0005, 0), (1, 0), (0xf_0006, 1), (0xf_000d, 0)]);
    let before = platform.memory.clone();
    assert_eq!(
        ask(EVENT_GET_INFO, [MEMORY, 0, 4], &mut platform),
        Return::success(0)
    );
    for (entry, (answered, asked)) in platform
        .memory
        .chunks(16)
        .zip(before.chunks(16))
        .enumerate()
    {
        let output = u8::from([0, 3].contains(&entry));
        assert_eq!(answered[4..8], [output, 0, 0, 0]);
        assert_eq!((&answered[..4], &answered[8..]), (&asked[..4], &asked[8..]));
    }
}

#[test]
fn a_table_that_cannot_be_is_refused() {
    let mut platform = table(&[(0xf_0005, 0); 2]);
    for (args, error) in [
        ([MEMORY, 0, 2, 1], Error::InvalidParam),
        ([MEMORY + 8, 0, 1, 0], Error::InvalidParam),
        ([MEMORY, 1, 2, 0], Error::InvalidAddress),
        ([MEMORY, 0, 3, 0], Error::InvalidAddress),
        ([MEMORY, 0, 1 << 60, 0], Error::InvalidAddress),
        ([MEMORY, 0, u64::MAX, 0], Error::InvalidAddress),
        ([0, 0, 1, 0], Error::InvalidAddress),
    ] {
        assert_eq!(
            ask(EVENT_GET_INFO, args, &mut platform),
            Return::error(error)
        );
    }
    assert_eq!(
        ask(EVENT_GET_INFO, [0, 0, 0], &mut platform),
        Return::success(0),
        "nothing to answer"
    );
    platform.read_only = true;
    assert_eq!(
        ask(EVENT_GET_INFO, [MEMORY, 0, 2], &mut platform),
        Return::error(Error::InvalidAddress)
    );
    let mut platform = table(&[(0x10_0000, 0)]);
    assert_eq!(
        ask(EVENT_GET_INFO, [MEMORY, 0, 1], &mut platform),
        Return::error(Error::InvalidParam)
    );
    let mut platform = table(&[(0, 0); 1024]);
    assert_eq!(
        ask(EVENT_GET_INFO, [MEMORY, 0, 1024], &mut platform),
        Return::success(0)
    );
    let mut platform = table(&[(0, 0); 1025]);
    assert_eq!(
        ask(EVENT_GET_INFO, [MEMORY, 0, 1025], &mut platform),
        Return::error(Error::Failed)
    );
}

/// Calls that change counters, and events.
#[derive(Clone, Debug)]
enum Step {
    Call(u64, [u64; 5]),
    Event(Event, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = prop_oneof![select(&Event::ALL[..]).prop_map(Event::index), 0..20_u64];
    prop_oneof![
        (2..5_u64, 0..18_u64, 0..0x2_0000_u64, 0..16_u64, index).prop_map(
            |(function, base, mask, flags, index)| Step::Call(
                function,
                [base, mask & mask >> 5, flags, index, 0]
            )
        ),
        (select(&Event::ALL[..]), 0..5_u64).prop_map(|(event, times)| Step::Event(event, times)),
    ]
}

proptest! {
    /// A counter's value changes by calls that name it, and by as many as there are of its event while it counts.
    #[test]
    fn a_counter_counts_its_event_while_it_is_started(steps in proptest::collection::vec(step(), 0..60)) {
        let mut platform = TestPlatform::default();
        for step in steps {
            let before = platform.counters.clone().unwrap();
            match step {
                Step::Call(function, args) => {
                    let answer = call(function, args, &mut platform);
                    let after = platform.counters.as_ref().unwrap();
                    let [base, mask, ..] = args;
                    if answer == Return::error(Error::InvalidParam) || answer == Return::error(Error::NotSupported) {
                        prop_assert_eq!(after, &before);
                    }
                    for (counter, (now, then)) in (0..).zip(after.counters.iter().zip(&before.counters)) {
                        let named = counter >= base && mask >> (counter - base) & 1 == 1;
                        let was = before.started >> counter & 1;
                        prop_assert!(named || (now == then && after.started >> counter & 1 == was));
                    }
                }
                Step::Event(event, times) => {
                    platform.pmu().unwrap().count(event, times);
                    let after = platform.counters.as_ref().unwrap();
                    for (counter, (now, then)) in (0..).zip(after.counters.iter().zip(&before.counters)) {
                        let counts = before.started >> counter & 1 == 1 && then.event == Some(event);
                        prop_assert_eq!(now.value - then.value, if counts { times } else { 0 });
                    }
                }
            }
        }
    }
}
