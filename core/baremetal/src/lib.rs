//! The logic of the bare-metal hypervisor: description of the host, bundles, partitioning of the host among guests, and
//! second-stage page tables. It accesses no CSR and no device, so its tests run on any machine. The program that does is
//! `src/bin/hv-bare`.
//!
//! | module | what it holds |
//! |---|---|
//! | [`host`] | the host machine, as its device tree describes it |
//! | [`bundle`] | the description of the guests to run |
//! | [`partition`] | which harts, memory and devices each guest gets |
//! | [`console`] | output of several guests on one screen |
//! | [`entropy`] | a seed for each guest |
//! | [`exit`] | why a hart left its guest |
//! | [`gstage`] | second-stage page tables |
//! | [`lifecycle`] | which harts of a guest run, and how all of them stop |
//! | [`tree`] | device-tree reading, for the first two |

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
pub mod exit;
pub mod gstage;
pub mod host;
pub mod lifecycle;
pub mod partition;
pub mod tree;
