//! hvrun's messages: one line each, on stderr.

use crate::terminal;
use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let text = match record.level() {
            Level::Error => format!("error: {}", record.args()),
            Level::Warn => format!("warning: {}", record.args()),
            Level::Info => record.args().to_string(),
            Level::Debug | Level::Trace => format!("{}: {}", record.target(), record.args()),
        };
        eprint!("hvrun: {text}{}", terminal::line_end());
    }

    fn flush(&self) {}
}

/// Messages of this level and above appear from now on.
pub fn start(level: LevelFilter) {
    // It fails only where a logger is set already, and this is the one place that sets one.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}
