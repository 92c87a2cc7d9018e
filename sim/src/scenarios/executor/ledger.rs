//! What the threads of a program note about themselves, and what must be true of it.
//!
//! Everything has its place before the node is switched on, so that a note allocates nothing: the memory of the node must
//! be balanced at its end, and this is the world's.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};

use std::sync::{Arc, Mutex};

use kernel::platform::arena::abroad;

use super::desks::register::Register;
use super::program::Program;

/// The longest that a thread may wait after what it waits for has come.
pub const BOUND_NS: u64 = 10_000_000;

const DONE: u32 = u32::MAX;

/// A thread.
#[derive(Default)]
struct ThreadNotes {
    polling: AtomicBool,
    finished: AtomicBool,
    cpu: AtomicU16,
    /// The operation it is in, and since when.
    operation: AtomicU32,
    since_ns: AtomicU64,
    /// The deadline that it sleeps until; 0 if it does not sleep.
    sleeps_until_ns: AtomicU64,
}

/// How long a passive message may lie before its target is reminded of it.
const TICK_NS: u64 = 10_000_000;

/// Messages of one CPU to one port, or to another CPU.
#[derive(Default)]
struct Lane {
    sent: AtomicU32,
    handled: AtomicU32,
}

/// An event: when it was first signalled after the last wait.
#[derive(Default)]
struct EventNotes {
    signalled_ns: AtomicU64,
}

/// The promise that was broken first.
#[derive(Default)]
pub struct Verdict {
    broken: Mutex<Option<(&'static str, String)>>,
    is_broken: AtomicBool,
}

impl Verdict {
    /// A promise is broken; the first one counts.
    pub fn broken_is(&self, rule: &'static str, seen: impl FnOnce() -> String) {
        abroad(|| {
            let mut broken = self
                .broken
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            broken.get_or_insert_with(|| (rule, seen()));
            self.is_broken.store(true, Ordering::Relaxed);
        });
    }
}

/// The notes of one node.
pub struct Ledger {
    /// What happens to the papers of its desks.
    pub register: Arc<Register>,
    verdict: Arc<Verdict>,
    /// The latest time that a thread has read from the node's clock.
    latest_ns: AtomicU64,
    threads: Vec<ThreadNotes>,
    ports: usize,
    /// By sending CPU and port; those of urgent messages behind the others.
    lanes: Vec<Lane>,
    cpus: usize,
    /// By sending CPU and target.
    direct: Vec<Lane>,
    /// A bit for each CPU that a cpusync holds.
    still: AtomicU64,
    events: Vec<EventNotes>,
    /// How many threads have not come to their end.
    left: AtomicU32,
    /// By token: what its holders added, each on its own.
    added: Vec<AtomicU64>,
    /// By token: what the guarded data said at the end.
    guarded: Vec<AtomicU64>,
}

impl Ledger {
    /// Empty notes for this program.
    pub fn new(program: &Program, cpus: usize) -> Self {
        let threads = program.threads.len();
        let verdict = Arc::<Verdict>::default();
        let register = Register::new(&program.offices, program.papers(), cpus, &verdict);
        Self {
            register: Arc::new(register),
            verdict,
            latest_ns: AtomicU64::new(0),
            threads: (0..threads).map(|_| ThreadNotes::default()).collect(),
            ports: 2 * program.ports.len(),
            lanes: (0..cpus * 2 * program.ports.len())
                .map(|_| Lane::default())
                .collect(),
            cpus,
            direct: (0..cpus * cpus).map(|_| Lane::default()).collect(),
            still: AtomicU64::new(0),
            events: (0..program.events.len())
                .map(|_| EventNotes::default())
                .collect(),
            left: AtomicU32::new(threads as u32),
            added: (0..program.tokens).map(|_| AtomicU64::new(0)).collect(),
            guarded: (0..program.tokens).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A promise is broken; the first one counts.
    pub fn break_promise(&self, rule: &'static str, seen: impl FnOnce() -> String) {
        self.verdict.broken_is(rule, seen);
    }

    /// What was broken first.
    pub fn broken(&self) -> Option<(&'static str, String)> {
        if !self.verdict.is_broken.load(Ordering::Relaxed) {
            return None;
        }
        self.verdict
            .broken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    /// A thread's poll begins.
    pub fn poll_begins(&self, thread: usize, cpu: u16) {
        let notes = &self.threads[thread];
        if notes.polling.swap(true, Ordering::Relaxed) {
            self.break_promise("a thread is polled once at a time", || {
                format!("thread {thread} is polled twice")
            });
        }
        if notes.finished.load(Ordering::Relaxed) {
            self.break_promise("a thread is not polled after its end", || {
                format!("thread {thread} is polled")
            });
        }
        let own = notes.cpu.load(Ordering::Relaxed);
        if own != cpu {
            self.break_promise("a thread is polled by its owner only", || {
                format!("thread {thread} of cpu{own} is polled by cpu{cpu}")
            });
        }
        if self.still.load(Ordering::Relaxed) & 1 << cpu != 0 {
            self.break_promise("no thread runs on a CPU that a cpusync holds", || {
                format!("thread {thread} is polled by cpu{cpu}")
            });
        }
    }

    /// A thread's poll ends.
    pub fn poll_ends(&self, thread: usize, finished: bool) {
        let notes = &self.threads[thread];
        notes.polling.store(false, Ordering::Relaxed);
        if finished {
            notes.finished.store(true, Ordering::Relaxed);
            notes.operation.store(DONE, Ordering::Relaxed);
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// A thread belongs to this CPU from now on.
    pub fn belongs(&self, thread: usize, cpu: u16) {
        self.threads[thread].cpu.store(cpu, Ordering::Relaxed);
    }

    /// A thread begins an operation.
    pub fn begins(&self, thread: usize, operation: usize, now_ns: u64) {
        let latest_ns = self.latest_ns.fetch_max(now_ns, Ordering::Relaxed);
        if now_ns < latest_ns {
            self.break_promise("time does not go back", || {
                format!("thread {thread} sees {now_ns} after {latest_ns}")
            });
        }
        let notes = &self.threads[thread];
        notes.operation.store(operation as u32, Ordering::Relaxed);
        notes.since_ns.store(now_ns.max(1), Ordering::Relaxed);
    }

    /// Whether every thread has come to its end.
    pub fn all_done(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// A thread that has been in one operation for longer than `limit_ns`.
    pub fn stuck(&self, now_ns: u64, limit_ns: u64) -> Option<(usize, u32)> {
        self.threads.iter().enumerate().find_map(|(number, notes)| {
            let operation = notes.operation.load(Ordering::Relaxed);
            let since_ns = notes.since_ns.load(Ordering::Relaxed);
            let late = operation != DONE && now_ns.saturating_sub(since_ns) > limit_ns;
            late.then_some((number, operation))
        })
    }

    /// The number of the next message of a CPU to a port.
    pub fn sends(&self, cpu: u16, port: usize) -> u32 {
        let lane = &self.lanes[usize::from(cpu) * self.ports + port];
        lane.sent.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A server handles message `number` of a CPU.
    pub fn handles(&self, cpu: u16, port: usize, number: u32) {
        let lane = &self.lanes[usize::from(cpu) * self.ports + port];
        let before = lane.handled.fetch_add(1, Ordering::Relaxed);
        if number != before + 1 {
            self.break_promise(
                "messages are handled once each, and in order per sender",
                || format!("port {port} handles message {number} of cpu{cpu} after {before}"),
            );
        }
    }

    fn pair(&self, from: u16, to: u16) -> &Lane {
        &self.direct[usize::from(from) * self.cpus + usize::from(to)]
    }

    /// The number of the next message of a CPU to another one.
    pub fn tells(&self, from: u16, to: u16) -> u32 {
        self.pair(from, to).sent.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many there were.
    pub fn told(&self, from: u16, to: u16) -> u32 {
        self.pair(from, to).sent.load(Ordering::Relaxed)
    }

    /// How many of them have been run.
    pub fn heard(&self, from: u16, to: u16) -> u32 {
        self.pair(from, to).handled.load(Ordering::Relaxed)
    }

    /// A CPU runs message `number` of another one, which was sent so long ago.
    pub fn hears(&self, from: u16, to: u16, number: u32, after_ns: u64) {
        let before = self.pair(from, to).handled.fetch_add(1, Ordering::Relaxed);
        if number != before + 1 {
            self.break_promise("messages are run once each, and in order per pair", || {
                format!("cpu{to} runs message {number} of cpu{from} after {before}")
            });
        }
        if after_ns > TICK_NS + BOUND_NS {
            self.break_promise("a message is run within a tick, or soon after", || {
                format!("cpu{to} runs a message of cpu{from} {after_ns} ns later")
            });
        }
    }

    /// A master runs alone: no thread of these CPUs runs from now on.
    pub fn stands_still(&self, bits: u64) {
        let before = self.still.swap(bits, Ordering::Relaxed);
        if before != 0 {
            self.break_promise("cpusyncs do not overlap", || {
                format!("{bits:#b} while {before:#b} are held")
            });
        }
    }

    /// A CPU that stood still runs its part, and goes on.
    pub fn goes_on(&self, cpu: u16) {
        let before = self.still.fetch_and(!(1 << cpu), Ordering::Relaxed);
        if before & 1 << cpu == 0 {
            self.break_promise("a cpusync runs its function once on each CPU", || {
                format!("cpu{cpu} was not held")
            });
        }
    }

    /// A thread goes to sleep until `deadline_ns`.
    pub fn sleeps(&self, thread: usize, deadline_ns: u64) {
        self.threads[thread]
            .sleeps_until_ns
            .store(deadline_ns, Ordering::Relaxed);
    }

    /// The earliest deadline of the threads that sleep on this CPU.
    pub fn earliest_ns(&self, cpu: u16) -> Option<u64> {
        let here = |notes: &&ThreadNotes| notes.cpu.load(Ordering::Relaxed) == cpu;
        let deadlines = self
            .threads
            .iter()
            .filter(here)
            .map(|notes| notes.sleeps_until_ns.load(Ordering::Relaxed));
        deadlines.filter(|deadline_ns| *deadline_ns != 0).min()
    }

    /// A thread resumes that wanted to sleep until `deadline_ns`.
    pub fn slept(&self, thread: usize, deadline_ns: u64, now_ns: u64) {
        self.threads[thread]
            .sleeps_until_ns
            .store(0, Ordering::Relaxed);
        if now_ns < deadline_ns || now_ns - deadline_ns > BOUND_NS {
            self.break_promise("a sleep ends at its deadline or soon after", || {
                format!("thread {thread} slept until {deadline_ns} and goes on at {now_ns}")
            });
        }
    }

    /// An event is about to be signalled.
    pub fn signals(&self, event: usize, now_ns: u64) {
        let signalled_ns = &self.events[event].signalled_ns;
        let _ =
            signalled_ns.compare_exchange(0, now_ns.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A wait has ended, by the event or by its time limit.
    pub fn waited(&self, event: usize, now_ns: u64, signalled: bool) {
        let since_ns = if signalled {
            self.events[event].signalled_ns.swap(0, Ordering::Relaxed)
        } else {
            self.events[event].signalled_ns.load(Ordering::Relaxed)
        };
        if since_ns != 0 && now_ns.saturating_sub(since_ns) > BOUND_NS {
            self.break_promise("no wake is lost", || {
                format!(
                    "event {event} was signalled at {since_ns}, and its waiter looks at {now_ns}"
                )
            });
        }
    }

    /// A holder of a token has added 1 to what it guards, which is `value` now.
    pub fn adds(&self, token: usize, value: u64) {
        self.added[token].fetch_add(1, Ordering::Relaxed);
        self.guarded[token].store(value, Ordering::Relaxed);
    }

    /// What is not settled at the end.
    pub fn unsettled(&self) -> Option<(&'static str, String)> {
        if let Some(number) = self
            .threads
            .iter()
            .position(|notes| !notes.finished.load(Ordering::Relaxed))
        {
            let operation = self.threads[number].operation.load(Ordering::Relaxed);
            return Some((
                "every thread comes to its end",
                format!("thread {number} is in its operation {operation}"),
            ));
        }
        for (at, lane) in self.lanes.iter().enumerate() {
            let (sent, handled) = (
                lane.sent.load(Ordering::Relaxed),
                lane.handled.load(Ordering::Relaxed),
            );
            if sent != handled {
                let (cpu, port) = (at / self.ports, at % self.ports);
                return Some((
                    "messages are handled once each, and in order per sender",
                    format!("cpu{cpu} sent {sent} to port {port}, which handled {handled}"),
                ));
            }
        }
        for (at, lane) in self.direct.iter().enumerate() {
            let (sent, handled) = (
                lane.sent.load(Ordering::Relaxed),
                lane.handled.load(Ordering::Relaxed),
            );
            if sent != handled {
                let (from, to) = (at / self.cpus, at % self.cpus);
                return Some((
                    "messages are run once each, and in order per pair",
                    format!("cpu{from} sent {sent} to cpu{to}, which ran {handled}"),
                ));
            }
        }
        for (token, (added, guarded)) in self.added.iter().zip(&self.guarded).enumerate() {
            let (added, guarded) = (
                added.load(Ordering::Relaxed),
                guarded.load(Ordering::Relaxed),
            );
            if added != guarded {
                return Some((
                    "what a token guards is changed by its holder alone",
                    format!("token {token}: {guarded}, not {added}"),
                ));
            }
        }
        self.register.unsettled()
    }
}
