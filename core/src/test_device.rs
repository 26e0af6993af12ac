//! The test device ("sifive_test"), through which a guest switches the machine off, starts it anew, or ends it with a
//! code.
//!
//! Source: QEMU, `hw/misc/sifive_test.c` and `include/hw/misc/sifive_test.h`. The one register, at offset 0, is
//! write-only: the low 16 bits are a command, the high 16 bits a failure's code. Reads are zero, and a value that is no
//! command is ignored.

use crate::ending::End;
use crate::layout;
use crate::node::{DeviceNode, Node};

/// What the device tree says of it: a register that other nodes refer to (bindings: `mfd/syscon.yaml`), and how to switch the
/// machine off and to start it anew without SBI (bindings: `power/reset/syscon-poweroff.yaml` and
/// `power/reset/syscon-reboot.yaml`). Linux reboots by SBI's SRST where both are there, and switches off by whichever its
/// version asks first.
#[must_use]
pub fn node() -> DeviceNode {
    let power = |name: &str, compatible, value: u16| {
        Node::new(name)
            .strings("compatible", [compatible])
            .device("regmap")
            .cell("offset", 0)
            .cell("value", value.into())
    };
    let test = Node::new("test")
        .strings("compatible", ["sifive,test1", "sifive,test0", "syscon"])
        .registers()
        .phandle();
    DeviceNode::new(layout::TEST_DEVICE_BASE, layout::TEST_DEVICE_SIZE, test)
        .at_root(power(
            "poweroff",
            "syscon-poweroff",
            layout::TEST_DEVICE_PASS,
        ))
        .at_root(power("reboot", "syscon-reboot", layout::TEST_DEVICE_RESET))
}

/// The end that a write at `offset` from the device's base asks for, if it is a command.
///
/// Takes writes of any width: what a narrow one leaves out is zero, and of a wide one the low 32 bits count.
#[must_use]
pub fn write(offset: u64, data: &[u8]) -> Option<End> {
    if offset != 0 {
        return None;
    }
    let half = |index: usize| {
        let byte = |index| data.get(index).copied().unwrap_or(0);
        u16::from_le_bytes([byte(index), byte(index.saturating_add(1))])
    };
    match half(0) {
        layout::TEST_DEVICE_PASS => Some(End::PowerOff),
        layout::TEST_DEVICE_FAIL => Some(End::TestFailed(half(2))),
        layout::TEST_DEVICE_RESET => Some(End::Reset),
        _ => None,
    }
}

/// What a write of 32 bits to the register has to be for the machine to end with this exit code: the other way round, for the
/// test device of a machine that one runs on.
#[must_use]
pub fn command_for_exit_code(code: u16) -> u32 {
    match code {
        0 => layout::TEST_DEVICE_PASS.into(),
        code => u32::from(code) << 16 | u32::from(layout::TEST_DEVICE_FAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_says_the_exit_code() {
        for (code, end) in [
            (0, End::PowerOff),
            (1, End::TestFailed(1)),
            (0xffff, End::TestFailed(0xffff)),
        ] {
            let bytes = command_for_exit_code(code).to_le_bytes();
            assert_eq!(write(0, &bytes), Some(end), "{code}");
        }
    }

    #[test]
    fn the_commands_at_every_width() {
        for (value, command) in [
            (0x5555_u64, End::PowerOff),
            (0x0007_5555, End::PowerOff),
            (0x3333, End::TestFailed(0)),
            (0x0001_3333, End::TestFailed(1)),
            (0xffff_3333, End::TestFailed(0xffff)),
            (0x7777, End::Reset),
            (0xdead_beef_0002_3333, End::TestFailed(2)),
        ] {
            let bytes = value.to_le_bytes();
            assert_eq!(write(0, &bytes), Some(command), "{value:#x}");
            assert_eq!(write(0, &bytes[..4]), Some(command), "{value:#x}");
        }
        assert_eq!(write(0, &[0x55, 0x55]), Some(End::PowerOff));
        assert_eq!(write(0, &[0x33, 0x33]), Some(End::TestFailed(0)));
        assert_eq!(write(0, &[0x33, 0x33, 0x09]), Some(End::TestFailed(9)));
    }

    #[test]
    fn anything_else_is_ignored() {
        for value in [0_u32, 0x55, 0x5554, 0x5555_0000, 0x3333_0000, u32::MAX] {
            assert_eq!(write(0, &value.to_le_bytes()), None, "{value:#x}");
        }
        for offset in [1, 2, 4, 0xffc, u64::MAX] {
            assert_eq!(write(offset, &[0x55, 0x55, 0, 0]), None);
        }
        assert_eq!(write(0, &[0x55]), None);
        assert_eq!(write(0, &[]), None);
    }
}
