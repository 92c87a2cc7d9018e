//! The attendant: the thread beside the CPUs, for what hardware does by itself.
//!
//! It reads the console's input, takes the host's signals, plugs cables in again, and holds the debugger's prompt. It is
//! no CPU: it never runs code of the kernel, and tells it things by queues and [`executor::Event`]s alone.

use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
use std::time::Instant;

use executor::CpuId;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stdin;

use super::machine::{Vkernel, out};
use super::{EXIT_TERMINATED, MACHINE, panic};
use crate::debugger::{Note, Stopped};

/// Between two tries to plug a cable in again.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(250);
/// How long an orderly shutdown may take.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
const CTRL_C: u8 = 0x03;
const CTRL_BACKSLASH: u8 = 0x1c;

/// Makes the attendant look at what there is. Any thread, any context.
pub(super) fn call() {
    if let Some(machine) = MACHINE.get() {
        let _ = rustix::io::write(&machine.news, &1_u64.to_ne_bytes());
    }
}

/// Keeps the signals that the attendant takes from every thread started from now on.
pub(super) fn block_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.extend([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT]);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// The attendant's own state.
pub(super) struct Attendant {
    pub(super) machine: &'static Vkernel,
    signals: SignalFd,
    /// Read, and given to nobody yet.
    typed: Vec<u8>,
    input_is_open: bool,
    /// When an orderly shutdown has taken too long.
    deadline: Option<Instant>,
}

/// The attendant's work, until the process ends.
pub(super) fn run(machine: &'static Vkernel, signals: SignalFd) -> ! {
    let mut attendant = Attendant {
        machine,
        signals,
        typed: Vec::new(),
        input_is_open: true,
        deadline: None,
    };
    loop {
        attendant.turn();
    }
}

impl Attendant {
    fn turn(&mut self) {
        let unplugged = self.machine.cables().iter().filter(|it| it.reconnect());
        let retry = (unplugged.count() > 0).then_some(RECONNECT_INTERVAL);
        let left = self
            .deadline
            .map(|at| at.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            self.machine.exit(EXIT_TERMINATED);
        }
        let timeout = [retry, left].into_iter().flatten().min();
        let signal = self.wait(timeout);
        while let Some(sighting) = self.machine.sightings.pop() {
            sighting.report();
        }
        if panic::has_failed() {
            panic::stand_still(self);
        }
        match signal {
            Some(Signal::SIGTERM) if self.deadline.is_some() => self.machine.exit(EXIT_TERMINATED),
            Some(Signal::SIGTERM) => {
                self.deadline = Some(Instant::now() + SHUTDOWN_PATIENCE);
                self.machine.power_button.signal();
            }
            Some(Signal::SIGINT) => self.machine.type_bytes(&[CTRL_C]),
            Some(Signal::SIGQUIT) => panic::stand_still(self),
            _ => {}
        }
        self.hand_over_input();
    }

    /// Gives what was typed to the kernel, and `^\` to the debugger.
    fn hand_over_input(&mut self) {
        let is_quit = |byte: &u8| *byte == CTRL_BACKSLASH;
        while let Some(at) = self.typed.iter().position(is_quit) {
            self.machine.type_bytes(&self.typed[..at]);
            self.typed.drain(..=at);
            panic::stand_still(self);
        }
        if !self.typed.is_empty() {
            self.machine.type_bytes(&self.typed);
            self.typed.clear();
        }
    }

    /// Sleeps until there is something: a call, a signal, which it returns, or input.
    fn wait(&mut self, timeout: Option<Duration>) -> Option<Signal> {
        let mut places = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.machine.news, PollFlags::IN),
            PollFd::from_borrowed_fd(stdin(), PollFlags::IN),
        ];
        let count = if self.input_is_open { 3 } else { 2 };
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        if !matches!(poll(&mut places[..count], timeout.as_ref()), Ok(1..)) {
            return None;
        }
        let [_, news, typed] = places.map(|place| !place.revents().is_empty());
        if news {
            let _ = rustix::io::read(&self.machine.news, &mut [0; 8]);
        }
        if typed {
            let mut bytes = [0; 1024];
            match rustix::io::read(stdin(), &mut bytes) {
                Ok(count @ 1..) => self.typed.extend_from_slice(&bytes[..count]),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                // The end of the input is not the end of the kernel.
                Ok(_) | Err(_) => self.input_is_open = false,
            }
        }
        // Even if it came after the poll: whoever looks must not throw it away.
        let signal = self.signals.read_signal().ok().flatten()?;
        Signal::try_from(signal.ssi_signo as i32).ok()
    }
}

impl fmt::Write for Attendant {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        out().write_str(text)
    }
}

impl Stopped for Attendant {
    fn read_byte(&mut self) -> u8 {
        while self.typed.is_empty() {
            if let Some(Signal::SIGTERM) = self.wait(None) {
                self.machine.exit(EXIT_TERMINATED);
            }
        }
        self.typed.remove(0)
    }

    fn echoes(&self) -> bool {
        false
    }

    fn note(&self, cpu: CpuId) -> Option<Note> {
        self.machine.cpus.note(cpu)
    }
}
