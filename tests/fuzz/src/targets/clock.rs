//! The real-time clock (goldfish) and the test device: registers by any width, while time passes and is set.

use hv_core::ending::End;
use hv_core::rtc::Registers;
use hv_core::test_device;

use crate::input::{Input, Script};

/// Accesses, as the input has them.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut clock = Registers::new();
    let mut now = input.number();
    for _ in 0..256 {
        if input.is_empty() {
            break;
        }
        let offset = match input.byte() {
            register @ 0..192 => u64::from(register % 9 * 4),
            _ => input.number(),
        };
        let width = input.choose(&[4, 4, 8, 1, 2, 0, 3]);
        let before = clock.clone();
        match input.below(5) {
            0 => {
                let mut data = vec![0xa5; width];
                clock.read(offset, &mut data, now);
                if width != 4 {
                    assert!(
                        data.iter().all(|byte| *byte == 0),
                        "no register of that width"
                    );
                }
                assert_eq!(clock.alarm(), before.alarm());
                assert_eq!(clock.line(), before.line());
            }
            1 => {
                // Low, then high: one moment, however much passes between the two (Linux, drivers/rtc/rtc-goldfish.c).
                let (mut low, mut high) = ([0; 4], [0; 4]);
                clock.read(0, &mut low, now);
                clock.read(4, &mut high, now.wrapping_add(input.number()));
                let time =
                    u64::from(u32::from_le_bytes(high)) << 32 | u64::from(u32::from_le_bytes(low));
                assert_eq!(time, now);
            }
            2 => {
                now = now.wrapping_add(input.number());
                clock.poll(now);
                assert!(
                    clock.alarm().is_none_or(|alarm| alarm > now),
                    "an alarm that is due waits"
                );
                if before.alarm().is_some_and(|alarm| alarm <= now) {
                    assert_eq!(clock.alarm(), None);
                }
            }
            3 => {
                let mut data = input.bytes(width).to_vec();
                data.resize(width, 0);
                check_test_device(offset, &data);
            }
            _ => {
                let mut data = input.bytes(width).to_vec();
                data.resize(width, 0);
                let effects = clock.write(offset, &data, now);
                if let Some(time) = effects.time {
                    now = time;
                }
                if clock.alarm() != before.alarm() {
                    assert!(effects.alarm, "the owner has to be told of the alarm");
                }
                if width != 4 {
                    assert_eq!(clock, before);
                }
            }
        }
        // An interrupt is one of an alarm.
        if clock.line() && !before.line() {
            let (mut enabled, mut armed) = ([0; 4], [0; 4]);
            clock.clone().read(0x10, &mut enabled, now);
            clock.clone().read(0x18, &mut armed, now);
            assert_eq!(enabled, [1, 0, 0, 0]);
            assert_eq!(armed[0] != 0, clock.alarm().is_some());
        }
    }
}

fn check_test_device(offset: u64, data: &[u8]) {
    let end = test_device::write(offset, data);
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(data) {
        *to = *from;
    }
    let word = u32::from_le_bytes(word);
    let expected = match (offset, word & 0xffff) {
        (0, 0x5555) => Some(End::PowerOff),
        (0, 0x3333) => Some(End::TestFailed(
            (word >> 16).to_le_bytes()[..2]
                .try_into()
                .map_or(0, u16::from_le_bytes),
        )),
        (0, 0x7777) => Some(End::Reset),
        _ => None,
    };
    assert_eq!(end, expected);
}

/// An alarm that is set, goes off and is cleared, and commands to the test device.
pub fn seeds() -> Vec<Vec<u8>> {
    let write =
        |script: Script, register: u8, value: u32| script.bytes(&[register, 0, 4]).u32(value);
    let alarm = write(
        Script::new().number(1_700_000_000_000_000_000),
        3,
        0x1797_8000,
    );
    let alarm = write(write(alarm, 2, 0), 4, 1)
        .bytes(&[0, 0, 2])
        .number(u64::from(u32::MAX));
    let alarm = write(write(alarm, 7, 0), 5, 0).bytes(&[0, 0, 1]).number(7);
    let set = write(write(Script::new().number(5), 1, 0x1797_0000), 0, 1).bytes(&[0, 0, 0]);
    let end = Script::new()
        .number(0)
        .bytes(&[0, 0, 3])
        .u32(0x0003_3333)
        .bytes(&[0, 4, 3])
        .u16(0x5555);
    [alarm, set, end].map(Script::done).into()
}
