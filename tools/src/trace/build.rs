//! Builds a [`Trace`] from decoded records.
//!
//! [`build`] replays all records in one order of time, keeping for each CPU what is open (a poll,
//! idle time, interrupt handlers) and for each thread since when it is runnable. `join.rs` then
//! pairs what is named by a number: IPI messages and port messages.
//!
//! Decision: lost records make things shorter or unknown, never longer. At a hole everything open
//! on that CPU ends at the last record before it, and an end after the hole begins at the first
//! record after it; both are marked `cut`. Wake times of that CPU's threads are forgotten, because
//! the run that answered a wake may be among the lost.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use executor::trace::record::{EndReason, Event, Record};

use super::join::Joiner;
use super::model::*;
use super::stream::Stream;

#[path = "build_threads.rs"]
mod threads;

/// Replays `stream`.
pub fn build(stream: Stream) -> Trace {
    let mut builder = Builder::new(&stream);
    for (time_ns, cpu, index) in merged_order(&stream) {
        let source = &stream.cpus[usize::from(cpu)];
        builder.gaps_before(&stream, cpu, index, time_ns);
        if let Some(record) = source.records.get(index) {
            builder.record(cpu, Record { time_ns, ..*record }, &stream);
        }
    }
    builder.finish(stream)
}

/// Every record as (time, CPU, index), by time, and for each CPU by index. Times are made to rise
/// within a CPU first, so that a reading which is shared by two events cannot turn them around.
/// A CPU whose last records are missing gets one index more, where its gap is.
fn merged_order(stream: &Stream) -> Vec<(u64, u16, usize)> {
    let mut order = Vec::new();
    for (cpu, source) in stream.cpus.iter().enumerate() {
        let mut time_ns = 0;
        for (index, record) in source.records.iter().enumerate() {
            time_ns = record.time_ns.max(time_ns);
            order.push((time_ns, cpu as u16, index));
        }
        if source
            .gaps
            .last()
            .is_some_and(|gap| gap.before == source.records.len())
        {
            let end = stream.cpus.iter().flat_map(|cpu| cpu.records.last());
            let end_ns = end.map(|record| record.time_ns).max().unwrap_or(0);
            order.push((end_ns.max(time_ns), cpu as u16, source.records.len()));
        }
    }
    order.sort_unstable();
    order
}

/// What is open on one CPU.
#[derive(Default)]
struct Open {
    poll: Option<Poll>,
    idle_since_ns: Option<u64>,
    interrupts: Vec<(u8, u64)>,
    /// Set where it is not known what the CPU is doing: at the start and after a hole.
    unknown_since_ns: Option<u64>,
    last_ns: u64,
    next_gap: usize,
    started: bool,
}

/// Since when a thread is runnable.
#[derive(Clone, Copy)]
struct Pending {
    wake: Option<u32>,
    since_ns: u64,
}

struct Builder {
    trace: Trace,
    open: Vec<Open>,
    /// Threads by CPU and id. The ids of two CPUs are independent.
    by_cpu_and_id: HashMap<(u16, u16), ThreadIndex>,
    /// The only thread that ever had this id, on any CPU; `None` when there were several.
    by_id_alone: HashMap<u16, Option<ThreadIndex>>,
    /// The name id with which a thread was announced.
    name_ids: HashMap<ThreadIndex, u32>,
    pending: HashMap<ThreadIndex, Pending>,
    moving: HashMap<ThreadIndex, usize>,
    tokens: HashMap<u32, u32>,
    token_waits: HashMap<(ThreadIndex, u32), u64>,
    joiner: Joiner,
}

impl Builder {
    fn new(stream: &Stream) -> Self {
        let firsts = stream
            .cpus
            .iter()
            .flat_map(|cpu| cpu.records.iter().map(|r| r.time_ns));
        let start_ns = firsts.min().unwrap_or(0);
        let count = stream.cpus.len();
        let trace = Trace {
            cpus: vec![CpuTimeline::default(); count],
            start_ns,
            end_ns: start_ns,
            ..Trace::default()
        };
        Self {
            trace,
            open: (0..count).map(|_| Open::default()).collect(),
            by_cpu_and_id: HashMap::new(),
            by_id_alone: HashMap::new(),
            name_ids: HashMap::new(),
            pending: HashMap::new(),
            moving: HashMap::new(),
            tokens: HashMap::new(),
            token_waits: HashMap::new(),
            joiner: Joiner::default(),
        }
    }

    /// Handles the holes that lie before record `index` of `cpu`.
    fn gaps_before(&mut self, stream: &Stream, cpu: u16, index: usize, time_ns: u64) {
        let at = usize::from(cpu);
        while let Some(gap) = stream.cpus[at].gaps.get(self.open[at].next_gap)
            && gap.before <= index
        {
            self.open[at].next_gap += 1;
            let begin_ns = if self.open[at].started {
                self.open[at].last_ns
            } else {
                self.trace.start_ns
            };
            self.close_all(cpu, begin_ns);
            self.open[at].unknown_since_ns = Some(time_ns);
            let threads = &self.trace.threads;
            self.pending
                .retain(|thread, _| threads[*thread as usize].cpu != cpu);
            self.token_waits
                .retain(|(thread, _), _| threads[*thread as usize].cpu != cpu);
            let span = Span {
                begin_ns,
                end_ns: time_ns.max(begin_ns),
            };
            let lost = LostSpan {
                span,
                lost: gap.lost,
                lost_in_ring: gap.lost_in_ring,
            };
            self.trace.cpus[at].gaps.push(lost);
            let what = LogLine::Lost(lost);
            self.trace.log.push(LogEntry {
                cpu,
                what,
                thread: None,
                other: None,
            });
        }
    }

    fn record(&mut self, cpu: u16, record: Record, stream: &Stream) {
        let at = usize::from(cpu);
        let time_ns = record.time_ns;
        let open = &mut self.open[at];
        if !open.started {
            open.started = true;
            open.unknown_since_ns = Some(time_ns);
            self.trace.cpus[at].covered.begin_ns = time_ns;
        }
        open.last_ns = time_ns;
        self.trace.cpus[at].covered.end_ns = time_ns;
        self.trace.cpus[at].records += 1;
        self.trace.end_ns = self.trace.end_ns.max(time_ns);
        let (thread, other) = match record.event() {
            Some(event) => self.event(cpu, event, record, stream),
            None => {
                self.trace.unknown_events += 1;
                (None, None)
            }
        };
        self.trace.log.push(LogEntry {
            cpu,
            what: LogLine::Record(record),
            thread,
            other,
        });
    }

    /// Replays one record, and says which threads it names.
    fn event(
        &mut self,
        cpu: u16,
        event: Event,
        record: Record,
        stream: &Stream,
    ) -> (Option<ThreadIndex>, Option<ThreadIndex>) {
        let at = usize::from(cpu);
        let time_ns = record.time_ns;
        if event == Event::ThreadSpawn {
            let parent = self.running(cpu);
            return (Some(self.spawn(cpu, record, parent, stream)), parent);
        }
        // A record that names no thread is about the one that runs.
        let thread = match record.thread() {
            0 => self.running(cpu),
            id => Some(self.thread(cpu, id)),
        };
        let mut other = None;
        match event {
            Event::ThreadSpawn => {}
            Event::RunBegin => {
                if let Some(thread) = thread {
                    self.run_begin(cpu, thread, record);
                }
            }
            Event::RunEnd => self.run_end(cpu, thread, record),
            Event::ThreadExit => {
                self.by_cpu_and_id.remove(&(cpu, record.thread()));
            }
            Event::Wake => {
                let from_cpu = u16::from(record.small());
                let waker = record.arg() as u16;
                other = (waker != 0).then(|| self.thread(from_cpu, waker));
                if let Some(thread) = thread {
                    self.wake(cpu, from_cpu, other, thread, false, time_ns);
                }
            }
            Event::IdleBegin => {
                self.close_poll(cpu, time_ns);
                self.close_idle(cpu, time_ns);
                self.open[at].unknown_since_ns = None;
                self.open[at].idle_since_ns = Some(time_ns);
                self.trace.cpus[at].queue_depth.push((time_ns, 0));
            }
            Event::IdleEnd => {
                let open = &mut self.open[at];
                let known = open.idle_since_ns.take();
                let cut = open.unknown_since_ns.take();
                match known.or(cut) {
                    Some(begin_ns) => {
                        self.trace.cpus[at].idle.push(Span {
                            begin_ns,
                            end_ns: time_ns,
                        });
                    }
                    None => self.trace.unmatched += 1,
                }
            }
            Event::IpiSend => self.joiner.ipi_sent(cpu, record, true),
            Event::IpiDoorbellSaved => self.joiner.ipi_sent(cpu, record, false),
            Event::IpiReceive => self.joiner.ipi_received(cpu, record),
            Event::PortInline => self.trace.cpus[at].inline_calls += 1,
            Event::PortQueue => self.joiner.port_queued(cpu, record, thread),
            Event::PortDequeue => self.joiner.port_taken(cpu, record, thread),
            Event::PortReply => self.joiner.port_replied(cpu, record, thread),
            Event::TokenContended => {
                let token = self.token(record.arg(), stream);
                self.trace.tokens[token as usize].contended += 1;
                if let Some(thread) = thread {
                    self.token_waits.entry((thread, token)).or_insert(time_ns);
                }
            }
            Event::TokenTaken => self.token_taken(cpu, thread, record, stream),
            Event::InterruptBegin => self.open[at].interrupts.push((record.small(), time_ns)),
            Event::InterruptEnd => self.interrupt_end(cpu, record),
            Event::TimerFire => self.trace.cpus[at].timer_fires += 1,
            Event::Mark => self.note(cpu, time_ns, thread, NoteKind::Mark(record.arg())),
            Event::WatchdogOverrun => {
                self.note(cpu, time_ns, thread, NoteKind::Watchdog(record.arg()));
            }
            Event::Migrate => {
                if let Some(thread) = thread {
                    self.migrate(cpu, thread, record);
                }
            }
            Event::TokenReleased | Event::TimerArm | Event::SlabRefill | Event::SlabRemoteDrain => {
            }
        }
        (thread, other)
    }

    fn running(&self, cpu: u16) -> Option<ThreadIndex> {
        self.open[usize::from(cpu)].poll.map(|poll| poll.thread)
    }

    /// The first wake of a thread counts; more before it runs change nothing.
    fn wake(
        &mut self,
        cpu: u16,
        from_cpu: u16,
        waker: Option<ThreadIndex>,
        thread: ThreadIndex,
        is_spawn: bool,
        time_ns: u64,
    ) {
        if let Entry::Vacant(entry) = self.pending.entry(thread) {
            let wake = Some(self.trace.wakes.len() as u32);
            entry.insert(Pending {
                wake,
                since_ns: time_ns,
            });
            self.trace.wakes.push(Wake {
                cpu,
                time_ns,
                from_cpu,
                waker,
                thread,
                is_spawn,
                run_ns: None,
            });
        }
    }

    fn run_begin(&mut self, cpu: u16, thread: ThreadIndex, record: Record) {
        let at = usize::from(cpu);
        let time_ns = record.time_ns;
        self.close_poll(cpu, time_ns);
        self.close_idle(cpu, time_ns);
        self.open[at].unknown_since_ns = None;
        let pending = self.pending.remove(&thread);
        let wake = pending.and_then(|pending| pending.wake);
        if let Some(wake) = wake {
            self.trace.wakes[wake as usize].run_ns = Some(time_ns);
        }
        if let Some(migration) = self.moving.remove(&thread) {
            self.trace.migrations[migration].run_ns = Some(time_ns);
        }
        self.trace.threads[thread as usize].cpu = cpu;
        self.trace.cpus[at]
            .queue_depth
            .push((time_ns, u32::from(record.small())));
        self.open[at].poll = Some(Poll {
            thread,
            span: Span {
                begin_ns: time_ns,
                end_ns: time_ns,
            },
            end: None,
            queue_depth: record.small(),
            wake,
            latency_ns: pending.map(|pending| time_ns.saturating_sub(pending.since_ns)),
            cut: false,
        });
    }

    fn run_end(&mut self, cpu: u16, thread: Option<ThreadIndex>, record: Record) {
        let at = usize::from(cpu);
        let end_ns = record.time_ns;
        let unknown_since = self.open[at].unknown_since_ns.take();
        let poll = match (self.open[at].poll.take(), unknown_since, thread) {
            (Some(poll), ..) => poll,
            (None, Some(begin_ns), Some(thread)) => Poll {
                thread,
                span: Span { begin_ns, end_ns },
                end: None,
                queue_depth: 0,
                wake: None,
                latency_ns: None,
                cut: true,
            },
            _ => {
                self.trace.unmatched += 1;
                return;
            }
        };
        // Woken during its own poll: it waits for the CPU from the end of that poll.
        if let Some(pending) = self.pending.get_mut(&poll.thread) {
            pending.since_ns = pending.since_ns.max(end_ns);
        }
        let end = EndReason::from_code(record.small());
        self.push_poll(
            cpu,
            Poll {
                span: Span {
                    end_ns,
                    ..poll.span
                },
                end,
                ..poll
            },
        );
    }

    fn push_poll(&mut self, cpu: u16, poll: Poll) {
        let thread = &mut self.trace.threads[poll.thread as usize];
        thread.polls += 1;
        thread.run_ns += poll.span.duration_ns();
        self.trace.cpus[usize::from(cpu)].polls.push(poll);
    }

    /// Ends a poll whose end was not recorded.
    fn close_poll(&mut self, cpu: u16, end_ns: u64) {
        if let Some(poll) = self.open[usize::from(cpu)].poll.take() {
            let span = Span {
                end_ns: end_ns.max(poll.span.begin_ns),
                ..poll.span
            };
            self.push_poll(
                cpu,
                Poll {
                    span,
                    cut: true,
                    ..poll
                },
            );
        }
    }

    fn close_idle(&mut self, cpu: u16, end_ns: u64) {
        let at = usize::from(cpu);
        if let Some(begin_ns) = self.open[at].idle_since_ns.take() {
            self.trace.cpus[at].idle.push(Span {
                begin_ns,
                end_ns: end_ns.max(begin_ns),
            });
        }
    }

    fn close_all(&mut self, cpu: u16, end_ns: u64) {
        self.close_poll(cpu, end_ns);
        self.close_idle(cpu, end_ns);
        let open = &mut self.open[usize::from(cpu)];
        while let Some((line, begin_ns)) = open.interrupts.pop() {
            let span = Span {
                begin_ns,
                end_ns: end_ns.max(begin_ns),
            };
            let nesting = open.interrupts.len() as u8;
            self.trace.cpus[usize::from(cpu)]
                .interrupts
                .push(Interrupt {
                    line,
                    span,
                    nesting,
                });
        }
    }

    fn interrupt_end(&mut self, cpu: u16, record: Record) {
        let open = &mut self.open[usize::from(cpu)];
        match open.interrupts.pop() {
            Some((line, begin_ns)) => {
                let span = Span {
                    begin_ns,
                    end_ns: record.time_ns,
                };
                let nesting = open.interrupts.len() as u8;
                let interrupts = &mut self.trace.cpus[usize::from(cpu)].interrupts;
                interrupts.push(Interrupt {
                    line,
                    span,
                    nesting,
                });
            }
            // Its begin is in a hole, or the class was switched on inside the handler.
            None if open.unknown_since_ns.is_some() => {}
            None => self.trace.unmatched += 1,
        }
    }

    fn migrate(&mut self, cpu: u16, thread: ThreadIndex, record: Record) {
        let to = u16::from(record.small());
        self.moving.insert(thread, self.trace.migrations.len());
        let left_ns = record.time_ns;
        self.trace.migrations.push(Migration {
            thread,
            from: cpu,
            to,
            left_ns,
            run_ns: None,
        });
        self.by_cpu_and_id.remove(&(cpu, record.thread()));
        self.by_cpu_and_id.insert((to, record.thread()), thread);
    }

    fn token(&mut self, id: u32, stream: &Stream) -> u32 {
        *self.tokens.entry(id).or_insert_with(|| {
            let name = stream.token_names.get(&id).cloned();
            let name = name.unwrap_or_else(|| format!("token {id}"));
            self.trace.tokens.push(Token {
                id,
                name,
                ..Token::default()
            });
            self.trace.tokens.len() as u32 - 1
        })
    }

    fn token_taken(
        &mut self,
        cpu: u16,
        thread: Option<ThreadIndex>,
        record: Record,
        stream: &Stream,
    ) {
        let index = self.token(record.arg(), stream);
        let token = &mut self.trace.tokens[index as usize];
        token.taken += 1;
        let Some(thread) = thread else { return };
        if let Some(begin_ns) = self.token_waits.remove(&(thread, index)) {
            let span = Span {
                begin_ns,
                end_ns: record.time_ns.max(begin_ns),
            };
            token.wait_ns += span.duration_ns();
            token.longest_wait_ns = token.longest_wait_ns.max(span.duration_ns());
            self.trace.token_waits.push(TokenWait {
                token: index,
                thread,
                cpu,
                span,
            });
        }
    }

    fn note(&mut self, cpu: u16, time_ns: u64, thread: Option<ThreadIndex>, kind: NoteKind) {
        self.trace.notes.push(Note {
            cpu,
            time_ns,
            thread,
            kind,
        });
    }

    fn finish(mut self, stream: Stream) -> Trace {
        for cpu in 0..self.open.len() {
            let end_ns = self.open[cpu].last_ns;
            self.close_all(cpu as u16, end_ns);
        }
        (self.trace.ipis, self.trace.messages, self.trace.early) =
            self.joiner.finish(self.open.len());
        self.trace.hostname = stream.hostname;
        self.trace.health = stream.health;
        self.trace.complete = stream.ended;
        self.trace
    }
}
