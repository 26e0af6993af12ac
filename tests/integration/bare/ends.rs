//! How guests end, and the machine with them.

use hv_lab::bare::bundle::Guest;

use crate::fixture::{CHIPS, Chip, Setup, testing};

fn code(setup: &Setup) -> (Option<i32>, String) {
    setup.boot().finish()
}

#[test]
fn a_failure_is_the_exit_code() {
    for chip in CHIPS {
        for (asked, expected) in [(42, 42), (255, 255), (0, 0)] {
            let guest = testing("fails", 2, &format!("fail={asked}"));
            let (code, output) = code(&Setup::new(chip, [guest]));
            // A failure with code 0 is one all the same to QEMU's test device.
            assert_eq!(code, Some(expected), "{asked}: {output}");
        }
    }
}

/// Harts that start each other while one of them resets the machine, or switches it off in the end.
#[test]
fn a_race_between_harts_delays_no_end() {
    for chip in CHIPS {
        let (end, output) = code(&Setup::new(chip, [testing("races", 4, "race=40")]));
        assert_eq!(end, Some(0), "{output}");
        assert!(output.contains("race 40\n"), "{output}");
    }
}

/// It takes nobody else along, neither the console nor the machine.
#[test]
fn a_race_between_harts_concerns_no_other_guest() {
    let guests = [
        testing("races", 4, "race=10"),
        testing("holds", 1, "pattern=1"),
    ];
    let (end, output) = code(&Setup::new(Chip::Aia, guests));
    assert_eq!(end, Some(0), "{output}");
    for name in ["races", "holds"] {
        let line = format!("hv-bare: guest {name} has ended with code 0\n");
        assert!(output.contains(&line), "{output}");
    }
}

/// The machine ends with the last guest, and with the code of the first in the bundle that failed.
#[test]
fn of_several_guests_the_first_failure_is_the_exit_code() {
    let ends = |name: &str, with: &str| -> Guest { testing(name, 1, with) };
    let guests = [
        ends("fine", "test=uart-scratch"),
        ends("late", "pattern=1 fail=7"),
        ends("early", "fail=5"),
    ];
    let (code, output) = code(&Setup::new(Chip::Plic, guests));
    assert_eq!(code, Some(7), "{output}");
    for (name, code) in [("fine", 0), ("late", 7), ("early", 5)] {
        let line = format!("hv-bare: guest {name} has ended with code {code}\n");
        assert_eq!(output.matches(&line).count(), 1, "{output}");
    }
}
