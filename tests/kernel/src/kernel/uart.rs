//! The serial port, a 16550A (National Semiconductor, PC16550D data sheet): the output that everything is printed on, and
//! in loopback mode a source of interrupts whose level software decides.

use super::external::Listener;
use super::machine::Machine;
use super::report::Outcome;
use super::{mmio, smp, time};

tests! { TESTS:
    "uart-line-status" => line_status,
    "uart-scratch" => scratch,
    "uart-divisor-latch" => divisor_latch,
    "uart-fifo-control" => fifo_control,
    "uart-reserved-bits" => reserved_bits,
    "uart-loopback" => loopback,
    "uart-loopback-fifo" => loopback_fifo,
    "uart-modem-status" => modem_status,
    "uart-identifies-received-data" => identifies_received,
    "uart-identifies-transmitter-empty" => identifies_transmitter,
    "uart-receiver-is-empty" => receiver_is_empty,
}

tests! { INTERRUPT_TESTS:
    "uart-interrupt-transmitter-empty" => transmitter_interrupt,
    "uart-interrupt-received-data" => received_interrupt,
    "uart-interrupt-on-each-hart" => each_hart,
}

// Register offsets.
const RBR_THR_DLL: usize = 0;
const IER_DLM: usize = 1;
const IIR_FCR: usize = 2;
const LCR: usize = 3;
const MCR: usize = 4;
const LSR: usize = 5;
const MSR: usize = 6;
const SCR: usize = 7;

const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMITTER_EMPTY: u8 = 1 << 1;

const IIR_NONE: u8 = 0x01;
const IIR_TRANSMITTER_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
/// The interrupt that is identified.
const IIR_MASK: u8 = 0x0f;
const IIR_FIFOS: u8 = 0xc0;

const FCR_ENABLE: u8 = 1 << 0;
const FCR_RESET: u8 = 0b110;

const LCR_8_BITS: u8 = 0b11;
const LCR_DIVISOR: u8 = 1 << 7;

const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_DATA: u8 = 1 << 0;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_HOLDING_EMPTY: u8 = 1 << 5;
const LSR_EMPTY: u8 = 1 << 6;

/// Characters that the FIFOs hold.
const FIFO: u8 = 16;

/// The port at an address.
#[derive(Clone, Copy)]
pub struct Uart {
    base: usize,
}

impl Uart {
    pub const fn new(base: usize) -> Self {
        Self { base }
    }

    fn read(self, register: usize) -> u8 {
        mmio::read8(self.base + register)
    }

    fn write(self, register: usize, value: u8) {
        mmio::write8(self.base + register, value);
    }

    /// Ready to send: no interrupts, no loopback, FIFOs empty.
    pub fn reset(self) {
        self.write(LCR, LCR_8_BITS);
        self.write(IER_DLM, 0);
        // Before loopback ends, so that nothing of it is left.
        self.write(IIR_FCR, FCR_ENABLE | FCR_RESET);
        self.write(MCR, MCR_OUT2);
    }

    /// Sends characters, a FIFO's worth at a time. Those that cannot be sent for long are lost.
    pub fn send(self, bytes: &[u8]) {
        for part in bytes.chunks(FIFO.into()) {
            let _ = time::wait_for(|| self.read(LSR) & LSR_HOLDING_EMPTY != 0);
            for byte in part {
                self.write(RBR_THR_DLL, *byte);
            }
        }
    }
}

/// The port in loopback mode, with its FIFOs off: what is sent is received, and nothing is printed until this is dropped.
pub struct Loopback(Uart);

impl Loopback {
    pub fn new(machine: &Machine) -> Self {
        let port = Uart::new(machine.uart.base);
        let _ = time::wait_for(|| port.read(LSR) & LSR_EMPTY != 0);
        port.write(IIR_FCR, 0);
        port.write(MCR, MCR_LOOP | MCR_OUT2);
        Self(port)
    }

    /// Raises the port's interrupt: a character is there, and the interrupt for it enabled.
    pub fn raise(&self) -> Outcome {
        let Self(port) = self;
        if port.read(LSR) & LSR_DATA == 0 {
            port.write(RBR_THR_DLL, b'r');
        }
        check!(
            time::wait_for(|| port.read(LSR) & LSR_DATA != 0),
            "loopback brings nothing"
        );
        port.write(IER_DLM, IER_RECEIVED);
        Ok(())
    }

    /// Lowers it.
    pub fn lower(&self) {
        self.0.write(IER_DLM, 0);
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.0.write(IER_DLM, 0);
        self.0.read(RBR_THR_DLL);
        self.0.reset();
    }
}

/// The transmitter becomes empty, holding register first.
fn line_status(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    let empty = LSR_HOLDING_EMPTY | LSR_EMPTY;
    check!(
        time::wait_for(|| port.read(LSR) & empty == empty),
        "the transmitter is never empty"
    );
    Ok(())
}

fn scratch(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    for value in [0x00, 0xff, 0xa5, 0x5a] {
        port.write(SCR, value);
        check_eq!(port.read(SCR), value, "the scratch register");
    }
    Ok(())
}

/// Two registers have a second meaning while DLAB is set, and keep the first meanwhile.
fn divisor_latch(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    port.write(LCR, LCR_8_BITS | LCR_DIVISOR);
    let before = [port.read(RBR_THR_DLL), port.read(IER_DLM)];
    port.write(RBR_THR_DLL, 0x34);
    port.write(IER_DLM, 0x12);
    let latch = [port.read(RBR_THR_DLL), port.read(IER_DLM)];
    port.write(RBR_THR_DLL, before[0]);
    port.write(IER_DLM, before[1]);
    port.write(LCR, LCR_8_BITS);
    let (enabled, control) = (port.read(IER_DLM), port.read(LCR));
    check!(latch == [0x34, 0x12], "the divisor latch is {latch:x?}");
    check_eq!(enabled, 0, "IER after the divisor latch was written");
    check_eq!(control, LCR_8_BITS, "LCR");
    Ok(())
}

/// This is how a driver tells a 16550A.
fn fifo_control(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    port.write(IIR_FCR, FCR_ENABLE);
    let on = port.read(IIR_FCR);
    port.write(IIR_FCR, 0);
    let off = port.read(IIR_FCR);
    port.reset();
    check_eq!(
        on & IIR_FIFOS,
        IIR_FIFOS,
        "IIR's FIFO bits with the FIFOs on"
    );
    check_eq!(off & IIR_FIFOS, 0, "IIR's FIFO bits with the FIFOs off");
    Ok(())
}

fn reserved_bits(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    let status = port.read(LSR);
    port.write(IER_DLM, 0xf0);
    check_eq!(port.read(IER_DLM), 0, "IER");
    port.write(MCR, 0xe0 | MCR_OUT2);
    check_eq!(port.read(MCR), MCR_OUT2, "MCR");
    port.write(LSR, 0);
    check_eq!(
        port.read(LSR) & LSR_HOLDING_EMPTY,
        status & LSR_HOLDING_EMPTY,
        "LSR after a write"
    );
    Ok(())
}

fn loopback(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let port = loopback.0;
    check_eq!(port.read(LSR) & LSR_DATA, 0, "LSR's data bit before");
    for byte in [0x00, 0xff, b'x'] {
        port.write(RBR_THR_DLL, byte);
        check!(
            time::wait_for(|| port.read(LSR) & LSR_DATA != 0),
            "{byte:#x} does not come back"
        );
        check_eq!(port.read(RBR_THR_DLL), byte, "what comes back");
        check_eq!(port.read(LSR) & LSR_DATA, 0, "LSR's data bit after");
    }
    Ok(())
}

/// Sixteen characters fit, in order; the one after them is an overrun, which reading LSR clears.
fn loopback_fifo(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let port = loopback.0;
    port.write(IIR_FCR, FCR_ENABLE | FCR_RESET);
    for byte in 0..FIFO {
        port.write(RBR_THR_DLL, byte);
        check!(
            time::wait_for(|| port.read(LSR) & LSR_EMPTY != 0),
            "the transmitter is never empty"
        );
    }
    check_eq!(
        port.read(LSR) & LSR_OVERRUN,
        0,
        "LSR's overrun bit with 16 characters"
    );
    port.write(RBR_THR_DLL, 0xff);
    check!(
        time::wait_for(|| port.read(LSR) & LSR_OVERRUN != 0),
        "no overrun by the 17th character"
    );
    check_eq!(
        port.read(LSR) & LSR_OVERRUN,
        0,
        "LSR's overrun bit after it was read"
    );
    for byte in 0..FIFO {
        check_eq!(port.read(RBR_THR_DLL), byte, "character {byte}");
    }
    check_eq!(port.read(LSR) & LSR_DATA, 0, "LSR's data bit after all");
    // The receiver can be emptied at once.
    port.write(RBR_THR_DLL, b'x');
    check!(
        time::wait_for(|| port.read(LSR) & LSR_DATA != 0),
        "loopback brings nothing"
    );
    port.write(IIR_FCR, FCR_ENABLE | FCR_RESET);
    check_eq!(
        port.read(LSR) & LSR_DATA,
        0,
        "LSR's data bit after a reset of the FIFO"
    );
    Ok(())
}

/// In loopback mode, DTR, RTS, OUT1 and OUT2 are wired to DSR, CTS, RI and DCD.
fn modem_status(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let port = loopback.0;
    for (output, input) in [
        (1 << 0, 1 << 5),
        (1 << 1, 1 << 4),
        (1 << 2, 1 << 6),
        (1 << 3, 1 << 7),
    ] {
        port.write(MCR, MCR_LOOP);
        check_eq!(port.read(MSR) & 0xf0, 0, "MSR's lines with none set");
        port.write(MCR, MCR_LOOP | output);
        check_eq!(
            port.read(MSR) & 0xf0,
            input,
            "MSR's lines with MCR {output:#x}"
        );
    }
    Ok(())
}

/// Received data is identified until it is read.
fn identifies_received(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let port = loopback.0;
    check_eq!(port.read(IIR_FCR) & IIR_MASK, IIR_NONE, "IIR before");
    loopback.raise()?;
    for _ in 0..2 {
        check_eq!(
            port.read(IIR_FCR) & IIR_MASK,
            IIR_RECEIVED,
            "IIR with a character"
        );
    }
    port.read(RBR_THR_DLL);
    check_eq!(
        port.read(IIR_FCR) & IIR_MASK,
        IIR_NONE,
        "IIR after it was read"
    );
    Ok(())
}

/// Enabling the interrupt of an empty transmitter raises it; reading IIR clears it.
fn identifies_transmitter(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    check!(
        time::wait_for(|| port.read(LSR) & LSR_EMPTY != 0),
        "the transmitter is never empty"
    );
    port.write(IER_DLM, IER_TRANSMITTER_EMPTY);
    let (first, second) = (port.read(IIR_FCR), port.read(IIR_FCR));
    port.write(IER_DLM, 0);
    check_eq!(
        first & IIR_MASK,
        IIR_TRANSMITTER_EMPTY,
        "IIR with an empty transmitter"
    );
    check_eq!(second & IIR_MASK, IIR_NONE, "IIR after it was read");
    Ok(())
}

/// Where nothing was received, reading gives nothing and takes nothing.
fn receiver_is_empty(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let port = loopback.0;
    for _ in 0..3 {
        port.read(RBR_THR_DLL);
        check_eq!(port.read(LSR) & LSR_DATA, 0, "LSR's data bit");
    }
    Ok(())
}

fn transmitter_interrupt(machine: &Machine) -> Outcome {
    let port = Uart::new(machine.uart.base);
    let listener = Listener::new(machine, machine.uart);
    check!(
        time::wait_for(|| port.read(LSR) & LSR_EMPTY != 0),
        "the transmitter is never empty"
    );
    for _ in 0..3 {
        let outcome = listener.expect(|| port.write(IER_DLM, IER_TRANSMITTER_EMPTY));
        let identified = port.read(IIR_FCR);
        port.write(IER_DLM, 0);
        listener.complete();
        outcome?;
        check_eq!(
            identified & IIR_MASK,
            IIR_TRANSMITTER_EMPTY,
            "IIR in the handler"
        );
        check!(!listener.comes(), "it comes again");
    }
    Ok(())
}

fn received_interrupt(machine: &Machine) -> Outcome {
    let loopback = Loopback::new(machine);
    let listener = Listener::new(machine, machine.uart);
    for _ in 0..3 {
        let mut raised = Ok(());
        listener.expect(|| raised = loopback.raise())?;
        raised?;
        check_eq!(loopback.0.read(RBR_THR_DLL), b'r', "what was received");
        loopback.lower();
        listener.complete();
        check!(!listener.comes(), "it comes again");
    }
    Ok(())
}

fn each_hart(machine: &Machine) -> Outcome {
    smp::several(machine)?;
    for index in 1..machine.harts.len() {
        smp::beside(machine, index, &|_| received_interrupt(machine), || Ok(()))?;
    }
    Ok(())
}
