//! Hosts for the tests.

use hv_vmm::{
    AiaAbsence, AiaAttribute, AiaError, AiaFeatures, AiaStep, AnsweredBy, Capabilities, DeviceFile,
    DeviceState, Errno, Error, Host, HostDevice, HugePages, OpenError, SbiExtension,
};

fn device(device: HostDevice, state: DeviceState, group: &str, mode: u32) -> DeviceFile {
    DeviceFile {
        device,
        state,
        group: Some(group.to_owned()),
        mode: Some(mode),
        module_loaded: true,
    }
}

fn host() -> Host {
    Host {
        architecture: "riscv64",
        kernel: Some("6.12.48-riscv64".into()),
        hypervisor_extension: Some(true),
        kvm: device(HostDevice::Kvm, DeviceState::Usable, "kvm", 0o660),
        tun: device(HostDevice::Tun, DeviceState::Usable, "root", 0o666),
        network_admin: false,
        vhost_net: device(
            HostDevice::VhostNet,
            DeviceState::NoPermission,
            "root",
            0o600,
        ),
        transparent_huge_pages: Some("madvise".into()),
        huge_pages: Some(HugePages { total: 0, free: 0 }),
        seccomp_filters: true,
        available_memory: Some(1 << 30),
    }
}

pub fn capabilities() -> Capabilities {
    let extensions = [
        "i",
        "m",
        "a",
        "f",
        "d",
        "c",
        "v",
        "zicbom",
        "zicboz",
        "zicbop",
        "zicntr",
        "zicond",
        "zicsr",
        "zifencei",
        "zihintntl",
        "zihintpause",
        "zihpm",
        "zimop",
        "zba",
        "zbb",
        "zbs",
    ];
    Capabilities {
        max_cpus: 64,
        guest_physical_bits: 50,
        paging_mode: "sv48",
        timebase_frequency: 10_000_000,
        isa: format!("rv64imafdcv_{}", extensions[7..].join("_")),
        isa_extensions: extensions.map(str::to_owned).into(),
        aia: Ok(AiaFeatures {
            guest_interrupt_files: false,
            identities: 255,
        }),
        sbi: vec![
            SbiExtension {
                name: "TIME",
                id: 0x5449_4d45,
                answered_by: AnsweredBy::Kernel,
            },
            SbiExtension {
                name: "DBCN",
                id: 0x4442_434e,
                answered_by: AnsweredBy::Userspace,
            },
        ],
    }
}

pub fn good() -> (Host, Result<Capabilities, Error>) {
    (host(), Ok(capabilities()))
}

pub fn refused_aia() -> (Host, Result<Capabilities, Error>) {
    let refusal = AiaError {
        step: AiaStep::Set(AiaAttribute::Sources),
        // EINVAL.
        errno: Errno(22),
    };
    let kvm = Capabilities {
        aia: Err(AiaAbsence::Refused(refusal)),
        ..capabilities()
    };
    (host(), Ok(kvm))
}

pub fn no_module() -> (Host, Result<Capabilities, Error>) {
    let kvm = DeviceFile {
        device: HostDevice::Kvm,
        state: DeviceState::Absent,
        group: None,
        mode: None,
        module_loaded: false,
    };
    let host = Host {
        kvm: kvm.clone(),
        ..host()
    };
    (host, Err(OpenError::Device(kvm).into()))
}

pub fn no_permission(group: &str, mode: u32) -> (Host, Result<Capabilities, Error>) {
    let kvm = device(HostDevice::Kvm, DeviceState::NoPermission, group, mode);
    let host = Host {
        kvm: kvm.clone(),
        ..host()
    };
    (host, Err(OpenError::Device(kvm).into()))
}
