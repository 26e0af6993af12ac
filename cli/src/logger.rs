//! hvrun's messages: one line each, on stderr.

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        match record.level() {
            Level::Error => eprintln!("hvrun: error: {}", record.args()),
            Level::Warn => eprintln!("hvrun: warning: {}", record.args()),
            Level::Info => eprintln!("hvrun: {}", record.args()),
            Level::Debug | Level::Trace => {
                eprintln!("hvrun: {}: {}", record.target(), record.args())
            }
        }
    }

    fn flush(&self) {}
}

/// Messages of this level and above appear from now on.
pub fn start(level: LevelFilter) {
    // It fails only where a logger is set already, and this is the one place that sets one.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}
