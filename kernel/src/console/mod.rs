//! The console.

pub mod line_editor;
