//! executor
#![no_std]

pub mod trace;
