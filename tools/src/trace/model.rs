//! What a trace means: timelines per CPU, and what connects them.
//!
//! [`Trace`] is the whole; every output (`text.rs`, `perfetto.rs`, `html.rs`) reads it and none
//! reads records. `build.rs` makes it from a decoded stream.
//!
//! Decision: things that lie on a CPU are lists of that CPU, sorted by time and free of overlap;
//! things that join two moments (a wake and its run, a send and its receipt) are lists of the
//! trace, with a `None` at the end that was not recorded. Threads are indices, not names: the
//! same name is often many threads.

use executor::trace::record::{EndReason, Record};

use super::stream::Health;

/// The index of a thread in [`Trace::threads`].
pub type ThreadIndex = u32;

/// A whole trace.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The machine's name.
    pub hostname: String,
    /// One timeline for each CPU, by number.
    pub cpus: Vec<CpuTimeline>,
    /// Every thread that was named or that ran.
    pub threads: Vec<Thread>,
    /// Every token that was named or contended.
    pub tokens: Vec<Token>,
    /// Wakes, by time.
    pub wakes: Vec<Wake>,
    /// IPI messages, by time of sending.
    pub ipis: Vec<Ipi>,
    /// Queued port messages, by time of sending.
    pub messages: Vec<Message>,
    /// Moves of threads between CPUs.
    pub migrations: Vec<Migration>,
    /// Waits for a token, by time.
    pub token_waits: Vec<TokenWait>,
    /// Marks and watchdog reports, by time.
    pub notes: Vec<Note>,
    /// All records in one order, for the text dump.
    pub log: Vec<LogEntry>,
    /// The time of the first record; times below are on the same clock.
    pub start_ns: u64,
    /// The time of the last record.
    pub end_ns: u64,
    /// What the stream said about itself.
    pub health: Health,
    /// Whether the stream had its END frame.
    pub complete: bool,
    /// Records that fitted nowhere: an end without a begin where nothing was lost.
    pub unmatched: u64,
    /// Arrivals that were recorded before their departures.
    pub early: Early,
    /// Records whose event this build does not know.
    pub unknown_events: u64,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub begin_ns: u64,
    /// When it ended; never before `begin_ns`.
    pub end_ns: u64,
}

impl Span {
    /// How long it is.
    pub fn duration_ns(self) -> u64 {
        self.end_ns - self.begin_ns
    }
}

/// What one CPU did.
#[derive(Clone, Debug, Default)]
pub struct CpuTimeline {
    /// Polls of threads, in order, without overlap.
    pub polls: Vec<Poll>,
    /// Stretches in which the CPU slept.
    pub idle: Vec<Span>,
    /// Interrupt handlers, in order of their ends.
    pub interrupts: Vec<Interrupt>,
    /// The length of the run queue at moments at which it is known.
    pub queue_depth: Vec<(u64, u32)>,
    /// Stretches with missing records.
    pub gaps: Vec<LostSpan>,
    /// How many records the CPU wrote that arrived.
    pub records: u64,
    /// Calls that were answered inside `call`.
    pub inline_calls: u64,
    /// Timer interrupts.
    pub timer_fires: u64,
    /// From the first record to the last.
    pub covered: Span,
}

impl CpuTimeline {
    /// Time in polls.
    pub fn run_ns(&self) -> u64 {
        self.polls.iter().map(|poll| poll.span.duration_ns()).sum()
    }

    /// Time asleep.
    pub fn idle_ns(&self) -> u64 {
        self.idle.iter().map(|span| span.duration_ns()).sum()
    }

    /// Time in interrupt handlers, which lies within polls or idle time.
    pub fn interrupt_ns(&self) -> u64 {
        let outer = self
            .interrupts
            .iter()
            .filter(|interrupt| interrupt.nesting == 0);
        outer.map(|interrupt| interrupt.span.duration_ns()).sum()
    }

    /// Records that are missing.
    pub fn lost(&self) -> u64 {
        self.gaps
            .iter()
            .fold(0, |sum, gap| sum.saturating_add(gap.lost))
    }
}

/// One poll of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Poll {
    /// Who ran.
    pub thread: ThreadIndex,
    /// When.
    pub span: Span,
    /// Why it ended; `None` when that was not recorded.
    pub end: Option<EndReason>,
    /// The length of the run queue when it began.
    pub queue_depth: u8,
    /// The index in [`Trace::wakes`] of the wake that led to it.
    pub wake: Option<u32>,
    /// How long the thread had been runnable.
    pub latency_ns: Option<u64>,
    /// Set when an end was not recorded: the poll was at least this long.
    pub cut: bool,
}

/// One run of an interrupt handler.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt {
    /// The interrupt's line.
    pub line: u8,
    /// When.
    pub span: Span,
    /// How many handlers it interrupted.
    pub nesting: u8,
}

/// A stretch of one CPU's time of which records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostSpan {
    /// From the last record before the hole to the first after it.
    pub span: Span,
    /// How many records are missing.
    pub lost: u64,
    /// How many of them the ring overwrote; the others were lost on the way.
    pub lost_in_ring: u64,
}

/// A thread.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// Its name; "thread 17" when the name was not recorded.
    pub name: String,
    /// Where it was spawned, "file:line"; empty when unknown.
    pub site: String,
    /// The low 16 bits of its id.
    pub id: u16,
    /// The CPU on which it was last seen.
    pub cpu: u16,
    /// Its priority, when its spawn was recorded.
    pub priority: Option<u8>,
    /// The thread that spawned it.
    pub parent: Option<ThreadIndex>,
    /// When it was spawned, when that is within the trace.
    pub spawned_ns: Option<u64>,
    /// Its time in polls.
    pub run_ns: u64,
    /// The number of its polls.
    pub polls: u64,
}

/// A token.
#[derive(Clone, Debug, Default)]
pub struct Token {
    /// The id in the records.
    pub id: u32,
    /// Its name; "token 3" when the name was not recorded.
    pub name: String,
    /// How often it was taken.
    pub taken: u64,
    /// How often a thread had to wait for it.
    pub contended: u64,
    /// The sum of the waits that ended.
    pub wait_ns: u64,
    /// The longest of them.
    pub longest_wait_ns: u64,
}

/// A thread became runnable.
#[derive(Clone, Copy, Debug)]
pub struct Wake {
    /// The CPU that owns the thread, and wrote the record.
    pub cpu: u16,
    /// When.
    pub time_ns: u64,
    /// The CPU of the waker.
    pub from_cpu: u16,
    /// The waker; `None` for an interrupt or a timer.
    pub waker: Option<ThreadIndex>,
    /// Who was woken.
    pub thread: ThreadIndex,
    /// Set when the thread was not woken but spawned.
    pub is_spawn: bool,
    /// When the thread ran then.
    pub run_ns: Option<u64>,
}

/// An IPI message.
#[derive(Clone, Copy, Debug)]
pub struct Ipi {
    /// The sender.
    pub from: u16,
    /// The target.
    pub to: u16,
    /// When it was put into the ring; `None` when only the receipt was recorded.
    pub sent_ns: Option<u64>,
    /// When it was taken out.
    pub received_ns: Option<u64>,
    /// Whether a hardware doorbell was rung for it.
    pub doorbell: bool,
}

/// A message that was queued at a port.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message {
    /// The number that joins its records.
    pub id: u32,
    /// Where it was sent, and when.
    pub sent: Option<(u16, u64)>,
    /// The caller.
    pub caller: Option<ThreadIndex>,
    /// Where the server took it, and when.
    pub taken: Option<(u16, u64)>,
    /// The server.
    pub server: Option<ThreadIndex>,
    /// Where it was answered, and when.
    pub replied: Option<(u16, u64)>,
    /// The CPU of the port.
    pub to: u16,
}

/// Arrivals that were recorded before their departures: the clocks of two CPUs differ, or the sender
/// was interrupted between sending and recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// How many.
    pub count: u64,
    /// The largest difference.
    pub most_ns: u64,
}

impl Early {
    /// The departure, not after the arrival; counts one that was.
    pub fn order(&mut self, departed_ns: u64, arrived_ns: u64) -> u64 {
        if departed_ns > arrived_ns {
            self.count += 1;
            self.most_ns = self.most_ns.max(departed_ns - arrived_ns);
        }
        departed_ns.min(arrived_ns)
    }
}

/// A thread moved to another CPU.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Who.
    pub thread: ThreadIndex,
    /// From where.
    pub from: u16,
    /// To where.
    pub to: u16,
    /// When it left.
    pub left_ns: u64,
    /// When it ran again.
    pub run_ns: Option<u64>,
}

/// A thread waited for a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenWait {
    /// The index in [`Trace::tokens`].
    pub token: u32,
    /// Who waited.
    pub thread: ThreadIndex,
    /// Where.
    pub cpu: u16,
    /// From the first contended attempt to the token in hand.
    pub span: Span,
}

/// Something worth a flag on the timeline.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// Where.
    pub cpu: u16,
    /// When.
    pub time_ns: u64,
    /// Whose.
    pub thread: Option<ThreadIndex>,
    /// What.
    pub kind: NoteKind,
}

/// The kinds of [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// A mark with its value.
    Mark(u32),
    /// The watchdog saw a poll of this many milliseconds.
    Watchdog(u32),
}

/// One line of the text dump.
#[derive(Clone, Copy, Debug)]
pub struct LogEntry {
    /// Which CPU.
    pub cpu: u16,
    /// The record, or for a hole the time of the record after it.
    pub what: LogLine,
    /// The thread that the record names.
    pub thread: Option<ThreadIndex>,
    /// The other thread of a wake.
    pub other: Option<ThreadIndex>,
}

/// What a [`LogEntry`] shows.
#[derive(Clone, Copy, Debug)]
pub enum LogLine {
    /// A record.
    Record(Record),
    /// A hole.
    Lost(LostSpan),
}

impl LogEntry {
    /// When.
    pub fn time_ns(&self) -> u64 {
        match self.what {
            LogLine::Record(record) => record.time_ns,
            LogLine::Lost(lost) => lost.span.end_ns,
        }
    }
}

impl Trace {
    /// Records that arrived.
    pub fn record_count(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.records).sum()
    }

    /// Records known to be missing.
    pub fn lost_count(&self) -> u64 {
        self.cpus
            .iter()
            .fold(0, |sum, cpu| sum.saturating_add(cpu.lost()))
    }

    /// From the first record to the last.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }

    /// The `count` longest polls with their CPU, longest first.
    pub fn longest_polls(&self, count: usize) -> Vec<(u16, Poll)> {
        let polls = self.cpus.iter().enumerate();
        let mut all: Vec<(u16, Poll)> = polls
            .flat_map(|(cpu, line)| line.polls.iter().map(move |poll| (cpu as u16, *poll)))
            .collect();
        all.sort_by_key(|(cpu, poll)| {
            (
                std::cmp::Reverse(poll.span.duration_ns()),
                poll.span.begin_ns,
                *cpu,
            )
        });
        all.truncate(count);
        all
    }

    /// For each sender, for each target: messages sent, and doorbells rung for them.
    pub fn ipi_matrix(&self) -> Vec<Vec<IpiCell>> {
        let size = self.cpus.len();
        let mut matrix = vec![vec![IpiCell::default(); size]; size];
        for ipi in self.ipis.iter().filter(|ipi| ipi.sent_ns.is_some()) {
            let cell = &mut matrix[usize::from(ipi.from)][usize::from(ipi.to)];
            cell.sent += 1;
            cell.doorbells += u64::from(ipi.doorbell);
        }
        matrix
    }
}

/// The messages of one pair of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpiCell {
    /// Messages sent.
    pub sent: u64,
    /// Doorbells rung; the others needed none.
    pub doorbells: u64,
}
