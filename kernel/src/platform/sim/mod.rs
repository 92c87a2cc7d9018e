//! The simulator's machine: no hardware at all, only what a seed decides.
//!
//! A [`Simulated`] is the machine of one node. It never waits, sleeps or does anything by itself: it notes what the kernel
//! asks for (doorbells rung, timers set, words for the console, frames for the LAN), and whoever drives the node, on one
//! host thread, carries that out when virtual time and the seed say so. [`cable`] is the end of its network cable.
//!
//! Decision: a machine that goes down unwinds, with [`Ended`] as the payload, out of the step that asked for it. The
//! calls never return, as on hardware, and the driver gets its node back between two steps.

mod cable;

pub use cable::SimulatedCable;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;
use executor::{Cpu, CpuId, Event, Platform};

use super::Machine;
use super::arena::abroad;
use crate::drivers::vke::Vke;
use crate::network::NetworkDevice;

extern crate std;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a machine went down by itself: the payload of its unwinding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Switched off.
    PowerOff,
    /// To be started again.
    Reboot,
}

/// What a simulated machine is made of.
#[derive(Default)]
pub struct Parts {
    /// The kernel's command line.
    pub command_line: String,
    /// The start-up commands.
    pub rc: Vec<u8>,
    /// The network cables.
    pub cables: Vec<Arc<SimulatedCable>>,
    /// CPUs, at most 64.
    pub cpus: usize,
}

/// The machine of one simulated node.
pub struct Simulated {
    parts: Parts,
    now_ns: AtomicU64,
    /// By CPU: what the one-shot timer is set to; `u64::MAX` when it is not.
    timers: Box<[AtomicU64]>,
    /// A bit for each CPU whose doorbell was rung.
    rung: AtomicU64,
    typed: SegQueue<u8>,
    console_event: Event,
    power_button: Event,
    screen: Mutex<Vec<u8>>,
    logged: Mutex<Vec<String>>,
    /// There is something in one of these two.
    has_words: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Simulated {
    /// A machine at rest, at time 0.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            timers: (0..parts.cpus).map(|_| AtomicU64::new(u64::MAX)).collect(),
            parts,
            now_ns: AtomicU64::new(0),
            rung: AtomicU64::new(0),
            typed: SegQueue::new(),
            console_event: Event::new(),
            power_button: Event::new(),
            screen: Mutex::default(),
            logged: Mutex::default(),
            has_words: AtomicBool::new(false),
        })
    }

    /// Sets the node's clock, in nanoseconds since its boot.
    pub fn set_clock(&self, now_ns: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
    }

    /// What a CPU's timer is set to, on the node's clock.
    #[must_use]
    pub fn timer_ns(&self, cpu: usize) -> Option<u64> {
        let deadline_ns = self.timers[cpu].load(Ordering::Relaxed);
        (deadline_ns != u64::MAX).then_some(deadline_ns)
    }

    /// The timer of a CPU has run out: it is not set any more.
    pub fn timer_expired(&self, cpu: usize) {
        self.timers[cpu].store(u64::MAX, Ordering::Relaxed);
    }

    /// Takes the doorbells that were rung: a bit for each CPU.
    pub fn take_rung(&self) -> u64 {
        match self.rung.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.rung.swap(0, Ordering::Relaxed),
        }
    }

    /// Types at the console.
    pub fn type_bytes(&self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.typed.push(*byte));
        self.console_event.signal();
    }

    /// Asks for an orderly shutdown.
    pub fn press_power_button(&self) {
        self.power_button.signal();
    }

    /// Takes what the console has shown and the log lines that were written since the last call.
    #[must_use]
    pub fn take_words(&self) -> (Vec<u8>, Vec<String>) {
        if !self.has_words.load(Ordering::Relaxed) {
            return Default::default();
        }
        self.has_words.store(false, Ordering::Relaxed);
        (
            mem::take(&mut *lock(&self.screen)),
            mem::take(&mut *lock(&self.logged)),
        )
    }

    fn end(how: Ended) -> ! {
        std::panic::resume_unwind(abroad(|| Box::new(how)))
    }
}

impl Platform for Simulated {
    fn clock_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    fn is_unwinding(&self) -> bool {
        std::thread::panicking()
    }

    fn doorbell(&self, target: CpuId) {
        self.rung.fetch_or(1 << target.0, Ordering::Relaxed);
    }

    fn idle(&self, _: &Cpu) {
        unreachable!("a simulated CPU is driven by steps; its loop never runs");
    }

    fn set_timer(&self, deadline_ns: Option<u64>) {
        let cpu = executor::current_cpu().index();
        self.timers[cpu].store(deadline_ns.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The node's own machine; both traits are for the shared one.
impl Machine for Simulated {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn power_off(&self) -> ! {
        Self::end(Ended::PowerOff)
    }

    fn reboot(&self) -> ! {
        Self::end(Ended::Reboot)
    }

    fn write_console(&self, bytes: &[u8]) {
        abroad(|| lock(&self.screen).extend_from_slice(bytes));
        self.has_words.store(true, Ordering::Relaxed);
    }

    fn read_console(&self, buffer: &mut [u8]) -> usize {
        abroad(|| {
            let mut length = 0;
            while length < buffer.len()
                && let Some(byte) = self.typed.pop()
            {
                buffer[length] = byte;
                length += 1;
            }
            length
        })
    }

    fn console_event(&self) -> &Event {
        &self.console_event
    }

    fn power_button(&self) -> Option<&Event> {
        Some(&self.power_button)
    }

    fn write_trace(&self, _: &[u8]) -> usize {
        0
    }

    fn note_log(&self, text: &str) {
        abroad(|| lock(&self.logged).push(String::from(text)));
        self.has_words.store(true, Ordering::Relaxed);
    }

    fn command_line(&self) -> &str {
        &self.parts.command_line
    }

    fn rc_text(&self) -> Option<&[u8]> {
        Some(&self.parts.rc)
    }

    fn networks(&self) -> Vec<Box<dyn NetworkDevice>> {
        let card = |cable: &Arc<SimulatedCable>| {
            Box::new(Vke::new(cable.clone())) as Box<dyn NetworkDevice>
        };
        self.parts.cables.iter().map(card).collect()
    }

    fn describe(&self, out: &mut dyn fmt::Write) {
        // A writer that fails has nobody to be told.
        let _ = writeln!(out, "simulated, {} CPUs", self.parts.cpus);
    }
}
