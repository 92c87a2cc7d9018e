//! How much room a bounded port has left, where senders of all CPUs can see it.
//!
//! ```text
//!   sender (any CPU)                          owner
//!   taken < capacity? taken += 1              a message was taken off the queue:
//!     (compare_exchange; else it is full)       taken -= 1   (fetch_sub)
//! ```
//!
//! A place is taken before the message goes, so that a full port is known at once on any CPU and no message travels in vain.
//! The count alone is shared: messages travel by IPI message, which orders them, and whoever waits for room stands in a
//! line at the owner. So nothing here orders anything, and all of it is relaxed.

use crate::sync::{AtomicUsize, Fault, Ordering, fault};

/// A count of places.
#[derive(Debug)]
pub struct Room {
    taken: AtomicUsize,
    capacity: usize,
}

impl Room {
    /// `capacity` free places.
    pub fn new(capacity: usize) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            capacity,
        }
    }

    /// How many places there are.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Takes a place if one is free.
    #[must_use = "when false there is no room"]
    pub fn try_enter(&self) -> bool {
        if fault(Fault::EnterWithoutExchange) {
            let free = self.taken.load(Ordering::Relaxed) < self.capacity;
            return free && self.enter();
        }
        self.taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                (taken < self.capacity).then(|| taken + 1)
            })
            .is_ok()
    }

    /// Takes a place, also one that there is not: true if it was free, false for one who has to wait.
    pub fn enter(&self) -> bool {
        self.taken.fetch_add(1, Ordering::Relaxed) < self.capacity
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
