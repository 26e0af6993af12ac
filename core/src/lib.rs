//! What a RISC-V virtual machine is.
#![no_std]
