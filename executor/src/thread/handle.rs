//! What a thread is to others: a counted handle that wakes it and reads its counters; and what it does to itself.
//!
//! A handle keeps the thread's memory, not the thread, and not its CPU (DragonFly: `lwkt_hold` and `lwkt_rele`; there a
//! thread that exits waits for its last holder, here it goes and the holder keeps what there is to see of it, so trap 21
//! has nothing to free too early). There is no deschedule (trap 24): nobody stops another thread, it stops itself by
//! awaiting something.

use super::{Header, ThreadRef, flag};
use crate::{Cpu, CpuId, Platform, Priority, critical, current};
use alloc::boxed::Box;
use core::{
    convert::Infallible,
    fmt,
    future::Future,
    mem::ManuallyDrop,
    panic::Location,
    pin::Pin,
    ptr,
    task::{Context, Poll},
};

/// What a thread has used, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How often it was polled.
    pub polls: u64,
    /// How often it was woken. Each poll is the answer to one wake, or to several that came before it.
    pub wakes: u64,
    /// How many queued messages it has taken from ports.
    pub messages: u64,
    /// Nanoseconds spent in polls; counted while accounting is on.
    pub run_ns: u64,
}

impl Header {
    pub(crate) fn account(&self, platform: &dyn Platform) -> Account {
        Account {
            polls: self.polls.get(),
            wakes: self.polls.get().wrapping_add(self.spare_wakes.get()),
            messages: self.messages.get(),
            run_ns: platform.ticks_to_ns(self.run_ticks.get()),
        }
    }
}

/// A thread, held by anybody, on any CPU, for as long as one likes.
#[derive(Clone)]
pub struct Thread(pub(super) ThreadRef);

// SAFETY: every method touches what is atomic or written once, and goes to the owner for the rest.
unsafe impl Sync for Thread {}

impl Thread {
    /// The thread that runs here.
    ///
    /// # Panics
    /// Outside of every thread.
    pub fn current() -> Self {
        let running = current::try_current().map_or(ptr::null(), |here| here.running.get());
        assert!(!running.is_null(), "no thread runs here");
        // SAFETY: what runs is alive by the executor's count, which is borrowed here and not given back.
        let borrowed = ManuallyDrop::new(unsafe { ThreadRef::from_raw(running) });
        Self((*borrowed).clone())
    }

    /// Its number, unique in its node.
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// Where it was spawned.
    pub fn site(&self) -> &'static Location<'static> {
        self.0.site
    }

    /// The CPU of the current node that it belongs to; None if it is another node's. A movable thread may leave at once.
    pub fn cpu(&self) -> Option<CpuId> {
        let owner = self.0.owner.get();
        current::try_current()?
            .node()
            .cpus()
            .find(|cpu| ptr::eq(*cpu, owner))
            .map(Cpu::id)
    }

    /// True if it has ended, or its CPU has stopped.
    pub fn has_ended(&self) -> bool {
        self.0.life.has_ended()
    }

    /// Makes it run again: it is polled at least once after this. Any CPU, any context (DragonFly: `lwkt_schedule`).
    pub fn wake(&self) {
        self.0.wake();
    }

    /// What it has used; exact on its own CPU.
    ///
    /// # Panics
    /// Outside of every CPU.
    pub fn account(&self) -> Account {
        self.0.account(current::current().node().platform())
    }

    /// Changes its priority; takes its new place at once if it is queued (DragonFly: `lwkt_setpri`).
    ///
    /// # Panics
    /// On any CPU but the thread's own.
    pub fn set_priority(&self, priority: Priority) {
        let here = current::current();
        assert!(
            self.0.owner.is(here),
            "a thread's priority is set on its own CPU: use run_on"
        );
        critical::section_on(here, || {
            let requeue = self.0.is(flag::QUEUED);
            if requeue {
                // SAFETY: owner, in a critical section; it is queued here.
                unsafe { here.run_queue.remove(&self.0) };
            }
            self.0.priority.set(priority);
            if requeue {
                // SAFETY: as above; just taken off.
                unsafe { here.run_queue.push(&self.0, false) };
            }
        });
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thread({} #{})", self.name(), self.id())
    }
}

/// Changes the priority of the thread that runs here.
///
/// # Panics
/// Outside of every thread.
pub fn set_priority(priority: Priority) {
    Thread::current().set_priority(priority);
}

/// Ends the thread that runs here with `output`, from however deep inside it (DragonFly: `lwkt_exit`). What it has on its
/// stack is dropped, innermost first, before anybody who joins is told.
pub fn exit<T: 'static>(output: T) -> Exit<T> {
    Exit {
        output: Some(output),
    }
}

/// The future of [`exit`]. It is never ready.
#[derive(Debug)]
#[must_use = "a thread ends when this is awaited"]
pub struct Exit<T> {
    output: Option<T>,
}

impl<T> Unpin for Exit<T> {}

impl<T: 'static> Future for Exit<T> {
    type Output = Infallible;
    /// # Panics
    /// Outside of every thread, and if the thread's output is of another type.
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Infallible> {
        let here = current::current();
        // SAFETY: what runs is alive.
        let thread = unsafe { here.running.get().as_ref() }.expect("no thread runs here");
        thread.assert_output::<T>();
        if let Some(output) = self.output.take() {
            here.exit_with.set(Some(Box::new(output)));
            // A handler that wakes it meanwhile sets a flag, too.
            critical::section_on(here, || thread.set(flag::EXITING));
        }
        Poll::Pending
    }
}
