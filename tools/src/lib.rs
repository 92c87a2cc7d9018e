//! Programs for the host, as a library: the binary `anax` and the whole-system tests share it.
//!
//! Bottom up: [`host`] (what this machine offers), [`kernel`] (build it), [`node`] and
//! [`qemu`] (describe a node), [`running`] (run one), [`lan`] (connect them). Nothing here is part of the kernel.
#![forbid(unsafe_code)]

pub mod bench;
pub mod carp;
pub mod client;
pub mod command;
pub mod host;
pub mod kernel;
pub mod lan;
pub mod node;
pub mod qemu;
pub mod running;
pub mod trace;
