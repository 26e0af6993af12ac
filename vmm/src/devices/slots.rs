//! Which virtio-mmio slot a device is in.

use hv_core::layout::VIRTIO_SLOTS;

use super::DeviceConfig;
use crate::Error;

/// The slot of each device: the one that was asked for, or else the lowest that is left, in the order given.
///
/// # Errors
/// There is no such slot, or it is taken, or there are too many devices.
pub fn slots(devices: &[DeviceConfig]) -> Result<Vec<u32>, Error> {
    let asked: Vec<Option<u32>> = devices.iter().map(|device| device.location.slot).collect();
    assign(&asked)
}

fn assign(asked: &[Option<u32>]) -> Result<Vec<u32>, Error> {
    if asked.len() > VIRTIO_SLOTS as usize {
        return Err(Error::TooManyDevices(asked.len()));
    }
    let mut free: Vec<u32> = (0..VIRTIO_SLOTS).collect();
    for slot in asked.iter().copied().flatten() {
        if slot >= VIRTIO_SLOTS {
            return Err(Error::NoSuchSlot(slot));
        }
        let Some(position) = free.iter().position(|other| *other == slot) else {
            return Err(Error::SlotTaken(slot));
        };
        free.remove(position);
    }
    let mut free = free.into_iter();
    let slots = asked.iter().map(|slot| slot.or_else(|| free.next()));
    // No more devices than slots, so each gets one.
    Ok(slots.flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_without_a_slot_take_what_is_left() {
        assert_eq!(assign(&[]).unwrap(), [0; 0]);
        assert_eq!(assign(&[None, None]).unwrap(), [0, 1]);
        assert_eq!(
            assign(&[None, Some(0), None, Some(2), None]).unwrap(),
            [1, 0, 3, 2, 4]
        );
        assert_eq!(
            assign(&[Some(7), None, None, None, None, None, None, None]).unwrap(),
            [7, 0, 1, 2, 3, 4, 5, 6]
        );
    }

    #[test]
    fn impossible_slots_are_refused() {
        assert!(matches!(assign(&[Some(8)]), Err(Error::NoSuchSlot(8))));
        assert!(matches!(
            assign(&[Some(3), Some(3)]),
            Err(Error::SlotTaken(3))
        ));
        assert!(matches!(assign(&[None; 9]), Err(Error::TooManyDevices(9))));
    }
}
