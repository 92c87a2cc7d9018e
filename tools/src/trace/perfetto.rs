//! Writes a trace as Perfetto protobuf, which <https://ui.perfetto.dev> opens by drag and drop.
//!
//! [`write`] makes one process with a track for each CPU (polls and idle time as slices, wakes and
//! messages as instants), a track of its interrupts under it, and a counter of its run queue. Flow
//! arrows go from a wake to the poll it led to, from the sending of an IPI message to its receipt,
//! and from a port message by way of its server to the reply.
//!
//! Decision: arrows start and end at instants, which Perfetto nests into the poll they happened
//! in, instead of at the poll: an arrow then leaves at the moment of the wake, and a poll that
//! wakes ten threads has ten arrows that can be told apart.
//! Source: `protos/perfetto/trace/track_event/*.proto` of Perfetto; field numbers below.

use std::collections::HashMap;
use std::io::{self, Write};

use super::model::{CpuTimeline, NoteKind, Trace};
use super::protobuf::Message;

/// Field numbers of the messages that we write, under the names of the schema.
mod field {
    pub const TRACE_PACKET: u32 = 1;
    pub const TIMESTAMP: u32 = 8;
    pub const TRUSTED_PACKET_SEQUENCE_ID: u32 = 10;
    pub const TRACK_EVENT: u32 = 11;
    pub const INTERNED_DATA: u32 = 12;
    pub const SEQUENCE_FLAGS: u32 = 13;
    pub const TRACK_DESCRIPTOR: u32 = 60;

    pub const DESCRIPTOR_UUID: u32 = 1;
    pub const DESCRIPTOR_NAME: u32 = 2;
    pub const DESCRIPTOR_PROCESS: u32 = 3;
    pub const DESCRIPTOR_PARENT_UUID: u32 = 5;
    pub const DESCRIPTOR_COUNTER: u32 = 8;
    pub const DESCRIPTOR_CHILD_ORDERING: u32 = 11;
    pub const DESCRIPTOR_SIBLING_ORDER_RANK: u32 = 12;
    pub const PROCESS_PID: u32 = 1;
    pub const PROCESS_NAME: u32 = 6;
    pub const COUNTER_UNIT_NAME: u32 = 6;

    pub const EVENT_CATEGORY_IIDS: u32 = 3;
    pub const EVENT_DEBUG_ANNOTATIONS: u32 = 4;
    pub const EVENT_TYPE: u32 = 9;
    pub const EVENT_NAME_IID: u32 = 10;
    pub const EVENT_TRACK_UUID: u32 = 11;
    pub const EVENT_COUNTER_VALUE: u32 = 30;
    pub const EVENT_FLOW_IDS: u32 = 47;
    pub const EVENT_TERMINATING_FLOW_IDS: u32 = 48;

    pub const INTERNED_CATEGORIES: u32 = 1;
    pub const INTERNED_EVENT_NAMES: u32 = 2;
    pub const INTERNED_IID: u32 = 1;
    pub const INTERNED_NAME: u32 = 2;

    pub const ANNOTATION_UINT_VALUE: u32 = 3;
    pub const ANNOTATION_STRING_VALUE: u32 = 6;
    pub const ANNOTATION_NAME: u32 = 10;
}

/// `TrackEvent.Type`.
#[derive(Clone, Copy)]
enum Type {
    Begin = 1,
    End = 2,
    Instant = 3,
    Counter = 4,
}

const SEQUENCE_ID: u64 = 1;
const INCREMENTAL_STATE_CLEARED: u64 = 1;
const NEEDS_INCREMENTAL_STATE: u64 = 2;
const ORDER_EXPLICIT: u64 = 3;

const PROCESS_UUID: u64 = 1;
/// Each CPU has this many track ids: its own, its interrupts, its run queue.
const TRACKS_PER_CPU: u64 = 4;

fn cpu_track(cpu: usize) -> u64 {
    0x100 + cpu as u64 * TRACKS_PER_CPU
}

fn interrupt_track(cpu: usize) -> u64 {
    cpu_track(cpu) + 1
}

fn queue_track(cpu: usize) -> u64 {
    cpu_track(cpu) + 2
}

/// The end of an arrow at an event.
#[derive(Clone, Copy)]
enum Flow {
    /// The arrow starts or passes here.
    From(u64),
    /// The arrow ends here.
    To(u64),
}

/// Flow ids: the kind in the top bits, the index in its list below.
fn flow_id(kind: u64, index: usize) -> u64 {
    kind << 56 | index as u64
}

const WAKE_FLOW: u64 = 1;
const IPI_FLOW: u64 = 2;
const MESSAGE_FLOW: u64 = 3;

/// Something without a duration on a CPU's track.
struct Instant {
    time_ns: u64,
    category: &'static str,
    name: String,
    flow: Option<Flow>,
}

/// Writes the whole trace.
pub fn write(trace: &Trace, out: &mut dyn Write) -> io::Result<()> {
    let mut writer = Writer {
        out,
        names: HashMap::new(),
        categories: HashMap::new(),
        fresh: true,
    };
    writer.descriptors(trace)?;
    let mut instants = instants(trace);
    for (number, cpu) in trace.cpus.iter().enumerate() {
        let mut instants = std::mem::take(&mut instants[number]);
        instants.sort_by_key(|instant| instant.time_ns);
        writer.cpu(trace, number, cpu, instants)?;
        writer.interrupts(number, cpu)?;
        for (time_ns, depth) in &cpu.queue_depth {
            writer.event(
                *time_ns,
                Type::Counter,
                queue_track(number),
                None,
                None,
                |event| {
                    event.uint(field::EVENT_COUNTER_VALUE, u64::from(*depth));
                },
            )?;
        }
    }
    Ok(())
}

/// Everything on the CPUs' tracks that is not a slice, by CPU.
fn instants(trace: &Trace) -> Vec<Vec<Instant>> {
    let mut lists: Vec<Vec<Instant>> = trace.cpus.iter().map(|_| Vec::new()).collect();
    let mut put = |cpu: u16, time_ns, category, name: String, flow| {
        if let Some(list) = lists.get_mut(usize::from(cpu)) {
            list.push(Instant {
                time_ns,
                category,
                name,
                flow,
            });
        }
    };
    let thread_name = |thread: u32| &trace.threads[thread as usize].name;
    for (index, wake) in trace.wakes.iter().enumerate() {
        let verb = if wake.is_spawn { "spawn" } else { "wake" };
        let name = format!("{verb} {}", thread_name(wake.thread));
        let flow = wake.run_ns.map(|_| Flow::From(flow_id(WAKE_FLOW, index)));
        put(wake.cpu, wake.time_ns, "wake", name, flow);
    }
    for (index, ipi) in trace.ipis.iter().enumerate() {
        let whole = ipi.sent_ns.is_some() && ipi.received_ns.is_some();
        let id = flow_id(IPI_FLOW, index);
        if let Some(time_ns) = ipi.sent_ns {
            let doorbell = if ipi.doorbell { ", doorbell" } else { "" };
            let name = format!("IPI to cpu{}{doorbell}", ipi.to);
            put(
                ipi.from,
                time_ns,
                "ipi",
                name,
                whole.then_some(Flow::From(id)),
            );
        }
        if let Some(time_ns) = ipi.received_ns {
            let name = format!("IPI from cpu{}", ipi.from);
            put(ipi.to, time_ns, "ipi", name, whole.then_some(Flow::To(id)));
        }
    }
    for (index, message) in trace.messages.iter().enumerate() {
        let id = flow_id(MESSAGE_FLOW, index);
        // The arrow needs a start, and ends at the last station that was recorded.
        let arrow =
            message.sent.is_some() && (message.taken.is_some() || message.replied.is_some());
        if let Some((cpu, time_ns)) = message.sent {
            let name = format!("message to cpu{}", message.to);
            put(cpu, time_ns, "port", name, arrow.then_some(Flow::From(id)));
        }
        if let Some((cpu, time_ns)) = message.taken {
            let flow = if message.replied.is_some() {
                Flow::From(id)
            } else {
                Flow::To(id)
            };
            put(
                cpu,
                time_ns,
                "port",
                "message taken".to_owned(),
                arrow.then_some(flow),
            );
        }
        if let Some((cpu, time_ns)) = message.replied {
            put(
                cpu,
                time_ns,
                "port",
                "reply".to_owned(),
                arrow.then_some(Flow::To(id)),
            );
        }
    }
    for wait in &trace.token_waits {
        let name = format!("wait for {}", trace.tokens[wait.token as usize].name);
        put(wait.cpu, wait.span.begin_ns, "token", name, None);
    }
    for note in &trace.notes {
        let name = match note.kind {
            NoteKind::Mark(value) => format!("mark {value}"),
            NoteKind::Watchdog(ms) => format!("watchdog: {ms} ms"),
        };
        put(note.cpu, note.time_ns, "note", name, None);
    }
    lists
}

/// A slice of a CPU's track before it is written: a poll, idle time, or lost records.
struct Slice {
    begin_ns: u64,
    end_ns: u64,
    category: &'static str,
    name: String,
    poll: Option<usize>,
}

fn slices(trace: &Trace, cpu: &CpuTimeline) -> Vec<Slice> {
    let polls = cpu.polls.iter().enumerate().map(|(index, poll)| Slice {
        begin_ns: poll.span.begin_ns,
        end_ns: poll.span.end_ns,
        category: "poll",
        name: trace.threads[poll.thread as usize].name.clone(),
        poll: Some(index),
    });
    let idle = cpu.idle.iter().map(|span| Slice {
        begin_ns: span.begin_ns,
        end_ns: span.end_ns,
        category: "idle",
        name: "idle".to_owned(),
        poll: None,
    });
    let lost = cpu.gaps.iter().map(|gap| Slice {
        begin_ns: gap.span.begin_ns,
        end_ns: gap.span.end_ns,
        category: "lost",
        name: format!("{} records lost", gap.lost),
        poll: None,
    });
    let mut slices: Vec<Slice> = polls.chain(idle).chain(lost).collect();
    slices.sort_by_key(|slice| (slice.begin_ns, slice.end_ns));
    slices
}

struct Writer<'a> {
    out: &'a mut dyn Write,
    /// Names that were sent, by name.
    names: HashMap<String, u64>,
    categories: HashMap<&'static str, u64>,
    /// Set until the first packet that may refer to names.
    fresh: bool,
}

impl Writer<'_> {
    fn packet(&mut self, packet: &Message) -> io::Result<()> {
        let mut outer = Message::new();
        outer.bytes(field::TRACE_PACKET, packet.as_bytes());
        self.out.write_all(outer.as_bytes())
    }

    fn descriptor(&mut self, fill: impl FnOnce(&mut Message)) -> io::Result<()> {
        let mut packet = Message::new();
        packet.uint(field::TRUSTED_PACKET_SEQUENCE_ID, SEQUENCE_ID);
        packet.message(field::TRACK_DESCRIPTOR, fill);
        self.packet(&packet)
    }

    fn descriptors(&mut self, trace: &Trace) -> io::Result<()> {
        let host = if trace.hostname.is_empty() {
            "anax"
        } else {
            &trace.hostname
        };
        self.descriptor(|track| {
            track.uint(field::DESCRIPTOR_UUID, PROCESS_UUID);
            track.uint(field::DESCRIPTOR_CHILD_ORDERING, ORDER_EXPLICIT);
            track.message(field::DESCRIPTOR_PROCESS, |process| {
                process.uint(field::PROCESS_PID, 1);
                process.text(field::PROCESS_NAME, &format!("kernel {host}"));
            });
        })?;
        for cpu in 0..trace.cpus.len() {
            let rank = cpu as u64 * TRACKS_PER_CPU;
            self.descriptor(|track| {
                track.uint(field::DESCRIPTOR_UUID, cpu_track(cpu));
                track.uint(field::DESCRIPTOR_PARENT_UUID, PROCESS_UUID);
                track.text(field::DESCRIPTOR_NAME, &format!("cpu{cpu}"));
                track.uint(field::DESCRIPTOR_SIBLING_ORDER_RANK, rank);
            })?;
            self.descriptor(|track| {
                track.uint(field::DESCRIPTOR_UUID, interrupt_track(cpu));
                track.uint(field::DESCRIPTOR_PARENT_UUID, PROCESS_UUID);
                track.text(field::DESCRIPTOR_NAME, &format!("cpu{cpu} interrupts"));
                track.uint(field::DESCRIPTOR_SIBLING_ORDER_RANK, rank + 1);
            })?;
            self.descriptor(|track| {
                track.uint(field::DESCRIPTOR_UUID, queue_track(cpu));
                track.uint(field::DESCRIPTOR_PARENT_UUID, PROCESS_UUID);
                track.text(field::DESCRIPTOR_NAME, &format!("cpu{cpu} run queue"));
                track.uint(field::DESCRIPTOR_SIBLING_ORDER_RANK, rank + 2);
                track.message(field::DESCRIPTOR_COUNTER, |counter| {
                    counter.text(field::COUNTER_UNIT_NAME, "threads");
                });
            })?;
        }
        Ok(())
    }

    /// Writes one CPU's slices and instants in order of time; an instant at the begin of a slice
    /// goes into it.
    fn cpu(
        &mut self,
        trace: &Trace,
        number: usize,
        cpu: &CpuTimeline,
        instants: Vec<Instant>,
    ) -> io::Result<()> {
        let track = cpu_track(number);
        let mut instants = instants.into_iter().peekable();
        for slice in slices(trace, cpu) {
            while let Some(instant) = instants.next_if(|i| i.time_ns < slice.begin_ns) {
                self.instant(track, &instant)?;
            }
            let poll = slice.poll.map(|index| cpu.polls[index]);
            let flow = poll
                .and_then(|poll| poll.wake)
                .map(|wake| Flow::To(flow_id(WAKE_FLOW, wake as usize)));
            let label = Some((slice.category, slice.name.as_str()));
            self.event(slice.begin_ns, Type::Begin, track, label, flow, |event| {
                let Some(poll) = poll else { return };
                let thread = &trace.threads[poll.thread as usize];
                annotate(event, "thread", |value| {
                    value.uint(field::ANNOTATION_UINT_VALUE, u64::from(thread.id));
                });
                if !thread.site.is_empty() {
                    annotate(event, "spawned at", |value| {
                        value.text(field::ANNOTATION_STRING_VALUE, &thread.site);
                    });
                }
                if let Some(latency_ns) = poll.latency_ns {
                    annotate(event, "runnable for [ns]", |value| {
                        value.uint(field::ANNOTATION_UINT_VALUE, latency_ns);
                    });
                }
            })?;
            while let Some(instant) = instants.next_if(|i| i.time_ns < slice.end_ns) {
                self.instant(track, &instant)?;
            }
            self.event(slice.end_ns, Type::End, track, None, None, |_| {})?;
        }
        for instant in instants {
            self.instant(track, &instant)?;
        }
        Ok(())
    }

    fn instant(&mut self, track: u64, instant: &Instant) -> io::Result<()> {
        let label = Some((instant.category, instant.name.as_str()));
        self.event(
            instant.time_ns,
            Type::Instant,
            track,
            label,
            instant.flow,
            |_| {},
        )
    }

    /// Writes interrupts, which nest: an inner one is closed before the outer.
    fn interrupts(&mut self, number: usize, cpu: &CpuTimeline) -> io::Result<()> {
        let track = interrupt_track(number);
        let mut by_begin = cpu.interrupts.clone();
        by_begin.sort_by_key(|interrupt| (interrupt.span.begin_ns, interrupt.nesting));
        let mut open = Vec::new();
        for interrupt in by_begin {
            while open.len() > usize::from(interrupt.nesting)
                && let Some(end_ns) = open.pop()
            {
                self.event(end_ns, Type::End, track, None, None, |_| {})?;
            }
            let name = format!("irq {}", interrupt.line);
            let label = Some(("irq", name.as_str()));
            self.event(
                interrupt.span.begin_ns,
                Type::Begin,
                track,
                label,
                None,
                |_| {},
            )?;
            open.push(interrupt.span.end_ns);
        }
        while let Some(end_ns) = open.pop() {
            self.event(end_ns, Type::End, track, None, None, |_| {})?;
        }
        Ok(())
    }

    /// Writes one event, and with it the names that it is the first to use.
    fn event(
        &mut self,
        time_ns: u64,
        kind: Type,
        track: u64,
        label: Option<(&'static str, &str)>,
        flow: Option<Flow>,
        fill: impl FnOnce(&mut Message),
    ) -> io::Result<()> {
        let mut packet = Message::new();
        packet.uint(field::TIMESTAMP, time_ns);
        packet.uint(field::TRUSTED_PACKET_SEQUENCE_ID, SEQUENCE_ID);
        let cleared = if self.fresh {
            INCREMENTAL_STATE_CLEARED
        } else {
            0
        };
        self.fresh = false;
        packet.uint(field::SEQUENCE_FLAGS, NEEDS_INCREMENTAL_STATE | cleared);
        let mut event = Message::new();
        event.uint(field::EVENT_TYPE, kind as u64);
        event.uint(field::EVENT_TRACK_UUID, track);
        let mut interned = Message::new();
        if let Some((category, name)) = label {
            let next = self.categories.len() as u64 + 1;
            let iid = *self.categories.entry(category).or_insert(next);
            event.uint(field::EVENT_CATEGORY_IIDS, iid);
            if iid == next {
                intern(&mut interned, field::INTERNED_CATEGORIES, iid, category);
            }
            let iid = match self.names.get(name) {
                Some(iid) => *iid,
                None => {
                    let iid = self.names.len() as u64 + 1;
                    self.names.insert(name.to_owned(), iid);
                    intern(&mut interned, field::INTERNED_EVENT_NAMES, iid, name);
                    iid
                }
            };
            event.uint(field::EVENT_NAME_IID, iid);
        }
        match flow {
            Some(Flow::From(id)) => {
                event.fixed64(field::EVENT_FLOW_IDS, id);
            }
            Some(Flow::To(id)) => {
                event.fixed64(field::EVENT_TERMINATING_FLOW_IDS, id);
            }
            None => {}
        }
        fill(&mut event);
        if !interned.as_bytes().is_empty() {
            packet.bytes(field::INTERNED_DATA, interned.as_bytes());
        }
        packet.bytes(field::TRACK_EVENT, event.as_bytes());
        self.packet(&packet)
    }
}

fn annotate(event: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    event.message(field::EVENT_DEBUG_ANNOTATIONS, |annotation| {
        annotation.text(field::ANNOTATION_NAME, name);
        fill(annotation);
    });
}

fn intern(interned: &mut Message, field: u32, iid: u64, name: &str) {
    interned.message(field, |entry| {
        entry.uint(field::INTERNED_IID, iid);
        entry.text(field::INTERNED_NAME, name);
    });
}
