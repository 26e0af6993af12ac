//! What a configuration implies.

use hv_devices::virtio::block::{ImageFormat, Raw};

use super::*;
use crate::devices::{ConsoleConfig, Location, NetConfig, RngConfig, VsockConfig};

fn config(devices: impl IntoIterator<Item = DeviceConfig>) -> Config {
    let mut config = Config::new(Payload::Kernel("Image".into())).serial(Chardev::Pty);
    config.devices.extend(devices);
    config
}

fn disk(readonly: bool) -> DeviceConfig {
    let mut disk = DiskConfig::new("disk");
    disk.readonly = readonly;
    disk.into()
}

fn at(device: impl Into<DeviceConfig>, slot: Option<u32>) -> DeviceConfig {
    device.into().location(Location {
        slot,
        version: None,
    })
}

#[test]
fn the_command_line_follows_from_the_disks() {
    let implied = |disks: Vec<_>| config(disks).implied_command_line().unwrap();
    assert_eq!(implied(vec![]), "console=ttyS0");
    assert_eq!(implied(vec![disk(false)]), "console=ttyS0 root=/dev/vda rw");
    assert_eq!(
        implied(vec![disk(true), disk(false)]),
        "console=ttyS0 root=/dev/vda ro"
    );
    let disks = vec![at(disk(false), Some(1)), disk(false), disk(false)];
    assert_eq!(implied(disks), "console=ttyS0 root=/dev/vdb rw");

    let mut other = config([disk(false)]);
    other.dtb = Some("guest.dtb".into());
    assert_eq!(other.implied_command_line(), None);
    other.dtb = None;
    other.payload = Payload::Firmware("u-boot.bin".into());
    assert_eq!(other.implied_command_line(), None);
}

#[test]
fn other_devices_are_not_disks() {
    let net = |slot| at(NetConfig::tap("tap0"), slot);
    let mut config = config([
        at(disk(false), Some(5)),
        net(Some(0)),
        net(None),
        at(disk(false), Some(3)),
        net(Some(4)),
        RngConfig::default().into(),
    ]);
    let slots: Vec<u32> = config.disks().unwrap().iter().map(|disk| disk.1).collect();
    assert_eq!(slots, [5, 3]);
    let line = config.implied_command_line().unwrap();
    assert!(line.contains("root=/dev/vdb"), "{line}");
    config.devices.remove(3);
    let line = config.implied_command_line().unwrap();
    assert!(line.contains("root=/dev/vda"), "{line}");
}

#[test]
fn no_output_goes_into_what_the_machine_is_made_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let config = Config::new(Payload::Firmware(path("firmware")))
        .initrd(path("initrd"))
        .dtb(path("device tree"))
        .device(DiskConfig::new(path("disk")));
    let inputs = config.inputs();
    for name in ["firmware", "initrd", "device tree", "disk"] {
        std::fs::write(path(name), name).unwrap();
        let link = path("link");
        std::os::unix::fs::symlink(path(name), &link).unwrap();
        // Also where the machine has locked it already.
        let _disk = Raw::open(&link, true, ImageFormat::Raw).unwrap();
        let error = inputs.open_output(&link, "test").unwrap_err().to_string();
        assert!(
            error.contains(&format!("is this machine's {name};")),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(path(name)).unwrap(), name);
        std::fs::remove_file(link).unwrap();
    }
    let _output = inputs.open_output(&path("other"), "test").unwrap();
    let again = inputs.open_output(&path("other"), "test");
    assert!(again.unwrap_err().to_string().contains("given twice"));
}

#[test]
fn the_command_line_follows_from_the_consoles() {
    let line = |serial: bool, virtio: bool| {
        let mut device = ConsoleConfig::default().port("org.example", Chardev::Pty);
        device.console = virtio.then_some(Chardev::Pty);
        let mut config = config([device.into()]);
        config.serial = serial.then_some(Chardev::Pty);
        config.implied_command_line().unwrap()
    };
    assert_eq!(line(true, false), "console=ttyS0");
    assert_eq!(line(false, true), "console=ttyS0 console=hvc0");
    assert_eq!(line(true, true), "console=ttyS0 console=hvc0");
    assert_eq!(line(false, false), "");
}

#[test]
fn a_new_machine_is_small_and_each_setting_is_its_own() {
    let new = || Config::new(Payload::Kernel("Image".into()));
    let config = new();
    assert_eq!((config.cpus, config.memory), (1, 512 << 20));
    assert_eq!(
        (config.getchar_empty, config.irqchip),
        (-1, IrqchipChoice::Auto)
    );
    assert!(config.initrd.is_none() && config.dtb.is_none() && config.command_line.is_none());
    assert!(config.serial.is_none() && config.devices.is_empty() && config.platform.is_empty());
    assert!(!config.hugepages && !config.no_reboot && config.stop.is_none());

    let event = std::fs::File::open("/dev/null").unwrap();
    let platform = PlatformDevice::new("device", 0, 0, |_| Err(std::io::ErrorKind::Other.into()));
    let config = new()
        .initrd("initrd")
        .dtb("dtb")
        .command_line("quiet")
        .cpus(3)
        .memory(1 << 30)
        .hugepages(true)
        .irqchip(IrqchipChoice::Plic)
        .serial(Chardev::Pty)
        .device(RngConfig::default())
        .platform_device(platform)
        .virtio(Version::Legacy)
        .getchar_empty(0)
        .no_reboot(true)
        .stop(event.into());
    assert_eq!(config.initrd.as_deref(), Some("initrd".as_ref()));
    assert_eq!(config.dtb.as_deref(), Some("dtb".as_ref()));
    assert_eq!(config.command_line.as_deref(), Some("quiet"));
    assert_eq!((config.cpus, config.memory), (3, 1 << 30));
    assert_eq!(
        (config.getchar_empty, config.irqchip),
        (0, IrqchipChoice::Plic)
    );
    assert!(matches!(config.serial, Some(Chardev::Pty)));
    assert_eq!((config.devices.len(), config.platform.len()), (1, 1));
    assert_eq!(config.virtio, Version::Legacy);
    assert!(config.hugepages && config.no_reboot && config.stop.is_some());
    let text = format!("{:?}", config.platform);
    assert!(
        text.contains("PlatformDevice") && text.contains("\"device\""),
        "{text}"
    );

    let console = ConsoleConfig::new(Chardev::Pty)
        .port("first", Chardev::Pty)
        .port("second", Chardev::File("file".into()));
    assert!(matches!(console.console, Some(Chardev::Pty)));
    let names: Vec<_> = console
        .ports
        .iter()
        .map(|port| port.name.as_str())
        .collect();
    assert_eq!(names, ["first", "second"]);
}

/// Those that are removed at the end.
#[test]
fn its_sockets_are_those_of_consoles_ports_and_the_vsock() {
    let config = Config::new(Payload::Kernel("Image".into()));
    assert_eq!(config.sockets(), [""; 0].map(std::path::PathBuf::from));
    let console = ConsoleConfig::new(Chardev::Pty).port("first", Chardev::Unix("b".into()));
    let config = config
        .serial(Chardev::Unix("a".into()))
        .device(console)
        .device(VsockConfig::new(3, "c"));
    assert_eq!(
        config.sockets(),
        ["a", "b", "c"].map(std::path::PathBuf::from)
    );
}

#[test]
fn a_command_line_is_too_long_from_one_byte_behind_the_limit_on() {
    let new = || Config::new(Payload::Kernel("Image".into()));
    assert_eq!(new().command_line_beyond_the_limit(), None);
    for (length, expected) in [
        (0, None),
        (1, None),
        (1023, None),
        (1024, Some(1024)),
        (5000, Some(5000)),
    ] {
        let config = new().command_line("x".repeat(length));
        assert_eq!(config.command_line_beyond_the_limit(), expected);
    }
}
