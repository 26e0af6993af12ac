//! What threads share their state and wait by, in the files that hand something over from one thread to another.
//!
//! The models of `tests/model` compile these files with loom's types in place of those here.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
