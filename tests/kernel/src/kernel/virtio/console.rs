//! The console device (VIRTIO 1.3, section 5.3), with its first port alone.

use super::queue::{Part, Queue, SIZE, buffers, get, put};
use super::transport::{DEVICE_ID, Slot, VERSION_1};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::time;

tests! { TESTS:
    "console-transmits" => transmits,
    "console-emergency-write" => emergency_write,
    "console-size" => size,
    "console-keeps-buffers-without-input" => keeps_buffers,
    "console-receives-what-is-typed" => receives,
}

const CONSOLE_DEVICE: u32 = 3;

// Feature bits (section 5.3.3).
const SIZED: u64 = 1 << 0;
const EMERGENCY_WRITE: u64 = 1 << 2;

// Queues of the first port (section 5.3.2).
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;

// Offsets in the configuration space (section 5.3.4).
const CONFIG_SIZE: usize = 0;
const CONFIG_EMERGENCY_WRITE: usize = 8;

/// Where received characters go, from the beginning of the memory for buffers.
const RECEIVED: usize = 1024;

fn find(machine: &Machine) -> Outcome<Slot> {
    for device in &machine.virtio {
        let slot = Slot::new(device.base)?;
        if slot.read(DEVICE_ID) == CONSOLE_DEVICE {
            return Ok(slot);
        }
    }
    skip!("there is no virtio console")
}

/// A console that is ready. The device lets go of the shared memory when this is dropped.
struct Console {
    slot: Slot,
    receive: Queue,
    transmit: Queue,
}

impl Console {
    fn open(machine: &Machine) -> Outcome<Self> {
        let slot = find(machine)?;
        slot.negotiate(slot.features() & VERSION_1)?;
        let (receive, transmit) = (Queue::new(0), Queue::new(1));
        slot.set_queue(RECEIVE, &receive)?;
        slot.set_queue(TRANSMIT, &transmit)?;
        slot.start()?;
        Ok(Self {
            slot,
            receive,
            transmit,
        })
    }

    /// Prints a text, in two parts of one buffer.
    fn print(&mut self, text: &str) -> Outcome {
        let address = buffers();
        put(address, text.as_bytes());
        let middle = text.len() / 2;
        let part = |from: usize, to: usize| Part {
            address: address + from,
            length: (to - from) as u32,
            writable: false,
        };
        let parts = [part(0, middle), part(middle, text.len())];
        Queue::chain(self.transmit.descriptors(), 0, &parts);
        self.transmit.offer(0);
        self.slot.notify(TRANSMIT);
        let Some((head, written)) = self.transmit.take() else {
            fail!("the device does not use the buffer");
        };
        check_eq!(head, 0, "the used buffer");
        check_eq!(written, 0, "the bytes written to a buffer to read");
        Ok(())
    }

    /// Offers a buffer for a character.
    fn listen(&mut self) {
        let part = Part {
            address: buffers() + RECEIVED,
            length: 1,
            writable: true,
        };
        Queue::chain(self.receive.descriptors(), 0, &[part]);
        self.receive.offer(0);
        self.slot.notify(RECEIVE);
    }

    /// Waits for a character.
    fn read(&mut self) -> Outcome<u8> {
        self.listen();
        let Some((head, written)) = self.receive.take() else {
            fail!("nothing is received");
        };
        check_eq!(head, 0, "the used buffer");
        check_eq!(written, 1, "the bytes written");
        let [byte] = get(buffers() + RECEIVED);
        Ok(byte)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.slot.reset();
    }
}

fn transmits(machine: &Machine) -> Outcome {
    let mut console = Console::open(machine)?;
    // More often than the ring is long.
    for _ in 0..=SIZE {
        console.print("# by the virtio console\r\n")?;
    }
    Ok(())
}

/// Characters can be printed before anything is set up (section 5.3.4).
fn emergency_write(machine: &Machine) -> Outcome {
    let slot = find(machine)?;
    slot.reset()?;
    if slot.features() & EMERGENCY_WRITE == 0 {
        skip!("the console has no emergency write");
    }
    for byte in *b"# in an emergency\r\n" {
        slot.set_config32(CONFIG_EMERGENCY_WRITE, byte.into());
    }
    Ok(())
}

/// A console that is not on a terminal has neither columns nor rows, and one that is has both.
fn size(machine: &Machine) -> Outcome {
    let slot = find(machine)?;
    if slot.features() & SIZED == 0 {
        skip!("the console has no size");
    }
    slot.negotiate(slot.features() & (VERSION_1 | SIZED))?;
    let size = slot.config32(CONFIG_SIZE);
    slot.reset()?;
    let (columns, rows) = (size & 0xffff, size >> 16);
    check!(
        (columns == 0) == (rows == 0),
        "the console has {columns} columns and {rows} rows"
    );
    Ok(())
}

/// Nothing is typed while this runs.
fn keeps_buffers(machine: &Machine) -> Outcome {
    let mut console = Console::open(machine)?;
    console.listen();
    check!(
        !time::comes(|| console.receive.used_index() != 0),
        "a buffer is used without input"
    );
    Ok(())
}

/// The test's driver says on the command line what it will type, and types it when asked.
fn receives(machine: &Machine) -> Outcome {
    let mut console = Console::open(machine)?;
    let Some(expected) = machine.argument("typed") else {
        skip!("nobody types");
    };
    console.print("# type: ")?;
    console.print(expected)?;
    console.print("\r\n")?;
    for byte in expected.bytes() {
        check_eq!(console.read()?, byte, "what was typed");
    }
    Ok(())
}
