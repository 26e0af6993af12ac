//! The platform for core's SBI dispatcher, for the calls that KVM forwards.

use std::sync::Arc;

use hv_core::addr::GuestPhysAddr;
use hv_core::sbi::{Access, BadMemory, ConsoleError, Error, Platform, base, dbcn, legacy, susp};
use hv_devices::chardev::{InputSink, OutputSink};
use hv_devices::memory::GuestMemoryMmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

/// The machine as an SBI implementation sees it.
pub struct SbiPlatform {
    /// The guest's RAM.
    pub memory: Arc<GuestMemoryMmap>,
    /// Where what the guest prints goes.
    pub output: Arc<dyn OutputSink>,
    /// The device at which its input arrives.
    pub input: Arc<dyn InputSink>,
    /// What legacy Console Getchar answers for no character.
    pub getchar_empty: i64,
    /// The guest has suspended the machine by the call at hand.
    pub suspended: bool,
}

impl Platform for SbiPlatform {
    /// The extensions that KVM forwards. It handles the others itself, or the guest does not have them.
    fn implements(&self, extension: u64) -> bool {
        matches!(
            extension,
            base::EID | dbcn::EID | susp::EID | legacy::CONSOLE_PUTCHAR | legacy::CONSOLE_GETCHAR
        )
    }

    fn console_write(&mut self, bytes: &[u8]) -> Result<usize, ConsoleError> {
        self.output.write(bytes);
        Ok(bytes.len())
    }

    fn console_write_memory(&mut self, address: GuestPhysAddr, size: u64) -> Result<u64, Error> {
        let length = usize::try_from(size).map_err(|_| Error::InvalidParam)?;
        for slice in self.memory.get_slices(GuestAddress(address.0), length) {
            self.output
                .write_memory(&slice.map_err(|_| Error::InvalidParam)?);
        }
        Ok(size)
    }

    fn console_write_byte(&mut self, byte: u8) -> Result<(), ConsoleError> {
        self.output.write(&[byte]);
        Ok(())
    }

    fn console_read(&mut self, buffer: &mut [u8]) -> Result<usize, ConsoleError> {
        Ok(self.input.take_received(buffer))
    }

    fn is_memory(&self, address: GuestPhysAddr, size: u64, _: Access) -> bool {
        usize::try_from(size)
            .is_ok_and(|size| self.memory.check_range(GuestAddress(address.0), size))
    }

    fn read_memory(&mut self, address: GuestPhysAddr, buffer: &mut [u8]) -> Result<(), BadMemory> {
        self.memory
            .read_slice(buffer, GuestAddress(address.0))
            .map_err(|_| BadMemory)
    }

    fn write_memory(&mut self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), BadMemory> {
        self.memory
            .write_slice(bytes, GuestAddress(address.0))
            .map_err(|_| BadMemory)
    }

    fn legacy_getchar_empty(&self) -> i64 {
        self.getchar_empty
    }

    /// KVM has seen to it that no other hart runs, and has the caller resume where it asked for when it is entered again
    /// (arch/riscv/kvm/vcpu_sbi_system.c). What is left is the sleep.
    fn system_suspend(&mut self, _: GuestPhysAddr, _: u64) -> Result<(), Error> {
        self.suspended = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use hv_core::sbi::{Call, Error, Return, handle};
    use hv_devices::chardev::OutputThread;

    use super::*;

    /// Nobody types.
    struct NoInput;

    impl InputSink for NoInput {
        fn receive(&self, _: &[u8]) -> usize {
            0
        }
        fn set_room_event(&self, _: vmm_sys_util::eventfd::EventFd) {}
        fn take_received(&self, _: &mut [u8]) -> usize {
            0
        }
    }

    /// A machine whose input is what somebody has typed.
    fn platform(typed: &'static [u8]) -> (SbiPlatform, Arc<Typed>) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x8000_0000), 4096)]);
        let console = Arc::new(Typed {
            input: Mutex::new(typed.to_vec()),
            output: Mutex::default(),
        });
        let platform = SbiPlatform {
            memory: Arc::new(memory.unwrap()),
            output: console.clone(),
            input: console.clone(),
            getchar_empty: -1,
            suspended: false,
        };
        (platform, console)
    }

    struct Typed {
        input: Mutex<Vec<u8>>,
        output: Mutex<Vec<u8>>,
    }

    impl InputSink for Typed {
        fn receive(&self, _: &[u8]) -> usize {
            0
        }
        fn set_room_event(&self, _: vmm_sys_util::eventfd::EventFd) {}
        fn take_received(&self, buffer: &mut [u8]) -> usize {
            let mut input = self.input.lock().unwrap();
            let count = buffer.len().min(input.len());
            for (to, from) in buffer.iter_mut().zip(input.drain(..count)) {
                *to = from;
            }
            count
        }
    }

    impl OutputSink for Typed {
        fn write(&self, bytes: &[u8]) {
            self.output.lock().unwrap().extend_from_slice(bytes);
        }
        fn try_write(&self, bytes: &[u8]) -> usize {
            self.write(bytes);
            bytes.len()
        }
        fn set_room_event(&self, _: Arc<vmm_sys_util::eventfd::EventFd>) {}
    }

    fn call(platform: &mut SbiPlatform, extension: u64, function: u64, args: [u64; 3]) -> Return {
        let [a0, a1, a2] = args;
        let call = Call {
            extension,
            function,
            args: [a0, a1, a2, 0, 0, 0],
        };
        handle(&call, platform)
    }

    #[test]
    fn a_guest_reads_what_was_typed() {
        let (mut platform, _) = platform(b"abcdef");
        let read = |size, address| [size, address, 0];
        let memory = platform.memory.clone();
        assert_eq!(
            call(
                &mut platform,
                dbcn::EID,
                dbcn::CONSOLE_READ,
                read(4, 0x8000_0ff0)
            ),
            Return::success(4)
        );
        let mut bytes = [0xff; 6];
        memory
            .read_slice(&mut bytes, GuestAddress(0x8000_0ff0))
            .unwrap();
        assert_eq!(&bytes, b"abcd\0\0");
        // The last byte of memory, and one behind it.
        for (address, expected) in [
            (0x8000_0fff, Return::success(1)),
            (0x8000_1000, Return::error(Error::InvalidParam)),
        ] {
            let read = call(
                &mut platform,
                dbcn::EID,
                dbcn::CONSOLE_READ,
                read(1, address),
            );
            assert_eq!(read, expected);
        }
        let getchar =
            |platform: &mut SbiPlatform| call(platform, legacy::CONSOLE_GETCHAR, 0, [0; 3]);
        assert_eq!(getchar(&mut platform), Return::Legacy(i64::from(b'f')));
        for empty in [-1, 0] {
            platform.getchar_empty = empty;
            assert_eq!(getchar(&mut platform), Return::Legacy(empty));
        }
    }

    #[test]
    fn bytes_are_printed_one_at_a_time_too() {
        let (mut platform, console) = platform(b"");
        let byte = call(
            &mut platform,
            dbcn::EID,
            dbcn::CONSOLE_WRITE_BYTE,
            [0x141, 0, 0],
        );
        assert_eq!(byte, Return::success(0));
        let byte = call(&mut platform, legacy::CONSOLE_PUTCHAR, 0, [0x42, 0, 0]);
        assert_eq!(byte, Return::Legacy(0));
        assert_eq!(platform.console_write(b"C").unwrap(), 1);
        assert_eq!(*console.output.lock().unwrap(), b"ABC");
        let mut bytes = [1; 2];
        platform
            .memory
            .write_slice(b"xy", GuestAddress(0x8000_0ffe))
            .unwrap();
        platform
            .read_memory(GuestPhysAddr(0x8000_0ffe), &mut bytes)
            .unwrap();
        assert_eq!(&bytes, b"xy");
        let behind = platform.read_memory(GuestPhysAddr(0x8000_0fff), &mut bytes);
        assert_eq!(behind, Err(BadMemory));
    }

    #[test]
    fn a_suspension_is_noted_and_other_extensions_are_kvms() {
        use hv_core::sbi::{hsm, ipi, pmu, rfence, srst, time};
        let (mut platform, _) = platform(b"");
        for extension in [
            hsm::EID,
            ipi::EID,
            pmu::EID,
            rfence::EID,
            srst::EID,
            time::EID,
            0,
            8,
        ] {
            assert!(!platform.implements(extension), "{extension:#x}");
        }
        for extension in [base::EID, dbcn::EID, susp::EID, 1, 2] {
            assert!(platform.implements(extension), "{extension:#x}");
        }
        let suspend = call(&mut platform, susp::EID, 0, [0, 0x8000_0000, 7]);
        assert_eq!(suspend, Return::success(0));
        assert!(platform.suspended);
    }

    #[test]
    fn console_writes_of_any_length_come_out_of_memory_in_order() {
        const BASE: u64 = 0x8000_0000;
        let text: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        // Two regions, of which the second begins where the first ends.
        let ranges = [
            (GuestAddress(BASE), 70_000),
            (GuestAddress(BASE + 70_000), 30_000),
        ];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap());
        memory.write_slice(&text, GuestAddress(BASE)).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let output = Arc::new(OutputThread::spawn(file.reopen().unwrap(), "test").unwrap());
        let mut platform = SbiPlatform {
            memory,
            output: output.clone(),
            input: Arc::new(NoInput),
            getchar_empty: -1,
            suspended: false,
        };
        let mut write = |size, address| {
            let call = Call {
                extension: dbcn::EID,
                function: dbcn::CONSOLE_WRITE,
                args: [size, address, 0, 0, 0, 0],
            };
            handle(&call, &mut platform)
        };
        let mut written = 0;
        for size in [1, 600, 17_000, 3, 40_000, 30_000] {
            assert_eq!(write(size, BASE + written), Return::success(size));
            written += size;
        }
        assert_eq!(
            write(100_000, BASE),
            Return::success(dbcn::MAX_BYTES_PER_CALL)
        );
        assert_eq!(write(2, BASE + 99_999), Return::error(Error::InvalidParam));
        assert!(output.close(hv_test_limit::LIMIT));
        let expected = [
            &text[..usize::try_from(written).unwrap()],
            &text[..64 << 10],
        ]
        .concat();
        assert!(std::fs::read(file.path()).unwrap() == expected);
    }
}
