//! What is said of panics, and when the simulator itself is killed by a fault: which seeds were running.
//!
//! A panic of a kernel is a broken promise like any other, so the hook prints nothing and remembers what was said, and where.
//!
//! A kernel that corrupts memory may take the process down before any promise is looked at. The seed is then all there is
//! to go on with, so it must not be lost.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_int;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kernel::platform::arena::abroad;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// Runs at a time that are remembered.
const RUNS: usize = 256;
const NOTHING: u64 = u64::MAX;

static SEEDS: [AtomicU64; RUNS] = [const { AtomicU64::new(NOTHING) }; RUNS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    static SLOT: usize = NEXT.fetch_add(1, Ordering::Relaxed) % RUNS;
}

std::thread_local! {
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// From now on a panic prints nothing, and [`what_panicked`] has its words.
pub fn remember_panics() {
    std::panic::set_hook(Box::new(|info| {
        // It may be a CPU of a node that panics: what is remembered is the world's.
        abroad(|| SAID.with(|said| info.to_string().clone_into(&mut said.borrow_mut())));
    }));
}

/// What the newest panic of this thread said, whose payload this is.
#[must_use]
pub fn what_panicked(payload: &(dyn Any + Send)) -> String {
    let said = SAID.with(|said| std::mem::take(&mut *said.borrow_mut()));
    if !said.is_empty() {
        return said;
    }
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("(no message)").to_owned()
}

/// This thread runs this seed now, or none.
pub fn running(seed: Option<u64>) {
    SLOT.with(|slot| SEEDS[*slot].store(seed.unwrap_or(NOTHING), Ordering::Relaxed));
}

/// From now on a fault tells the seeds before it ends the process.
///
/// # Errors
/// The host's, which is not expected.
pub fn tell_seeds() -> nix::Result<()> {
    let handler = SigHandler::Handler(on_fault);
    // On the stack that the host's library keeps for this: the thread's own may be part of the damage.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_ONSTACK;
    let action = SigAction::new(handler, flags, SigSet::empty());
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGILL,
        Signal::SIGABRT,
        Signal::SIGFPE,
    ] {
        // SAFETY: the handler reads atomics and writes to a descriptor, no more; it runs once.
        unsafe { sigaction(signal, &action)? };
    }
    Ok(())
}

extern "C" fn on_fault(signal: c_int) {
    let mut line = Line {
        bytes: [0; 512],
        length: 0,
    };
    let name = Signal::try_from(signal).map_or("a fault", Signal::as_str);
    let _ = write!(line, "\nsim: {name} in a run of seed");
    for seed in SEEDS
        .iter()
        .map(|seed| seed.load(Ordering::Relaxed))
        .filter(|seed| *seed != NOTHING)
    {
        let _ = write!(line, " {seed}");
    }
    let _ = writeln!(line, "; run it alone with --seed");
    // SAFETY: a write of bytes that are there; what comes of it changes nothing any more.
    unsafe { libc::write(2, line.bytes.as_ptr().cast(), line.length) };
    // The default takes its course.
    // SAFETY: a system call without arguments in memory.
    unsafe { libc::raise(signal) };
}

/// A line in memory that needs no allocator.
struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.length) {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}
