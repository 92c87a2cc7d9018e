//! The client of the demonstration: pings an address every millisecond and notes who answered when.
//!
//! The stack is smoltcp: one that is not ours judges ours. Both nodes answer with one IP address
//! and one MAC address, so [`Reply::from`] is the port of the switch at which the reply came in.
//! An outage is judged by arrivals, not by unanswered pings: a frozen node answers what queued up
//! in front of it seconds later, which hides its absence from a count of losses.
//!
//! The client's own delays are measured too ([`Window::own_stall`]), for on a busy host they look
//! like outages.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::icmp;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr};

use crate::lan::{LocalFrame, LocalPort, Port};

/// Pings remembered: ten minutes of them at one a millisecond.
const MEMORY: usize = 600_000;
const IDENTIFIER: u16 = 0xa4a8;
/// A ping not answered within this time counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// So is one without an answer when a ping sent this much later has one: more than two nodes' answers
/// can change places.
const OVERTAKEN_BY: Duration = Duration::from_millis(50);

/// One ping.
#[derive(Clone, Copy, Debug)]
pub struct Ping {
    /// When it was handed to the LAN.
    pub sent: Instant,
    /// The first answer to it.
    pub reply: Option<Reply>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// When it passed the switch.
    pub at: Instant,
    /// The port at which it entered the LAN: who answered.
    pub from: Port,
}

/// What the client saw between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The longest time without any answer, less one ping interval; the window's edges count.
    pub outage: Duration,
    /// Who gave the last answer before that time, and the first one after it.
    pub hand_over: (Option<Port>, Option<Port>),
    /// Pings sent that nobody answered.
    pub lost: usize,
    /// Of every tenth ping (10 ms spacing at the usual rate), those that nobody answered.
    pub lost_of_every_tenth: usize,
    /// Pings sent.
    pub sent: usize,
    /// The longest time between two pings being sent, less one interval: our own hiccups.
    pub own_stall: Duration,
}

/// All pings so far, in the order of sending.
#[derive(Default)]
pub struct Log {
    pings: VecDeque<Ping>,
    first_sequence: u64,
    /// Answers in the order of arrival.
    replies: VecDeque<Reply>,
}

impl Log {
    fn sent(&mut self, at: Instant) {
        if self.pings.len() == MEMORY {
            self.pings.pop_front();
            self.first_sequence += 1;
        }
        self.pings.push_back(Ping {
            sent: at,
            reply: None,
        });
    }

    fn answered(&mut self, sequence: u64, reply: Reply) {
        if self.replies.len() == MEMORY {
            self.replies.pop_front();
        }
        self.replies.push_back(reply);
        let index = sequence.checked_sub(self.first_sequence);
        if let Some(ping) = index.and_then(|index| self.pings.get_mut(index as usize)) {
            ping.reply.get_or_insert(reply);
        }
    }

    /// The newest answer.
    pub fn last_reply(&self) -> Option<Reply> {
        self.replies.back().copied()
    }

    /// Whether an answer came from `port` after `moment`.
    pub fn answered_since(&self, port: Port, moment: Instant) -> bool {
        let start = self.replies.partition_point(|reply| reply.at <= moment);
        self.replies.range(start..).any(|reply| reply.from == port)
    }

    /// Judges what happened from `start` to `end`, with pings every `interval`.
    pub fn window(&self, start: Instant, end: Instant, interval: Duration) -> Window {
        let first = self.replies.partition_point(|reply| reply.at < start);
        let before = first.checked_sub(1).map(|index| self.replies[index]);
        let replies = self
            .replies
            .range(first..)
            .take_while(|reply| reply.at <= end);

        let mut longest = (Duration::ZERO, None, None);
        let (mut last_at, mut last_from) = (start, before.map(|reply| reply.from));
        if let Some(before) = before {
            last_at = before
                .at
                .max(start.checked_sub(2 * interval).unwrap_or(start));
        }
        for (at, from) in replies.map(|r| (r.at, Some(r.from))).chain([(end, None)]) {
            let gap = at.saturating_duration_since(last_at);
            if gap > longest.0 {
                longest = (gap, last_from, from);
            }
            (last_at, last_from) = (at, from.or(last_from));
        }

        // A step may be shorter than LOST_AFTER: the LAN keeps the order, so an answer to a newer ping
        // tells as well.
        let newest_answered = self
            .pings
            .iter()
            .filter(|ping| ping.reply.is_some_and(|reply| reply.at <= end))
            .map(|ping| ping.sent)
            .max();
        let mut stall = Duration::ZERO;
        let (mut lost, mut tenth, mut sent) = (0, 0, 0);
        let mut previous: Option<Instant> = None;
        for (index, ping) in self.pings.iter().enumerate() {
            if ping.sent < start || ping.sent > end {
                continue;
            }
            sent += 1;
            if let Some(previous) = previous {
                stall = stall.max(ping.sent.saturating_duration_since(previous));
            }
            previous = Some(ping.sent);
            let late = ping
                .reply
                .is_none_or(|reply| reply.at - ping.sent > LOST_AFTER);
            let overtaken = ping.reply.is_none()
                && newest_answered
                    .is_some_and(|newer| newer.saturating_duration_since(ping.sent) > OVERTAKEN_BY);
            if overtaken || late && end.saturating_duration_since(ping.sent) > LOST_AFTER {
                lost += 1;
                tenth += usize::from((self.first_sequence + index as u64).is_multiple_of(10));
            }
        }
        Window {
            outage: longest.0.saturating_sub(interval),
            hand_over: (longest.1, longest.2),
            lost,
            lost_of_every_tenth: tenth,
            sent,
            own_stall: stall.saturating_sub(interval),
        }
    }
}

/// How to ping.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The client's own address, with the length of its network's prefix.
    pub address: (Ipv4Addr, u8),
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Whom to ping.
    pub target: Ipv4Addr,
    /// How often.
    pub interval: Duration,
}

/// A running client.
pub struct Client {
    log: Arc<Mutex<Log>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    interval: Duration,
}

impl Client {
    /// Starts pinging through `port`.
    pub fn start(port: LocalPort, settings: Settings) -> Result<Client> {
        let log = Arc::new(Mutex::new(Log::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let interval = settings.interval;
        let thread = {
            let (log, stop) = (log.clone(), stop.clone());
            thread::Builder::new()
                .name("client".to_owned())
                .spawn(move || Pinger::new(port, settings, log).run(&stop))?
        };
        Ok(Client {
            log,
            stop,
            thread: Some(thread),
            interval,
        })
    }

    /// What it has seen.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges what happened from `start` to `end`.
    pub fn window(&self, start: Instant, end: Instant) -> Window {
        self.log().window(start, end, self.interval)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's state.
struct Pinger {
    cable: Cable,
    interface: Interface,
    settings: Settings,
    log: Arc<Mutex<Log>>,
    epoch: Instant,
}

impl Pinger {
    fn new(port: LocalPort, settings: Settings, log: Arc<Mutex<Log>>) -> Pinger {
        let mut cable = Cable {
            port,
            waiting: None,
        };
        let interface = new_interface(&settings, &mut cable);
        Pinger {
            cable,
            interface,
            settings,
            log,
            epoch: Instant::now(),
        }
    }

    fn run(&mut self, stop: &AtomicBool) {
        let mut sockets = SocketSet::new(Vec::new());
        let mut handle = sockets.add(new_socket());
        let mut asked = Instant::now();

        let mut sequence: u64 = 0;
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now.saturating_duration_since(asked) > ASK_AGAIN
                && self.lock().last_reply().is_none()
            {
                self.interface = new_interface(&self.settings, &mut self.cable);
                sockets.remove(handle);
                handle = sockets.add(new_socket());
                asked = now;
            }
            if now >= next {
                self.send(sockets.get_mut::<icmp::Socket>(handle), sequence);
                sequence += 1;
                // Ticks missed while this thread did not run are left out, not made up for.
                next = (next + self.settings.interval).max(now);
                let at = self.now();
                self.interface
                    .poll_egress(at, &mut self.cable, &mut sockets);
            }
            let wait = next.saturating_duration_since(Instant::now());
            self.cable.waiting = self.cable.port.receive(wait);
            while let Some(frame) = self.cable.next() {
                let (from, at) = (frame.from, frame.at);
                let now = self.now();
                let result = self
                    .interface
                    .poll_ingress_single(now, &mut self.cable, &mut sockets);
                self.note(sockets.get_mut::<icmp::Socket>(handle), Reply { at, from });
                if matches!(result, PollIngressSingleResult::None) {
                    self.cable.waiting = None;
                }
            }
        }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.epoch.elapsed().as_micros() as i64)
    }

    fn send(&self, socket: &mut icmp::Socket<'_>, sequence: u64) {
        let data = sequence.to_be_bytes();
        let echo = Icmpv4Repr::EchoRequest {
            ident: IDENTIFIER,
            seq_no: sequence as u16,
            data: &data,
        };
        let target = IpAddress::Ipv4(self.settings.target);
        // While the target's MAC is unknown pings wait in the socket's buffer, and once it is full
        // they are not sent at all: noted as sent all the same, since nobody answers them.
        self.lock().sent(Instant::now());
        if let Ok(buffer) = socket.send(echo.buffer_len(), target) {
            let mut packet = Icmpv4Packet::new_unchecked(buffer);
            echo.emit(&mut packet, &smoltcp::phy::ChecksumCapabilities::default());
        }
    }

    /// Takes what the frame just processed put into the socket.
    fn note(&self, socket: &mut icmp::Socket<'_>, reply: Reply) {
        while let Ok((payload, source)) = socket.recv() {
            let checksums = smoltcp::phy::ChecksumCapabilities::default();
            let packet = Icmpv4Packet::new_checked(payload);
            if source == IpAddress::Ipv4(self.settings.target)
                && let Ok(packet) = packet
                && let Ok(Icmpv4Repr::EchoReply { data, .. }) =
                    Icmpv4Repr::parse(&packet, &checksums)
                && let Some((sequence, _)) = data.split_first_chunk::<8>()
            {
                self.lock().answered(u64::from_be_bytes(*sequence), reply);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// smoltcp asks for an unknown MAC address once a second. Until somebody has answered at all we start
/// it afresh this often, or the first answer would be late by up to that second.
const ASK_AGAIN: Duration = Duration::from_millis(10);

fn new_interface(settings: &Settings, cable: &mut Cable) -> Interface {
    let config = Config::new(EthernetAddress(settings.mac).into());
    let mut interface = Interface::new(config, cable, smoltcp::time::Instant::ZERO);
    let (address, prefix) = settings.address;
    interface.update_ip_addrs(|addresses| {
        // One address always fits.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(address), prefix));
    });
    interface
}

fn new_socket() -> icmp::Socket<'static> {
    let buffer = || {
        let metadata = vec![icmp::PacketMetadata::EMPTY; 64];
        icmp::PacketBuffer::new(metadata, vec![0; 64 * 128])
    };
    let mut socket = icmp::Socket::new(buffer(), buffer());
    // Binding fails only on a socket that is bound already.
    let _ = socket.bind(icmp::Endpoint::Ident(IDENTIFIER));
    socket
}

/// Our port of the LAN, as smoltcp wants it.
struct Cable {
    port: LocalPort,
    waiting: Option<LocalFrame>,
}

impl Cable {
    fn next(&mut self) -> Option<&LocalFrame> {
        if self.waiting.is_none() {
            self.waiting = self.port.try_receive();
        }
        self.waiting.as_ref()
    }
}

impl Device for Cable {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Sender<'_>)> {
        let frame = self.waiting.take()?;
        Some((Received(frame.bytes), Sender(&self.port)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Sender<'_>> {
        Some(Sender(&self.port))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sender<'a>(&'a LocalPort);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(frame);
        result
    }
}

#[cfg(test)]
mod tests;
