//! Bundles that cannot be: one clear line, and a failure.

use std::fs;
use std::path::Path;

use hv_lab::provision;
use tempfile::TempDir;

use crate::fixture::{Chip, Setup, compile, hypervisor, scratch_disk, start};
use crate::session::Session;

/// The machine ends with a failure, and the hypervisor says one line, in which the words are.
fn expect_refusal(run: Session, words: &[&str]) {
    let (code, output) = run.finish();
    assert_eq!(code, Some(1), "{words:?}: {output}");
    // Before files are put into memory, it has said where the guests are.
    let is_place = |line: &str| line.contains(": host harts ");
    let said: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("hv-bare: ") && !is_place(line))
        .collect();
    let [line] = said[..] else {
        panic!("{words:?}: {output}")
    };
    for word in words {
        assert!(line.contains(word), "{word:?}: {line}");
    }
    // Nothing comes behind it: no panic, no trap.
    assert!(output.trim_end().ends_with(line), "{output}");
}

fn setup() -> Setup {
    Setup {
        harts: Some(2),
        memory_mib: Some(1024),
        ..Setup::new(Chip::Plic, [])
    }
}

/// A source with these guests. `KERNEL` in it is a file.
fn source(guests: &str, directory: &Path) -> String {
    let kernel = directory.join("kernel");
    fs::write(&kernel, 0x0000_006f_u32.to_le_bytes()).unwrap();
    let kernel = format!("kernel = /incbin/(\"{}\")", kernel.display());
    let guests = guests.replace("KERNEL", &kernel);
    format!("/dts-v1/; / {{ compatible = \"hvrun,bundle\"; guests {{ {guests} }}; }};")
}

#[test]
fn contradictions_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let disk = scratch_disk(directory.path());
    let node = "host = \"/soc/virtio_mmio@10001000\"";
    let with_disk = |name: &str, more: &str| {
        format!("{name} {{ memory = <64>; KERNEL; {more} devices {{ disk {{ {node}; }}; }}; }};")
    };
    for (guests, words) in [
        (String::new(), &["0 guests"][..]),
        ("a { harts = <1>; };".into(), &["guest a", "no kernel"]),
        ("a { KERNEL; harts = <3>; };".into(), &["guest a", "3 harts", "2 left"]),
        (
            "a { KERNEL; memory = <64>; host-harts = <1>; }; b { KERNEL; memory = <64>; host-harts = <1>; };".into(),
            &["guest b", "hart 1", "given away already"],
        ),
        (
            "a { KERNEL; host-harts = <7>; };".into(),
            &["guest a", "hart 7", "not there"],
        ),
        (
            "a { KERNEL; memory = <2000>; };".into(),
            &["guest a", "2000 MiB", "do not fit"],
        ),
        (
            "a { KERNEL; memory = <600>; }; b { KERNEL; memory = <600>; };".into(),
            &["guest b", "600 MiB", "do not fit"],
        ),
        (
            "a { KERNEL; cpus = <2>; };".into(),
            &["guest a", "cpus"],
        ),
        (with_disk("a", ""), &["guest a", "needs the property identity"]),
        (
            with_disk("a", "identity;") + &with_disk("b", "identity;"),
            &["guest b", "virtio_mmio@10001000", "to guest a"],
        ),
        (
            "a { KERNEL; devices { x { host = \"/soc/none@0\"; }; }; };".into(),
            &["guest a", "/soc/none@0", "no such device"],
        ),
    ] {
        let setup = setup().disk(&disk, 0);
        expect_refusal(
            setup.boot_source(&source(&guests, directory.path())),
            words,
        );
    }
}

/// A kernel, or what comes with it, that does not fit into its guest's memory.
#[test]
fn files_that_do_not_fit_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let large = directory.path().join("large");
    fs::write(&large, vec![0x13; 5 << 20]).unwrap();
    let large = format!("/incbin/(\"{}\")", large.display());
    for (guest, words) in [
        (
            format!("a {{ memory = <4>; kernel = {large}; }};"),
            &["guest a", "kernel"][..],
        ),
        (
            format!("a {{ memory = <4>; KERNEL; initrd = {large}; }};"),
            &["guest a", "initial RAM disk"],
        ),
        (
            format!("a {{ memory = <4>; KERNEL; device-tree = {large}; }};"),
            &["guest a", "device tree"],
        ),
    ] {
        expect_refusal(
            setup().boot_source(&source(&guest, directory.path())),
            words,
        );
    }
}

#[test]
fn files_that_are_no_bundles_are_told() {
    let directory = || -> TempDir { tempfile::tempdir().unwrap() };
    let files = directory();
    let whole = compile(&source("a { KERNEL; };", files.path()), files.path());
    let whole = fs::read(whole).unwrap();
    let other = compile("/dts-v1/; / { compatible = \"x\"; };", files.path());
    for (bytes, words) in [
        (&whole[..whole.len() - 40], &["damaged or truncated"][..]),
        (&whole[..30], &["damaged or truncated"]),
        (b"070701 an initrd", &["no device tree"]),
        (&fs::read(other).unwrap(), &["no bundle", "hvrun,bundle"]),
    ] {
        let directory = directory();
        let file = directory.path().join("bundle");
        fs::write(&file, bytes).unwrap();
        expect_refusal(setup().boot_file(directory, &file), words);
    }
}

#[test]
fn no_bundle_is_told() {
    let mut qemu = provision::qemu().unwrap().command();
    qemu.args(["-M", "virt", "-cpu", "rv64,h=true", "-m", "256M"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(hypervisor());
    let run = start(&mut qemu, tempfile::tempdir().unwrap());
    expect_refusal(run, &["no bundle", "-initrd"]);
}

/// A machine that is not what the hypervisor needs.
#[test]
fn hosts_that_will_not_do_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let source = source("a { KERNEL; };", directory.path());
    let without_h = Setup {
        cpu: Some("rv64,h=false"),
        ..setup()
    };
    expect_refusal(
        without_h.boot_source(&source),
        &["no H extension", "h=true"],
    );
}
