//! The kernel's log: lines with a time and a CPU, from any context on any CPU.
//!
//! [`KernelLog`] is the backend of the `log` crate. A line goes into a bounded lock-free queue; the
//! console task on CPU 0 takes it out, prints it between two edits of the line being typed, and keeps
//! it in [`Dmesg`]. Before that task runs, and in a panic, lines are written straight to the console.
//! A line that finds the queue full is counted, and the count is logged: nothing is lost unsaid.
//!
//! Decision: the entries have a fixed size and need no memory, because interrupt handlers and a
//! kernel short of memory log too. A long message becomes several lines.
//!
//! The consumer takes entries inside a critical section: `ArrayQueue` lets a producer wait for a
//! consumer that stopped half-way, which would last for ever if the producer were an interrupt
//! handler on the consumer's own CPU.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use executor::Node;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::platform::Machine;

/// Lines the queue holds until the console task takes them.
const QUEUE_LINES: usize = 256;
/// Bytes of text in one line: what CARP says of a wrong password, its longest names put in, is 120.
const TEXT_BYTES: usize = 140;
/// Lines that `dmesg` remembers.
const DMESG_LINES: usize = 1024;
/// The CPU of a line written where there is no current CPU.
const NO_CPU: u16 = u16::MAX;

/// One line of the log.
#[derive(Clone, Copy)]
pub struct Line {
    time_ns: u64,
    cpu: u16,
    length: u8,
    /// Written to the console already, or not meant for it.
    shown: bool,
    text: [u8; TEXT_BYTES],
}

impl Line {
    /// When it was logged, in nanoseconds since boot.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// The text, without time and CPU.
    #[must_use]
    pub fn text(&self) -> &str {
        core::str::from_utf8(&self.text[..usize::from(self.length)]).unwrap_or("(not text)")
    }

    /// Whether the console has it already, or shall not have it.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.shown
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.time_ns / 1000;
        write!(f, "[{:4}.{:06}] ", us / 1_000_000, us % 1_000_000)?;
        if self.cpu != NO_CPU {
            write!(f, "cpu{}: ", self.cpu)?;
        }
        f.write_str(self.text())
    }
}

/// Where lines go.
#[repr(u8)]
enum Route {
    /// To the console at once, and into the queue for `dmesg`: there is no console task yet.
    Direct,
    /// Into the queue; the console task shows them.
    Queued,
    /// To the console alone: nobody will empty a queue again.
    Panic,
}

/// The log of one kernel.
pub struct KernelLog {
    machine: Arc<dyn Machine>,
    /// For its clock. Weak, because the node holds the log.
    node: Weak<Node>,
    queue: ArrayQueue<Line>,
    lost: AtomicU64,
    route: AtomicU8,
    quiet: AtomicBool,
}

impl KernelLog {
    /// Makes the log of this node, which writes straight to the console, and the backend that finds
    /// it. A node that has its log already keeps it.
    pub fn install(machine: Arc<dyn Machine>, node: &Arc<Node>) -> Arc<Self> {
        static BACKEND: Backend = Backend;
        let log = Arc::new(Self {
            machine,
            node: Arc::downgrade(node),
            queue: ArrayQueue::new(QUEUE_LINES),
            lost: AtomicU64::new(0),
            route: AtomicU8::new(Route::Direct as u8),
            quiet: AtomicBool::new(false),
        });
        node.set_kernel_data(Box::new(log.clone()));
        log::set_max_level(LevelFilter::Info);
        // The second kernel of a process finds the backend in place; it serves them all.
        let _ = log::set_logger(&BACKEND);
        Self::of(node).cloned().unwrap_or(log)
    }

    /// The log of this node.
    #[must_use]
    pub fn of(node: &Node) -> Option<&Arc<Self>> {
        node.kernel_data()?.downcast_ref()
    }

    /// Keeps lines that are no warnings off the console. `dmesg` has them all the same.
    pub fn set_quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// From now on the console task takes the lines.
    pub fn hand_to_console_task(&self) {
        self.route.store(Route::Queued as u8, Ordering::Relaxed);
    }

    /// From now on nobody takes lines: they go to the console, whatever else happens to it.
    pub fn enter_panic(&self) {
        self.route.store(Route::Panic as u8, Ordering::Relaxed);
    }

    /// Logs a message. Any CPU, any context.
    pub fn log_line(&self, level: Level, message: fmt::Arguments<'_>) {
        let cpu = executor::try_current().map_or(NO_CPU, |cpu| cpu.id().0);
        let line = Line {
            time_ns: self.node.upgrade().map_or(0, |node| node.clock_ns()),
            cpu,
            length: 0,
            shown: level > Level::Warn && self.quiet.load(Ordering::Relaxed),
            text: [0; TEXT_BYTES],
        };
        let mut writer = Writer { log: self, line };
        let _ = match level {
            Level::Error => writer.write_str("error: "),
            Level::Warn => writer.write_str("warning: "),
            _ => Ok(()),
        };
        let _ = writer.write_fmt(message);
        writer.end_line();
    }

    fn put(&self, mut line: Line) {
        self.machine.note_log(line.text());
        let route = self.route.load(Ordering::Relaxed);
        if route != Route::Queued as u8 {
            if !line.shown {
                let mut bytes = Row {
                    bytes: [0; ROW_BYTES],
                    length: 0,
                };
                let _ = write!(bytes, "{line}\r\n");
                self.machine.write_console(&bytes.bytes[..bytes.length]);
            }
            line.shown = true;
            if route == Route::Panic as u8 {
                return;
            }
        }
        if self.queue.push(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        if route == Route::Queued as u8 {
            self.machine.console_event().signal();
        }
    }

    /// Takes the oldest line. The console task alone calls this.
    pub fn take(&self) -> Option<Line> {
        executor::critical::section(|| self.queue.pop())
    }

    /// Takes the number of lines that found the queue full since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// What the `log` crate calls: finds the log of the node whose CPU is running. One process may hold many
/// kernels; a thread that is no CPU of any has no log.
struct Backend;

impl Log for Backend {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let cpu = executor::try_current();
        if let Some(log) = cpu.and_then(|cpu| KernelLog::of(cpu.node()))
            && self.enabled(record.metadata())
        {
            log.log_line(record.level(), *record.args());
        }
    }

    fn flush(&self) {}
}

/// Longest row: time and CPU, text, end of line.
const ROW_BYTES: usize = TEXT_BYTES + 48;

/// A row being put together on the stack, so that it reaches the console in one call.
struct Row {
    bytes: [u8; ROW_BYTES],
    length: usize,
}

impl Write for Row {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let length = text.len().min(room.len());
        room[..length].copy_from_slice(&text.as_bytes()[..length]);
        self.length += length;
        Ok(())
    }
}

/// Cuts a message into lines.
struct Writer<'a> {
    log: &'a KernelLog,
    line: Line,
}

impl Writer<'_> {
    fn end_line(&mut self) {
        if self.line.length > 0 {
            self.log.put(self.line);
            self.line.length = 0;
        }
    }
}

impl Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\n' {
                self.end_line();
                continue;
            }
            // A log line is one row: no control function may hide in it.
            let c = if c.is_control() { ' ' } else { c };
            if usize::from(self.line.length) + c.len_utf8() > TEXT_BYTES {
                self.end_line();
            }
            let at = usize::from(self.line.length);
            let length = c.encode_utf8(&mut self.line.text[at..]).len();
            self.line.length += length as u8;
        }
        Ok(())
    }
}

/// The newest lines, for the command of that name.
#[derive(Default)]
pub struct Dmesg {
    lines: VecDeque<Line>,
    /// Lines that were pushed out by newer ones.
    forgotten: u64,
}

impl Dmesg {
    /// Adds a line and forgets the oldest if there are too many.
    pub fn push(&mut self, line: Line) {
        if self.lines.len() == DMESG_LINES {
            self.lines.pop_front();
            self.forgotten += 1;
        }
        self.lines.push_back(line);
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// How many older lines are gone.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
