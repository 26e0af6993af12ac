//! The worker of a virtio device with one queue: no request is forgotten or served twice, and a stop always ends.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use hv_model::search;
use hv_model::virtio::driver::Device;
use hv_model::virtio::queue::Fault;
use hv_model::virtio::{QueuePosition, Ring};
use loom::sync::Mutex;
use loom::thread;

/// Close to the end, so that the indexes wrap around.
const START: u16 = u16::MAX;

fn after(requests: u16) -> Option<QueuePosition> {
    Some(QueuePosition {
        index: 0,
        next: START.wrapping_add(requests),
    })
}

/// One vCPU makes requests, and waits for some of them before it makes the next one. With the first one it shows that it makes
/// one at a time, so from then on its own thread may serve them.
fn one_vcpu(event_idx: bool, quick: bool, fault: Fault) {
    let ring = Ring::new(event_idx, START, fault);
    let (device, mut power) = Device::start(&ring, quick, START);
    for wait in [true, false, true] {
        device.request();
        if wait {
            device.wait(START);
        }
    }
    assert_eq!(power.pause(), after(3));
}

/// Two vCPUs make a request each, and the one does not wait with its notification for that of the other.
fn two_vcpus(event_idx: bool, quick: bool, fault: Fault) {
    let ring = Ring::new(event_idx, START, fault);
    let (device, mut power) = Device::start(&ring, quick, START);
    device.request();
    device.wait(START);
    let driver = Arc::new(Mutex::new(()));
    let request = {
        let (device, driver) = (device.clone(), driver.clone());
        move || {
            let turn = driver.lock().unwrap();
            let asked = device.publish();
            drop(turn);
            if asked {
                device.notify();
            }
        }
    };
    let other = thread::spawn(request.clone());
    request();
    other.join().unwrap();
    device.wait(START);
    assert_eq!(power.pause(), after(3));
}

/// The machine pauses, or another vCPU resets the device, while a vCPU makes a request. What was not served then is served
/// when the device goes on, without another notification.
fn pause_meanwhile(event_idx: bool, quick: bool, fault: Fault) {
    let ring = Ring::new(event_idx, START, fault);
    let (device, mut power) = Device::start(&ring, quick, START);
    device.request();
    device.wait(START);
    let other = thread::spawn({
        let device = device.clone();
        move || device.request()
    });
    let position = power.pause().unwrap();
    assert!([after(1), after(2)].contains(&Some(position)));
    power.resume(&device, position.next);
    other.join().unwrap();
    device.wait(START);
    assert_eq!(power.pause(), after(2));
}

fn each(scenario: fn(bool, bool, Fault)) {
    for (event_idx, quick) in [(false, false), (false, true), (true, false), (true, true)] {
        search(move || scenario(event_idx, quick, Fault::None));
    }
}

#[test]
fn requests_of_one_vcpu_are_served_once() {
    each(one_vcpu);
}

#[test]
fn requests_of_two_vcpus_are_served_once() {
    each(two_vcpus);
}

#[test]
fn a_pause_forgets_no_request_and_ends() {
    each(pause_meanwhile);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_second_look_a_request_is_forgotten() {
    search(|| one_vcpu(true, false, Fault::NoSecondLook));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_second_look_a_request_is_forgotten_by_flags_as_well() {
    search(|| one_vcpu(false, false, Fault::NoSecondLook));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_barrier_before_the_second_look_a_request_is_forgotten() {
    search(|| one_vcpu(true, false, Fault::NoBarrierBeforeSecondLook));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_barrier_before_the_interrupt_it_is_forgotten() {
    search(|| one_vcpu(true, false, Fault::NoBarrierBeforeInterrupt));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_kick_for_what_is_not_served_at_once_it_is_forgotten() {
    search(|| one_vcpu(true, false, Fault::NoKick));
}
