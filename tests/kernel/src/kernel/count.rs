//! Many interrupts, each of which has to come: a handler that waits for one that was lost waits for ever.

use core::sync::atomic::Ordering::Relaxed;

use super::csr::{self, TIMER};
use super::external::Listener;
use super::machine::Machine;
use super::report::Outcome;
use super::rtc::Alarm;
use super::virtio::block::{Disk, IN, OK, REQUESTS, SECTOR};
use super::virtio::transport::{INTERRUPT_ACK, INTERRUPT_STATUS, VERSION_1};
use super::{sbi, smp, time, timer, trap};

tests! { TESTS:
    "count-timer" => ticks,
    "count-timer-by-sbi" => ticks_by_sbi,
    "count-clock" => alarms,
    "count-disk" => requests,
    "count-disk-several-in-flight" => several_requests,
}

/// How many.
fn number(machine: &Machine) -> Outcome<u32> {
    match machine.argument("count").and_then(|text| text.parse().ok()) {
        Some(number) => Ok(number),
        None => fail!("count= is to be a number"),
    }
}

/// Microseconds from one tick to the next: some are past when they are set, and some are not.
const PERIODS: [u64; 4] = [0, 1, 10, 40];

/// Ticks of the timer, one after the other, on every hart at the same time: each comes, and comes once.
fn count_ticks(machine: &Machine, set: fn(u64)) -> Outcome {
    let number = number(machine)?;
    smp::everywhere(machine, &|_| {
        let hart = trap::this_hart();
        let first = hart.timer.load(Relaxed);
        csr::taking(TIMER, || {
            for (tick, period) in (1..=number).zip(PERIODS.iter().cycle()) {
                set(time::now() + time::ticks(*period));
                let came = || hart.timer.load(Relaxed).wrapping_sub(first) >= tick;
                check!(
                    time::wait_for(came),
                    "tick {tick} does not come on hart {}",
                    hart.id()
                );
            }
            Ok(())
        })?;
        check_eq!(
            hart.timer.load(Relaxed).wrapping_sub(first),
            number,
            "ticks on hart {}",
            hart.id()
        );
        Ok(())
    })
}

fn ticks(machine: &Machine) -> Outcome {
    count_ticks(machine, timer::set)
}

fn ticks_by_sbi(machine: &Machine) -> Outcome {
    count_ticks(machine, |due| {
        let _ = sbi::time::set_timer(due);
    })
}

/// A device of the board that the hypervisor itself makes.
fn alarms(machine: &Machine) -> Outcome {
    let Some(device) = machine.rtc else {
        skip!("there is no clock");
    };
    let listener = Listener::new(machine, device);
    for _ in 0..number(machine)? {
        let alarm = Alarm::new(device.base);
        listener.expect(|| alarm.go_off())?;
        drop(alarm);
        listener.complete();
    }
    Ok(())
}

fn acknowledge(disk: &Disk) -> u32 {
    let status = disk.slot.read(INTERRUPT_STATUS);
    disk.slot.write(INTERRUPT_ACK, status);
    status
}

/// A device that may be a real one: one request, one interrupt.
fn requests(machine: &Machine) -> Outcome {
    let mut disk = Disk::open(machine, VERSION_1)?;
    let listener = Listener::new(machine, disk.device);
    for _ in 0..number(machine)? {
        disk.offer(0, IN, 0, SECTOR as u32);
        listener.expect(|| disk.slot.notify(0))?;
        check_eq!(acknowledge(&disk) & 1, 1, "InterruptStatus");
        check_eq!(disk.finish()?.1.status, OK, "the status of a read");
        listener.complete();
    }
    Ok(())
}

/// Requests that end at any time, also between an interrupt and its completion. Nothing is looked for without an interrupt, so
/// that one that is lost is the end.
fn several_requests(machine: &Machine) -> Outcome {
    let number = number(machine)?;
    let mut disk = Disk::open(machine, VERSION_1)?;
    let listener = Listener::new(machine, disk.device);
    let mut offered = 0;
    let mut interrupts = 0_u32;
    let mut done = 0;
    let offer = |disk: &mut Disk, request| {
        disk.offer(request, IN, 0, SECTOR as u32);
        disk.slot.notify(0);
    };
    for request in 0..REQUESTS {
        offer(&mut disk, request);
        offered += 1;
    }
    while done < number {
        check!(
            listener.wait(),
            "no interrupt after {interrupts} of them and {done} requests"
        );
        interrupts += 1;
        acknowledge(&disk);
        while disk.is_any_done() {
            let (request, end) = disk.finish()?;
            check_eq!(end.status, OK, "the status of a read");
            done += 1;
            if offered < number {
                offer(&mut disk, request);
                offered += 1;
            }
        }
        listener.complete();
    }
    println!("# {done} requests, {interrupts} interrupts");
    Ok(())
}
