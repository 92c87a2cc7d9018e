//! Counters of one CPU: written by their owner with plain loads and stores, readable by anybody.

use core::sync::atomic::{AtomicU64, Ordering};

/// A counter that one CPU adds to and all may read. No locked instruction: the owner's additions never race.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// At 0.
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds `n`. For the owner CPU alone; a second writer would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// The count so far.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident),* $(,)?) => {
        /// What a CPU has counted since boot.
        #[derive(Debug, Default)]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: Counter,)* }

        impl Stats {
            /// Calls `each` with every counter's name and value.
            pub fn each(&self, mut each: impl FnMut(&'static str, u64)) {
                $(each(stringify!($name), self.$name.get());)*
            }
        }
    };
}

stats! {
    /// IPI messages sent to other CPUs.
    ipi_sent,
    /// IPI messages handled.
    ipi_received,
    /// Doorbells (hardware IPIs, host wakes) this CPU has rung.
    doorbells_rung,
    /// Messages that needed no doorbell because the target was awake or already rung.
    doorbells_saved,
    /// Doorbells that reached this CPU.
    doorbells_received,
    /// Messages that found their ring full and waited on the sender's side.
    ipi_backlogged,
    /// IPI messages sent passively, for their target to find.
    ipi_passive,
    /// Cpusyncs that this CPU was master of.
    cpusyncs,
    /// Nanoseconds in which a cpusync held this CPU.
    held_ns,
    /// Device interrupts.
    interrupts,
    /// Device interrupts of a line nobody registered.
    stray_interrupts,
    /// Timer interrupts.
    timer_interrupts,
    /// Timers that fired.
    timers_fired,
    /// Times this CPU went to sleep.
    halts,
    /// Nanoseconds asleep.
    idle_ns,
    /// Polls that overran the watchdog's budget.
    overruns,
    /// Threads spawned here.
    threads_spawned,
    /// Port calls answered at once.
    ports_inline,
    /// Port messages queued.
    ports_queued,
    /// Port messages that found their port full, and waited for room or were given back.
    ports_full,
    /// Calls whose caller asked to abort, or went away, before the reply.
    ports_aborted,
    /// Times a token was found taken.
    tokens_contended,
}
