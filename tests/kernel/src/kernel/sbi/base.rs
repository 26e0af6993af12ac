//! The base extension: its functions always exist, and none of them fails.

use sbi_spec::base::{
    EID_BASE, GET_MARCHID, GET_MIMPID, GET_MVENDORID, GET_SBI_IMPL_ID, GET_SBI_IMPL_VERSION,
    GET_SBI_SPEC_VERSION, PROBE_EXTENSION,
};

use super::{Answer, ERR_NOT_SUPPORTED, call, expect_error, expect_success};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;

tests! { TESTS:
    "base-specification-version" => version,
    "base-identities" => identities,
    "base-probe-finds-what-is-there" => probe_present,
    "base-probe-of-unknown-is-zero" => probe_unknown,
    "base-probe-of-vendor-is-zero" => probe_vendor,
    "base-probe-agrees-with-calls" => probe_agrees,
    "base-unknown-function" => unknown_function,
    "sbi-unknown-extension" => unknown_extension,
    "sbi-vendor-extension" => vendor_extension,
    "sbi-experimental-extension" => experimental_extension,
    "sbi-preserves-registers" => preserves,
}

/// An extension id that means nothing.
const UNKNOWN: [usize; 4] = [0x0f, 0x11, 0x7fff_ffff, 0x4d4d_4d4d];
/// The first and the last id of the experimental space.
const EXPERIMENTAL: [usize; 2] = [0x0800_0000, 0x08ff_ffff];
/// Of the vendor-specific space.
const VENDOR: [usize; 2] = [0x0900_0000, 0x09ff_ffff];

fn base(function: usize) -> Answer {
    call(EID_BASE, function, &[])
}

fn probe(extension: usize) -> Answer {
    call(EID_BASE, PROBE_EXTENSION, &[extension])
}

/// Whether the implementation says that it has an extension.
pub fn has(extension: usize) -> bool {
    let answer = probe(extension);
    answer.error == 0 && answer.value != 0
}

fn version(_: &Machine) -> Outcome {
    let version = expect_success(base(GET_SBI_SPEC_VERSION), "get_spec_version")?;
    check_eq!(version >> 31, 0, "bits 31 and up of the version");
    // Minor in the low 24 bits. Version 0.2 is the first that has this call.
    check!(version >= 2, "the version is {version:#x}");
    Ok(())
}

fn identities(_: &Machine) -> Outcome {
    for (function, name) in [
        (GET_SBI_IMPL_ID, "get_impl_id"),
        (GET_SBI_IMPL_VERSION, "get_impl_version"),
        (GET_MVENDORID, "get_mvendorid"),
        (GET_MARCHID, "get_marchid"),
        (GET_MIMPID, "get_mimpid"),
    ] {
        expect_success(base(function), name)?;
    }
    Ok(())
}

/// A hart that boots by this interface finds at least these.
fn probe_present(_: &Machine) -> Outcome {
    for (extension, name) in [
        (EID_BASE, "BASE"),
        (sbi_spec::time::EID_TIME, "TIME"),
        (sbi_spec::spi::EID_SPI, "IPI"),
        (sbi_spec::rfnc::EID_RFNC, "RFENCE"),
        (sbi_spec::hsm::EID_HSM, "HSM"),
        (sbi_spec::srst::EID_SRST, "SRST"),
    ] {
        check!(has(extension), "there is no {name} extension");
    }
    Ok(())
}

fn probes_as_absent(extensions: &[usize]) -> Outcome {
    for extension in extensions {
        let answer = probe(*extension);
        check!(
            answer.error == 0,
            "the probe of {extension:#x} fails with {}",
            answer.error
        );
        check_eq!(answer.value, 0, "the probe of {extension:#x}");
    }
    Ok(())
}

fn probe_unknown(_: &Machine) -> Outcome {
    probes_as_absent(&UNKNOWN)
}

fn probe_vendor(_: &Machine) -> Outcome {
    probes_as_absent(&VENDOR)?;
    probes_as_absent(&EXPERIMENTAL)
}

/// What the probe denies is not supported when called. Function ids that no extension has do no harm where it is.
fn probe_agrees(_: &Machine) -> Outcome {
    for (extension, name) in [
        (sbi_spec::pmu::EID_PMU, "PMU"),
        (sbi_spec::dbcn::EID_DBCN, "DBCN"),
        (sbi_spec::susp::EID_SUSP, "SUSP"),
        (sbi_spec::cppc::EID_CPPC, "CPPC"),
        (sbi_spec::nacl::EID_NACL, "NACL"),
        (sbi_spec::sta::EID_STA, "STA"),
        (sbi_spec::sse::EID_SSE, "SSE"),
        (sbi_spec::fwft::EID_FWFT, "FWFT"),
        (sbi_spec::dbtr::EID_DBTR, "DBTR"),
        (sbi_spec::mpxy::EID_MPXY, "MPXY"),
    ] {
        let present = expect_success(probe(extension), name)? != 0;
        if !present {
            expect_error(call(extension, 0, &[0; 6]), ERR_NOT_SUPPORTED, name)?;
        }
        // The specification has the same answer for an unknown function of a known extension.
        expect_error(call(extension, 0x7fff, &[]), ERR_NOT_SUPPORTED, name)?;
    }
    Ok(())
}

fn unknown_function(_: &Machine) -> Outcome {
    expect_error(base(0x7fff), ERR_NOT_SUPPORTED, "function 0x7fff")
}

fn not_supported(extensions: &[usize]) -> Outcome {
    for extension in extensions {
        for function in [0, 1, 5] {
            let answer = call(*extension, function, &[1, 2, 3, 4, 5, 6]);
            check!(
                answer.error == ERR_NOT_SUPPORTED,
                "extension {extension:#x} answers {}",
                answer.error
            );
        }
    }
    Ok(())
}

fn unknown_extension(_: &Machine) -> Outcome {
    not_supported(&UNKNOWN)
}

fn vendor_extension(_: &Machine) -> Outcome {
    not_supported(&VENDOR)
}

fn experimental_extension(_: &Machine) -> Outcome {
    not_supported(&EXPERIMENTAL)
}

/// Registers other than a0 and a1 are as they were (binary encoding).
fn preserves(_: &Machine) -> Outcome {
    for extension in [EID_BASE, VENDOR[0], UNKNOWN[2]] {
        let (a2, a3, a4, a5, a6, a7, t0, t6): (
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
            usize,
        );
        // SAFETY: as for `call`.
        unsafe {
            core::arch::asm!("ecall", inout("a0") 0_usize => _, inout("a1") 0_usize => _, inout("a2") 2_usize => a2,
                inout("a3") 3_usize => a3, inout("a4") 4_usize => a4, inout("a5") 5_usize => a5,
                inout("a6") 0_usize => a6, inout("a7") extension => a7, inout("t0") 8_usize => t0,
                inout("t6") 9_usize => t6, options(nostack));
        }
        let after = [a2, a3, a4, a5, a6, t0, t6];
        check!(
            after == [2, 3, 4, 5, 0, 8, 9] && a7 == extension,
            "registers after a call: {after:x?}, {a7:#x}"
        );
    }
    Ok(())
}
