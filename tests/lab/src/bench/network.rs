//! TCP between guest and host over a tap interface, whose packets the VMM moves or, by vhost-net, the host's kernel.

use super::Result;
use super::guest::{Bench, TAP};
use super::report::{Place, float};
use super::size::Size;
use super::vmm::Vmm;

const BYTES: u64 = 16 << 20;
const PINGS: u64 = 500;

pub(super) fn measure(bench: &Bench, vmm: &Vmm, place: &mut Place<'_>) -> Result<()> {
    let own = tcp(bench, vmm, Size::Usual, false, place);
    tcp(bench, vmm, Size::Usual, true, place).and(own)
}

/// A guest with a network, if the VMM can have one.
pub(super) fn tcp(
    bench: &Bench,
    vmm: &Vmm,
    size: Size,
    vhost: bool,
    place: &mut Place<'_>,
) -> Result<()> {
    // A `+` stands for the colon of an address, as colons part a task's words.
    let [send, receive, ping] = [
        format!("tcp-send:10.9.9.1+7000:{BYTES}"),
        format!("tcp-receive:10.9.9.1+7000:{BYTES}"),
        format!("tcp-ping:10.9.9.1+7000:{PINGS}"),
    ];
    let up = "net-up:eth0:10.9.9.2".to_owned();
    let mut machine = bench.linux(&[up, send.clone(), receive.clone(), ping.clone()]);
    size.apply(&mut machine);
    let (interface, by) = match vhost {
        true => (&mut machine.vhost, ", vhost"),
        false => (&mut machine.tap, ""),
    };
    *interface = Some(TAP.into());
    if vmm.template.arguments(&machine).is_none() {
        return Ok(());
    }
    let server = bench.network()?;
    let results = bench.guest(vmm, &machine)?;
    drop(server);
    let of = |task: &str| results.one(&task.replace('+', ":")).map(float);
    place.time(&format!("TCP, 16 MiB from the guest{by}"), of(&send)?);
    place.time(&format!("TCP, 16 MiB to the guest{by}"), of(&receive)?);
    place.time(&format!("TCP round trip{by}"), of(&ping)? / float(PINGS));
    Ok(())
}
