//! The warnings about which a program may have something to say to its user, such as an option that helps: the targets of their
//! records in the log (`log::Record::target`).

/// The guest has reset itself several times in a row, each time soon after its start. [`Config::no_reboot`](crate::Config::no_reboot)
/// ends the machine at a reset.
pub const MANY_RESETS: &str = "hv_vmm::many_resets";

/// The initrd is a file system, which few guests take for one: a disk would have it.
pub const INITRD_IS_FILE_SYSTEM: &str = "hv_vmm::initrd_is_file_system";

/// The initrd is a device tree.
pub const INITRD_IS_DEVICE_TREE: &str = "hv_vmm::initrd_is_device_tree";
