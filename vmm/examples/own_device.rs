//! A machine with two devices of the program's own: a counter with memory-mapped registers, and a virtio device that only has a
//! configuration space.
//!
//! ```text
//! own_device --kernel Image [--initrd FILE] [--disk FILE] [--tap NAME] --serial FILE
//! ```
//!
//! The virtio console is on stdin and stdout. In the guest, `devmem 0x4000000` reads the counter, `devmem 0x4000000 32 N` adds N to
//! it, and its interrupt, source 36, is requested while the counter is odd.

mod common;

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::{Arguments, config};
use hv_vmm::hv_devices::bus::MmioDevice;
use hv_vmm::hv_devices::interrupt::IrqLine;
use hv_vmm::hv_devices::virtio::{Activation, QueuePosition, VirtioDevice};
use hv_vmm::{CustomConfig, PlatformDevice, Vm};

fn main() -> Result<(), Box<dyn Error>> {
    let (base, _) = PlatformDevice::BUS;
    let (irq, _) = PlatformDevice::IRQS;
    let counter = PlatformDevice::new("counter", base, 0x1000, |line| {
        let line = line.ok_or(io::ErrorKind::InvalidInput)?;
        let count = Mutex::new(0);
        Ok(Arc::new(Counter { count, line }))
    })
    .irq(irq)
    .property("compatible", *b"example,counter\0");

    let boots = AtomicU32::new(0);
    let number = CustomConfig::new(move || {
        let boot = boots.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Number(boot)))
    });

    let config = config(&Arguments::new())?
        .platform_device(counter)
        .device(number);
    let outcome = Vm::new(config)?.run()?;
    eprintln!("{outcome:?}");
    Ok(())
}

/// One register of 32 bits: reads as the count, and what is written is added to it.
struct Counter {
    count: Mutex<u32>,
    line: Arc<dyn IrqLine>,
}

impl MmioDevice for Counter {
    fn read(&self, offset: u64, data: &mut [u8]) {
        // Other registers, and other widths, read as zero.
        if let (0, Ok(data)) = (offset, <&mut [u8; 4]>::try_from(data)) {
            let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            *data = count.to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, Ok(data)) = (offset, <[u8; 4]>::try_from(data)) {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            *count = count.wrapping_add(u32::from_le_bytes(data));
            self.line.set_level(*count % 2 == 1);
        }
    }
}

/// A virtio device without queues, whose configuration space is the number of the boot.
struct Number(u32);

impl VirtioDevice for Number {
    /// A device type that nobody has been given (VIRTIO 1.3, section 5).
    fn device_id(&self) -> u32 {
        0xffff
    }

    fn name(&self) -> String {
        "number".into()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = self.0.to_le_bytes().into_iter().skip(offset);
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = from);
    }

    fn activate(&mut self, _: Activation) -> io::Result<()> {
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        Vec::new()
    }
}
