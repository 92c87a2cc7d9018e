//! executor
#![no_std]
