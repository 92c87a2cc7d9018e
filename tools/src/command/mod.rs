//! What `./run.sh WORD` does, one module a word.

pub mod boot;
pub mod build;
pub mod carp;
pub mod lan;
