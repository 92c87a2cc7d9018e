//! Moves bytes between the switch and its ports: one thread, no locks, bounded memory.
//!
//! QEMU's stream backend frames each Ethernet frame with its length (u32, big-endian). A port that
//! does not read loses frames (counted) once [`OUTPUT_LIMIT`] bytes wait for it; it never makes the
//! others wait. Source: QEMU net/stream.c.

use std::collections::{BTreeSet, BinaryHeap};
use std::io::{ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::Result;
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token};

use super::capture::Capture;
use super::handle::LocalFrame;
use super::switch::{Port, Switch};

/// Bytes that may wait for one port.
pub const OUTPUT_LIMIT: usize = 4 << 20;
/// Frames on delayed links in all.
const DELAYED_LIMIT: usize = 1 << 16;
/// QEMU never sends more in one frame (net/net.h NET_BUFSIZE).
const FRAME_LIMIT: usize = 4096 + 65536;
const READ_LEN: usize = 1 << 17;
/// The token of requests.
pub(super) const WAKER: Token = Token(usize::MAX);
/// Every LAN loses the same frames when asked to lose some.
const SEED: u64 = 0x0a11_ab1e;

/// What a program asks of the thread.
pub(super) type Request = Box<dyn FnOnce(&mut Core) + Send>;

/// What a port's cable is plugged into.
pub(super) enum Plug {
    Socket {
        listener: UnixListener,
        connection: Option<Connection>,
    },
    Local(SyncSender<LocalFrame>),
}

pub(super) struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// How much of `output` is on its way already.
    written: usize,
}

/// A frame on a slow cable. Ordered by time, then by arrival; the heap wants the earliest largest.
#[derive(PartialEq, Eq)]
struct Delayed {
    due: Instant,
    number: u64,
    from: Port,
    to: Port,
    frame: Vec<u8>,
}

impl Ord for Delayed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Delayed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Everything the thread owns.
pub(super) struct Core {
    poll: Poll,
    requests: Receiver<Request>,
    switch: Switch,
    sockets: Vec<Plug>,
    /// Ports that may have more to read: mio tells of changes only.
    ready: BTreeSet<Port>,
    /// Ports with output not yet offered to their socket.
    dirty: BTreeSet<Port>,
    delayed: BinaryHeap<Delayed>,
    delayed_count: u64,
    capture: Option<Capture>,
    /// Where the frame in hand goes; kept for its allocation.
    outputs: Vec<(Port, Duration)>,
    stop: bool,
}

impl Core {
    /// An empty LAN that answers `requests` whenever `poll` is woken for them.
    pub(super) fn new(poll: Poll, requests: Receiver<Request>, capture: Option<Capture>) -> Core {
        Core {
            poll,
            requests,
            switch: Switch::new(SEED),
            sockets: Vec::new(),
            ready: BTreeSet::new(),
            dirty: BTreeSet::new(),
            delayed: BinaryHeap::new(),
            delayed_count: 0,
            capture,
            outputs: Vec::new(),
            stop: false,
        }
    }

    /// The switch, for requests.
    pub(super) fn switch(&mut self) -> &mut Switch {
        &mut self.switch
    }

    /// Ends the thread after this turn.
    pub(super) fn stop(&mut self) {
        self.stop = true;
    }

    /// The thread: returns once stopped.
    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        let mut buffer = vec![0; READ_LEN];
        while !self.stop {
            let limit = if self.ready.is_empty() {
                self.next_due()
            } else {
                Some(Duration::ZERO)
            };
            if limit != Some(Duration::ZERO) {
                self.flush_capture();
            }
            if let Err(error) = self.poll.poll(&mut events, limit)
                && error.kind() != ErrorKind::Interrupted
            {
                return;
            }
            for event in &events {
                self.happened(event.token(), event.is_writable());
            }
            self.answer_requests();
            for port in self.ready.clone() {
                self.read(port, &mut buffer);
            }
            self.release_delayed();
            for port in std::mem::take(&mut self.dirty) {
                self.write(port);
            }
        }
        self.flush_capture();
    }

    fn flush_capture(&mut self) {
        if let Some(capture) = &mut self.capture
            && capture.flush().is_err()
        {
            self.capture = None;
        }
    }

    /// Even tokens are listeners, odd ones connections.
    fn happened(&mut self, token: Token, writable: bool) {
        if token == WAKER {
            return;
        }
        let port = Port(token.0 / 2);
        if token.0.is_multiple_of(2) {
            self.accept(port);
        } else {
            self.ready.insert(port);
            if writable {
                self.dirty.insert(port);
            }
        }
    }

    fn answer_requests(&mut self) {
        // As many as are here now: a busy local port must not keep the sockets waiting.
        for _ in 0..1024 {
            match self.requests.try_recv() {
                Ok(request) => request(self),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stop = true;
                    return;
                }
            }
        }
    }

    pub(super) fn add_socket(&mut self, name: &str, mut listener: UnixListener) -> Result<Port> {
        let token = Token(self.sockets.len() * 2);
        self.poll
            .registry()
            .register(&mut listener, token, Interest::READABLE)?;
        Ok(self.add_plug(
            name,
            Plug::Socket {
                listener,
                connection: None,
            },
        ))
    }

    pub(super) fn add_plug(&mut self, name: &str, plug: Plug) -> Port {
        self.sockets.push(plug);
        if let Some(capture) = &mut self.capture {
            let _ = capture.add_interface(name);
        }
        self.switch.add_port(name)
    }

    /// The newest connection owns the port: the node before it was killed or is about to be.
    fn accept(&mut self, port: Port) {
        let Plug::Socket { listener, .. } = &self.sockets[port.0] else {
            return;
        };
        let mut newest = None;
        while let Ok((stream, _)) = listener.accept() {
            newest = Some(stream);
        }
        let Some(mut stream) = newest else { return };
        self.unplug(port);
        let token = Token(port.0 * 2 + 1);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self
            .poll
            .registry()
            .register(&mut stream, token, interest)
            .is_err()
        {
            return;
        }
        let connection = Connection {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            written: 0,
        };
        if let Plug::Socket {
            connection: slot, ..
        } = &mut self.sockets[port.0]
        {
            *slot = Some(connection);
        }
        self.ready.insert(port);
    }

    /// The cable is out: the addresses behind it are gone, as on a switch that loses carrier.
    fn unplug(&mut self, port: Port) {
        if let Plug::Socket { connection, .. } = &mut self.sockets[port.0]
            && let Some(mut old) = connection.take()
        {
            let _ = self.poll.registry().deregister(&mut old.stream);
            self.switch.forget(port);
        }
        self.ready.remove(&port);
    }

    /// One portion from one port, then the next port's turn.
    fn read(&mut self, port: Port, buffer: &mut [u8]) {
        let Plug::Socket {
            connection: Some(connection),
            ..
        } = &mut self.sockets[port.0]
        else {
            self.ready.remove(&port);
            return;
        };
        let count = match connection.stream.read(buffer) {
            Ok(count @ 1..) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.ready.remove(&port);
                return;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            Ok(_) | Err(_) => {
                self.unplug(port);
                return;
            }
        };
        let mut input = std::mem::take(&mut connection.input);
        input.extend_from_slice(&buffer[..count]);
        let at = Instant::now();
        let mut rest = &input[..];
        loop {
            match split_frame(rest) {
                Split::Frame(frame, next) => {
                    rest = next;
                    self.forward(port, frame, at);
                }
                Split::Partial => break,
                Split::Nonsense => {
                    self.switch.counters(port).bad_framing += 1;
                    self.unplug(port);
                    return;
                }
            }
        }
        let used = input.len() - rest.len();
        input.drain(..used);
        if let Plug::Socket {
            connection: Some(connection),
            ..
        } = &mut self.sockets[port.0]
        {
            connection.input = input;
        }
    }

    pub(super) fn forward(&mut self, from: Port, frame: &[u8], at: Instant) {
        if let Some(capture) = &mut self.capture
            && capture.frame(from, at, frame).is_err()
        {
            // A full disk ends the capture, not the LAN.
            self.capture = None;
        }
        let Core {
            switch,
            sockets,
            dirty,
            delayed,
            delayed_count,
            outputs,
            ..
        } = self;
        outputs.clear();
        switch.forward(from, frame, |to, delay| outputs.push((to, delay)));
        for &(to, delay) in &*outputs {
            if delay.is_zero() {
                deliver(switch, sockets, dirty, from, to, at, frame);
            } else if delayed.len() < DELAYED_LIMIT {
                *delayed_count += 1;
                let (due, number) = (at + delay, *delayed_count);
                delayed.push(Delayed {
                    due,
                    number,
                    from,
                    to,
                    frame: frame.to_vec(),
                });
            } else {
                switch.counters(to).dropped_full += 1;
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let first = self.delayed.peek()?;
        Some(first.due.saturating_duration_since(Instant::now()))
    }

    fn release_delayed(&mut self) {
        while self
            .delayed
            .peek()
            .is_some_and(|first| first.due <= Instant::now())
        {
            let Some(Delayed {
                due,
                from,
                to,
                frame,
                ..
            }) = self.delayed.pop()
            else {
                return;
            };
            let Core {
                switch,
                sockets,
                dirty,
                ..
            } = self;
            deliver(switch, sockets, dirty, from, to, due, &frame);
        }
    }

    fn write(&mut self, port: Port) {
        let Plug::Socket {
            connection: Some(connection),
            ..
        } = &mut self.sockets[port.0]
        else {
            return;
        };
        while connection.written < connection.output.len() {
            match connection
                .stream
                .write(&connection.output[connection.written..])
            {
                Ok(0) => break,
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.unplug(port);
                    return;
                }
            }
        }
        connection.output.drain(..connection.written);
        connection.written = 0;
    }
}

/// Puts a frame on the last stretch of its way.
fn deliver(
    switch: &mut Switch,
    sockets: &mut [Plug],
    dirty: &mut BTreeSet<Port>,
    from: Port,
    to: Port,
    at: Instant,
    frame: &[u8],
) {
    let counters = switch.counters(to);
    match &mut sockets[to.0] {
        Plug::Local(sender) => match sender.try_send(LocalFrame {
            from,
            at,
            bytes: frame.to_vec(),
        }) {
            Ok(()) => counters.sent += 1,
            Err(_) => counters.dropped_full += 1,
        },
        Plug::Socket {
            connection: None, ..
        } => counters.dropped_unplugged += 1,
        Plug::Socket {
            connection: Some(connection),
            ..
        } => {
            if connection.output.len() + frame.len() > OUTPUT_LIMIT {
                counters.dropped_full += 1;
                return;
            }
            connection.output.extend((frame.len() as u32).to_be_bytes());
            connection.output.extend_from_slice(frame);
            counters.sent += 1;
            dirty.insert(to);
        }
    }
}

enum Split<'a> {
    Frame(&'a [u8], &'a [u8]),
    Partial,
    Nonsense,
}

/// Takes the first frame off a stream of them.
fn split_frame(stream: &[u8]) -> Split<'_> {
    let Some((length, rest)) = stream.split_first_chunk::<4>() else {
        return Split::Partial;
    };
    let length = u32::from_be_bytes(*length) as usize;
    if length > FRAME_LIMIT {
        return Split::Nonsense;
    }
    match rest.split_at_checked(length) {
        Some((frame, next)) => Split::Frame(frame, next),
        None => Split::Partial,
    }
}
