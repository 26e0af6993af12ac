//! The test device ("sifive_test"), through which a guest switches the machine off, starts it anew, or ends it with a
//! code.
//!
//! Source: QEMU, `hw/misc/sifive_test.c` and `include/hw/misc/sifive_test.h`. The one register, at offset 0, is
//! write-only: the low 16 bits are a command, the high 16 bits a failure's code. Reads are zero, and a value that is no
//! command is ignored.

use std::sync::Arc;

use hv_core::layout;

use crate::bus::MmioDevice;

/// Where the guest's wish to end goes. Called on a vCPU's thread; the guest runs on until whoever owns the machine has
/// stopped its vCPUs, so that a guest with several harts may make several calls, of which the first one counts.
pub trait PowerControl: Send + Sync {
    /// The guest is done, and content.
    fn power_off(&self);

    /// The guest is done and reports a failure. The code is the guest's own; QEMU makes it its exit code, 0 included.
    fn fail(&self, code: u16);

    /// The guest wants to be started anew.
    fn reset(&self);
}

/// The test device.
pub struct TestDevice {
    control: Arc<dyn PowerControl>,
}

impl TestDevice {
    /// A device that reports to `control`.
    #[must_use]
    pub fn new(control: Arc<dyn PowerControl>) -> Self {
        Self { control }
    }
}

impl MmioDevice for TestDevice {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    /// Takes writes of any width: what a narrow one leaves out is zero, and of a wide one the low 32 bits count.
    fn write(&self, offset: u64, data: &[u8]) {
        if offset != 0 {
            return;
        }
        let half = |index: usize| {
            let byte = |index| data.get(index).copied().unwrap_or(0);
            u16::from_le_bytes([byte(index), byte(index.saturating_add(1))])
        };
        match half(0) {
            layout::TEST_DEVICE_PASS => self.control.power_off(),
            layout::TEST_DEVICE_FAIL => self.control.fail(half(2)),
            layout::TEST_DEVICE_RESET => self.control.reset(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::lock;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Wish {
        PowerOff,
        Fail(u16),
        Reset,
    }

    #[derive(Default)]
    struct Log(Mutex<Vec<Wish>>);

    impl PowerControl for Log {
        fn power_off(&self) {
            lock(&self.0).push(Wish::PowerOff);
        }
        fn fail(&self, code: u16) {
            lock(&self.0).push(Wish::Fail(code));
        }
        fn reset(&self) {
            lock(&self.0).push(Wish::Reset);
        }
    }

    fn wishes(offset: u64, data: &[u8]) -> Vec<Wish> {
        let log = Arc::new(Log::default());
        TestDevice::new(log.clone()).write(offset, data);
        lock(&log.0).clone()
    }

    #[test]
    fn the_commands_at_every_width() {
        for (value, wish) in [
            (0x5555_u64, Wish::PowerOff),
            (0x0007_5555, Wish::PowerOff),
            (0x3333, Wish::Fail(0)),
            (0x0001_3333, Wish::Fail(1)),
            (0xffff_3333, Wish::Fail(0xffff)),
            (0x7777, Wish::Reset),
            (0xdead_beef_0002_3333, Wish::Fail(2)),
        ] {
            assert_eq!(wishes(0, &value.to_le_bytes()), [wish], "{value:#x}");
            assert_eq!(wishes(0, &value.to_le_bytes()[..4]), [wish], "{value:#x}");
        }
        assert_eq!(wishes(0, &[0x55, 0x55]), [Wish::PowerOff]);
        assert_eq!(wishes(0, &[0x33, 0x33]), [Wish::Fail(0)]);
        assert_eq!(wishes(0, &[0x33, 0x33, 0x09]), [Wish::Fail(9)]);
    }

    #[test]
    fn anything_else_is_ignored() {
        for value in [0_u32, 0x55, 0x5554, 0x5555_0000, 0x3333_0000, u32::MAX] {
            assert_eq!(wishes(0, &value.to_le_bytes()), [], "{value:#x}");
        }
        for offset in [1, 2, 4, 0xffc, u64::MAX] {
            assert_eq!(wishes(offset, &[0x55, 0x55, 0, 0]), []);
        }
        assert_eq!(wishes(0, &[0x55]), []);
        assert_eq!(wishes(0, &[]), []);
    }

    #[test]
    fn reads_are_zero() {
        let log = Arc::new(Log::default());
        let mut data = [0; 4];
        TestDevice::new(log.clone()).read(0, &mut data);
        assert_eq!(data, [0; 4]);
        assert_eq!(*lock(&log.0), []);
    }
}
