//! The host's device files that guests need: whether they are usable, and what to do if not. Error messages and `hvrun doctor`
//! both use this module, so their advice is the same.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A device of the host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostDevice {
    /// `/dev/kvm`.
    Kvm,
    /// `/dev/net/tun`, by which tap interfaces are used.
    Tun,
    /// `/dev/vhost-net`.
    VhostNet,
}

impl HostDevice {
    /// Where its file is.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Kvm => "/dev/kvm",
            Self::Tun => "/dev/net/tun",
            Self::VhostNet => "/dev/vhost-net",
        }
    }

    /// The kernel's module that has it, which may be built in.
    const fn module(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tun => "tun",
            Self::VhostNet => "vhost_net",
        }
    }

    /// The option of the kernel's configuration.
    const fn configuration(self) -> &'static str {
        match self {
            Self::Kvm => "CONFIG_KVM",
            Self::Tun => "CONFIG_TUN",
            Self::VhostNet => "CONFIG_VHOST_NET",
        }
    }
}

/// The file of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFile {
    /// Which device's.
    pub device: HostDevice,
    /// Whether it can be used.
    pub state: DeviceState,
    /// The group that it belongs to, by name or else by number.
    pub group: Option<String>,
    /// Its permissions, as chmod has them.
    pub mode: Option<u32>,
    /// Whether the kernel's module is seen to be loaded.
    pub module_loaded: bool,
}

/// Whether a device file can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It can be opened for reading and writing.
    Usable,
    /// There is none.
    Absent,
    /// There is one, with no driver behind it.
    NoDriver,
    /// This process may not open it.
    NoPermission,
    /// It cannot be opened for another reason: an error number.
    Unusable(i32),
}

impl From<&io::Error> for DeviceState {
    /// By the error of opening it.
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error().unwrap_or(0) {
            libc::ENOENT | libc::ENOTDIR => Self::Absent,
            libc::ENODEV | libc::ENXIO => Self::NoDriver,
            libc::EACCES | libc::EPERM => Self::NoPermission,
            errno => Self::Unusable(errno),
        }
    }
}

impl DeviceFile {
    /// Opens and closes the device's file below this root directory, `/` but for tests. That may load its driver.
    #[must_use]
    pub fn look(root: &Path, device: HostDevice) -> Self {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .open(below(root, device));
        let state = match &opened {
            Ok(_) => DeviceState::Usable,
            Err(error) => error.into(),
        };
        Self::describe(root, device, state)
    }

    /// The device's file, which could not be opened.
    #[must_use]
    pub fn refused(device: HostDevice, error: &io::Error) -> Self {
        Self::describe(Path::new("/"), device, error.into())
    }

    fn describe(root: &Path, device: HostDevice, state: DeviceState) -> Self {
        let metadata = fs::metadata(below(root, device)).ok();
        let group = metadata.as_ref().map(|metadata| {
            let groups = fs::read_to_string(root.join("etc/group")).unwrap_or_default();
            let id = metadata.gid().to_string();
            group_name(&groups, &id).unwrap_or(&id).to_owned()
        });
        let module = root.join("sys/module").join(device.module());
        Self {
            device,
            state,
            group,
            mode: metadata.map(|metadata| metadata.permissions().mode() & 0o7777),
            module_loaded: module.exists(),
        }
    }

    /// ` (group kvm, mode 0660)`, or nothing where that is not known.
    #[must_use]
    pub fn owner(&self) -> String {
        match (&self.group, self.mode) {
            (Some(group), Some(mode)) => format!(" (group {group}, mode {mode:04o})"),
            _ => String::new(),
        }
    }

    /// What is wrong with it; `None` if it can be used.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let path = self.device.path();
        Some(match self.state {
            DeviceState::Usable => return None,
            DeviceState::Absent | DeviceState::NoDriver => format!("{path} is not there"),
            DeviceState::NoPermission => format!("no permission to use {path}{}", self.owner()),
            DeviceState::Unusable(errno) => {
                let words = nix::errno::Errno::from_raw(errno).desc();
                format!("{path} cannot be opened: {words}")
            }
        })
    }

    /// What makes it usable; `None` if it is.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let (path, module) = (self.device.path(), self.device.module());
        Some(match self.state {
            DeviceState::Usable => return None,
            DeviceState::Absent if self.module_loaded => format!(
                "in a container, have {path} passed in (--device {path}); else let udev make it"
            ),
            DeviceState::Absent | DeviceState::NoDriver => format!(
                "sudo modprobe {module}; if that fails, this kernel was built without {}",
                self.device.configuration()
            ),
            DeviceState::NoPermission => self.permission_advice(),
            DeviceState::Unusable(_) => {
                format!("look into the kernel's log: sudo dmesg | grep -i {module}")
            }
        })
    }

    /// What gives a user the file: its group, where that may use it.
    fn permission_advice(&self) -> String {
        const GROUP_READ_WRITE: u32 = 0o060;
        let path = self.device.path();
        if self.device == HostDevice::Tun {
            return format!(
                "sudo chmod 666 {path}, which lets nobody use an interface that is not theirs"
            );
        }
        match (&self.group, self.mode) {
            (Some(group), Some(mode))
                if group != "root" && mode & GROUP_READ_WRITE == GROUP_READ_WRITE =>
            {
                format!("sudo usermod -aG {group} $USER, and log in again; or run hvrun as root")
            }
            _ => format!(
                "give it to a group of yours: sudo chgrp kvm {path}; sudo chmod 660 {path}; sudo usermod -aG kvm $USER, and \
                 log in again; or run hvrun as root"
            ),
        }
    }
}

/// That the device cannot be used.
impl std::error::Error for DeviceFile {}

impl fmt::Display for DeviceFile {
    /// What is wrong, and what to do, in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.problem(), self.advice()) {
            (Some(problem), Some(advice)) => write!(f, "{problem}: {advice}"),
            _ => write!(f, "{} works", self.device.path()),
        }
    }
}

/// The file's path below another root.
fn below(root: &Path, device: HostDevice) -> PathBuf {
    root.join(device.path().trim_start_matches('/'))
}

/// A group's name in `/etc/group` (group(5)).
fn group_name<'a>(groups: &'a str, id: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [HostDevice; 3] = [HostDevice::Kvm, HostDevice::Tun, HostDevice::VhostNet];

    fn file(device: HostDevice, state: DeviceState, group: &str, mode: u32) -> DeviceFile {
        DeviceFile {
            device,
            state,
            group: Some(group.to_owned()),
            mode: Some(mode),
            module_loaded: true,
        }
    }

    #[test]
    fn whatever_cannot_be_used_has_a_reason_and_advice_in_one_line() {
        for device in ALL {
            for errno in [
                libc::ENOENT,
                libc::ENODEV,
                libc::EACCES,
                libc::EPERM,
                libc::EMFILE,
            ] {
                let file = DeviceFile::refused(device, &io::Error::from_raw_os_error(errno));
                let (problem, advice) = (file.problem().unwrap(), file.advice().unwrap());
                assert!(problem.contains(device.path()), "{problem}");
                let text = file.to_string();
                assert!(text.contains(&problem) && text.contains(&advice), "{text}");
                assert_eq!(text.lines().count(), 1);
            }
            let usable = file(device, DeviceState::Usable, "root", 0o666);
            assert_eq!((usable.problem(), usable.advice()), (None, None));
        }
    }

    #[test]
    fn permission_comes_by_the_group_that_has_it() {
        for device in [HostDevice::Kvm, HostDevice::VhostNet] {
            let advice = |group, mode| {
                let file = file(device, DeviceState::NoPermission, group, mode);
                file.advice().unwrap()
            };
            assert!(advice("virt", 0o660).starts_with("sudo usermod -aG virt $USER"));
            for (group, mode) in [("root", 0o660), ("kvm", 0o600), ("root", 0o600)] {
                let advice = advice(group, mode);
                let change = format!("sudo chgrp kvm {0}; sudo chmod 660 {0};", device.path());
                assert!(advice.contains(&change), "{group}: {advice}");
            }
        }
    }

    /// The kernel checks who may use each interface; Linux's own default mode of the file is 0666.
    #[test]
    fn everybody_may_open_the_tun_device() {
        let file = file(HostDevice::Tun, DeviceState::NoPermission, "root", 0o600);
        let text = file.to_string();
        assert!(text.contains("(group root, mode 0600)"), "{text}");
        assert!(text.contains("sudo chmod 666 /dev/net/tun"), "{text}");
    }

    #[test]
    fn a_file_that_is_missing_beside_its_module_is_one_of_a_container() {
        for device in ALL {
            let file = file(device, DeviceState::Absent, "root", 0o600);
            let advice = file.advice().unwrap();
            assert!(advice.contains(&format!("--device {}", device.path())));
            assert!(!advice.contains("modprobe"), "{advice}");
            let unloaded = DeviceFile {
                module_loaded: false,
                ..file
            };
            let advice = unloaded.advice().unwrap();
            assert!(advice.starts_with("sudo modprobe "), "{advice}");
        }
    }

    #[test]
    fn files_are_found_below_another_root() {
        let root = tempfile::tempdir().unwrap();
        let absent = DeviceFile::look(root.path(), HostDevice::Tun);
        assert_eq!(absent.state, DeviceState::Absent);
        assert_eq!((absent.group, absent.mode), (None, None));
        assert!(!absent.module_loaded);

        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("dev/net/tun", "");
        write("sys/module/tun/refcnt", "0\n");
        let group = fs::metadata(root.path().join("dev/net/tun")).unwrap().gid();
        write(
            "etc/group",
            &format!("other:x:4711:\nnetdev:x:{group}:me\n"),
        );
        let usable = DeviceFile::look(root.path(), HostDevice::Tun);
        assert_eq!(usable.state, DeviceState::Usable);
        assert_eq!(usable.group.as_deref(), Some("netdev"));
        for mode in [0o600, 0o660, 0o4751] {
            use std::os::unix::fs::PermissionsExt;
            let file = root.path().join("dev/net/tun");
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
            let usable = DeviceFile::look(root.path(), HostDevice::Tun);
            assert_eq!(usable.mode, Some(mode));
        }
        assert!(usable.module_loaded);
    }

    #[test]
    fn a_group_without_a_name_is_its_number() {
        assert_eq!(group_name("root:x:0:\nkvm:x:104:me\n", "104"), Some("kvm"));
        assert_eq!(group_name("root:x:0:\n", "10"), None);
        assert_eq!(group_name("broken\n", "0"), None);
    }
}
