//! The word of a token: held or not, and which CPUs wait for it asleep.
//!
//! ```text
//!   taker                                   holder
//!   HELD |=  (compare_exchange from free)   word := 0   (swap)
//!   failed too often? word |= my CPU's bit  the bits it took: tell those CPUs
//!   HELD was clear? then try again
//!   HELD was set? may sleep
//! ```
//!
//! A taker's `fetch_or` either comes before the holder's `swap`, which then takes its bit and tells it, or after it, and
//! then reads HELD clear (or a new holder, whose swap takes the bit). DragonFly keeps the blocked thread runnable and
//! has no wake at all; we do the same for the first tries and fall back to this so that a CPU whose threads all wait
//! does not burn a host core.

use crate::sync::{AtomicU64, Fault, Ordering, fault};

const HELD: u64 = 1 << 63;

/// CPUs share bits when there are more than this.
pub(crate) const WAITER_BITS: usize = 63;

/// What became of an attempt to register as a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waiting {
    /// The token was free at that moment: try to take it again.
    TryAgain,
    /// The holder will tell this CPU when it releases.
    Registered,
}

/// The word.
#[derive(Debug)]
pub struct TokenWord(AtomicU64);

impl TokenWord {
    /// A free token.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Takes the token if it is free.
    #[must_use]
    #[inline]
    pub fn try_take(&self) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        if word & HELD != 0 {
            return false;
        }
        if fault(Fault::TakeWithoutExchange) {
            self.0.store(word | HELD, Ordering::Release);
            return true;
        }
        self.0
            .compare_exchange(word, word | HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Asks to be told at the next release. `cpu` is the waiter's CPU number.
    pub fn wait(&self, cpu: usize) -> Waiting {
        let before = self.0.fetch_or(1 << (cpu % WAITER_BITS), Ordering::AcqRel);
        if before & HELD == 0 {
            Waiting::TryAgain
        } else {
            Waiting::Registered
        }
    }

    /// Releases the token and returns the bits of the CPUs that wait for it.
    #[must_use = "the CPUs in these bits must be told"]
    #[inline]
    pub fn release(&self) -> u64 {
        if fault(Fault::ReleaseForgetsWaiters) {
            let word = self.0.load(Ordering::Relaxed);
            self.0.store(0, Ordering::Release);
            return word & !HELD;
        }
        self.0.swap(0, Ordering::AcqRel) & !HELD
    }

    /// True while somebody holds the token; a hint.
    pub fn is_held(&self) -> bool {
        self.0.load(Ordering::Relaxed) & HELD != 0
    }
}
