//! KVM on a RISC-V host, through the `kvm-ioctls` crate and the few ioctls that it has no wrapper for.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hv_core::sbi::Call;
use hv_devices::device_file::{DeviceFile, DeviceState, HostDevice};
use kvm_bindings::{
    KVM_CAP_IRQCHIP, KVM_CAP_READONLY_MEM, KVM_CAP_VM_GPA_BITS, KVM_DEV_RISCV_AIA_MODE_EMUL,
    KVM_EXIT_RISCV_CSR, KVM_EXIT_RISCV_SBI, KVM_INTERRUPT_SET, KVM_INTERRUPT_UNSET,
    KVM_MEM_READONLY, KVM_MP_STATE_STOPPED, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
    kvm_create_device, kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_RISCV_AIA, kvm_interrupt,
    kvm_signal_mask, kvm_userspace_memory_region,
};
use kvm_ioctls::{DeviceFd, IoEventAddress, VcpuExit, VcpuFd, VmFd};
use nix::sys::pthread::{pthread_kill, pthread_self};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use vmm_sys_util::eventfd::EventFd;

use super::aia::{self, AiaError, AiaShape, AiaStep, Attribute, Attributes};
use super::isa::{self, ReadRegister};
use super::register::{Core, Register};
use super::{Access, Errno, Exit, OpenError};

nix::ioctl_write_ptr!(
    /// `KVM_INTERRUPT` (linux/kvm.h): sets or clears the external interrupt pending bit of a vCPU's `hvip`. It needs no
    /// lock of the vCPU's and so works from any thread while the vCPU runs.
    kvm_interrupt_ioctl, 0xae, 0x86, kvm_interrupt
);

nix::ioctl_write_ptr!(
    /// `KVM_SET_SIGNAL_MASK` (linux/kvm.h): the signals that are blocked while the vCPU runs. The size in the request's
    /// number is that of the structure without its flexible end.
    kvm_set_signal_mask_ioctl, 0xae, 0x8b, kvm_signal_mask
);

impl From<kvm_ioctls::Error> for Errno {
    fn from(error: kvm_ioctls::Error) -> Errno {
        Errno(error.errno())
    }
}

/// An open `/dev/kvm`.
#[derive(Debug)]
pub struct Kvm(kvm_ioctls::Kvm);

impl Kvm {
    /// Opens `/dev/kvm` and checks that KVM answers.
    ///
    /// # Errors
    /// What is missing on this host, in words for its user.
    pub fn open() -> Result<Kvm, OpenError> {
        let kvm = kvm_ioctls::Kvm::new().map_err(|error| {
            let error = std::io::Error::from_raw_os_error(error.errno());
            let file = DeviceFile::refused(HostDevice::Kvm, &error);
            let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            match (file.state, isa::hypervisor_extension_of_cpuinfo(&cpuinfo)) {
                (DeviceState::Absent | DeviceState::NoDriver, Some(false)) => {
                    OpenError::NoHypervisorExtension
                }
                _ => OpenError::Device(file),
            }
        })?;
        match kvm.get_api_version() {
            12 => Ok(Kvm(kvm)),
            other => Err(OpenError::ApiVersion(other)),
        }
    }

    /// A new, empty virtual machine.
    ///
    /// # Errors
    /// That of `KVM_CREATE_VM`.
    pub fn create_vm(&self) -> Result<Vm, Errno> {
        let fd = loop {
            match self.0.create_vm() {
                // A signal came, or the process was stopped for a moment: the kernel gives up the locks that it takes for this
                // (mm_take_all_locks).
                Err(error) if error.errno() == libc::EINTR => {}
                result => break result?,
            }
        };
        Ok(Vm {
            fd,
            aia: std::sync::OnceLock::new(),
        })
    }

    /// The most vCPUs that one virtual machine may have.
    pub fn max_vcpus(&self) -> u32 {
        u32::try_from(self.0.get_max_vcpus()).unwrap_or(u32::MAX)
    }
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    /// The in-kernel interrupt chip lives as long as its file descriptor or the virtual machine's.
    aia: std::sync::OnceLock<DeviceFd>,
}

impl Vm {
    /// Bits of a guest-physical address that the G-stage translates. 41, Sv39x4's, where the kernel does not tell
    /// (`KVM_CAP_VM_GPA_BITS`, Linux 5.19): every RISC-V host with KVM has those.
    pub fn guest_physical_bits(&self) -> u32 {
        match u32::try_from(self.fd.check_extension_raw(u64::from(KVM_CAP_VM_GPA_BITS))) {
            Ok(bits) if bits > 0 => bits,
            _ => 41,
        }
    }

    /// Whether KVM can give the guest an in-kernel AIA.
    pub fn has_aia(&self) -> bool {
        self.fd.check_extension_raw(u64::from(KVM_CAP_IRQCHIP)) > 0
    }

    /// Whether the guest can be given memory with [`Access::ReadOnly`].
    pub fn has_read_only_memory(&self) -> bool {
        self.fd.check_extension_raw(u64::from(KVM_CAP_READONLY_MEM)) > 0
    }

    /// Makes `size` bytes of this process's memory at `host` the guest's memory at guest-physical `guest`.
    ///
    /// # Safety
    /// The memory must be mapped, belong to the caller, and stay so for as long as any vCPU of this machine may run;
    /// it is shared with the guest, which may change it at any time.
    ///
    /// # Errors
    /// That of `KVM_SET_USER_MEMORY_REGION`.
    pub unsafe fn add_memory(
        &self,
        slot: u32,
        access: Access,
        guest: u64,
        host: *mut u8,
        size: u64,
    ) -> Result<(), Errno> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: match access {
                Access::ReadWrite => 0,
                Access::ReadOnly => KVM_MEM_READONLY,
            },
            guest_phys_addr: guest,
            memory_size: size,
            userspace_addr: host as u64,
        };
        // SAFETY: the caller promises that the memory stays mapped; the region only names it.
        Ok(unsafe { self.fd.set_user_memory_region(region) }?)
    }

    /// A new vCPU, whose id is its hart id. All but hart 0 wait for the guest to start them (SBI HSM).
    ///
    /// # Errors
    /// That of `KVM_CREATE_VCPU`.
    pub fn create_vcpu(&self, hart: u32) -> Result<Vcpu, Errno> {
        Ok(Vcpu(self.fd.create_vcpu(u64::from(hart))?))
    }

    /// Gives the guest the in-kernel AIA, for vCPUs 0 to `harts - 1`, which all exist and have not run.
    ///
    /// # Errors
    /// KVM refuses. A machine that was refused keeps the unfinished device: only another machine can have a PLIC.
    pub fn create_aia(&self, harts: u32) -> Result<AiaShape, AiaError> {
        let mut request = kvm_create_device {
            type_: kvm_device_type_KVM_DEV_TYPE_RISCV_AIA,
            fd: 0,
            flags: 0,
        };
        let created = self.fd.create_device(&mut request).map_err(Errno::from);
        let device = created.map_err(AiaStep::Create.refused())?;
        let shape = aia::initialize(&device, harts)?;
        // Nothing else sets it: a machine is given its chip once.
        let _ = self.aia.set(device);
        Ok(shape)
    }

    /// Whether the AIA that [`Vm::create_aia`] made uses guest interrupt files of the harts; `false` where there is none.
    ///
    /// # Errors
    /// KVM does not tell.
    pub fn aia_uses_guest_interrupt_files(&self) -> Result<bool, AiaError> {
        let mode = self.aia.get().map(|aia| aia.get(Attribute::Mode));
        let mode = mode.transpose();
        let mode = mode.map_err(AiaStep::Get(Attribute::Mode).refused())?;
        Ok(mode.is_some_and(|mode| mode != KVM_DEV_RISCV_AIA_MODE_EMUL))
    }

    /// From now on a 4-byte store of `value` to guest-physical `address` signals `event` inside the kernel
    /// (an ioeventfd), and no vCPU leaves the guest for it.
    ///
    /// # Errors
    /// That of `KVM_IOEVENTFD`.
    pub fn signal_on_write(&self, address: u64, value: u32, event: &EventFd) -> Result<(), Errno> {
        Ok(self
            .fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)?)
    }

    /// From now on a signal on `event` raises interrupt `source` of the in-kernel chip (an irqfd).
    ///
    /// # Errors
    /// That of `KVM_IRQFD`.
    pub fn inject_on_event(&self, event: &EventFd, source: u32) -> Result<(), Errno> {
        Ok(self.fd.register_irqfd(event, source)?)
    }

    /// Sets the level of source `source` of the in-kernel chip.
    ///
    /// # Errors
    /// That of `KVM_IRQ_LINE`.
    pub fn set_line(&self, source: u32, asserted: bool) -> Result<(), Errno> {
        Ok(self.fd.set_irq_line(source, asserted)?)
    }
}

impl Attributes for DeviceFd {
    fn get(&self, attribute: Attribute) -> Result<u32, Errno> {
        if !attribute.is_word() {
            return Err(Errno(libc::EINVAL));
        }
        let mut value = 0_u32;
        let (group, number) = attribute.id();
        let mut request = kvm_device_attr {
            group,
            attr: number,
            addr: &mut value as *mut u32 as u64,
            flags: 0,
        };
        // SAFETY: the attribute is 32 bits wide (arch/riscv/kvm/aia_device.c, aia_get_attr), and `addr` is a live variable of
        // that size.
        unsafe { self.get_device_attr(&mut request) }?;
        Ok(value)
    }

    fn set(&self, attribute: Attribute, value: u64) -> Result<(), Errno> {
        // RISC-V is little-endian: a word is the first half. KVM reads as much as the attribute is wide.
        let (group, number) = attribute.id();
        let request = kvm_device_attr {
            group,
            attr: number,
            addr: &value as *const u64 as u64,
            flags: 0,
        };
        Ok(self.set_device_attr(&request)?)
    }
}

/// One virtual hart.
#[derive(Debug)]
pub struct Vcpu(VcpuFd);

impl ReadRegister for Vcpu {
    fn read(&self, register: Register) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.get_one_reg(register.id(), &mut bytes).ok()?;
        Some(u64::from_le_bytes(bytes))
    }
}

impl Vcpu {
    /// A handle on the vCPU's external interrupt, for use from any thread.
    ///
    /// # Errors
    /// No file descriptor left.
    pub fn interrupt_pin(&self) -> Result<InterruptPin, Errno> {
        // SAFETY: the descriptor is open: it is this vCPU's, which outlives the borrow.
        let fd = unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) };
        fd.try_clone_to_owned()
            .map(InterruptPin)
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EMFILE)))
    }

    /// Sets a register.
    ///
    /// # Errors
    /// That of `KVM_SET_ONE_REG`.
    pub fn write(&self, register: Register, value: u64) -> Result<(), Errno> {
        self.0.set_one_reg(register.id(), &value.to_le_bytes())?;
        Ok(())
    }

    /// Completes the last exit without running the guest, so that its registers can be read and written: KVM finishes
    /// a load, an SBI call or a CSR access only when it is entered again (Documentation/virt/kvm/api.rst, 5).
    pub fn finish_exit(&mut self) {
        self.0.set_kvm_immediate_exit(1);
        // It answers EINTR, which is what was asked for.
        let _ = self.0.run();
        self.0.set_kvm_immediate_exit(0);
    }

    /// Runs the guest on this thread until it leaves.
    pub fn run(&mut self) -> Exit<'_> {
        // The borrow checker will not let an arm that borrows from `run` be followed by another look at the vCPU, so
        // the two exits that kvm-ioctls does not know are told apart first.
        let reason = match self.0.run() {
            Ok(VcpuExit::Unsupported(reason)) => reason,
            Ok(VcpuExit::MmioRead(address, data)) => {
                // SAFETY: the slice lies in the vCPU's `kvm_run` mapping, which lives as long as `self`; the lifetime is
                // spelled out because of the other arms, no other reference to it is made.
                let data = unsafe { std::slice::from_raw_parts_mut(data.as_mut_ptr(), data.len()) };
                return Exit::MmioRead { address, data };
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                // SAFETY: as above.
                let data = unsafe { std::slice::from_raw_parts(data.as_ptr(), data.len()) };
                return Exit::MmioWrite { address, data };
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, data)) => {
                return Exit::Shutdown {
                    reason: data.first().copied().unwrap_or(0),
                };
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Exit::Reset,
            Ok(VcpuExit::SystemEvent(other, _)) => {
                return Exit::Failed(format!("KVM reports system event {other}"));
            }
            Ok(VcpuExit::Intr) => return Exit::Interrupted,
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Exit::Failed(format!(
                    "the host's CPU {cpu} could not enter the guest (reason {reason:#x})"
                ));
            }
            Ok(VcpuExit::InternalError) => {
                return Exit::Failed("KVM reports an internal error".into());
            }
            Ok(other) => {
                return Exit::Failed(format!(
                    "KVM left the guest for a reason hvrun does not know: {other:?}"
                ));
            }
            Err(error) => {
                return match error.errno() {
                    libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                    // arch/riscv/kvm/vcpu_insn.c and vcpu_exit.c. KVM writes a line into the kernel's log for each of
                    // these, so letting the guest trap and go on would let it fill that log.
                    libc::EOPNOTSUPP => Exit::Failed(
                        "the guest jumped to where no memory is, or accessed a device by an \
                         instruction that KVM does not emulate"
                            .into(),
                    ),
                    libc::EIO => Exit::Failed(
                        "the guest accessed a device at an address that is not aligned to the \
                         width of the access, which KVM does not emulate"
                            .into(),
                    ),
                    errno => Exit::Failed(format!("KVM_RUN failed: {}", Errno(errno))),
                };
            }
        };
        let run = self.0.get_kvm_run();
        match reason {
            KVM_EXIT_RISCV_SBI => {
                // SAFETY: the exit reason says that this is the union's member that KVM filled in.
                let sbi = unsafe { &mut run.__bindgen_anon_1.riscv_sbi };
                let call = Call {
                    extension: sbi.extension_id,
                    function: sbi.function_id,
                    args: sbi.args,
                };
                Exit::Sbi {
                    call,
                    answer: &mut sbi.ret,
                }
            }
            KVM_EXIT_RISCV_CSR => {
                // SAFETY: as above.
                let csr = unsafe { &mut run.__bindgen_anon_1.riscv_csr };
                // A CSR's number has 12 bits.
                let number = u16::try_from(csr.csr_num).unwrap_or(u16::MAX);
                Exit::Csr {
                    number,
                    value: &mut csr.ret_value,
                }
            }
            other => Exit::Failed(format!(
                "KVM left the guest for a reason hvrun does not know ({other})"
            )),
        }
    }

    /// Has the calling thread's hart load the vCPU's registers, and save them again, without running the guest. The vCPU
    /// is of no other use afterwards.
    ///
    /// # Errors
    /// That of `KVM_SET_SIGNAL_MASK`, or of the system calls around it.
    pub fn load(&mut self) -> nix::Result<()> {
        /// `struct kvm_signal_mask` with the kernel's own `sigset_t` in it: one bit for each of 64 signals.
        #[repr(C)]
        struct Mask {
            head: kvm_signal_mask,
            signals: [u8; 8],
        }
        let none = Mask {
            head: kvm_signal_mask {
                len: 8,
                ..Default::default()
            },
            signals: [0; 8],
        };
        // KVM looks for signals after it has loaded the vCPU and before it enters the guest, so one that waits for this
        // thread makes it do just the former. `immediate_exit` would return before either.
        let signal = SigSet::from(Signal::SIGURG);
        let mut before = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&signal), Some(&mut before))?;
        // SAFETY: KVM reads the structure and the 8 bytes behind it that it announces; both live across the call.
        let masked = unsafe { kvm_set_signal_mask_ioctl(self.0.as_raw_fd(), &none.head) };
        let loaded = masked.and_then(|_| {
            pthread_kill(pthread_self(), Signal::SIGURG)?;
            // It answers EINTR, which is what was asked for.
            let _ = self.0.run();
            signal.wait().map(drop)
        });
        pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        loaded
    }

    /// Whether the hart waits for the guest to start it (SBI HSM). A hart that the guest has started counts as running before
    /// KVM has reset it, which it does on the next entry.
    pub fn is_stopped(&self) -> bool {
        let state = self.0.get_mp_state();
        state.is_ok_and(|state| state.mp_state == KVM_MP_STATE_STOPPED)
    }

    /// The program counter, for messages.
    pub fn pc(&self) -> u64 {
        self.read(Register::Core(Core::Pc)).unwrap_or(0)
    }
}

/// A vCPU's external interrupt (`hvip.VSEIP`).
#[derive(Debug)]
pub struct InterruptPin(OwnedFd);

impl InterruptPin {
    /// Sets the pin.
    ///
    /// # Errors
    /// That of `KVM_INTERRUPT`.
    pub fn set(&self, asserted: bool) -> Result<(), Errno> {
        // The header has the two as -1U and -2U.
        let irq = if asserted {
            KVM_INTERRUPT_SET
        } else {
            KVM_INTERRUPT_UNSET
        }
        .cast_unsigned();
        // SAFETY: the descriptor is a vCPU's, and the structure is the one that the ioctl reads.
        unsafe { kvm_interrupt_ioctl(self.0.as_fd().as_raw_fd(), &kvm_interrupt { irq }) }
            .map(|_| ())
            .map_err(|errno| Errno(errno as i32))
    }
}
