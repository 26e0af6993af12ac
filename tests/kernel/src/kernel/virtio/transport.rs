//! The registers of a slot, and how a driver and a device begin (VIRTIO 1.3, section 3.1).

use super::queue::Queue;
use crate::kernel::mmio::{self, Registers};
use crate::kernel::report::Outcome;
use crate::kernel::time;

// Register offsets.
pub const MAGIC_VALUE: usize = 0x000;
pub const VERSION: usize = 0x004;
pub const DEVICE_ID: usize = 0x008;
const DEVICE_FEATURES: usize = 0x010;
const DEVICE_FEATURES_SEL: usize = 0x014;
const DRIVER_FEATURES: usize = 0x020;
const DRIVER_FEATURES_SEL: usize = 0x024;
const GUEST_PAGE_SIZE: usize = 0x028;
const QUEUE_SEL: usize = 0x030;
pub const QUEUE_NUM_MAX: usize = 0x034;
const QUEUE_NUM: usize = 0x038;
const QUEUE_ALIGN: usize = 0x03c;
pub const QUEUE_PFN: usize = 0x040;
pub const QUEUE_READY: usize = 0x044;
pub const QUEUE_NOTIFY: usize = 0x050;
pub const INTERRUPT_STATUS: usize = 0x060;
pub const INTERRUPT_ACK: usize = 0x064;
pub const STATUS: usize = 0x070;
const QUEUE_DESC_LOW: usize = 0x080;
const QUEUE_DRIVER_LOW: usize = 0x090;
const QUEUE_DEVICE_LOW: usize = 0x0a0;
pub const CONFIG_GENERATION: usize = 0x0fc;
const CONFIG: usize = 0x100;

/// "virt".
pub const MAGIC: u32 = 0x7472_6976;

// Device status.
pub const ACKNOWLEDGE: u32 = 1;
pub const DRIVER: u32 = 2;
pub const DRIVER_OK: u32 = 4;
pub const FEATURES_OK: u32 = 8;

/// Feature bits that every device may have.
pub const INDIRECT_DESC: u64 = 1 << 28;
pub const EVENT_IDX: u64 = 1 << 29;
pub const VERSION_1: u64 = 1 << 32;

/// The legacy interface's page size and alignment, in bytes.
const PAGE: usize = 4096;

/// A slot.
#[derive(Clone, Copy)]
pub struct Slot {
    registers: Registers,
    base: usize,
    legacy: bool,
}

impl Slot {
    /// The slot at an address, if its registers are of a version that there is.
    pub fn new(base: usize) -> Outcome<Self> {
        let registers = Registers::new(base);
        check_eq!(
            registers.read(MAGIC_VALUE),
            MAGIC,
            "the magic value of the slot at {base:#x}"
        );
        let version = registers.read(VERSION);
        check!(
            version == 1 || version == 2,
            "the version of the slot at {base:#x} is {version}"
        );
        Ok(Self {
            registers,
            base,
            legacy: version == 1,
        })
    }

    pub fn is_legacy(self) -> bool {
        self.legacy
    }

    pub fn read(self, register: usize) -> u32 {
        self.registers.read(register)
    }

    pub fn write(self, register: usize, value: u32) {
        self.registers.write(register, value);
    }

    /// A byte of the device's configuration space.
    pub fn config8(self, offset: usize) -> u8 {
        mmio::read8(self.base + CONFIG + offset)
    }

    pub fn config32(self, offset: usize) -> u32 {
        self.registers.read(CONFIG + offset)
    }

    /// What the device offers. A legacy device has 32 features.
    pub fn features(self) -> u64 {
        let word = |select| {
            self.write(DEVICE_FEATURES_SEL, select);
            u64::from(self.read(DEVICE_FEATURES))
        };
        if self.legacy {
            word(0)
        } else {
            word(0) | word(1) << 32
        }
    }

    /// What of it the driver takes. The upper word is written only where something in it is taken, as some drivers never
    /// write it.
    fn set_features(self, features: u64) {
        let [low, high] = [features as u32, (features >> 32) as u32];
        self.write(DRIVER_FEATURES_SEL, 0);
        self.write(DRIVER_FEATURES, low);
        if high != 0 {
            self.write(DRIVER_FEATURES_SEL, 1);
            self.write(DRIVER_FEATURES, high);
        }
    }

    /// Resets the device and waits until it is ("Device Initialization" and 4.2.2.2).
    pub fn reset(self) -> Outcome {
        self.write(STATUS, 0);
        check!(
            time::wait_for(|| self.read(STATUS) == 0),
            "the device does not reset"
        );
        Ok(())
    }

    /// Resets the device and agrees with it on features.
    pub fn negotiate(self, features: u64) -> Outcome {
        self.reset()?;
        self.write(STATUS, ACKNOWLEDGE);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        check_eq!(self.read(STATUS), ACKNOWLEDGE | DRIVER, "the status");
        self.set_features(features);
        if self.legacy {
            self.write(GUEST_PAGE_SIZE, PAGE as u32);
        } else {
            self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
            check!(
                self.read(STATUS) & FEATURES_OK != 0,
                "the device does not take features {features:#x}"
            );
        }
        Ok(())
    }

    /// Lets the device know that the driver is ready.
    pub fn start(self) -> Outcome {
        let status = self.read(STATUS) | DRIVER_OK;
        self.write(STATUS, status);
        check_eq!(self.read(STATUS), status, "the status");
        Ok(())
    }

    pub fn select_queue(self, index: u32) {
        self.write(QUEUE_SEL, index);
    }

    /// Whether the queue that is selected is in use.
    pub fn queue_in_use(self) -> bool {
        let register = if self.legacy { QUEUE_PFN } else { QUEUE_READY };
        self.read(register) != 0
    }

    /// Sets up the queue with this number.
    pub fn set_queue(self, index: u32, queue: &Queue) -> Outcome {
        self.select_queue(index);
        check!(
            !self.queue_in_use(),
            "queue {index} is in use after a reset"
        );
        let max = self.read(QUEUE_NUM_MAX);
        check!(
            max >= queue.size(),
            "queue {index} has {max} entries at most"
        );
        self.write(QUEUE_NUM, queue.size());
        if self.legacy {
            self.write(QUEUE_ALIGN, PAGE as u32);
            self.write(QUEUE_PFN, (queue.descriptors() / PAGE) as u32);
            check_eq!(
                self.read(QUEUE_PFN) as usize,
                queue.descriptors() / PAGE,
                "QueuePFN"
            );
        } else {
            for (register, address) in [
                (QUEUE_DESC_LOW, queue.descriptors()),
                (QUEUE_DRIVER_LOW, queue.available()),
                (QUEUE_DEVICE_LOW, queue.used()),
            ] {
                self.write(register, address as u32);
                self.write(register + 4, (address >> 32) as u32);
            }
            self.write(QUEUE_READY, 1);
            check_eq!(self.read(QUEUE_READY), 1, "QueueReady");
        }
        Ok(())
    }

    /// A word of the device's configuration space.
    pub fn set_config32(self, offset: usize, value: u32) {
        self.registers.write(CONFIG + offset, value);
    }

    /// Tells the device of new buffers in the queue with this number.
    pub fn notify(self, index: u32) {
        self.write(QUEUE_NOTIFY, index);
    }
}
