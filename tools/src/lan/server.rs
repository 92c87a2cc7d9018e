//! Moves bytes between the switch and its ports: one thread, no locks, bounded memory.
//!
//! [`Lan`] is the handle; all state lives in the thread, and a request travels to it as a closure.
//! QEMU's stream backend frames each Ethernet frame with its length (u32, big-endian). A port that
//! does not read loses frames (counted) once [`OUTPUT_LIMIT`] bytes wait for it; it never makes the
//! others wait. [`LocalPort`] plugs in code of this very process: it learns of each frame at which
//! port it entered the LAN, which is how the client of the demonstration knows who answered.
//! Source: QEMU net/stream.c.

use std::collections::{BTreeSet, BinaryHeap};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};

use super::capture::Capture;
use super::switch::{Counters, Link, Port, Switch};

/// Bytes that may wait for one port.
pub const OUTPUT_LIMIT: usize = 4 << 20;
/// Frames that may wait for a local port.
const LOCAL_LIMIT: usize = 8192;
/// Frames on delayed links in all.
const DELAYED_LIMIT: usize = 1 << 16;
/// QEMU never sends more in one frame (net/net.h NET_BUFSIZE).
const FRAME_LIMIT: usize = 4096 + 65536;
const READ_LEN: usize = 1 << 17;
const WAKER: Token = Token(usize::MAX);

/// A frame at a local port.
#[derive(Clone, Debug)]
pub struct LocalFrame {
    /// Where it entered the LAN.
    pub from: Port,
    /// When it passed the switch.
    pub at: Instant,
    /// The frame, from the destination address on.
    pub bytes: Vec<u8>,
}

/// A place in the LAN for code of this process.
pub struct LocalPort {
    port: Port,
    frames: Receiver<LocalFrame>,
    requests: Requests,
}

impl LocalPort {
    /// Its number.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Sends a frame.
    pub fn send(&self, frame: Vec<u8>) {
        let port = self.port;
        self.requests.post(Box::new(move |core| {
            core.forward(port, &frame, Instant::now())
        }));
    }

    /// The next frame, waiting for it at most `limit`.
    pub fn receive(&self, limit: Duration) -> Option<LocalFrame> {
        self.frames.recv_timeout(limit).ok()
    }

    /// The next frame that is here already.
    pub fn try_receive(&self) -> Option<LocalFrame> {
        self.frames.try_recv().ok()
    }
}

type Request = Box<dyn FnOnce(&mut Core) + Send>;

/// The way into the thread.
#[derive(Clone)]
struct Requests {
    sender: Sender<Request>,
    waker: Arc<Waker>,
}

impl Requests {
    fn post(&self, request: Request) {
        // The thread ends only with the Lan; what is asked after that has nobody to matter to.
        if self.sender.send(request).is_ok() {
            let _ = self.waker.wake();
        }
    }

    fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.post(Box::new(move |core| {
            let _ = sender.send(ask(core));
        }));
        receiver
            .recv()
            .map_err(|_| anyhow!("the virtual LAN has stopped"))
    }
}

/// A running virtual LAN. Dropping it unplugs everything and removes its sockets.
pub struct Lan {
    directory: PathBuf,
    requests: Requests,
    thread: Option<JoinHandle<()>>,
}

impl Lan {
    /// Starts a LAN whose sockets lie in `directory`, with a capture if asked for.
    pub fn start(directory: &Path, capture: Option<&Path>) -> Result<Lan> {
        let poll = Poll::new().context("cannot poll")?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).context("cannot poll")?);
        let (sender, receiver) = mpsc::channel();
        let capture = capture.map(Capture::create).transpose()?;
        let mut core = Core {
            poll,
            requests: receiver,
            switch: Switch::new(0x0a11_ab1e),
            sockets: Vec::new(),
            ready: BTreeSet::new(),
            dirty: BTreeSet::new(),
            delayed: BinaryHeap::new(),
            delayed_count: 0,
            capture,
            outputs: Vec::new(),
            stop: false,
        };
        let thread = thread::Builder::new()
            .name("lan".to_owned())
            .spawn(move || core.run())?;
        let requests = Requests { sender, waker };
        Ok(Lan {
            directory: directory.to_owned(),
            requests,
            thread: Some(thread),
        })
    }

    /// Adds a port for a QEMU; returns its number. Its socket is [`Lan::socket`].
    pub fn add_port(&self, name: &str) -> Result<Port> {
        let path = self.socket(name);
        // What lies there is left over from a run that was killed.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)
            .with_context(|| format!("cannot make the socket {}", path.display()))?;
        let name = name.to_owned();
        self.requests
            .ask(move |core| core.add_socket(&name, listener))?
    }

    /// Adds a port for code of this process.
    pub fn attach(&self, name: &str) -> Result<LocalPort> {
        let (sender, frames) = mpsc::sync_channel(LOCAL_LIMIT);
        let name = name.to_owned();
        let port = self
            .requests
            .ask(move |core| core.add_plug(&name, Plug::Local(sender)))?;
        Ok(LocalPort {
            port,
            frames,
            requests: self.requests.clone(),
        })
    }

    /// The socket of the port `name`.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.sock"))
    }

    /// The port called `name`.
    pub fn find(&self, name: &str) -> Result<Port> {
        let wanted = name.to_owned();
        self.requests
            .ask(move |core| core.switch.find(&wanted))?
            .with_context(|| format!("no port `{name}`"))
    }

    /// Changes the cable at a port.
    pub fn set_link(&self, port: Port, link: Link) -> Result<()> {
        self.requests
            .ask(move |core| core.switch.set_link(port, link))
    }

    /// The cable at a port.
    pub fn link(&self, port: Port) -> Result<Link> {
        self.requests
            .ask(move |core| core.switch.link(port).clone())
    }

    /// Every port's name and counters.
    pub fn counters(&self) -> Result<Vec<(String, Counters)>> {
        self.requests.ask(|core| {
            let ports = (0..core.switch.port_count()).map(Port);
            ports
                .map(|p| {
                    (
                        core.switch.name(p).to_owned(),
                        core.switch.counters(p).clone(),
                    )
                })
                .collect()
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let names = self.counters().unwrap_or_default();
        self.requests.post(Box::new(|core| core.stop = true));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for (name, _) in names {
            let _ = std::fs::remove_file(self.socket(&name));
        }
    }
}

/// What a port's cable is plugged into.
enum Plug {
    Socket {
        listener: UnixListener,
        connection: Option<Connection>,
    },
    Local(SyncSender<LocalFrame>),
}

struct Connection {
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
struct Core {
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
    fn run(&mut self) {
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

    fn add_socket(&mut self, name: &str, mut listener: UnixListener) -> Result<Port> {
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

    fn add_plug(&mut self, name: &str, plug: Plug) -> Port {
        self.sockets.push(plug);
        if let Some(capture) = &mut self.capture {
            let _ = capture.add_interface(name);
        }
        self.switch.add_port(name)
    }

    /// The newest connection owns the port: the VM before it was killed or is about to be.
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

    fn forward(&mut self, from: Port, frame: &[u8], at: Instant) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream as Cable;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn frame(destination: u8, source: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![0; length];
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, destination]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, source]);
        frame
    }

    fn put(cable: &mut Cable, frame: &[u8]) {
        let length = (frame.len() as u32).to_be_bytes();
        cable.write_all(&[&length[..], frame].concat()).unwrap();
    }

    fn take(cable: &mut Cable) -> Vec<u8> {
        cable.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut length = [0; 4];
        cable.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        cable.read_exact(&mut frame).unwrap();
        frame
    }

    fn lan() -> (tempfile::TempDir, Lan) {
        let directory = crate::host::socket_directory().unwrap();
        let lan = Lan::start(directory.path(), None).unwrap();
        (directory, lan)
    }

    /// Waits until the LAN has accepted what was connected before.
    fn wait_until_plugged(lan: &Lan, from: &LocalPort, cable: &mut Cable) {
        let deadline = Instant::now() + PATIENCE;
        cable
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        loop {
            from.send(frame(0xff, 0xee, 15));
            if cable.read_exact(&mut [0; 19]).is_ok() {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", lan.counters());
        }
    }

    #[test]
    fn frames_arrive_whole_however_they_are_cut_up() {
        let (_directory, lan) = lan();
        lan.add_port("a").unwrap();
        let local = lan.attach("local").unwrap();
        let mut cable = Cable::connect(lan.socket("a")).unwrap();
        wait_until_plugged(&lan, &local, &mut cable);
        let sent = frame(1, 2, 100);
        let bytes = [&100_u32.to_be_bytes()[..], &sent].concat();
        for byte in &bytes {
            cable.write_all(&[*byte]).unwrap();
        }
        let received = local.receive(PATIENCE).unwrap();
        assert_eq!(received.bytes, sent);
        assert_eq!(received.from, lan.find("a").unwrap());
    }

    #[test]
    fn a_new_connection_takes_the_port_over() {
        let (_directory, lan) = lan();
        lan.add_port("a").unwrap();
        let local = lan.attach("local").unwrap();
        let mut first = Cable::connect(lan.socket("a")).unwrap();
        wait_until_plugged(&lan, &local, &mut first);
        drop(first);
        let mut second = Cable::connect(lan.socket("a")).unwrap();
        wait_until_plugged(&lan, &local, &mut second);
        put(&mut second, &frame(8, 9, 60));
        assert_eq!(local.receive(PATIENCE).unwrap().bytes, frame(8, 9, 60));
    }

    #[test]
    fn nonsense_ends_the_connection_and_is_counted() {
        let (_directory, lan) = lan();
        lan.add_port("a").unwrap();
        let mut cable = Cable::connect(lan.socket("a")).unwrap();
        cable.write_all(&[0xff; 64]).unwrap();
        cable.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(cable.read(&mut [0; 1]).unwrap_or(0), 0);
        assert_eq!(lan.counters().unwrap()[0].1.bad_framing, 1);
    }

    #[test]
    fn a_port_that_does_not_read_loses_frames_and_holds_nobody_up() {
        let (_directory, lan) = lan();
        for name in ["deaf", "good", "source"] {
            lan.add_port(name).unwrap();
        }
        let local = lan.attach("local").unwrap();
        let [mut deaf, mut good, mut source] =
            ["deaf", "good", "source"].map(|name| Cable::connect(lan.socket(name)).unwrap());
        for cable in [&mut deaf, &mut good, &mut source] {
            wait_until_plugged(&lan, &local, cable);
        }
        let frames = 2 * OUTPUT_LIMIT / 1500;
        let reader = thread::spawn(move || {
            let mut seen = 0;
            while seen < frames {
                seen += usize::from(take(&mut good).len() == 1500);
            }
        });
        for _ in 0..frames {
            put(&mut source, &frame(0xff, 1, 1500));
        }
        reader.join().unwrap();
        let counters = lan.counters().unwrap();
        assert!(counters[0].1.dropped_full > 0, "{counters:?}");
        assert_eq!(counters[1].1.dropped_full, 0);
    }

    #[test]
    fn a_delayed_link_keeps_order_and_time() {
        let (_directory, lan) = lan();
        let [a, b] = ["a", "b"].map(|name| lan.attach(name).unwrap());
        let delay = Duration::from_millis(30);
        lan.set_link(
            b.port(),
            Link {
                delay,
                ..Link::default()
            },
        )
        .unwrap();
        let start = Instant::now();
        for length in 20..30 {
            a.send(frame(0xff, 1, length));
        }
        let lengths: Vec<usize> = (20..30)
            .map(|_| b.receive(PATIENCE).unwrap().bytes.len())
            .collect();
        assert!(start.elapsed() >= delay);
        assert_eq!(lengths, (20..30).collect::<Vec<_>>());
    }
}
