//! The trace: what every CPU records about itself while it runs.
//!
//! [`record`] says what a record is, [`stream`] how records leave the machine. Both are free of
//! `unsafe` and of the rest of the executor, because the host's converter compiles them too.
//! [`Ring`] is where a CPU keeps its newest records.

pub mod record;
mod ring;
pub mod stream;

pub use record::{Class, ClassMask, EndReason, Event, Record};
pub use ring::{Ring, SIZE as RING_SIZE};
