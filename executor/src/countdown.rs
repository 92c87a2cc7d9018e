//! A countdown: of those who do a thing together, each on its CPU, the last one to end knows that it is the last.
//!
//! ```text
//!   each of them                              the last of them
//!   do its part                               do its part
//!   left -= 1   (fetch_sub, release)          left -= 1   (fetch_sub, acquire): it was 1
//!                                             go on, with what all of them did in sight
//! ```
//!
//! The subtractions of one word form a release sequence, so the last one acquires from every other. Nobody waits here:
//! whoever comes last does what is to be done next, and may free what they share. Source: the acknowledgement mask of
//! DragonFly `lwkt_cpusync`, where the master spins for it.

use crate::sync::{AtomicUsize, Fault, Ordering, UnsafeCell, fault};

/// How many have still to end.
#[derive(Debug)]
pub struct Countdown(AtomicUsize);

impl Countdown {
    /// `count` will end; at least 1.
    pub fn new(count: usize) -> Self {
        Self(AtomicUsize::new(count))
    }

    /// One has ended. True: it was the last. Each of them calls this once.
    #[must_use = "when true, nobody else does what comes next"]
    pub fn count_down(&self) -> bool {
        let order = if fault(Fault::RelaxedCountdown) {
            Ordering::Relaxed
        } else {
            Ordering::AcqRel
        };
        self.0.fetch_sub(1, order) == 1
    }
}

/// What the last of them gets.
#[derive(Debug)]
pub struct Last<T> {
    left: Countdown,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: the last one to count down alone touches the value, when all others have ended.
unsafe impl<T: Send> Sync for Last<T> {}

impl<T> Last<T> {
    /// `value` goes to the last of `count`, which are at least 1.
    pub fn new(count: usize, value: T) -> Self {
        Self {
            left: Countdown::new(count),
            value: UnsafeCell::new(Some(value)),
        }
    }

    /// One has ended, which gets the value if it was the last. Each of them calls this once.
    pub fn count_down(&self) -> Option<T> {
        let is_last = self.left.count_down();
        // SAFETY: the last of them; none comes after.
        is_last.then(|| self.value.with_mut(|value| unsafe { (*value).take() }))?
    }
}
