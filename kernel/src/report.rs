//! What is printed when a kernel cannot go on, the same on every machine.
//!
//! The machine's own panic code calls these between its own lines: where it happened, and what came before. Text goes
//! out through [`Lines`], without the console's help and without memory.

use core::fmt::{Result, Write};

use executor::Node;

/// How many trace records of each CPU a panic prints.
pub const TRACE_RECORDS: usize = 64;

/// Text as bytes for a console, given to a function in pieces: "\n" becomes "\r\n".
pub struct Lines<F>(pub F);

impl<F: FnMut(&[u8])> Write for Lines<F> {
    fn write_str(&mut self, text: &str) -> Result {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                (self.0)(b"\r\n");
            }
            (self.0)(line.as_bytes());
        }
        Ok(())
    }
}

/// Which CPU and thread it is that panics: the current ones.
///
/// # Errors
/// The writer's.
pub fn write_headline(out: &mut dyn Write) -> Result {
    let Some(cpu) = executor::try_current() else {
        return writeln!(out, "\npanic outside of every CPU");
    };
    match cpu.running_thread() {
        Some((id, name, site)) => writeln!(
            out,
            "\npanic on {} in thread {id} ({name}, spawned at {site})",
            cpu.id()
        ),
        None => writeln!(out, "\npanic on {} outside of any thread", cpu.id()),
    }
}

/// The last `count` trace records of each CPU, merged, the newest at the end. Allocates; the CPUs should have stopped.
///
/// # Errors
/// The writer's.
pub fn write_trace(out: &mut dyn Write, node: &Node, count: usize) -> Result {
    let records = node.last_trace_records(count);
    match records.len() {
        0 => writeln!(out, "no trace records: the trace was off")?,
        length => writeln!(out, "the last {length} trace records:")?,
    }
    for (cpu, record) in records {
        let seconds = record.time_ns / 1_000_000_000;
        let micros = record.time_ns / 1000 % 1_000_000;
        let name = record.event().map_or("unknown event", |event| event.name());
        let (small, thread, arg) = (record.small(), record.thread(), record.arg());
        writeln!(
            out,
            "  [{seconds:4}.{micros:06}] {cpu} {name} small={small} thread={thread} arg={arg:#x}"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_new_line_begins_at_the_left() {
        let mut bytes = Vec::new();
        let mut lines = Lines(|piece: &[u8]| bytes.extend_from_slice(piece));
        write!(lines, "a\n\nb\nc").unwrap();
        assert_eq!(bytes, b"a\r\n\r\nb\r\nc");
    }
}
