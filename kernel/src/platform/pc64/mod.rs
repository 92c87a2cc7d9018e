//! Real x86-64 hardware, and the emulators of it.
//!
//! `main.rs` is the kernel image; it tells the story of a boot, and each module here is a chapter of it or
//! a part of the machine that the story puts together ([`machine`]). All of it is built for the target without
//! an operating system only; what needs no hardware is in the `apic` crate, where a host tests it.

pub mod clock;
pub mod console;
pub mod cpus;
pub mod devices;
pub mod early;
mod entry;
pub mod features;
pub mod firmware;
mod hardware;
pub mod image;
pub mod machine;
pub mod memory;
pub mod paging;
mod panic;
pub mod physical;
pub mod power;
mod segments;
pub mod serial;
mod stacks;
mod traps;
pub mod vectors;
