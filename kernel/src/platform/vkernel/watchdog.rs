//! The watchdog of a process: what sees a poll that does not end, where no interrupt reaches a busy CPU.
//!
//! Each CPU's thread has a timer of the processor time that it uses, so an idle CPU is never woken by it. Its signal
//! asks the executor, as the timer's interrupt does on hardware, and takes down where the thread is. Names and lines are
//! looked up by the attendant, for that allocates.

use core::ffi::{c_int, c_void};
use std::format;
use std::string::String;
use std::time::Duration;
use std::vec::Vec;

use executor::{CpuId, Overrun};
use nix::libc::siginfo_t;
use nix::sys::signal::{
    SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction,
};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::gettid;

use super::{MACHINE, attendant, say};

/// How much processor time a CPU uses between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const LOOK_SIGNAL: Signal = Signal::SIGVTALRM;
/// Frames that are taken down.
const FRAMES_MAX: usize = 32;
/// Reports that may wait for the attendant; what comes when it is full is counted by the executor alone.
pub(super) const SIGHTINGS: usize = 8;

/// A poll that has run too long, and where it was.
pub(super) struct Sighting {
    cpu: CpuId,
    overrun: Overrun,
    frames: [usize; FRAMES_MAX],
}

/// Has the look signal handled, on every thread that gets it.
pub(super) fn catch() -> nix::Result<()> {
    // The first walk may load what it needs; none after it does.
    let _ = walk();
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::SigAction(on_look), flags, SigSet::empty());
    // SAFETY: the handler reads its own CPU's cells, walks the stack, and stores into a lock-free queue.
    unsafe { sigaction(LOOK_SIGNAL, &action)? };
    Ok(())
}

/// Starts the looks at the calling thread. Where the host refuses, nobody looks, as before.
pub(super) fn watch_this_thread() {
    let notify = SigevNotify::SigevThreadId {
        signal: LOOK_SIGNAL,
        thread_id: gettid().as_raw(),
        si_value: 0,
    };
    let Ok(mut timer) = Timer::new(ClockId::CLOCK_THREAD_CPUTIME_ID, SigEvent::new(notify)) else {
        return;
    };
    let interval = Expiration::Interval(LOOK_INTERVAL.into());
    let _ = timer.set(interval, TimerSetTimeFlags::empty());
    // As long as the process.
    core::mem::forget(timer);
}

extern "C" fn on_look(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let (Some(machine), Some(cpu)) = (MACHINE.get(), executor::try_current()) else {
        return;
    };
    if let Some(overrun) = cpu.look_at_watchdog() {
        let _ = machine.sightings.push(Sighting {
            cpu: cpu.id(),
            overrun,
            frames: walk(),
        });
        attendant::call();
    }
}

/// Where this thread is, innermost first; 0 at the end.
fn walk() -> [usize; FRAMES_MAX] {
    let mut frames = [0; FRAMES_MAX];
    let mut places = frames.iter_mut();
    // SAFETY: what is not synchronised is the lookup of names, of which there is none here.
    unsafe {
        backtrace::trace_unsynchronized(|frame| match places.next() {
            Some(place) => {
                *place = frame.ip().addr();
                true
            }
            None => false,
        });
    }
    frames
}

impl Sighting {
    /// Prints the report: thread, and where it was, from what the signal has interrupted to the executor's loop.
    pub(super) fn report(&self) {
        say!("{}: {}\n", self.cpu, self.overrun);
        let addresses = self.frames.iter().take_while(|address| **address != 0);
        let frames: Vec<Vec<String>> = addresses.map(|address| names(*address)).collect();
        let names = |frame: &Vec<String>, what: &str| frame.iter().any(|line| line.contains(what));
        let handler = frames.iter().position(|frame| names(frame, "on_look"));
        // Below the handler lies the host's way into it.
        let interrupted = frames.iter().skip(handler.map_or(0, |handler| handler + 2));
        for frame in interrupted {
            for line in frame {
                say!("  {line}\n");
            }
            if names(frame, "executor/src/thread.rs") {
                break;
            }
        }
    }
}

/// The functions at an address, innermost inlined one first, each with its line.
fn names(address: usize) -> Vec<String> {
    let mut lines = Vec::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        let name = match symbol.name() {
            Some(name) => format!("{name:#}"),
            None => format!("{address:#x}"),
        };
        lines.push(match (symbol.filename(), symbol.lineno()) {
            (Some(file), Some(line)) => format!("{name} at {}:{line}", file.display()),
            _ => name,
        });
    });
    if lines.is_empty() {
        lines.push(format!("{address:#x}"));
    }
    lines
}
