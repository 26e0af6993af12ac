//! The APLIC, in MSI delivery mode (AIA, chapter "Advanced Platform-Level Interrupt Controller").

use super::aia;
use super::imsic::Delivery;
use crate::kernel::csr::{self, EXTERNAL};
use crate::kernel::machine::{AiaNode, Machine};
use crate::kernel::mmio::Registers;
use crate::kernel::report::Outcome;
use crate::kernel::time;

tests! { TESTS:
    "aplic-domaincfg" => domaincfg,
    "aplic-source-modes" => source_modes,
    "aplic-inactive-source" => inactive,
    "aplic-target" => target,
    "aplic-set-and-clear-pending" => pending,
    "aplic-set-and-clear-enable" => enable,
    "aplic-sources-that-are-none" => no_sources,
    "aplic-genmsi" => genmsi,
    "aplic-detached-source-interrupts" => detached,
    "aplic-disabled-source-waits" => disabled,
    "aplic-disabled-domain-waits" => domain_disabled,
}

// Offsets of registers; those of which there are many begin with that of source 1, or 0 for bit arrays.
const DOMAINCFG: usize = 0x0000;
const SOURCECFG: usize = 0x0004;
const SETIP: usize = 0x1c00;
const SETIPNUM: usize = 0x1cdc;
const IN_CLRIP: usize = 0x1d00;
const CLRIPNUM: usize = 0x1ddc;
const SETIE: usize = 0x1e00;
const SETIENUM: usize = 0x1edc;
const CLRIE: usize = 0x1f00;
const CLRIENUM: usize = 0x1fdc;
const SETIPNUM_LE: usize = 0x2000;
const GENMSI: usize = 0x3000;
const TARGET: usize = 0x3004;

const DOMAIN_TOP: u32 = 0x80 << 24;
const DOMAIN_ENABLE: u32 = 1 << 8;
const DOMAIN_MSI: u32 = 1 << 2;

const GENMSI_BUSY: u32 = 1 << 12;

/// How a source's input is interpreted (`sourcecfg`, "Source Mode").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SourceMode {
    Inactive = 0,
    Detached = 1,
    RisingEdge = 4,
    FallingEdge = 5,
    LevelHigh = 6,
    LevelLow = 7,
}

/// The registers.
#[derive(Clone, Copy)]
pub struct Aplic {
    registers: Registers,
}

impl Aplic {
    pub fn new(aia: &AiaNode) -> Self {
        Self {
            registers: Registers::new(aia.aplic),
        }
    }

    /// Lets the domain's sources interrupt, or not.
    pub fn set_domain(self, enabled: bool) {
        self.registers.write(
            DOMAINCFG,
            if enabled {
                DOMAIN_ENABLE | DOMAIN_MSI
            } else {
                DOMAIN_MSI
            },
        );
    }

    fn source_register(first: usize, source: u32) -> usize {
        first + 4 * (source as usize - 1)
    }

    /// Sets a source's mode. It is not enabled then, nor pending.
    pub fn configure(self, source: u32, mode: SourceMode) {
        let register = Self::source_register(SOURCECFG, source);
        self.registers.write(register, SourceMode::Inactive as u32);
        self.registers.write(register, mode as u32);
        self.registers.write(CLRIENUM, source);
        self.clear_pending(source);
    }

    /// Has a source interrupt the hart with this number at its file, as this identity.
    pub fn set_target(self, source: u32, hart: u32, identity: u32) {
        self.registers
            .write(Self::source_register(TARGET, source), hart << 18 | identity);
    }

    pub fn enable(self, source: u32) {
        self.registers.write(SETIENUM, source);
    }

    /// Sets the source pending, as far as its mode lets software do that.
    pub fn set_pending(self, source: u32) {
        self.registers.write(SETIPNUM, source);
    }

    fn bit(self, first: usize, source: u32) -> bool {
        self.registers.read(first + 4 * (source as usize / 32)) >> (source % 32) & 1 != 0
    }

    /// Takes back a pending bit.
    pub(super) fn clear_pending(self, source: u32) {
        self.registers.write(CLRIPNUM, source);
    }

    /// The source's input, as its mode understands it: high is active.
    pub(super) fn is_active(self, source: u32) -> bool {
        self.bit(IN_CLRIP, source)
    }

    pub(super) fn is_pending(self, source: u32) -> bool {
        self.bit(SETIP, source)
    }

    fn is_enabled(self, source: u32) -> bool {
        self.bit(SETIE, source)
    }
}

/// The identity that tests use.
const IDENTITY: u32 = 23;

/// A source, by default one that no device has, the domain enabled, and the boot hart listening.
pub(super) struct Setup<'a> {
    aia: &'a AiaNode,
    pub(super) aplic: Aplic,
    pub(super) source: u32,
    _delivery: Delivery,
}

impl<'a> Setup<'a> {
    pub(super) fn new(
        machine: &'a Machine,
        source: Option<u32>,
        mode: SourceMode,
    ) -> Outcome<Self> {
        let aia = aia(machine)?;
        let aplic = Aplic::new(aia);
        let source = source.unwrap_or(aia.sources - 1);
        let delivery = Delivery::new();
        delivery.enable(IDENTITY);
        aplic.set_domain(true);
        aplic.configure(source, mode);
        aplic.set_target(source, aia.files[0].index, IDENTITY);
        Ok(Self {
            aia,
            aplic,
            source,
            _delivery: delivery,
        })
    }

    pub(super) fn expect_message(&self, when: &str) -> Outcome {
        check!(
            time::wait_for(|| csr::pending(EXTERNAL)),
            "there is no interrupt {when}"
        );
        check_eq!(csr::claim_top(), IDENTITY, "the claim");
        Ok(())
    }

    pub(super) fn expect_silence(&self, when: &str) -> Outcome {
        check!(
            !time::comes(|| csr::pending(EXTERNAL)),
            "there is an interrupt {when}"
        );
        Ok(())
    }
}

impl Drop for Setup<'_> {
    fn drop(&mut self) {
        self.aplic.configure(self.source, SourceMode::Inactive);
        self.aplic.set_domain(true);
    }
}

/// Bits 31 to 24 are 0x80; IE is writable; little-endian domains have BE 0.
fn domaincfg(machine: &Machine) -> Outcome {
    let aplic = Aplic::new(aia(machine)?);
    aplic.set_domain(false);
    let disabled = aplic.registers.read(DOMAINCFG);
    aplic.set_domain(true);
    let enabled = aplic.registers.read(DOMAINCFG);
    check_eq!(disabled, DOMAIN_TOP | DOMAIN_MSI, "domaincfg, disabled");
    check_eq!(
        enabled,
        DOMAIN_TOP | DOMAIN_ENABLE | DOMAIN_MSI,
        "domaincfg, enabled"
    );
    Ok(())
}

/// Every source has every mode, unless its input is not connected, and then none; reserved modes are not kept (WARL).
fn source_modes(machine: &Machine) -> Outcome {
    let aia = aia(machine)?;
    let aplic = Aplic::new(aia);
    for source in 1..=aia.sources {
        let register = Aplic::source_register(SOURCECFG, source);
        for mode in [
            SourceMode::Detached,
            SourceMode::RisingEdge,
            SourceMode::FallingEdge,
            SourceMode::LevelHigh,
            SourceMode::LevelLow,
            SourceMode::Inactive,
        ] {
            aplic.registers.write(register, mode as u32);
            let held = aplic.registers.read(register);
            check!(
                held == mode as u32 || held == 0,
                "sourcecfg of {source} holds {held:#x} for {mode:?}"
            );
            if [1, 10, aia.sources].contains(&source) {
                check_eq!(held, mode as u32, "sourcecfg of {source}");
            }
        }
    }
    for reserved in [2, 3] {
        let register = Aplic::source_register(SOURCECFG, aia.sources);
        aplic.registers.write(register, reserved);
        let held = aplic.registers.read(register);
        aplic.registers.write(register, 0);
        check!(
            held != reserved,
            "sourcecfg holds the reserved mode {reserved}"
        );
    }
    Ok(())
}

/// An inactive source is neither pending nor enabled, whatever is written, and has no target.
fn inactive(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Inactive)?;
    let aplic = setup.aplic;
    aplic.set_pending(setup.source);
    aplic.enable(setup.source);
    check!(
        !aplic.is_pending(setup.source),
        "an inactive source is pending"
    );
    check!(
        !aplic.is_enabled(setup.source),
        "an inactive source is enabled"
    );
    aplic.set_target(setup.source, 0, 9);
    check_eq!(
        aplic
            .registers
            .read(Aplic::source_register(TARGET, setup.source)),
        0,
        "the target of an inactive source"
    );
    setup.expect_silence("of an inactive source")
}

fn target(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    let register = Aplic::source_register(TARGET, setup.source);
    for file in &setup.aia.files {
        setup.aplic.set_target(setup.source, file.index, 60);
        check_eq!(
            setup.aplic.registers.read(register),
            file.index << 18 | 60,
            "target"
        );
    }
    Ok(())
}

/// All the ways to set and clear a pending bit.
fn pending(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    let (aplic, source) = (setup.aplic, setup.source);
    let (word, bit) = (4 * (source as usize / 32), 1 << (source % 32));
    for (set, clear) in [
        ((SETIPNUM, source), (CLRIPNUM, source)),
        ((SETIP + word, bit), (IN_CLRIP + word, bit)),
        ((SETIPNUM_LE, source), (CLRIPNUM, source)),
    ] {
        aplic.registers.write(set.0, set.1);
        check!(
            aplic.is_pending(source),
            "a write at {:#x} does not set the bit",
            set.0
        );
        aplic.registers.write(clear.0, clear.1);
        check!(
            !aplic.is_pending(source),
            "a write at {:#x} does not clear the bit",
            clear.0
        );
    }
    // Of the source's word, zeros do nothing.
    aplic.set_pending(source);
    aplic.registers.write(SETIP + word, 0);
    aplic.registers.write(IN_CLRIP + word, 0);
    check!(aplic.is_pending(source), "a write of zeros clears the bit");
    setup.expect_silence("of a source that is not enabled")
}

fn enable(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    let (aplic, source) = (setup.aplic, setup.source);
    let (word, bit) = (4 * (source as usize / 32), 1 << (source % 32));
    for (set, clear) in [
        ((SETIENUM, source), (CLRIENUM, source)),
        ((SETIE + word, bit), (CLRIE + word, bit)),
    ] {
        aplic.registers.write(set.0, set.1);
        check!(
            aplic.is_enabled(source),
            "a write at {:#x} does not set the bit",
            set.0
        );
        aplic.registers.write(clear.0, clear.1);
        check!(
            !aplic.is_enabled(source),
            "a write at {:#x} does not clear the bit",
            clear.0
        );
    }
    check_eq!(
        aplic.registers.read(CLRIE + word),
        0,
        "clrie, which reads as zero"
    );
    Ok(())
}

/// Source 0 does not exist, nor those beyond the last.
fn no_sources(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    let aplic = setup.aplic;
    for source in [0, setup.aia.sources + 1, 1023, 1024, u32::MAX] {
        for register in [SETIPNUM, SETIENUM, CLRIPNUM, CLRIENUM] {
            aplic.registers.write(register, source);
        }
    }
    check!(
        !aplic.bit(SETIP, 0) && !aplic.bit(SETIE, 0),
        "source 0 is pending or enabled"
    );
    let register = Aplic::source_register(SOURCECFG, setup.aia.sources + 1);
    aplic.registers.write(register, SourceMode::Detached as u32);
    check_eq!(
        aplic.registers.read(register),
        0,
        "sourcecfg of the source after the last"
    );
    setup.expect_silence("of sources that are not there")
}

/// A message that software has the APLIC send, to each hart's file. The busy bit clears when it is on its way.
fn genmsi(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Inactive)?;
    let aplic = setup.aplic;
    for _ in 0..3 {
        aplic
            .registers
            .write(GENMSI, setup.aia.files[0].index << 18 | IDENTITY);
        check!(
            time::wait_for(|| aplic.registers.read(GENMSI) & GENMSI_BUSY == 0),
            "genmsi stays busy"
        );
        setup.expect_message("by genmsi")?;
    }
    Ok(())
}

/// A detached source is software's alone. Its message clears the pending bit.
fn detached(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    setup.aplic.enable(setup.source);
    for _ in 0..3 {
        setup.aplic.set_pending(setup.source);
        setup.expect_message("of a source that is enabled and pending")?;
        check!(
            !setup.aplic.is_pending(setup.source),
            "the source is pending after its message"
        );
        setup.expect_silence("after the message")?;
    }
    Ok(())
}

fn disabled(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    setup.aplic.set_pending(setup.source);
    setup.expect_silence("of a source that is not enabled")?;
    setup.aplic.enable(setup.source);
    setup.expect_message("of a source that is enabled while pending")
}

fn domain_disabled(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, None, SourceMode::Detached)?;
    setup.aplic.enable(setup.source);
    setup.aplic.set_domain(false);
    setup.aplic.set_pending(setup.source);
    setup.expect_silence("with the domain disabled")?;
    check!(
        setup.aplic.is_pending(setup.source),
        "the source does not wait for the domain"
    );
    setup.aplic.set_domain(true);
    setup.expect_message("once the domain is enabled")
}
