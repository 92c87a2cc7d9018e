//! Whole-system tests: each boots real kernels under QEMU and talks to them from outside.
//!
//! One program, so that its tests share the turns ([`tests::Turn`]) that keep two cores from being
//! asked for more than they have.

mod boot;
mod carp;
mod console;
mod iso;
mod network;
mod trace;
mod ucarp;
