//! A guest: what its harts share. Each of them runs on a hart of the host that is theirs alone, so that all of this is seen
//! by several harts at once.

pub mod board;
mod bus;
mod load;
mod memory;
mod rtc;

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hv_bare::bundle;
use hv_bare::gstage::{self, GStage, Mode, PAGE, Permissions, Tables};
use hv_bare::lifecycle::Lifecycle;
use hv_bare::partition::{Passthrough, Share};
use hv_core::addr::HostPhysAddr;
use hv_core::isa::Isa;
use hv_core::machine::{Hart, InterruptController, Machine};
use hv_core::plic::{HartLines, Plic};
use hv_core::{kernel, layout};
use spin::Mutex;

pub use board::Board;
pub use bus::Bus;
pub use memory::GuestMemory;

use super::console;
use super::firmware;
use super::state::state;
use super::statistics::Counts;
use super::vcpu::{self, Parts};

/// Requests from one hart to another: the bits of its IPI mailbox.
pub mod mail {
    /// A software interrupt for the guest's hart.
    pub const SOFTWARE_INTERRUPT: u32 = 1 << 0;
    /// Its external interrupt may have changed.
    pub const EXTERNAL_INTERRUPT: u32 = 1 << 1;
    /// Its guest's [`hv_bare::lifecycle::Lifecycle`] may have something for it.
    pub const ATTEND: u32 = 1 << 2;
    /// The alarm of the guest's real-time clock has changed.
    pub const ALARM: u32 = 1 << 3;
    /// The user wants the guest to end.
    pub const END: u32 = 1 << 4;
    /// The user wants the guest to begin anew, whether it has ended or not.
    pub const RESTART: u32 = 1 << 5;
}

/// Why a guest cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its kernel file is invalid or does not fit.
    #[error("kernel: {problem}{}", remedy(.0), problem = .0)]
    Kernel(kernel::Problem),
    /// Something else does not fit.
    #[error("the {0} does not fit; give the guest more memory")]
    DoesNotFit(&'static str),
    /// Its device tree cannot be made.
    #[error("{0}")]
    Tree(hv_core::devicetree::Error),
    /// The bundle's cannot be used.
    #[error("device-tree: {0}")]
    GivenTree(hv_core::devicetree::given::Problem),
    /// Its memory cannot be mapped.
    #[error("{0}")]
    GStage(gstage::Error),
}

/// What to do about a kernel beyond what is said of it.
const fn remedy(problem: &kernel::Problem) -> &'static str {
    match problem {
        kernel::Problem::TooLarge { .. } => "; give the guest more memory",
        _ => "",
    }
}

/// The part of a guest's hart that other harts access.
#[derive(Debug)]
pub struct Link {
    /// The host's hart that it is, by its place among the host's.
    pub place: usize,
    /// The same by its id.
    pub host_hart: u64,
    /// The hart's IPI mailbox: bits of [`mail`].
    mail: AtomicU32,
    /// Whether the guest's PLIC asserts its external interrupt.
    pub external: AtomicBool,
    /// Why it was left, and how often.
    pub counts: Counts,
}

impl Link {
    /// Sets bits in the hart's IPI mailbox, and interrupts the hart.
    pub fn post(&self, mail: u32) {
        // The hart that reads the mailbox has to see what was written before.
        let before = self.mail.fetch_or(mail, Ordering::AcqRel);
        // If there was an unread request, the hart has been interrupted already.
        if before == 0 {
            firmware::interrupt_hart(self.host_hart);
        }
    }

    /// Takes all requests out of this hart's IPI mailbox.
    pub fn take_mail(&self) -> u32 {
        self.mail.swap(0, Ordering::AcqRel)
    }

    /// Takes back the interrupts that the hart has not seen. None of the guest's harts runs.
    fn forget_interrupts(&self) {
        const INTERRUPTS: u32 = mail::SOFTWARE_INTERRUPT | mail::EXTERNAL_INTERRUPT;
        self.mail.fetch_and(!INTERRUPTS, Ordering::AcqRel);
        self.external.store(false, Ordering::Release);
    }
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its place among the guests.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// RAM.
    pub memory: GuestMemory,
    /// Its harts.
    pub harts: Vec<Link>,
    /// Which of them run, and whether the guest does.
    pub lifecycle: Mutex<Lifecycle>,
    /// Its devices.
    pub board: Board,
    /// Devices of the host that are its.
    pub passthrough: Vec<Passthrough>,
    /// For the CSR of this name.
    pub hgatp: u64,
    /// For the CSR of this name.
    pub henvcfg: u64,
    /// What its harts have.
    pub parts: Parts,
    /// What legacy Console Getchar answers for nothing.
    pub getchar_empty: i64,
    machine: Machine,
    files: bundle::Guest<'static>,
}

/// What a guest's harts are like.
#[derive(Clone, Debug)]
pub struct Features {
    /// As the guest is told.
    pub hart: Hart,
    /// For the CSR of this name.
    pub henvcfg: u64,
}

impl Guest {
    /// The guest of this place in the bundle. Nothing of it is in memory yet.
    ///
    /// # Errors
    /// [`Error::GStage`].
    pub fn new(
        index: usize,
        files: bundle::Guest<'static>,
        share: Share,
        features: Features,
        mode: Mode,
        host: &hv_bare::host::Host,
    ) -> Result<Self, Error> {
        let machine = Machine {
            harts: files.harts,
            hart: features.hart,
            timebase_frequency: host.timebase_frequency,
            ram_base: share.ram_base,
            ram_size: share.ram_size,
            interrupts: InterruptController::Plic {
                sources: layout::PLIC_SOURCES,
            },
            hypervisor: "hvrun,hv-bare",
            devices: hv_core::board::devices(),
            command_line: files.command_line.into(),
            initrd: None,
            rng_seed: None,
        };
        let hgatp = map(&share, mode, index).map_err(Error::GStage)?;
        let link = |place: &usize| Link {
            place: *place,
            host_hart: host.harts.get(*place).map_or(0, |hart| hart.id),
            mail: AtomicU32::new(0),
            external: AtomicBool::new(false),
            counts: Counts::new(),
        };
        Ok(Self {
            index,
            name: files.name.into(),
            // SAFETY: the partition gives each guest memory that nobody else uses.
            memory: unsafe { GuestMemory::new(share.ram_base, share.ram, share.ram_size) },
            harts: share.harts.iter().map(link).collect(),
            lifecycle: Mutex::new(Lifecycle::new(files.harts)),
            board: Board::new(files.harts),
            passthrough: share.devices,
            hgatp,
            henvcfg: features.henvcfg,
            parts: Parts {
                timer: machine.hart.isa.contains("sstc"),
                float: machine.hart.isa.contains("d"),
                vector: machine.hart.isa.contains("v"),
                state_enable: share.harts.iter().all(|place| {
                    let host = host.harts.get(*place);
                    host.is_some_and(|host| host.hart.isa.contains("smstateen"))
                }),
            },
            getchar_empty: files.getchar_empty,
            machine,
            files,
        })
    }

    /// Puts everything into the state in which the guest begins, and starts its first hart. The guest is halted.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn start(&self, seed: Option<[u8; 32]>) -> Result<(), Error> {
        self.reset_devices();
        let start = load::load(&self.files, &self.machine, seed, &self.memory)?;
        self.lifecycle.lock().run(start);
        if let Some(hart) = self.harts.first() {
            hart.post(mail::ATTEND);
        }
        Ok(())
    }

    /// Has all harts but this one see what the guest's lifecycle has for them.
    pub fn alert_others(&self, hart: u32) {
        for (_, other) in (0..).zip(&self.harts).filter(|(id, _)| *id != hart) {
            other.post(mail::ATTEND);
        }
    }

    /// The guest is halted. The host's devices let go of its memory and of their interrupts; its own begin anew.
    pub fn reset_devices(&self) {
        for device in self
            .passthrough
            .iter()
            .filter(|device| device.host.is_virtio)
        {
            board::reset_virtio(device);
        }
        let chip = &state().chip;
        for device in &self.passthrough {
            if self.board.take_in_flight(device.irq) {
                chip.complete(device.host_irq, self.home());
            }
        }
        for hart in &self.harts {
            hart.forget_interrupts();
        }
        self.board.reset(self.machine.harts);
    }

    /// The hart of the host, by its place, that the host's device interrupts for this guest go to.
    pub fn home(&self) -> usize {
        self.harts.first().map_or(0, |hart| hart.place)
    }

    /// A device of the host has interrupted for this guest. `hart` is the guest's hart that is running here, if one is.
    pub fn forward(&self, device: &Passthrough, hart: Option<u32>) {
        self.board.set_in_flight(device.irq);
        self.with_plic(hart, |plic, lines| {
            // The IRQ line is at the host's chip, which delivers no further interrupt before this one is completed. A
            // request stays pending when the level falls.
            plic.set_source(device.irq, true, lines);
            plic.set_source(device.irq, false, lines);
        });
    }

    /// Does something with the PLIC. `hart` is the guest's hart that is running here, if one is.
    pub fn with_plic<R>(
        &self,
        hart: Option<u32>,
        action: impl FnOnce(&mut Plic, &mut Lines<'_>) -> R,
    ) -> R {
        action(
            &mut self.board.plic.lock(),
            &mut Lines { guest: self, hart },
        )
    }

    /// Input from the user's keyboard for this guest.
    pub fn input(&self, bytes: &[u8], hart: Option<u32>) {
        self.board
            .input(bytes, |level| self.set_serial_line(level, hart));
    }

    /// Sets the level of the serial port's IRQ line.
    pub fn set_serial_line(&self, level: bool, hart: Option<u32>) {
        self.with_plic(hart, |plic, lines| {
            plic.set_source(layout::UART_IRQ, level, lines)
        });
    }

    /// Sets the level of the real-time clock's IRQ line.
    pub fn set_rtc_line(&self, level: bool, hart: Option<u32>) {
        self.with_plic(hart, |plic, lines| {
            plic.set_source(layout::RTC_IRQ, level, lines)
        });
    }

    /// Writes to the console.
    pub fn print(&self, bytes: &[u8]) {
        console::print(self.index, bytes);
    }
}

/// Where the guest's PLIC is connected to.
pub struct Lines<'a> {
    guest: &'a Guest,
    /// The hart that runs here.
    hart: Option<u32>,
}

impl HartLines for Lines<'_> {
    fn set_external(&mut self, hart: u32, asserted: bool) {
        let Some(link) = self.guest.harts.get(hart as usize) else {
            return;
        };
        link.external.store(asserted, Ordering::Release);
        if self.hart == Some(hart) {
            vcpu::set_external(asserted);
        } else {
            link.post(mail::EXTERNAL_INTERRUPT);
        }
    }

    fn completed(&mut self, source: u32) {
        let mut devices = self.guest.passthrough.iter();
        if let Some(device) = devices.find(|device| device.irq == source)
            && self.guest.board.take_in_flight(source)
        {
            state().chip.complete(device.host_irq, self.guest.home());
        }
    }
}

/// Maps what the guest has, and answers what `hgatp` holds for it.
fn map(share: &Share, mode: Mode, index: usize) -> Result<u64, gstage::Error> {
    let mut tables = GStage::new(mode, Heap)?;
    tables.map(
        share.ram_base,
        share.ram,
        share.ram_size,
        Permissions::Memory,
    )?;
    for device in &share.devices {
        tables.map(device.address, device.page(), PAGE, Permissions::Device)?;
    }
    // Numbers from 1 on, where the harts have such numbers at all: the hypervisor's own translations would be 0.
    Ok(tables.hgatp(u16::try_from(index.saturating_add(1)).unwrap_or(0)))
}

/// Page tables on the hypervisor's heap. They are never freed.
struct Heap;

impl Tables for Heap {
    fn allocate(&mut self, pages: u64) -> Option<HostPhysAddr> {
        let size = usize::try_from(pages.checked_mul(PAGE)?).ok()?;
        let layout = alloc::alloc::Layout::from_size_align(size, size).ok()?;
        // SAFETY: the size is not zero, as no table has zero pages.
        let table = unsafe { alloc::alloc::alloc_zeroed(layout) };
        (!table.is_null()).then_some(HostPhysAddr(table as u64))
    }

    fn read(&self, address: HostPhysAddr) -> u64 {
        // SAFETY: the address lies in a table that came from `allocate`; addresses are those of the host, for the hypervisor
        // runs without translation.
        unsafe { (address.0 as *const u64).read() }
    }

    fn write(&mut self, address: HostPhysAddr, entry: u64) {
        // SAFETY: as in `read`.
        unsafe { (address.0 as *mut u64).write(entry) };
    }
}

/// The extensions of a hart that need something of the hypervisor which it does not do.
const NOT_FOR_GUESTS: &[&str] = &[
    // The H extension and what comes with it.
    "h",
    "sha",
    "shcounterenw",
    "shgatpa",
    "shtvala",
    "shvsatpa",
    "shvstvala",
    "shvstvecd",
    // Interrupts come by a PLIC.
    "smaia",
    "ssaia",
    "smcsrind",
    "sscsrind",
    // M-mode.
    "smcdeleg",
    "smcntrpmf",
    "smepmp",
    "smmpm",
    "smnpm",
    "smstateen",
    "smctr",
    // Counters are the firmware's.
    "ssccfg",
    "sscofpmf",
    "ssctr",
    // State that has to be enabled in henvcfg and hstateen.
    "ssdbltrp",
    "ssnpm",
    "sspm",
    "supm",
    "ssstateen",
    "zicfilp",
    "zicfiss",
    "zcmt",
    // Entropy is read by an M-mode grant only; Zk is a name for Zkr with others, which have names of their own.
    "zk",
    "zkr",
    // Hardware's choice between the two is the host's.
    "svade",
    "svadu",
];

/// What the harts of this host can be to a guest.
pub fn features(host: &Hart, updates_page_tables: bool) -> Features {
    use super::csr::henvcfg;
    let isa = host.isa.without(NOT_FOR_GUESTS);
    let mut bits = 0;
    for (extension, bit) in [
        ("sstc", henvcfg::STCE),
        ("svpbmt", henvcfg::PBMTE),
        ("zicbom", henvcfg::CBIE | henvcfg::CBCFE),
        ("zicboz", henvcfg::CBZE),
    ] {
        if isa.contains(extension) {
            bits |= bit;
        }
    }
    let isa = if updates_page_tables && host.isa.contains("svadu") {
        bits |= henvcfg::ADUE;
        Isa::from_names(isa.names().chain(["svadu"])).unwrap_or(isa)
    } else {
        isa
    };
    Features {
        hart: Hart {
            isa,
            ..host.clone()
        },
        henvcfg: bits,
    }
}
