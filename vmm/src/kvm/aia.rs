//! KVM's AIA device: its attributes, and the order in which a guest's AIA is made of them.
//!
//! The device is reached through [`Attributes`], so that each of KVM's rules and refusals is tested on any machine. Source:
//! Linux, `arch/riscv/kvm/aia_device.c` and `arch/riscv/include/uapi/asm/kvm.h`.

use std::fmt;

use hv_core::layout;

use super::Errno;

/// The fewest interrupt identities that an IMSIC has. Any number of them ends in these bits.
const MIN_IDS: u32 = 63;

/// The most identities that a guest is given. More than its devices and IPIs can use cost nothing but memory of KVM's.
const MAX_IDS: u32 = 255;

/// An attribute of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// How the IMSICs work (`KVM_DEV_RISCV_AIA_MODE_*`). A new device has the best mode that the host can do.
    Mode,
    /// The highest interrupt identity of each IMSIC. A new device has the host's maximum.
    Ids,
    /// The highest interrupt source of the APLIC.
    Sources,
    /// Bits of a hart's index.
    HartBits,
    /// Guest-physical address of the APLIC.
    AplicAddress,
    /// Guest-physical address of this vCPU's IMSIC.
    ImsicAddress(u32),
    /// Makes the device ready for interrupts; its value means nothing.
    Init,
}

/// The groups of attributes (`KVM_DEV_RISCV_AIA_GRP_*`).
const GROUP_CONFIG: u32 = 0;
const GROUP_ADDRESS: u32 = 1;
const GROUP_CONTROL: u32 = 2;

impl Attribute {
    /// KVM's numbers for it: group, and attribute within the group.
    pub fn id(self) -> (u32, u64) {
        match self {
            Attribute::Mode => (GROUP_CONFIG, 0),
            Attribute::Ids => (GROUP_CONFIG, 1),
            Attribute::Sources => (GROUP_CONFIG, 2),
            Attribute::HartBits => (GROUP_CONFIG, 5),
            Attribute::AplicAddress => (GROUP_ADDRESS, 0),
            Attribute::ImsicAddress(vcpu) => (GROUP_ADDRESS, 1 + u64::from(vcpu)),
            Attribute::Init => (GROUP_CONTROL, 0),
        }
    }

    /// Whether its value is 32 bits wide, as those of the configuration's group are. The others have 64.
    pub fn is_word(self) -> bool {
        self.id().0 == GROUP_CONFIG
    }
}

/// A step on the way to a guest's AIA. KVM can refuse each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AiaStep {
    /// `KVM_CREATE_DEVICE`.
    Create,
    /// `KVM_GET_DEVICE_ATTR`.
    Get(Attribute),
    /// `KVM_SET_DEVICE_ATTR`.
    Set(Attribute),
    /// `KVM_IRQFD`, once the device is ready.
    ConnectEventfd,
}

impl fmt::Display for AiaStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attribute = match self {
            AiaStep::Create => return f.write_str("create the device"),
            AiaStep::ConnectEventfd => return f.write_str("connect an eventfd to an interrupt"),
            AiaStep::Get(attribute) => {
                f.write_str("tell ")?;
                attribute
            }
            AiaStep::Set(Attribute::Init) => return f.write_str("initialise the device"),
            AiaStep::Set(attribute) => {
                f.write_str("set ")?;
                attribute
            }
        };
        match attribute {
            Attribute::Mode => f.write_str("the mode of the IMSICs"),
            Attribute::Ids => f.write_str("the number of interrupt identities"),
            Attribute::Sources => f.write_str("the number of interrupt sources"),
            Attribute::HartBits => f.write_str("the bits of a hart's index"),
            Attribute::AplicAddress => f.write_str("the address of the APLIC"),
            Attribute::ImsicAddress(vcpu) => write!(f, "the address of hart {vcpu}'s IMSIC"),
            Attribute::Init => f.write_str("whether the device is initialised"),
        }
    }
}

/// Why KVM, which has an AIA, does not give one to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("KVM refuses to {step}: {errno}")]
pub struct AiaError {
    /// What it refuses.
    pub step: AiaStep,
    /// Its answer.
    pub errno: Errno,
}

impl AiaStep {
    /// For `map_err` on the step.
    pub fn refused(self) -> impl FnOnce(Errno) -> AiaError {
        move |errno| AiaError { step: self, errno }
    }
}

/// The device's attributes.
pub trait Attributes {
    /// The value of one of those for which [`Attribute::is_word`] holds.
    ///
    /// # Errors
    /// That of `KVM_GET_DEVICE_ATTR`.
    fn get(&self, attribute: Attribute) -> Result<u32, Errno>;

    /// Changes a value.
    ///
    /// # Errors
    /// That of `KVM_SET_DEVICE_ATTR`.
    fn set(&self, attribute: Attribute, value: u64) -> Result<(), Errno>;
}

/// What a guest's AIA has come out as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AiaShape {
    /// The highest interrupt source of the APLIC.
    pub sources: u32,
    /// The highest interrupt identity of each IMSIC.
    pub ids: u32,
    /// The highest identity that the host could give.
    pub max_ids: u32,
}

/// Makes a new device ready, at the addresses of [`hv_core::layout`], for vCPUs 0 to `harts - 1`, which all exist and have
/// not run.
///
/// # Errors
/// KVM refuses a step. The machine then keeps the unfinished device for good.
pub fn initialize(device: &impl Attributes, harts: u32) -> Result<AiaShape, AiaError> {
    let set = |attribute, value: u64| {
        let set = device.set(attribute, value);
        set.map_err(AiaStep::Set(attribute).refused())
    };
    let get = device.get(Attribute::Ids);
    let max_ids = get.map_err(AiaStep::Get(Attribute::Ids).refused())?;
    let (ids, sources) = (identities(max_ids), layout::APLIC_SOURCES);
    set(Attribute::Ids, ids.into())?;
    set(Attribute::Sources, sources.into())?;
    let highest = harts.saturating_sub(1);
    let hart_bits = u32::BITS.saturating_sub(highest.leading_zeros());
    set(Attribute::HartBits, hart_bits.into())?;
    set(Attribute::AplicAddress, layout::APLIC_BASE.0)?;
    // All harts have a file: there are no more of them than the memory map has room for.
    for (hart, file) in (0..harts).map_while(|hart| Some((hart, layout::imsic_file(hart)?))) {
        set(Attribute::ImsicAddress(hart), file.0)?;
    }
    set(Attribute::Init, 0)?;
    Ok(AiaShape {
        sources,
        ids,
        max_ids,
    })
}

/// The identities of a guest's IMSIC on a host that has these at most: [`MAX_IDS`], or the largest number below the host's
/// that an IMSIC can have.
fn identities(max: u32) -> u32 {
    match max.min(MAX_IDS) {
        whole if whole & MIN_IDS == MIN_IDS => whole,
        // KVM refuses a host with fewer than 63.
        other => (other & !MIN_IDS).saturating_sub(1).max(MIN_IDS),
    }
}

#[cfg(test)]
pub mod tests {
    use std::cell::RefCell;

    use super::*;

    /// KVM's device, as far as its rules go.
    pub struct Device {
        /// `kvm_riscv_aia_max_ids`, one more than the highest identity of the host's guest interrupt files.
        max_ids: u32,
        vcpus: u32,
        refused: Option<AiaStep>,
        set: RefCell<Vec<(Attribute, u64)>>,
    }

    const INVALID: Errno = Errno(libc::EINVAL);

    impl Device {
        /// On a host whose guest interrupt files have identities up to this, in a machine of so many vCPUs.
        pub fn new(identities: u32, vcpus: u32) -> Device {
            Device {
                max_ids: identities + 1,
                vcpus,
                refused: None,
                set: RefCell::default(),
            }
        }

        /// The same that refuses this step.
        pub fn that_refuses(self, step: AiaStep) -> Device {
            let refused = Some(step);
            Device { refused, ..self }
        }

        fn value(&self, attribute: Attribute) -> Option<u64> {
            let set = self.set.borrow();
            let found = set.iter().rfind(|(other, _)| *other == attribute);
            found.map(|(_, value)| *value)
        }
    }

    impl Attributes for Device {
        fn get(&self, attribute: Attribute) -> Result<u32, Errno> {
            if self.refused == Some(AiaStep::Get(attribute)) {
                return Err(INVALID);
            }
            match attribute {
                Attribute::Ids => Ok(self.max_ids - 1),
                _ => Err(Errno(libc::ENXIO)),
            }
        }

        /// aia_config(), aia_aplic_addr(), aia_imsic_addr() and aia_init().
        fn set(&self, attribute: Attribute, value: u64) -> Result<(), Errno> {
            let allowed = self.refused != Some(AiaStep::Set(attribute))
                && self.value(Attribute::Init).is_none()
                && match attribute {
                    Attribute::Mode => false,
                    Attribute::Ids => {
                        (63..2048).contains(&value)
                            && value & 63 == 63
                            && value < self.max_ids.into()
                    }
                    Attribute::Sources => value < 1024 && value < self.max_ids.into(),
                    Attribute::HartBits => value < 16,
                    Attribute::AplicAddress => value & 0xfff == 0,
                    Attribute::ImsicAddress(vcpu) => vcpu < self.vcpus && value & 0xfff == 0,
                    Attribute::Init => {
                        let bits = self.value(Attribute::HartBits).unwrap_or(0);
                        let base = |vcpu| {
                            let address = self.value(Attribute::ImsicAddress(vcpu))?;
                            Some(address >> (12 + bits))
                        };
                        self.value(Attribute::Ids) >= self.value(Attribute::Sources)
                            && self.value(Attribute::AplicAddress).is_some()
                            && (0..self.vcpus).all(|vcpu| base(vcpu).is_some())
                            && (1..self.vcpus).all(|vcpu| base(vcpu) == base(0))
                    }
                };
            if !allowed {
                return Err(INVALID);
            }
            self.set.borrow_mut().push((attribute, value));
            Ok(())
        }
    }

    /// Every step of a machine of two harts but the eventfd's, which is not the device's.
    pub const STEPS: [AiaStep; 9] = [
        AiaStep::Create,
        AiaStep::Get(Attribute::Ids),
        AiaStep::Set(Attribute::Ids),
        AiaStep::Set(Attribute::Sources),
        AiaStep::Set(Attribute::HartBits),
        AiaStep::Set(Attribute::AplicAddress),
        AiaStep::Set(Attribute::ImsicAddress(0)),
        AiaStep::Set(Attribute::ImsicAddress(1)),
        AiaStep::Set(Attribute::Init),
    ];

    /// The numbers as a C program prints them that includes the kernel's header.
    #[test]
    fn attributes_are_those_of_the_kernel_header() {
        for (attribute, id) in [
            (Attribute::Mode, (0, 0)),
            (Attribute::Ids, (0, 1)),
            (Attribute::Sources, (0, 2)),
            (Attribute::HartBits, (0, 5)),
            (Attribute::AplicAddress, (1, 0)),
            (Attribute::ImsicAddress(0), (1, 1)),
            (Attribute::ImsicAddress(7), (1, 8)),
            (Attribute::Init, (2, 0)),
        ] {
            assert_eq!(attribute.id(), id, "{attribute:?}");
            assert_eq!(attribute.is_word(), id.0 == 0, "{attribute:?}");
        }
    }

    /// Guest interrupt files have 63 identities or more; where there are none, KVM emulates the most.
    #[test]
    fn a_host_of_any_number_of_identities_gives_an_aia() {
        for (identities, expected) in [
            (63, 63),
            (127, 127),
            (191, 191),
            (255, 255),
            (511, 255),
            (2047, 255),
        ] {
            for harts in [1, 2, 3, 4, 5, 64, layout::MAX_HARTS] {
                let device = Device::new(identities, harts);
                let shape = initialize(&device, harts).unwrap();
                assert_eq!((shape.ids, shape.max_ids), (expected, identities));
                // What the device tree will say is what KVM was told.
                assert_eq!(device.value(Attribute::Ids), Some(shape.ids.into()));
                assert_eq!(device.value(Attribute::Sources), Some(shape.sources.into()));
                assert!(shape.sources >= layout::RTC_IRQ);
            }
        }
    }

    #[test]
    fn a_number_of_identities_that_no_imsic_has_is_rounded_down() {
        for (max, expected) in [(100, 63), (128, 127), (254, 191), (64, 63), (0, 63)] {
            assert_eq!(identities(max), expected, "{max}");
        }
    }

    #[test]
    fn the_step_that_is_refused_is_named() {
        let mut words = Vec::new();
        for step in STEPS.into_iter().filter(|step| *step != AiaStep::Create) {
            let device = Device::new(255, 2).that_refuses(step);
            let error = initialize(&device, 2).unwrap_err();
            assert_eq!((error.step, error.errno), (step, INVALID));
            let text = error.to_string();
            assert!(text.contains("Invalid argument"), "{text}");
            words.push(text);
        }
        words.sort();
        words.dedup();
        assert_eq!(words.len(), STEPS.len() - 1, "{words:?}");
    }
}
