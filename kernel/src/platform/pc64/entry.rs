//! The assembly that runs before, or below, Rust: boot entry, AP trampoline, trap stubs.
//!
//! Kept in `.s` files, because each is a little program with its own story; this module alone pastes them
//! in. Naked functions would put Rust syntax around the last of them, and cannot express the other two.

use core::arch::global_asm;

global_asm!(include_str!("entry.s"));
global_asm!(include_str!("trampoline.s"));
global_asm!(include_str!("traps.s"));
