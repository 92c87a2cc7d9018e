//! The console's commands.

pub mod arguments;
pub mod words;
