//! The part of a machine that lasts one boot: everything that a reboot creates anew.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, mpsc};

use hv_core::addr::GuestPhysAddr;
use hv_core::layout;
use hv_core::machine::{Machine, MmuType};
use hv_devices::bus::{Bus, Region};
use hv_devices::chardev::{InputSink, OutputSink};
use hv_devices::entropy;
use hv_devices::interrupt::IrqLine;
use hv_devices::rtc::{HostClock, Rtc};
use hv_devices::test_device::TestDevice;
use hv_devices::uart::Uart;
use hv_devices::virtio::transport::mmio::{EmptySlot, MmioTransport, QUEUE_NOTIFY, RegisterPages};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;
use crate::boot::devicetree::{Tree, TreeFile};
use crate::boot::open_files::OpenFiles;
use crate::boot::{self, BootRegisters};
use crate::config::{IrqchipChoice, Payload};
use crate::consoles::Consoles;
use crate::control::Control;
use crate::control::ending::Ending;
use crate::control::stop::Stop;
use crate::devices::{Devices, PlatformDevice};
use crate::kvm::isa::{self, ReadRegister};
use crate::kvm::register::{Core, Register, SbiExtension};
use crate::kvm::{Access, Kvm, Vcpu, Vm};
use crate::machine::irqchip::{self, Aia, Irqchip, PlicChip, Trigger};
use crate::memory::GuestRam;
use crate::memory::huge_pages::ReservedHugePages;
use crate::probe;
use crate::vcpu::counters;
use crate::vcpu::sbi_platform::SbiPlatform;
use crate::vcpu::wakeup::Wakeup;
use crate::vcpu::{Command, Leave, Shared, VcpuThread};

/// What stays the same from one boot of a guest to the next.
pub struct Blueprint {
    /// /dev/kvm.
    pub kvm: Kvm,
    /// The paging mode of the host's harts.
    pub host_mmu: MmuType,
    /// The kernel or firmware file.
    pub payload: Payload,
    /// The initrd file.
    pub initrd: Option<PathBuf>,
    /// The user's device tree file, if there is one.
    pub dtb: Option<PathBuf>,
    /// What is open of these three.
    pub files: OpenFiles,
    /// The virtio devices, and the files and interfaces of the host that are open for them.
    pub virtio: Devices,
    /// The devices on the platform bus, in the order of their addresses.
    pub platform: Vec<PlatformDevice>,
    /// The kernel's command line, unless firmware or the user's device tree determine it.
    pub command_line: Option<String>,
    /// Number of harts.
    pub cpus: u32,
    /// RAM, bytes.
    pub memory: u64,
    /// Those of the host, if RAM is to be of them.
    pub hugepages: Option<ReservedHugePages>,
    /// Which interrupt chip.
    pub irqchip: IrqchipChoice,
    /// What legacy Console Getchar answers for no character.
    pub getchar_empty: i64,
    /// The consoles, and what is open for them.
    pub consoles: Consoles,
    /// What keeps the time of day, also while the machine is off.
    pub clock: Arc<HostClock>,
    /// Who is told of devices that fail.
    pub control: Arc<Control>,
}

/// A machine that is ready to run once. The order of the fields is the order of their end: devices let go of the guest's
/// memory before it is unmapped.
pub struct Board {
    vcpus: Vec<Vcpu>,
    bus: Bus,
    wakeup: Arc<Wakeup>,
    /// The real-time clock, whose alarm is to be polled when the blueprint's clock says so.
    pub rtc: Arc<Rtc>,
    ending: Arc<Ending>,
    /// The console of SBI.
    output: Arc<dyn OutputSink>,
    getchar_empty: i64,
    input: Arc<dyn InputSink>,
    watch_counters: bool,
    virtio: Vec<Arc<MmioTransport>>,
    /// The guest's device tree.
    pub device_tree: Vec<u8>,
    /// The interrupt chip that it has come to have: never [`IrqchipChoice::Auto`].
    pub irqchip: IrqchipChoice,
    // Devices' IRQ lines and ioeventfds belong to it.
    _vm: Arc<Vm>,
    _pages: RegisterPages,
    ram: GuestRam,
}

/// A machine whose vCPUs run.
pub struct RunningBoard {
    threads: Vec<VcpuThread>,
    /// Disconnected when the last thread ends.
    ended: Receiver<Infallible>,
    shared: Arc<Shared>,
    virtio: Vec<Arc<MmioTransport>>,
    _vm: Arc<Vm>,
    _pages: RegisterPages,
    _ram: GuestRam,
}

/// What KVM makes of a machine: all that has to be made anew where it is to have another interrupt chip.
struct Chassis {
    vm: Arc<Vm>,
    vcpus: Vec<Vcpu>,
    irqchip: Box<dyn Irqchip>,
    wakeup: Arc<Wakeup>,
    lines: Lines,
}

/// The devices' interrupt lines.
struct Lines {
    uart: Arc<dyn IrqLine>,
    rtc: Arc<dyn IrqLine>,
    /// Of each device on the platform bus; `None` for one that has none.
    platform: Vec<Option<Arc<dyn IrqLine>>>,
    /// Of each virtio slot; `None` where no device is.
    virtio: Vec<Option<Arc<dyn IrqLine>>>,
}

impl Chassis {
    /// Gives `vm`, which is empty, its memory, vCPUs and interrupt chip. `ram` and `pages` are to outlive its vCPUs.
    ///
    /// As all memory the register pages come before the interrupt chip: on Linux 7.2, memory that is added to a machine with a
    /// chip waits milliseconds for an SRCU grace period that the chip's registers have begun.
    fn build(
        blueprint: &Blueprint,
        vm: Arc<Vm>,
        ram: &GuestRam,
        pages: &RegisterPages,
        chip: IrqchipChoice,
    ) -> Result<Chassis, Error> {
        let (host, _) = ram.host_range();
        // SAFETY: the mapping lives in `ram`, which a Board and a RunningBoard drop after the vCPUs have ended.
        unsafe {
            vm.add_memory(
                0,
                Access::ReadWrite,
                layout::RAM_BASE.0,
                host,
                blueprint.memory,
            )
        }
        .map_err(Error::kvm("give the guest its memory"))?;
        show_register_pages(&vm, pages);
        let vcpus = create_vcpus(&vm, blueprint.cpus)?;
        let irqchip = create_irqchip(&vm, &vcpus, chip)?;
        let wakeup = Arc::new(Wakeup::default());
        let line = |source, trigger| {
            let line = irqchip.line(source, trigger)?;
            Ok::<_, Error>(wakeup.wire(source, line))
        };
        let lines = Lines {
            uart: line(layout::UART_IRQ, Trigger::Level)?,
            rtc: line(layout::RTC_IRQ, Trigger::Level)?,
            platform: (blueprint.platform.iter())
                .map(|device| {
                    let irq = device.source();
                    irq.map(|irq| line(irq, Trigger::Level)).transpose()
                })
                .collect::<Result<_, _>>()?,
            virtio: (0..)
                .map_while(layout::virtio_slot)
                .zip(0..)
                .map(|((_, irq), slot)| {
                    let device = blueprint.virtio.get(slot);
                    device.map(|_| line(irq, Trigger::Edge)).transpose()
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Chassis {
            vm,
            vcpus,
            irqchip,
            wakeup,
            lines,
        })
    }
}

impl Board {
    /// Builds the machine and loads the guest, whose end will be reported to `ending`.
    ///
    /// # Errors
    /// Whatever is missing, wrong or too large; [`Error::Stopped`] if `stop` came while files were read.
    pub fn build(blueprint: &Blueprint, ending: Arc<Ending>, stop: &Stop) -> Result<Board, Error> {
        let vm = create_vm(blueprint)?;
        check_guest_physical(vm.guest_physical_bits(), blueprint.memory)?;
        let ram = match &blueprint.hugepages {
            Some(pages) => GuestRam::of_huge_pages(blueprint.memory, pages),
            None => GuestRam::new(blueprint.memory),
        }?;
        let pages = RegisterPages::new(layout::VIRTIO_SLOTS)
            .map_err(Error::host("make the virtio devices' registers"))?;
        let has_aia = vm.has_aia();
        let mut empty = Some(vm);
        let (chassis, irqchip) = irqchip::choose(blueprint.irqchip, has_aia, |chip| {
            let vm = match empty.take() {
                Some(vm) => vm,
                None => create_vm(blueprint)?,
            };
            Chassis::build(blueprint, vm, &ram, &pages, chip)
        })?;
        let Chassis {
            vm,
            vcpus,
            irqchip: chip,
            wakeup,
            lines,
        } = chassis;
        let counters_cleared = vcpus.first().is_some_and(counters::are_cleared);

        let bus = Bus::new();
        // The regions of the board do not overlap, which is all that can go wrong with the bus.
        let attach = |base: GuestPhysAddr, size: u64, device| {
            bus.insert(base, size, device)
                .map(Region::keep)
                .map_err(|error| Error::host("lay out the board")(std::io::Error::other(error)))
        };
        if let Some((base, size, registers)) = chip.registers() {
            attach(base, size, registers)?;
        }
        let consoles = &blueprint.consoles;
        let uart = Arc::new(Uart::new(lines.uart, consoles.serial().clone()));
        consoles.attach_serial(&uart)?;
        attach(layout::UART_BASE, layout::UART_SIZE, uart.clone())?;
        attach(
            layout::TEST_DEVICE_BASE,
            layout::TEST_DEVICE_SIZE,
            Arc::new(TestDevice::new(ending.clone())),
        )?;
        let rtc = Arc::new(Rtc::new(lines.rtc, blueprint.clock.clone()));
        attach(layout::RTC_BASE, layout::RTC_SIZE, rtc.clone())?;
        for (device, line) in blueprint.platform.iter().zip(lines.platform) {
            let (base, size) = device.registers();
            let registers = (device.power_on(line))
                .map_err(Error::host("make a device on the platform bus"))?;
            attach(base, size, registers)?;
        }

        let mut virtio = Vec::new();
        for (slot, line) in (0..).zip(lines.virtio) {
            let (Some((base, _)), Some(page)) = (layout::virtio_slot(slot), pages.get(slot)) else {
                break;
            };
            let (Some(device), Some(line)) = (blueprint.virtio.get(slot), line) else {
                let empty = EmptySlot::new(blueprint.virtio.version, page);
                attach(base, layout::VIRTIO_STRIDE, Arc::new(empty))?;
                continue;
            };
            let transport = device
                .power_on()
                .and_then(|virtio| {
                    MmioTransport::new(device.version, virtio, ram.memory().clone(), line, page)
                })
                .map_err(Error::host("make a virtio device"))?;
            for queue in 0..transport.queue_count() {
                if let Some(event) = transport.notify_event(queue) {
                    // Without it the notification leaves the guest and comes to the transport, which is slower.
                    if let Err(errno) = vm.signal_on_write(base.0 + QUEUE_NOTIFY, queue, event) {
                        log::warn!(
                            "notifications of virtio slot {slot}'s queue {queue} take a slower way: KVM refuses an ioeventfd: \
                             {errno}"
                        );
                    }
                }
            }
            let (control, id) = (blueprint.control.clone(), device.id.clone());
            transport.on_failure(Box::new(move |reason| {
                control.device_needs_reset(&id, reason);
            }));
            let transport = Arc::new(transport);
            virtio.push(transport.clone());
            attach(base, layout::VIRTIO_STRIDE, transport)?;
        }

        let machine = match &blueprint.dtb {
            Some(_) => None,
            None => Some(Box::new(describe(blueprint, &vcpus, chip.as_ref())?)),
        };
        let (registers, device_tree) = match load_files(blueprint, machine, &ram, stop) {
            Err(Error::Stopped) => {
                // The thread that is left behind may still read a file into it.
                std::mem::forget(ram);
                return Err(Error::Stopped);
            }
            result => result?,
        };
        set_boot_registers(&vcpus, registers)?;
        if counters_cleared && let Some(boot_hart) = vcpus.first() {
            counters::allow(boot_hart).map_err(Error::kvm("set a vCPU's registers"))?;
        }
        Ok(Board {
            // Nobody is there to start the only hart again.
            watch_counters: counters_cleared && blueprint.cpus > 1,
            vcpus,
            bus,
            wakeup,
            rtc,
            ending,
            output: consoles.firmware_output().clone(),
            getchar_empty: blueprint.getchar_empty,
            input: consoles.firmware_input().cloned().unwrap_or(uart),
            virtio,
            device_tree,
            irqchip,
            _vm: vm,
            _pages: pages,
            ram,
        })
    }

    /// Starts every vCPU in a thread of its own, where it begins with `command`.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(self, command: Command) -> Result<RunningBoard, Error> {
        let shared = Arc::new(Shared {
            bus: self.bus,
            ending: self.ending,
            wakeup: self.wakeup,
            watch_counters: self.watch_counters,
            outside: EventFd::new(EFD_NONBLOCK).map_err(Error::host("make an eventfd"))?,
        });
        let (alive, ended) = mpsc::channel();
        let mut running = RunningBoard {
            threads: Vec::new(),
            ended,
            shared,
            virtio: self.virtio,
            _vm: self._vm,
            _pages: self._pages,
            _ram: self.ram,
        };
        let (early, last) = mpsc::channel();
        let mut last = Some(last);
        for (hart, vcpu) in (0..).zip(self.vcpus) {
            let leave = last
                .take()
                .map_or_else(|| Leave::Early(early.clone()), Leave::Last);
            let platform = SbiPlatform {
                memory: running._ram.memory().clone(),
                output: self.output.clone(),
                input: self.input.clone(),
                getchar_empty: self.getchar_empty,
                suspended: false,
            };
            let shared = running.shared.clone();
            let thread =
                VcpuThread::start(hart, vcpu, shared, platform, command, leave, alive.clone())
                    .map_err(Error::host("start a vCPU's thread"))?;
            running.threads.push(thread);
        }
        Ok(running)
    }
}

impl RunningBoard {
    /// Readable when another vCPU has left the guest to pause.
    pub fn outside_event(&self) -> &EventFd {
        &self.shared.outside
    }

    /// Has the vCPUs leave the guest. It takes repeated looks at [`is_outside`](Self::is_outside) until they have.
    pub fn pause(&self) {
        VcpuThread::tell_all(&self.threads, Command::Pause);
        self.shared.wakeup.disturb();
    }

    /// Whether all vCPUs have left the guest. Those that have not are told once more.
    pub fn is_outside(&self) -> bool {
        VcpuThread::call_out(&self.threads)
    }

    /// Has the devices stop that touch the guest's memory by themselves, when they have done what they are at. The vCPUs have left
    /// the guest.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `stop` came while a device waited for the host's storage; or the host has no thread left.
    pub fn pause_devices(&self, stop: &Stop) -> Result<(), Error> {
        let virtio = self.virtio.clone();
        stop.unless_stopped(move || virtio.iter().for_each(|transport| transport.pause()))
    }

    /// Tells vCPUs that have not run what to begin with.
    pub fn begin(&self, command: Command) {
        VcpuThread::tell_all(&self.threads, command);
    }

    /// Has devices and vCPUs go on.
    pub fn resume(&self) {
        self.virtio.iter().for_each(|transport| transport.resume());
        VcpuThread::tell_all(&self.threads, Command::Run);
    }
}

impl Drop for RunningBoard {
    /// Stops the vCPUs, and with the bus the devices' workers.
    fn drop(&mut self) {
        VcpuThread::tell_all(&self.threads, Command::Finish);
        self.shared.wakeup.disturb();
        VcpuThread::join_all(std::mem::take(&mut self.threads), &self.ended);
    }
}

fn create_vm(blueprint: &Blueprint) -> Result<Arc<Vm>, Error> {
    let vm = blueprint.kvm.create_vm();
    Ok(Arc::new(vm.map_err(Error::kvm("make a virtual machine"))?))
}

/// Where KVM can, the guest reads the virtio slots as memory, without leaving. Elsewhere it leaves, and reads the same.
fn show_register_pages(vm: &Vm, pages: &RegisterPages) {
    if !vm.has_read_only_memory() {
        return;
    }
    let (host, _) = pages.host_range();
    let size = u64::from(layout::VIRTIO_SLOTS) * layout::VIRTIO_STRIDE;
    // SAFETY: the mapping lives in `pages`, which a Board and a RunningBoard drop after the vCPUs have ended.
    let shown = unsafe { vm.add_memory(1, Access::ReadOnly, layout::VIRTIO_BASE.0, host, size) };
    if let Err(errno) = shown {
        log::warn!(
            "the guest reads virtio registers by a slower way: KVM refuses read-only memory: {errno}"
        );
    }
}

/// Refuses more RAM than the G-stage can address.
fn check_guest_physical(bits: u32, size: u64) -> Result<(), Error> {
    let limit = 1_u64.checked_shl(bits).unwrap_or(u64::MAX);
    let max = limit.saturating_sub(layout::RAM_BASE.0);
    if size > max {
        Err(Error::MemoryBeyondGuestPhysical { size, max, bits })
    } else {
        Ok(())
    }
}

fn create_vcpus(vm: &Vm, count: u32) -> Result<Vec<Vcpu>, Error> {
    let vcpus: Vec<Vcpu> = (0..count)
        .map(|hart| vm.create_vcpu(hart).map_err(Error::kvm("make a vCPU")))
        .collect::<Result<_, _>>()?;
    // Kernels before 6.7 and 6.14 do not have these, and a guest asks before it uses them.
    for (extension, what) in [
        (SbiExtension::Dbcn, "debug console"),
        (SbiExtension::Susp, "system suspend"),
    ] {
        for vcpu in &vcpus {
            if let Err(errno) = vcpu.write(Register::SbiExtension(extension), 1) {
                log::info!("the guest has no SBI {what} on this host: {errno}");
                break;
            }
        }
    }
    Ok(vcpus)
}

fn create_irqchip(
    vm: &Arc<Vm>,
    vcpus: &[Vcpu],
    chip: IrqchipChoice,
) -> Result<Box<dyn Irqchip>, Error> {
    if chip == IrqchipChoice::Aia {
        // As many as there are vCPUs, which KVM counts in 32 bits.
        let harts = u32::try_from(vcpus.len()).unwrap_or(u32::MAX);
        return Ok(Box::new(Aia::new(vm.clone(), harts)?));
    }
    let pins = vcpus
        .iter()
        .map(|vcpu| {
            vcpu.interrupt_pin()
                .map_err(Error::kvm("copy a vCPU's descriptor"))
        })
        .collect::<Result<_, _>>()?;
    Ok(Box::new(PlicChip::new(pins)))
}

/// The machine as its device tree describes it, with what KVM says of its vCPUs.
fn describe(
    blueprint: &Blueprint,
    vcpus: &[Vcpu],
    irqchip: &dyn Irqchip,
) -> Result<Machine, Error> {
    let no_answer = || Error::KvmRefused {
        doing: "tell the time's frequency",
        errno: crate::kvm::Errno(libc::ENOENT),
    };
    let vcpu = vcpus.first().ok_or(Error::NoCpus)?;
    let timebase_frequency = vcpu
        .read(Register::TimerFrequency)
        .and_then(|frequency| u32::try_from(frequency).ok())
        .ok_or_else(no_answer)?;
    let hidden = probe::hidden_extensions(&blueprint.kvm, vcpu)?;
    let mut seed = [0; 32];
    Ok(Machine {
        harts: blueprint.cpus,
        hart: isa::hart(vcpu, blueprint.host_mmu, hidden)
            .map_err(|error| Error::host("name the harts' ISA")(std::io::Error::other(error)))?,
        timebase_frequency,
        ram_base: layout::RAM_BASE,
        ram_size: blueprint.memory,
        interrupts: irqchip.describe(),
        hypervisor: "linux,kvm",
        devices: (hv_core::board::devices().into_iter())
            .chain(blueprint.platform.iter().map(PlatformDevice::node))
            .collect(),
        command_line: blueprint.command_line.clone().unwrap_or_default(),
        initrd: None,
        rng_seed: entropy::fill(&mut seed).ok().map(|()| seed),
    })
}

/// Puts into `ram` what the guest boots from. `machine` is what its device tree describes, unless it is a file.
fn load_files(
    blueprint: &Blueprint,
    machine: Option<Box<Machine>>,
    ram: &GuestRam,
    stop: &Stop,
) -> Result<(BootRegisters, Vec<u8>), Error> {
    let payload = blueprint.payload.clone();
    let initrd = blueprint.initrd.clone();
    let dtb = blueprint.dtb.clone().unwrap_or_default();
    let command_line = blueprint.command_line.clone();
    let files = blueprint.files.clone();
    let size = blueprint.memory;
    let memory = ram.memory().clone();
    stop.unless_stopped(move || {
        let tree = match machine {
            Some(machine) => Tree::Machine(machine),
            None => Tree::File(TreeFile::open(&dtb, command_line, &files)?),
        };
        boot::load(&payload, initrd.as_ref(), tree, size, &memory, &files)
    })?
}

/// Where hart 0 begins; the others wait until the guest starts them.
fn set_boot_registers(vcpus: &[Vcpu], registers: BootRegisters) -> Result<(), Error> {
    const A0: Register = Register::Core(Core::X(10));
    const A1: Register = Register::Core(Core::X(11));
    let boot_hart = vcpus.first().ok_or(Error::NoCpus)?;
    for (register, value) in [
        (Register::Core(Core::Pc), registers.entry),
        (A0, 0),
        (A1, registers.device_tree),
    ] {
        boot_hart
            .write(register, value)
            .map_err(Error::kvm("set a vCPU's registers"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_ends_where_guest_physical_addresses_do() {
        for bits in [41, 50, 59] {
            let most = (1 << bits) - layout::RAM_BASE.0;
            check_guest_physical(bits, most).unwrap();
            check_guest_physical(bits, 4096).unwrap();
            let error = check_guest_physical(bits, most + 4096).unwrap_err();
            assert!(
                matches!(error, Error::MemoryBeyondGuestPhysical { size, max, bits: of }
                    if size == most + 4096 && max == most && of == bits),
                "{error}"
            );
        }
        check_guest_physical(64, u64::MAX - layout::RAM_BASE.0).unwrap();
    }
}
