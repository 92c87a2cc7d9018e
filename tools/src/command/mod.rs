//! What `./run.sh WORD` does, one module a word.

pub mod bench;
pub mod boot;
pub mod build;
pub mod carp;
pub mod iso;
pub mod lan;
pub mod process;
pub mod test;
pub mod trace;
