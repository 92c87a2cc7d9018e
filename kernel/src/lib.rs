//! The kernel: what puts the parts together, and the machines that it runs on.
//!
//! [`start`] tells how it comes up once a machine's CPUs run; [`platform`] has the machines and the one trait
//! through which the rest sees them; [`console`] and [`commands`] are what a person meets; [`drivers`] are
//! generic over transport and DMA, so that they are tested on a host. A library with a small binary per
//! machine (the first is `platform/pc64/main.rs`), so that everything but the machines' own code is tested
//! by `cargo test`.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "process"))]
extern crate std;

pub mod bench;
pub mod commands;
pub mod config;
pub mod console;
pub mod debugger;
pub mod drivers;
pub mod log;
pub mod names;
pub mod network;
pub mod platform;
pub mod report;
pub mod services;
#[cfg(all(test, feature = "process", debug_assertions))]
mod short_of_memory;
pub mod start;
pub mod trace_stream;
pub mod workload;
