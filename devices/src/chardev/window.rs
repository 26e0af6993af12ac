//! The size of a terminal.

use std::os::fd::{AsFd, AsRawFd};

use nix::pty::Winsize;

nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, Winsize);

/// Columns and rows of the terminal, in characters. `None` if it does not say, or is no terminal.
#[must_use]
pub fn window_size(terminal: impl AsFd) -> Option<(u16, u16)> {
    let mut size = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is borrowed, and the kernel writes one winsize to where the pointer points.
    unsafe { tiocgwinsz(terminal.as_fd().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_col != 0 && size.ws_row != 0).then_some((size.ws_col, size.ws_row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_says_its_size_and_a_file_has_none() {
        let mut size = Winsize {
            ws_row: 40,
            ws_col: 132,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = nix::pty::openpty(&size, None).unwrap();
        assert_eq!(window_size(&terminal.slave), Some((132, 40)));
        size.ws_col = 0;
        let unknown = nix::pty::openpty(&size, None).unwrap();
        assert_eq!(window_size(&unknown.slave), None);
        assert_eq!(window_size(std::fs::File::open("/").unwrap()), None);
    }
}
