//! The platform-level interrupt controller.

/// Where the PLIC's output goes.
pub trait HartLines {
    /// The supervisor external interrupt line of `hart` changed to `asserted`.
    fn set_external(&mut self, hart: u32, asserted: bool);
}

/// The controller's whole state.
#[derive(Clone, Debug)]
pub struct Plic {}

impl Plic {
    /// A controller after reset.
    #[must_use]
    pub fn new(harts: u32, sources: u32) -> Self {
        let _ = (harts, sources);
        Self {}
    }

    /// Back to the state after reset; the levels of the sources stay as their devices drive them.
    pub fn reset(&mut self, out: &mut impl HartLines) {
        let _ = out;
    }

    /// The wire of `source` goes to `level`.
    pub fn set_source(&mut self, source: u32, level: bool, out: &mut impl HartLines) {
        let _ = (source, level, out);
    }

    /// The guest reads `data.len()` bytes at `offset`.
    pub fn read(&mut self, offset: u64, data: &mut [u8], out: &mut impl HartLines) {
        let _ = (offset, data, out);
    }

    /// The guest writes `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8], out: &mut impl HartLines) {
        let _ = (offset, data, out);
    }

    /// Whether the supervisor external interrupt line of `hart` is asserted.
    #[must_use]
    pub fn line(&self, hart: u32) -> bool {
        let _ = hart;
        false
    }
}
