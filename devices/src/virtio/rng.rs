//! The entropy device (VIRTIO 1.3, section 5.4): random bytes of the host for the guest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::chain::{Chain, Malformed};
use super::worker::{Handler, Worker};
use super::{Activation, QueuePosition, VirtioDevice};
use crate::entropy;
use crate::memory::GuestSlice;
use crate::thread::Role;

/// Descriptors in the request queue. Linux has one request under way.
const QUEUE_SIZE: u16 = 8;

/// The most bytes that one request gets, however much it asks for: a reset waits for the request at hand, and a device
/// may give less than is asked for (section 5.4.6.1).
const MAX_BYTES: usize = 16 * 1024;

/// Fills a part of a request's buffers.
type Fill = Arc<dyn Fn(&GuestSlice<'_>) -> io::Result<()> + Send + Sync>;

/// A virtio entropy device with one queue, served by a thread named `virtio-rng`.
pub struct Rng {
    fill: Fill,
    worker: Worker,
}

impl Rng {
    /// A device that gives the host kernel's random bytes.
    ///
    /// # Errors
    /// If the host has no thread left.
    pub fn new() -> io::Result<Self> {
        Self::with_source(Arc::new(entropy::fill_guest))
    }

    fn with_source(fill: Fill) -> io::Result<Self> {
        Ok(Self {
            fill,
            worker: Worker::new(Role::Rng)?,
        })
    }
}

impl VirtioDevice for Rng {
    fn device_id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn name(&self) -> String {
        "entropy device".into()
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation {
            memory,
            queues,
            notifier,
            ..
        } = activation;
        if let Some(queue) = queues.into_iter().next() {
            let source = Source {
                fill: Arc::clone(&self.fill),
                reported: false,
            };
            self.worker.start(memory, queue, notifier, source);
        }
        Ok(())
    }

    fn pause(&mut self) -> Vec<QueuePosition> {
        self.worker.pause().into_iter().collect()
    }
}

struct Source {
    fill: Fill,
    /// An error of the host has been reported. A guest can cause one after the other and must not fill the log.
    reported: bool,
}

impl Handler for Source {
    fn handle(
        &mut self,
        chain: &mut Chain<'_>,
        _stop: &AtomicBool,
    ) -> Result<Option<u32>, Malformed> {
        let mut given = 0_usize;
        for buffer in chain.writable.as_slice() {
            let room = MAX_BYTES.saturating_sub(given).min(buffer.len());
            let Ok(part) = buffer.subslice(0, room) else {
                break;
            };
            if let Err(error) = (self.fill)(&part) {
                if !std::mem::replace(&mut self.reported, true) {
                    log::warn!("the host has no entropy, the guest gets none: {error}");
                }
                break;
            }
            given = given.saturating_add(room);
        }
        Ok(Some(bytes(given)))
    }
}

/// As a used length. It is at most [`MAX_BYTES`].
fn bytes(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
    use virtio_bindings::virtio_mmio::*;

    use super::*;
    use crate::virtio::testing::{DATA, Driver, chain, logged, memory, readable, writable};

    #[test]
    fn it_is_an_entropy_device_with_one_queue() {
        let rng = Rng::new().unwrap();
        assert_eq!(rng.device_id(), 4);
        assert_eq!(rng.features(), 0);
        assert_eq!(rng.queue_sizes().len(), 1);
    }

    /// A buffer that could not be filled counts as empty, and those behind it as well.
    #[test]
    fn buffers_are_filled_one_after_the_other_until_the_source_fails() {
        let left = Mutex::new(vec![1_u8, 2, 3]);
        let source = move |part: &GuestSlice<'_>| {
            let next = left.lock().unwrap().pop();
            let value = next.ok_or(io::ErrorKind::Unsupported)?;
            part.copy_from(&vec![value; part.len()]);
            Ok(())
        };
        let rng = Rng::with_source(Arc::new(source)).unwrap();
        let mut driver = Driver::new(Box::new(rng));
        driver.start(0);
        let buffers = [writable(DATA, 10), writable(DATA + 0x100, 60)];
        driver.give(0, 0, &buffers);
        assert_eq!(driver.wait_used(0), (0, 70));
        assert_eq!(driver.get(DATA, 11), [[3; 10].as_slice(), &[0]].concat());
        let second = driver.get(DATA + 0x100, 61);
        assert_eq!(second, [[2; 60].as_slice(), &[0]].concat());
        // One buffer more, and then nothing.
        driver.give(0, 2, &buffers);
        assert_eq!(driver.wait_used(0), (2, 10));
        driver.give(0, 4, &buffers);
        assert_eq!(driver.wait_used(0), (4, 0));
    }

    /// A guest can cause one error after the other.
    #[test]
    fn a_source_that_fails_is_reported_once() {
        let memory = memory();
        let fails =
            |_: &GuestSlice<'_>| -> io::Result<()> { Err(io::ErrorKind::Unsupported.into()) };
        let mut source = Source {
            fill: Arc::new(fails),
            reported: false,
        };
        let messages = logged(|| {
            for _ in 0..3 {
                let buffers = chain(0, &[writable(DATA, 8)]);
                let mut request = Chain::default();
                request.load(&memory, buffers.into_iter()).unwrap();
                let given = source.handle(&mut request, &AtomicBool::new(false));
                assert_eq!(given, Ok(Some(0)));
            }
        });
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert!(messages[0].contains("no entropy"), "{messages:?}");
    }

    #[test]
    fn a_request_gets_no_more_than_its_share() {
        let mut driver = Driver::new(Box::new(Rng::new().unwrap()));
        driver.start(0);
        let size = MAX_BYTES as u32;
        let buffers = [writable(DATA, size - 1), writable(DATA + 0x10_0000, size)];
        driver.give(0, 0, &buffers);
        assert_eq!(driver.wait_used(0), (0, size));
        let filled = driver.get(DATA, MAX_BYTES - 1);
        assert!(filled.iter().any(|byte| *byte != 0));
        assert_eq!(driver.get(DATA + 0x10_0001, 4), [0; 4]);
    }

    #[test]
    fn a_pause_tells_how_far_it_has_come() {
        let rng = Rng::new().unwrap();
        assert_eq!((rng.device_id(), rng.features()), (4, 0));
        assert_eq!(rng.name(), "entropy device");
        let mut driver = Driver::new(Box::new(rng));
        driver.start(0);
        for round in 1..=5_u16 {
            driver.give(0, 0, &[writable(DATA, 8)]);
            assert_eq!(driver.wait_used(0), (0, 8));
            driver.transport.pause();
            let state = serde_json::to_value(driver.transport.save()).unwrap();
            let next = state.pointer("/negotiation/queues/0/next").unwrap();
            assert_eq!(next, round);
            driver.transport.resume();
        }
    }

    #[test]
    fn requests_without_room_get_nothing() {
        let mut driver = Driver::new(Box::new(Rng::new().unwrap()));
        driver.start(0);
        assert_eq!(driver.config(0), [0; 8], "nothing to configure");
        driver.put(DATA, b"give me it");
        driver.give(0, 0, &[readable(DATA, 10)]);
        assert_eq!(driver.wait_used(0), (0, 0));
        driver.give(0, 0, &[writable(DATA, 0)]);
        assert_eq!(driver.wait_used(0), (0, 0));
    }

    #[test]
    fn it_works_again_after_a_reset() {
        let mut driver = Driver::new(Box::new(Rng::new().unwrap()));
        for _ in 0..3 {
            driver.start(0);
            driver.give(0, 1, &[writable(DATA, 8)]);
            assert_eq!(driver.wait_used(0), (1, 8));
        }
    }

    /// Before a driver is ready it may write nonsense, and a device that it has broken is saved as broken.
    #[test]
    fn a_queue_that_cannot_be_is_no_reason_to_refuse_a_state() {
        let device = || Box::new(Rng::new().unwrap());
        let mut driver = Driver::new(device());
        let needs_reset =
            |driver: &Driver| driver.read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET != 0;
        for (register, value) in [
            (VIRTIO_MMIO_STATUS, 3),
            (VIRTIO_MMIO_STATUS, 11),
            (VIRTIO_MMIO_QUEUE_SEL, 0),
            (VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into()),
            (VIRTIO_MMIO_QUEUE_DESC_LOW, 0x10),
            (VIRTIO_MMIO_QUEUE_READY, 1),
        ] {
            driver.write(register, value);
        }
        driver.migrate(device());
        driver.transport.resume();
        assert!(!needs_reset(&driver));
        driver.write(VIRTIO_MMIO_STATUS, 15);
        assert!(needs_reset(&driver));
        driver.migrate(device());
        driver.transport.resume();
        assert!(needs_reset(&driver));
    }

    #[test]
    fn what_was_asked_for_before_a_save_is_given_after_it() {
        let device = || Box::new(Rng::new().unwrap());
        let mut driver = Driver::new(device());
        driver.start(0);
        for round in 0..8 {
            driver.offer(0, round, &[writable(DATA, 8)]);
            driver.migrate(device());
            driver.transport.resume();
            assert_eq!(driver.wait_used(0), (round.into(), 8));
        }
    }
}
