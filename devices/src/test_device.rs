//! The test device of [`hv_core::test_device`], which reports to a [`PowerControl`].

use std::sync::Arc;

use hv_core::ending::End;
use hv_core::test_device;

use crate::bus::MmioDevice;

/// Receives the guest's requests to end or reset. Called on a vCPU's thread. The guest keeps running until the owner of the
/// machine has stopped its vCPUs, so a guest with several harts may make several calls; the first one counts.
pub trait PowerControl: Send + Sync {
    /// The guest's run is to end so.
    fn end(&self, end: End);
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

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(end) = test_device::write(offset, data) {
            self.control.end(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::lock;

    #[derive(Default)]
    struct Log(Mutex<Vec<End>>);

    impl PowerControl for Log {
        fn end(&self, end: End) {
            lock(&self.0).push(end);
        }
    }

    #[test]
    fn commands_reach_whom_they_concern() {
        let log = Arc::new(Log::default());
        let device = TestDevice::new(log.clone());
        for value in [0x5555_u32, 0x0007_3333, 0x7777, 0, 0x1234] {
            device.write(0, &value.to_le_bytes());
        }
        device.write(4, &0x5555_u32.to_le_bytes());
        let ends = [End::PowerOff, End::TestFailed(7), End::Reset];
        assert_eq!(*lock(&log.0), ends);
        let mut data = [0; 4];
        device.read(0, &mut data);
        assert_eq!(data, [0; 4]);
        assert_eq!(lock(&log.0).len(), 3);
    }
}
