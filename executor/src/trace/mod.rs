//! The trace: what every CPU records about itself while it runs.
//!
//! [`record`] says what a record is, [`stream`] how records leave the machine. Both are free of
//! `unsafe` and of the rest of the executor, because the host's converter compiles them too.

pub mod record;
pub mod stream;
