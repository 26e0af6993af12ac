//! How a guest's run ends: the ways that a guest has itself, by SBI or by the test device.

/// A way in which a guest ends its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It switched itself off (SRST: shutdown; test device: pass).
    PowerOff,
    /// It switched itself off and said that something is wrong (SRST: shutdown with the reason "system failure").
    SystemFailure,
    /// It reported a failure with this code by the test device, and is done. The code is the guest's own; QEMU makes it its
    /// exit code, 0 included.
    TestFailed(u16),
    /// It wants to be started again (SRST: cold or warm reboot; test device: reset).
    Reset,
}
