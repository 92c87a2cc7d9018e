//! The figures: what is measured, beside what, and whether that is good enough.

pub mod boot;
mod echo;
pub mod lan;
mod linux;
pub mod node;
pub mod report;
pub mod sim;
pub mod vkernel;
