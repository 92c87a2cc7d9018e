//! The console's commands.

pub mod arguments;
pub mod syntax;
pub mod words;
