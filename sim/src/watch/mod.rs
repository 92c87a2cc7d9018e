//! Observers: promises of single subsystems, looked after while the world goes on.

pub mod carp;
pub mod lan;
