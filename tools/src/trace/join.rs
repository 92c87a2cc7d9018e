//! Pairs records that carry a number: IPI messages and port messages.
//!
//! [`Joiner`] only collects while `build.rs` replays; [`Joiner::finish`] pairs at the end.
//!
//! Decision: pairing waits for the end, because clocks of two CPUs may differ by a little and a
//! receipt may then be replayed before its sending. Such a sending is moved back to its receipt, for
//! no viewer draws an arrow against time, and [`Early`] counts it. What has only one end is kept with
//! one end: its partner was lost, or lies outside the trace.

use std::collections::HashMap;

use executor::trace::record::Record;

use super::model::{Early, Ipi, Message, ThreadIndex};

/// Sender, target, sequence number.
type IpiKey = (u16, u16, u32);

/// Collects sends, receipts and port events.
#[derive(Default)]
pub struct Joiner {
    ipis: Vec<Ipi>,
    by_key: HashMap<IpiKey, usize>,
    receipts: Vec<(IpiKey, u64)>,
    messages: Vec<Message>,
    by_id: HashMap<u32, usize>,
}

impl Joiner {
    /// Takes `IpiSend` (`doorbell`) or `IpiDoorbellSaved`.
    pub fn ipi_sent(&mut self, cpu: u16, record: Record, doorbell: bool) {
        let to = u16::from(record.small());
        self.by_key.insert((cpu, to, record.arg()), self.ipis.len());
        self.ipis.push(Ipi {
            from: cpu,
            to,
            sent_ns: Some(record.time_ns),
            received_ns: None,
            doorbell,
        });
    }

    /// Takes `IpiReceive`.
    pub fn ipi_received(&mut self, cpu: u16, record: Record) {
        let key = (u16::from(record.small()), cpu, record.arg());
        self.receipts.push((key, record.time_ns));
    }

    /// Takes `PortQueue`.
    pub fn port_queued(&mut self, cpu: u16, record: Record, caller: Option<ThreadIndex>) {
        let message = self.message(record.arg());
        message.sent = Some((cpu, record.time_ns));
        message.caller = caller;
        message.to = u16::from(record.small());
    }

    /// Takes `PortDequeue`.
    pub fn port_taken(&mut self, cpu: u16, record: Record, server: Option<ThreadIndex>) {
        let message = self.message(record.arg());
        message.taken = Some((cpu, record.time_ns));
        message.server = server;
        message.to = cpu;
    }

    /// Takes `PortReply`.
    pub fn port_replied(&mut self, cpu: u16, record: Record, server: Option<ThreadIndex>) {
        let message = self.message(record.arg());
        message.replied = Some((cpu, record.time_ns));
        message.server = message.server.or(server);
    }

    /// The message with this id; a new one when the last with the id is answered already.
    fn message(&mut self, id: u32) -> &mut Message {
        let index = match self.by_id.get(&id) {
            Some(index) if self.messages[*index].replied.is_none() => *index,
            _ => {
                self.by_id.insert(id, self.messages.len());
                self.messages.push(Message {
                    id,
                    ..Message::default()
                });
                self.messages.len() - 1
            }
        };
        &mut self.messages[index]
    }

    /// Pairs everything. CPUs beyond `cpu_count` are the mark of a damaged record and are dropped
    /// from the IPI list, which is indexed by CPU later.
    pub fn finish(mut self, cpu_count: usize) -> (Vec<Ipi>, Vec<Message>, Early) {
        let mut early = Early::default();
        for (key, received_ns) in self.receipts {
            match self.by_key.remove(&key) {
                Some(index) => {
                    let ipi = &mut self.ipis[index];
                    ipi.received_ns = Some(received_ns);
                    ipi.sent_ns = ipi.sent_ns.map(|sent| early.order(sent, received_ns));
                }
                None => self.ipis.push(Ipi {
                    from: key.0,
                    to: key.1,
                    sent_ns: None,
                    received_ns: Some(received_ns),
                    doorbell: false,
                }),
            }
        }
        for message in &mut self.messages {
            if let (Some((_, taken)), Some((_, replied))) = (&mut message.taken, message.replied) {
                *taken = early.order(*taken, replied);
            }
            let arrival = message.taken.or(message.replied);
            if let (Some((_, sent)), Some((_, arrived))) = (&mut message.sent, arrival) {
                *sent = early.order(*sent, arrived);
            }
        }
        self.ipis
            .retain(|ipi| usize::from(ipi.from.max(ipi.to)) < cpu_count);
        self.ipis.sort_by_key(|ipi| ipi.sent_ns.or(ipi.received_ns));
        self.messages.sort_by_key(|message| {
            let first = message.sent.or(message.taken).or(message.replied);
            first.map(|(_, time_ns)| time_ns)
        });
        (self.ipis, self.messages, early)
    }
}
