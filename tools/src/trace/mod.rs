//! The trace converter: a kernel's trace stream to text, a Perfetto trace and an HTML page.
//!
//! [`convert`] makes a [`Trace`](model::Trace) of a stream's bytes; [`text`], [`perfetto`] and
//! [`html`] write it.
//!
//! Decision: everything goes through one model that owns its data. Writing while reading would
//! save memory, but arrows need both of their ends, and a minute of a busy kernel is some tens of
//! megabytes.

pub mod build;
pub mod histogram;
pub mod html;
mod join;
pub mod json;
pub mod model;
pub mod perfetto;
pub mod protobuf;
pub mod stream;
pub mod text;

use model::Trace;
use stream::Decoder;

/// Decodes a whole stream and builds the trace.
///
/// There are no errors: what cannot be read is counted in the trace's health and shown by every
/// output. An input without any good frame gives a trace without records.
pub fn convert(stream: &[u8]) -> Trace {
    let mut decoder = Decoder::new();
    decoder.feed(stream);
    build::build(decoder.finish())
}
