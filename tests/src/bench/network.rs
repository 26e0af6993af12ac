//! TCP between guest and host over a tap interface.

use super::Result;
use super::guest::{Bench, TAP};
use super::report::{Place, float};
use super::vmm::Vmm;

const BYTES: u64 = 16 << 20;
const PINGS: u64 = 500;

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    // A `+` stands for the colon of an address, as colons part a task's words.
    let [send, receive, ping] = [
        format!("tcp-send:10.9.9.1+7000:{BYTES}"),
        format!("tcp-receive:10.9.9.1+7000:{BYTES}"),
        format!("tcp-ping:10.9.9.1+7000:{PINGS}"),
    ];
    let up = "net-up:eth0:10.9.9.2".to_owned();
    let mut machine = bench.linux(&[up, send.clone(), receive.clone(), ping.clone()]);
    machine.tap = Some(TAP.into());
    if vmm.template.arguments(&machine).is_none() {
        return Ok(());
    }
    let server = bench.network()?;
    let results = bench.guest(vmm, &machine)?;
    drop(server);
    let of = |task: &str| results.one(&task.replace('+', ":")).map(float);
    place.time("TCP, 16 MiB from the guest", of(&send)?);
    place.time("TCP, 16 MiB to the guest", of(&receive)?);
    place.time("TCP round trip", of(&ping)? / float(PINGS));
    Ok(())
}
