//! The bare-metal flavor of the hypervisor, as far as it is logic: what the host is, what a bundle asks for, who gets what
//! of the host, and the second-stage page tables. Nothing here touches a CSR or a device, so its tests run on any machine;
//! the program that does is `src/bin/hv-bare`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`host`] | the machine underneath, as its device tree describes it |
//! | [`bundle`] | the guests that the user asks for |
//! | [`partition`] | which harts, memory and devices each guest gets |
//! | [`console`] | what several guests print on one screen |
//! | [`entropy`] | a seed for each guest |
//! | [`gstage`] | second-stage page tables |
//! | [`lifecycle`] | which harts of a guest run, and how all of them stop |
//! | [`tree`] | what reading a device tree takes, for the first two |

#![no_std]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bundle;
pub mod console;
pub mod entropy;
pub mod gstage;
pub mod host;
pub mod lifecycle;
pub mod partition;
pub mod tree;
