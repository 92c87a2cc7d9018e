//! Real x86-64 hardware, and the emulators of it.
//!
//! `main.rs` is the kernel image; it tells the story of a boot, and each module here is a chapter of it or
//! a part of the machine that the story puts together ([`machine`]). What needs no hardware is built on
//! hosts as well, for its tests; the rest for the target without an operating system only.

pub mod boot_info;
pub mod byte_ring;
pub mod kvm_clock;
pub mod scale;
pub mod vector_map;

#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpus;
#[cfg(target_os = "none")]
pub mod devices;
#[cfg(target_os = "none")]
pub mod early;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod firmware;
#[cfg(target_os = "none")]
mod fw_cfg;
#[cfg(target_os = "none")]
mod hardware;
#[cfg(target_os = "none")]
pub mod image;
#[cfg(target_os = "none")]
pub mod machine;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
pub mod physical;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
mod segments;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
mod stacks;
#[cfg(target_os = "none")]
mod traps;
#[cfg(target_os = "none")]
pub mod vectors;
