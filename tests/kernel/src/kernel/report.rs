//! Tests, what comes of them, and how that is told.

use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use arrayvec::ArrayString;

use super::machine::Machine;

/// One test. It leaves the machine as it found it.
pub struct Test {
    /// Its subject, a hyphen, and what is expected: lower case and hyphens.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&Machine) -> Outcome,
}

/// What a test or a step of one comes to.
pub type Outcome<T = ()> = Result<T, Stop>;

/// A reason in one line, cut where it is long.
pub type Why = ArrayString<160>;

/// Why a test went no further.
#[derive(Debug)]
pub enum Stop {
    /// The machine is not as the specification says.
    Failed(Why),
    /// The machine does not have what the test is of.
    Skipped(Why),
}

/// A reason.
pub fn why(text: fmt::Arguments) -> Why {
    let mut cut = Cut(Why::new());
    // What does not fit is left out, and nothing else can fail.
    let _ = cut.write_fmt(text);
    cut.0
}

struct Cut(Why);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let character = if character == '\n' { ' ' } else { character };
            self.0.try_push(character).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}

/// Goes no further with a test because of something wrong.
macro_rules! fail {
    ($($text:tt)*) => {
        return Err($crate::kernel::report::Stop::Failed($crate::kernel::report::why(format_args!($($text)*))))
    };
}

/// Goes no further with a test that this machine has nothing for.
macro_rules! skip {
    ($($text:tt)*) => {
        return Err($crate::kernel::report::Stop::Skipped($crate::kernel::report::why(format_args!($($text)*))))
    };
}

/// Asserts; what follows the condition says what is wrong without it.
macro_rules! check {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            fail!($($text)*);
        }
    };
}

/// Asserts that two numbers are equal; what follows says what the first one is.
macro_rules! check_eq {
    ($actual:expr, $expected:expr, $($text:tt)*) => {{
        let (actual, expected) = ($actual, $expected);
        if actual != expected {
            fail!("{} is {:#x}, not {:#x}", format_args!($($text)*), actual, expected);
        }
    }};
}

/// The tests of a module: names and functions.
macro_rules! tests {
    ($name:ident: $($test:literal => $run:path,)*) => {
        /// The tests of this module.
        pub const $name: &[$crate::kernel::report::Test] =
            &[$($crate::kernel::report::Test { name: $test, run: $run },)*];
    };
}

/// The name of the test that runs, for whoever has to report a panic.
static RUNNING: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static RUNNING_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// A test begins.
pub fn begin(name: &'static str) {
    RUNNING_LENGTH.store(0, Relaxed);
    RUNNING.store(name.as_ptr().cast_mut(), Relaxed);
    RUNNING_LENGTH.store(name.len(), Relaxed);
}

/// The test that runs.
pub fn running() -> &'static str {
    let (start, length) = (RUNNING.load(Relaxed), RUNNING_LENGTH.load(Relaxed));
    if start.is_null() {
        return "start";
    }
    // SAFETY: `begin` stored the parts of a static string, and the length only after its start.
    unsafe { core::str::from_utf8_unchecked(core::slice::from_raw_parts(start, length)) }
}

/// A test has ended.
pub fn end(name: &str, outcome: &Outcome) {
    match outcome {
        Ok(()) => println!("ok {name}"),
        Err(Stop::Failed(why)) => println!("not ok {name}: {why}"),
        Err(Stop::Skipped(why)) => println!("skip {name}: {why}"),
    }
}

/// How many tests came to what.
#[derive(Default)]
pub struct Summary {
    passed: u32,
    pub failed: u32,
    skipped: u32,
}

impl Summary {
    /// One more.
    pub fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(Stop::Failed(_)) => self.failed += 1,
            Err(Stop::Skipped(_)) => self.skipped += 1,
        }
    }

    /// Whether there was no test at all.
    pub fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped == 0
    }

    /// The line with the counts.
    pub fn print(&self, microseconds: u64) {
        println!(
            "done: {} ok, {} not ok, {} skipped, {} ms",
            self.passed,
            self.failed,
            self.skipped,
            microseconds / 1000
        );
    }
}
