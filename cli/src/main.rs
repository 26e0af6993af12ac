//! hvrun
fn main() {}
