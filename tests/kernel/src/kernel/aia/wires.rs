//! Edges and levels of the serial port's IRQ line, in every mode that the APLIC has for one.

use super::aia;
use super::aplic::{Setup, SourceMode};
use crate::kernel::machine::Machine;
use crate::kernel::report::Outcome;
use crate::kernel::time;
use crate::kernel::uart::Loopback;

tests! { TESTS:
    "aplic-rising-edge" => rising_edge,
    "aplic-falling-edge" => falling_edge,
    "aplic-level-high" => level_high,
    "aplic-level-low" => level_low,
    "aplic-level-gone-is-not-pending" => level_clears,
    "aplic-level-needs-its-level-to-be-pending" => level_pending,
}

/// The serial port's IRQ line as an edge: each rise, or fall, is one message, and software may add one.
fn edge(machine: &Machine, mode: SourceMode) -> Outcome {
    let setup = Setup::new(machine, Some(machine.uart.source), mode)?;
    let port = Loopback::new(machine);
    let rising = mode == SourceMode::RisingEdge;
    if !rising {
        port.raise()?;
    }
    setup.aplic.clear_pending(setup.source);
    setup.aplic.enable(setup.source);
    setup.expect_silence("before the edge")?;
    for _ in 0..3 {
        if rising {
            port.raise()?;
        } else {
            port.lower();
        }
        setup.expect_message("at the edge")?;
        setup.expect_silence("while the level stays")?;
        if rising {
            port.lower();
        } else {
            port.raise()?;
        }
        setup.expect_silence("at the other edge")?;
    }
    setup.aplic.set_pending(setup.source);
    setup.expect_message("that software set")?;
    port.lower();
    Ok(())
}

fn rising_edge(machine: &Machine) -> Outcome {
    edge(machine, SourceMode::RisingEdge)
}

fn falling_edge(machine: &Machine) -> Outcome {
    edge(machine, SourceMode::FallingEdge)
}

/// A level is one message when it becomes active; after the handler, a write of setipnum has it sent again while the level
/// lasts (AIA, "Special consideration for level-sensitive interrupt sources").
fn level(machine: &Machine, mode: SourceMode) -> Outcome {
    aia(machine)?;
    let port = Loopback::new(machine);
    let high = mode == SourceMode::LevelHigh;
    if !high {
        port.raise()?;
    }
    let setup = Setup::new(machine, Some(machine.uart.source), mode)?;
    setup.aplic.enable(setup.source);
    setup.expect_silence("before the level is active")?;
    if high {
        port.raise()?;
    } else {
        port.lower();
    }
    setup.expect_message("when the level is active")?;
    setup.expect_silence("without a word of the handler")?;
    check!(
        setup.aplic.is_active(setup.source),
        "the rectified input is low while the level is active"
    );
    for _ in 0..2 {
        setup.aplic.set_pending(setup.source);
        setup.expect_message("again, with the level still active")?;
    }
    if high {
        port.lower();
    } else {
        port.raise()?;
    }
    check!(
        !setup.aplic.is_active(setup.source),
        "the rectified input is high after the level"
    );
    setup.aplic.set_pending(setup.source);
    setup.expect_silence("after the level")?;
    port.lower();
    Ok(())
}

fn level_high(machine: &Machine) -> Outcome {
    level(machine, SourceMode::LevelHigh)
}

fn level_low(machine: &Machine) -> Outcome {
    level(machine, SourceMode::LevelLow)
}

/// "The pending bit is cleared whenever the rectified input value is low."
fn level_clears(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, Some(machine.uart.source), SourceMode::LevelHigh)?;
    let port = Loopback::new(machine);
    port.raise()?;
    check!(
        time::wait_for(|| setup.aplic.is_pending(setup.source)),
        "a source is not pending with its level"
    );
    port.lower();
    check!(
        !setup.aplic.is_pending(setup.source),
        "a source is still pending after its level"
    );
    setup.aplic.enable(setup.source);
    setup.expect_silence("after the level")
}

/// Software cannot set a level-sensitive source pending while its level is not active.
fn level_pending(machine: &Machine) -> Outcome {
    let setup = Setup::new(machine, Some(machine.uart.source), SourceMode::LevelHigh)?;
    setup.aplic.set_pending(setup.source);
    check!(
        !setup.aplic.is_pending(setup.source),
        "a source is pending without its level"
    );
    setup.aplic.enable(setup.source);
    setup.expect_silence("without the level")
}
