//! The virtual LAN in the hands of a program: add ports, change cables, read counters.
//!
//! [`Lan`] is the handle; all state lives in the server's thread (server.rs), and a request
//! travels to it as a closure. [`LocalPort`] plugs in code of this very process: it learns of each
//! frame at which port it entered the LAN, which is how the client of the demonstration knows who
//! answered.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mio::net::UnixListener;
use mio::{Poll, Waker};

use super::capture::Capture;
use super::server::{Core, Plug, Request, WAKER};
use super::switch::{Counters, Link, Port};

/// Frames that may wait for a local port.
const LOCAL_LIMIT: usize = 8192;

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
        let mut core = Core::new(poll, receiver, capture);
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

    /// Adds a port for a node; returns its number. Its socket is [`Lan::socket`].
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
            .ask(move |core| core.switch().find(&wanted))?
            .with_context(|| format!("no port `{name}`"))
    }

    /// Changes the cable at a port.
    pub fn set_link(&self, port: Port, link: Link) -> Result<()> {
        self.requests
            .ask(move |core| core.switch().set_link(port, link))
    }

    /// The cable at a port.
    pub fn link(&self, port: Port) -> Result<Link> {
        self.requests
            .ask(move |core| core.switch().link(port).clone())
    }

    /// Every port's name and counters.
    pub fn counters(&self) -> Result<Vec<(String, Counters)>> {
        self.requests.ask(|core| {
            let ports = (0..core.switch().port_count()).map(Port);
            ports
                .map(|p| {
                    (
                        core.switch().name(p).to_owned(),
                        core.switch().counters(p).clone(),
                    )
                })
                .collect()
        })
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        let names = self.counters().unwrap_or_default();
        self.requests.post(Box::new(|core| core.stop()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for (name, _) in names {
            let _ = std::fs::remove_file(self.socket(&name));
        }
    }
}

#[cfg(test)]
mod tests;
