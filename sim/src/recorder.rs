//! The trace of a whole cluster in one stream: the world's time, and the CPUs of all nodes in a row.
//!
//! Each node records as ever; after each step the [`Recorder`] takes the records of the CPU that stepped, gives them the
//! world's time and the cluster's CPU numbers, and keeps them. [`Recorder::stream`] is a trace stream like that of any
//! node, so text, Perfetto and the page are made of it by the same converter.

use std::collections::HashMap;

use executor::trace::stream::Encoder;
use executor::trace::{ClassMask, Event, Record, record::ANNOUNCED};
use executor::{CpuId, Node};

/// Where a thread is made: its name and its place in the source.
type Name = (String, String);

/// The records of all CPUs.
pub struct Recorder {
    classes: ClassMask,
    cpus_per_node: usize,
    /// By CPU of the cluster.
    records: Vec<Vec<Record>>,
    /// By CPU of the cluster: how many records of its ring were taken.
    taken: Vec<u64>,
    /// By node: how often it was switched on. Numbers begin anew each time, and must not meet their namesakes.
    boots: Vec<u32>,
    /// By CPU of the cluster: names its node has given numbers to, which count from 1.
    names_known: Vec<usize>,
    /// Number of a CPU's name in the cluster.
    numbers: HashMap<(usize, u32), u32>,
    names: Vec<Name>,
}

impl Recorder {
    /// Records these classes of a cluster; at most 256 CPUs in all.
    #[must_use]
    pub fn new(classes: ClassMask, nodes: usize, cpus_per_node: usize) -> Self {
        let count = nodes * cpus_per_node;
        Self {
            classes,
            cpus_per_node,
            records: vec![Vec::new(); count],
            taken: vec![0; count],
            boots: vec![0; nodes],
            names_known: vec![0; count],
            numbers: HashMap::new(),
            names: Vec::new(),
        }
    }

    /// What is recorded.
    #[must_use]
    pub fn classes(&self) -> ClassMask {
        self.classes
    }

    /// A node has been switched on: its rings begin anew.
    pub fn booted(&mut self, node: usize) {
        let cpus = node * self.cpus_per_node..(node + 1) * self.cpus_per_node;
        self.boots[node] += 1;
        self.taken[cpus.clone()].fill(0);
        self.names_known[cpus.clone()].fill(0);
        self.numbers.retain(|(cpu, _), _| !cpus.contains(cpu));
    }

    /// Takes what CPU `cpu` of `node` has recorded in a step that lasted from `now_ns` to `end_ns`: a poll ends when the
    /// step does, everything else happens at its beginning.
    pub fn take(&mut self, node: usize, cpu: usize, (now_ns, end_ns): (u64, u64), kernel: &Node) {
        let mut at_ns = now_ns;
        let at = node * self.cpus_per_node + cpu;
        let cpu = kernel.cpu(CpuId(cpu as u16));
        let mut batch = [Record::default(); 64];
        loop {
            let (first, count) = cpu.trace_ring().read(self.taken[at], &mut batch);
            if count == 0 {
                return;
            }
            self.taken[at] = first + count as u64;
            for record in &batch[..count] {
                if record.event() == Some(Event::RunEnd) {
                    at_ns = end_ns;
                }
                let record = self.translate(at, node, at_ns, *record, kernel);
                self.records[at].push(record);
            }
        }
    }

    /// The record in the cluster's words.
    fn translate(
        &mut self,
        at: usize,
        node: usize,
        now_ns: u64,
        record: Record,
        kernel: &Node,
    ) -> Record {
        let first = (node * self.cpus_per_node) as u8;
        let (mut small, mut arg) = (record.small(), record.arg());
        // A message's number has the CPU that sent it in its six highest bits.
        let boot = self.boots[node];
        let message = |id: u32| {
            let cpu = ((id >> 26) + u32::from(first)) & 63;
            cpu << 26 | (id.wrapping_add(boot << 21) & 0x3ff_ffff)
        };
        match record.event() {
            Some(Event::Wake | Event::Migrate) => small = small.wrapping_add(first),
            Some(Event::IpiSend | Event::IpiDoorbellSaved | Event::IpiReceive) => {
                small = small.wrapping_add(first);
                arg = arg.wrapping_add(boot << 24);
            }
            Some(Event::PortQueue) => (small, arg) = (small.wrapping_add(first), message(arg)),
            Some(Event::PortReply | Event::PortDequeue | Event::PortInline) => arg = message(arg),
            Some(Event::ThreadSpawn) => {
                arg = self.name(at, arg, kernel);
                small &= !ANNOUNCED;
            }
            _ => {}
        }
        Record::from_parts(now_ns, record.event_code(), small, record.thread(), arg)
    }

    /// The cluster's number of a name that CPU `at` calls `id`.
    fn name(&mut self, at: usize, id: u32, kernel: &Node) -> u32 {
        if let Some(number) = self.numbers.get(&(at, id)) {
            return *number;
        }
        let cpu = kernel.cpu(CpuId((at % self.cpus_per_node) as u16));
        // SAFETY: between two steps no CPU is entered on this thread, which alone runs this node.
        unsafe { cpu.enter() };
        let new = cpu.names_since(self.names_known[at]);
        cpu.leave();
        self.names_known[at] += new.len();
        for (id, (name, site)) in new {
            let name = (name.to_owned(), format!("{}:{}", site.file(), site.line()));
            let known = self.names.iter().position(|it| *it == name);
            let number = known.unwrap_or_else(|| {
                self.names.push(name);
                self.names.len() - 1
            });
            self.numbers.insert((at, id), number as u32 + 1);
        }
        self.numbers.get(&(at, id)).copied().unwrap_or(0)
    }

    /// All records of CPU `cpu` of the cluster.
    #[must_use]
    pub fn records(&self, cpu: usize) -> &[Record] {
        &self.records[cpu]
    }

    /// How many CPUs the cluster has.
    #[must_use]
    pub fn cpu_count(&self) -> usize {
        self.records.len()
    }

    /// Everything as one trace stream (executor::trace::stream).
    #[must_use]
    pub fn stream(&self, host: &str) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut bytes = encoder.hello(self.records.len() as u32, 0, host).to_vec();
        for (number, (name, site)) in self.names.iter().enumerate() {
            bytes.extend_from_slice(encoder.name(number as u32 + 1, name, site));
        }
        for cpu in 0..self.records.len() {
            bytes.extend_from_slice(encoder.stats(cpu as u8, 0, 0));
        }
        for (cpu, records) in self.records.iter().enumerate() {
            let mut sent = 0;
            while sent < records.len() {
                let mut rest = records[sent..].iter().copied();
                let (frame, count) = encoder.records(cpu as u8, sent as u64, 0, &mut rest);
                bytes.extend_from_slice(frame);
                sent += count;
            }
            bytes.extend_from_slice(encoder.stats(cpu as u8, records.len() as u64, 0));
        }
        bytes.extend_from_slice(encoder.end());
        bytes
    }
}
