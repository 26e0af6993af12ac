//! The cable of a network interface, which stays as it is when the guest reboots.

use std::sync::{Arc, Mutex, PoisonError};

use hv_devices::virtio::net::{Link, Net};

/// The link of the interface's device, which each boot creates anew. It is up at first.
#[derive(Default)]
pub struct Cable(Mutex<Option<Arc<Link>>>);

impl Cable {
    /// Attaches the device of the next boot, whose link is as the last one's.
    pub fn attach(&self, net: &Net) {
        let link = net.link();
        let mut attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = attached.replace(link.clone()) {
            link.set(before.is_up());
        }
    }

    /// Sets the link up or down. The driver is told if that is a change.
    pub fn set(&self, up: bool) {
        let attached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = attached.as_ref() {
            link.set(up);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd};
    use std::os::unix::net::UnixStream;

    use hv_devices::virtio::net::{Backend, Info, IoVector, Mac};

    use super::*;

    /// A network without packets.
    struct Nothing(Info, UnixStream);

    impl Backend for Nothing {
        fn info(&self) -> &Info {
            &self.0
        }
        fn configure(&self, _: usize, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn receive(&self, _: &mut IoVector<'_>, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn send(&self, _: &IoVector<'_>) -> io::Result<()> {
            Ok(())
        }
        fn readiness(&self) -> BorrowedFd<'_> {
            self.1.as_fd()
        }
    }

    #[test]
    fn a_link_is_as_it_was_before_the_reboot() {
        let boot = |cable: &Cable| {
            let info = Info {
                name: "nothing".into(),
                mtu: None,
                features: 0,
            };
            let backend = Nothing(info, UnixStream::pair().unwrap().0);
            let net = Net::new(Arc::new(backend), Mac::random().unwrap(), None, 0).unwrap();
            cable.attach(&net);
            net
        };
        let cable = Cable::default();
        cable.set(false);
        let net = boot(&cable);
        assert!(net.link().is_up(), "up at first");
        for up in [false, true, false] {
            cable.set(up);
            assert_eq!(net.link().is_up(), up);
            assert_eq!(boot(&cable).link().is_up(), up);
            cable.attach(&net);
        }
    }
}
