//! The figures: what is measured, beside what, and whether that is good enough.

pub mod boot;
pub mod lan;
mod linux;
pub mod report;
