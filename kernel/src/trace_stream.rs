//! Sends the trace away while the system runs: rings in, frames out over the trace channel.
//!
//! [`TraceStream`] is the switch and the counters; [`run`] is its thread, of low priority, on CPU 0. It
//! reads every CPU's ring (a reader never disturbs the writer), packs records into frames and writes
//! them. Names of threads go out before the spawn records that refer to them.
//!
//! The channel is a virtio-console where there is one (it takes what one pleases), else the machine's own, a
//! second UART.
//!
//! Decision: while it is off it sleeps on an event and costs nothing; while it is on it looks every
//! [`PAUSE`]. A ring holds 4,096 records, so nothing is lost below 200,000 records a second and CPU,
//! and the UART, not the rings, is the limit. What is overwritten before it is read is counted, sent as
//! "lost before it", and shown by `trace stat`.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::time::Duration;

use executor::trace::stream::Encoder;
use executor::trace::{Event, Record};
use executor::{Cpu, CpuId, Event as Signal, Node, run_on, sleep, yield_now};

use crate::drivers::virtio::console::VirtioConsole;
use crate::drivers::virtio::pci::PciTransport;
use crate::platform::Machine;

/// Pause between two looks at the rings.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause when the channel takes no more.
const CHANNEL_PAUSE: Duration = Duration::from_millis(1);
/// Pauses without a byte sent after which [`TraceStream::stop`] gives up.
const STOP_PATIENCE: u32 = 50;
/// Records read from a ring at a time.
const BATCH_RECORDS: usize = 128;

/// How far the stream of one CPU is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    next: u64,
    sent: u64,
    lost: u64,
}

/// The switch and the counters of the stream.
pub struct TraceStream {
    wanted: Cell<bool>,
    running: Cell<bool>,
    changed: Signal,
    sent_bytes: Cell<u64>,
    progress: RefCell<Vec<Progress>>,
}

impl TraceStream {
    /// A stream that is off.
    #[must_use]
    pub fn new(cpu_count: usize) -> Rc<Self> {
        Rc::new(Self {
            wanted: Cell::new(false),
            running: Cell::new(false),
            changed: Signal::new(),
            sent_bytes: Cell::new(0),
            progress: RefCell::new(alloc::vec![Progress::default(); cpu_count]),
        })
    }

    /// Starts or stops the stream.
    pub fn set_running(&self, on: bool) {
        self.wanted.set(on);
        self.changed.signal();
    }

    /// Stops the stream and waits until its end is sent, or nothing moves any more.
    pub async fn stop(&self) {
        self.set_running(false);
        let mut sent_bytes = self.sent_bytes();
        let mut patience = STOP_PATIENCE;
        while self.running.get() && patience > 0 {
            sleep(PAUSE).await;
            patience = if self.sent_bytes() == sent_bytes {
                patience - 1
            } else {
                STOP_PATIENCE
            };
            sent_bytes = self.sent_bytes();
        }
    }

    /// Whether it is sending, or about to.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.wanted.get() || self.running.get()
    }

    /// Bytes sent since boot.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Records of this CPU that were sent, and that were overwritten before they could be.
    #[must_use]
    pub fn progress(&self, cpu: CpuId) -> (u64, u64) {
        let progress = self.progress.borrow()[cpu.index()];
        (progress.sent, progress.lost)
    }
}

/// Where frames go.
pub struct Channel {
    /// The machine, for its own channel.
    pub machine: Arc<dyn Machine>,
    /// What is used instead, if it is there.
    pub console: Option<VirtioConsole<PciTransport>>,
}

impl Channel {
    /// Sends what there is room for.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(console) = &mut self.console else {
            return self.machine.write_trace(bytes);
        };
        match console.write(bytes) {
            Ok(taken) => taken,
            Err(error) => {
                log::warn!("trace stream: the virtio console is broken ({error:?}); not using it");
                self.console = None;
                0
            }
        }
    }
}

/// The stream's thread, on the CPU that the console's device belongs to.
pub async fn run(channel: Channel, node: Arc<Node>, stream: Rc<TraceStream>, host: &str) {
    let cpu_count = node.cpu_count();
    let mut sender = Sender {
        channel,
        node,
        stream,
        encoder: Box::new(Encoder::new()),
        batch: alloc::vec![Record::default(); BATCH_RECORDS],
        names_sent: alloc::vec![0; cpu_count],
        tokens_named: BTreeSet::new(),
    };
    loop {
        sender.stream.changed.wait().await;
        if !sender.stream.wanted.get() {
            continue;
        }
        sender.stream.running.set(true);
        sender.begin(host).await;
        while sender.stream.wanted.get() {
            sender.send_new_records().await;
            sleep(PAUSE).await;
        }
        sender.send_new_records().await;
        sender.end().await;
        sender.stream.running.set(false);
    }
}

struct Sender {
    channel: Channel,
    node: Arc<Node>,
    stream: Rc<TraceStream>,
    encoder: Box<Encoder>,
    batch: Vec<Record>,
    /// How many of each CPU's names were sent since HELLO.
    names_sent: Vec<usize>,
    tokens_named: BTreeSet<u32>,
}

impl Sender {
    async fn begin(&mut self, host: &str) {
        self.names_sent.fill(0);
        self.tokens_named.clear();
        let frame = self
            .encoder
            .hello(self.node.cpu_count() as u32, self.node.clock_ns(), host);
        write_all(&mut self.channel, &self.stream, frame).await;
        for cpu in cpu_ids(&self.node) {
            run_on(cpu, Cpu::announce_threads).await;
            self.send_names(cpu).await;
            self.send_statistics(cpu).await;
        }
        self.send_token_names().await;
    }

    async fn end(&mut self) {
        for cpu in cpu_ids(&self.node) {
            self.send_statistics(cpu).await;
        }
        let frame = self.encoder.end();
        write_all(&mut self.channel, &self.stream, frame).await;
    }

    async fn send_statistics(&mut self, cpu: CpuId) {
        let progress = self.stream.progress.borrow()[cpu.index()];
        let frame = self
            .encoder
            .stats(cpu.0 as u8, progress.next, progress.lost);
        write_all(&mut self.channel, &self.stream, frame).await;
    }

    async fn send_new_records(&mut self) {
        for cpu in cpu_ids(&self.node) {
            // What is written while we send waits for the next turn, or we would chase ourselves.
            let until = self.node.cpu(cpu).trace_ring().written();
            while self.send_batch(cpu, until).await {}
        }
    }

    /// Sends one batch of a CPU's records; false when there are no more below `until`.
    async fn send_batch(&mut self, cpu: CpuId, until: u64) -> bool {
        let from = self.stream.progress.borrow()[cpu.index()].next;
        if from >= until {
            return false;
        }
        let (first, count) = self.node.cpu(cpu).trace_ring().read(from, &mut self.batch);
        let lost = first - from;
        let spawns = |record: &Record| record.event() == Some(Event::ThreadSpawn);
        if self.batch[..count].iter().any(spawns) {
            self.send_names(cpu).await;
        }
        let unnamed = |record: &Record| {
            record.event() == Some(Event::TokenTaken) && !self.tokens_named.contains(&record.arg())
        };
        if self.batch[..count].iter().any(unnamed) {
            self.send_token_names().await;
        }
        let mut taken_before = 0;
        let mut lost_before = lost.min(u64::from(u32::MAX)) as u32;
        while taken_before < count {
            let mut records = self.batch[taken_before..count].iter().copied();
            let sequence = first + taken_before as u64;
            let (frame, taken) =
                self.encoder
                    .records(cpu.0 as u8, sequence, lost_before, &mut records);
            write_all(&mut self.channel, &self.stream, frame).await;
            taken_before += taken;
            lost_before = 0;
            yield_now().await;
        }
        let mut all = self.stream.progress.borrow_mut();
        let progress = &mut all[cpu.index()];
        progress.next = first + count as u64;
        progress.lost += lost;
        progress.sent += count as u64;
        count > 0
    }

    /// Sends the names of the tokens that there are now and that were not named yet.
    async fn send_token_names(&mut self) {
        for cpu in cpu_ids(&self.node) {
            for token in run_on(cpu, Cpu::tokens).await {
                if self.tokens_named.insert(token.id) {
                    let frame = self.encoder.token_name(token.id, token.name);
                    write_all(&mut self.channel, &self.stream, frame).await;
                }
            }
        }
    }

    /// Sends the names that a CPU has given numbers to since the last time.
    async fn send_names(&mut self, cpu: CpuId) {
        let known = self.names_sent[cpu.index()];
        let names = run_on(cpu, move |cpu| cpu.names_since(known)).await;
        self.names_sent[cpu.index()] += names.len();
        for (number, (name, site)) in names {
            let site = alloc::format!("{}:{}", site.file(), site.line());
            let frame = self.encoder.name(number, name, &site);
            write_all(&mut self.channel, &self.stream, frame).await;
        }
    }
}

fn cpu_ids(node: &Node) -> impl Iterator<Item = CpuId> + use<> {
    (0..node.cpu_count() as u16).map(CpuId)
}

/// Writes a frame, waiting where the channel is full. A channel that takes nothing for a second is none: then the frame is
/// given up, and the stream is switched off.
async fn write_all(channel: &mut Channel, stream: &TraceStream, mut frame: &[u8]) {
    let mut patience = 1000;
    while !frame.is_empty() && patience > 0 {
        let taken = channel.write(frame);
        frame = &frame[taken..];
        stream
            .sent_bytes
            .set(stream.sent_bytes.get() + taken as u64);
        if taken == 0 {
            patience -= 1;
            if patience == 0 && stream.wanted.replace(false) {
                log::warn!(
                    "trace stream: nothing takes the trace (a second serial port or a virtio console would); off"
                );
            } else if !stream.wanted.get() && stream.sent_bytes.get() == 0 {
                return;
            } else {
                sleep(CHANNEL_PAUSE).await;
            }
        }
    }
}
