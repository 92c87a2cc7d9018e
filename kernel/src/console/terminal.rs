//! The console as a place for text: line ends, bounded writes, and output that yields.
//!
//! [`Terminal`] writes to the machine and knows whether the cursor is at the start of a line, so that
//! a log line never continues somebody's half-finished one. [`Output`] is what commands write to: its
//! text is formatted at once and written by awaiting.
//!
//! Decision: output is awaited, though the machine's own write is synchronous. A UART takes 87 us a
//! byte at 115,200 baud; a `ps` of a thousand threads written in one poll would stop every other
//! thread of CPU 0 for seconds. After [`BYTES_PER_POLL`] the others have their turn.

use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::{self, Write};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use executor::slab::may_fail;

use crate::platform::Machine;

/// Bytes of output written before other threads have their turn: 11 ms at 115,200 baud.
pub const BYTES_PER_POLL: usize = 128;

/// Shown where there was no memory for output.
const OUTPUT_LOST: &[u8] = b"(output was lost: no memory)\r\n";

/// The console's output side.
pub struct Terminal {
    machine: Arc<dyn Machine>,
    at_line_start: Cell<bool>,
}

impl Terminal {
    /// The terminal behind this machine's console.
    #[must_use]
    pub fn new(machine: Arc<dyn Machine>) -> Self {
        Self {
            machine,
            at_line_start: Cell::new(true),
        }
    }

    /// Writes bytes as they are; they are the line editor's and hold their own line ends.
    pub fn write_raw(&self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.machine.write_console(bytes);
            self.at_line_start.set(*last == b'\n');
        }
    }

    /// Writes text; a line feed becomes CR LF.
    pub fn write_text(&self, text: &[u8]) {
        // On the stack: what there is to say must be said also when memory is short.
        let mut row = [0; 2 * BYTES_PER_POLL];
        for part in text.chunks(BYTES_PER_POLL) {
            let mut length = 0;
            for &byte in part {
                for byte in [b'\r', byte].into_iter().skip(usize::from(byte != b'\n')) {
                    row[length] = byte;
                    length += 1;
                }
            }
            self.write_raw(&row[..length]);
        }
    }

    /// Ends the row if anything stands in it.
    pub fn start_line(&self) {
        if !self.at_line_start.get() {
            self.write_raw(b"\r\n");
        }
    }
}

struct Queue {
    terminal: Rc<Terminal>,
    text: RefCell<Vec<u8>>,
    written_since_yield: Cell<usize>,
    /// There was no memory for some text.
    lost: Cell<bool>,
}

/// Where a command's output goes. Clones write to the same place.
#[derive(Clone)]
pub struct Output(Rc<Queue>);

impl Output {
    /// Output to this terminal.
    #[must_use]
    pub fn new(terminal: Rc<Terminal>) -> Self {
        Self(Rc::new(Queue {
            terminal,
            text: RefCell::new(Vec::new()),
            written_since_yield: Cell::new(0),
            lost: Cell::new(false),
        }))
    }

    /// Formats a line now; await the result to have it written.
    #[must_use = "await it, or the text stays in memory until something else is written"]
    pub fn line(&self, text: fmt::Arguments<'_>) -> Flush<'_> {
        self.append(format_args!("{text}\n"));
        Flush(&self.0)
    }

    /// As [`Output::line`], without an end of line.
    #[must_use = "await it, or the text stays in memory until something else is written"]
    pub fn text(&self, text: fmt::Arguments<'_>) -> Flush<'_> {
        self.append(text);
        Flush(&self.0)
    }

    /// Takes a line without writing it; for destructors. [`Output::flush`] writes it.
    pub fn keep_line(&self, text: fmt::Arguments<'_>) {
        self.append(format_args!("{text}\n"));
    }

    /// Writes what is kept.
    pub fn flush(&self) -> Flush<'_> {
        Flush(&self.0)
    }

    /// Forgets what is not written yet: its command was cancelled.
    pub fn discard(&self) {
        self.0.text.borrow_mut().clear();
    }

    fn append(&self, text: fmt::Arguments<'_>) {
        let written = Appender(&mut self.0.text.borrow_mut()).write_fmt(text);
        if written.is_err() {
            self.0.lost.set(true);
        }
    }
}

struct Appender<'a>(&'a mut Vec<u8>);

impl Write for Appender<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        may_fail(|| self.0.try_reserve(text.len())).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Writes what is waiting, a bounded amount a poll.
#[must_use = "nothing is written unless it is awaited"]
pub struct Flush<'a>(&'a Queue);

impl Future for Flush<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let queue = self.0;
        let mut text = queue.text.borrow_mut();
        let room = BYTES_PER_POLL.saturating_sub(queue.written_since_yield.get());
        let length = whole_lines(&text, room);
        queue.terminal.write_text(&text[..length]);
        text.drain(..length);
        if text.is_empty() {
            if queue.lost.take() {
                queue.terminal.write_raw(OUTPUT_LOST);
            }
            queue
                .written_since_yield
                .set(queue.written_since_yield.get() + length);
            return Poll::Ready(());
        }
        queue.written_since_yield.set(0);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// How much of `text` to write in a poll that may write `room` bytes: whole lines if one fits, so that
/// a log line does not come between two halves of a row.
fn whole_lines(text: &[u8], room: usize) -> usize {
    if text.len() <= room {
        return text.len();
    }
    match text[..room].iter().rposition(|&byte| byte == b'\n') {
        Some(end) => end + 1,
        None if room == BYTES_PER_POLL => room,
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_preferred_and_a_long_one_is_cut() {
        assert_eq!(whole_lines(b"ab\n", 10), 3);
        assert_eq!(whole_lines(b"ab\ncd\nef", 7), 6);
        assert_eq!(whole_lines(b"abcdef", 3), 0);
        let long = [b'x'; BYTES_PER_POLL + 1];
        assert_eq!(whole_lines(&long, BYTES_PER_POLL), BYTES_PER_POLL);
    }
}
