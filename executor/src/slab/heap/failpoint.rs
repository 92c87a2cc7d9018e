//! Requests that fail on purpose, so that what happens then is tested: debug builds alone have it.

use super::Heap;

impl Heap {
    /// Makes the `nth` request from now that [`may_fail`](crate::slab::may_fail) fail, 1 being the next; 0 takes it back.
    /// Debug builds alone have it. Owner.
    #[cfg(debug_assertions)]
    pub fn fail_after(&self, nth: u64) {
        self.failpoint.set(nth);
    }

    /// How many requests there are to the one that [`fail_after`](Self::fail_after) makes fail; 0: it has failed. Owner.
    #[cfg(debug_assertions)]
    pub fn fails_after(&self) -> u64 {
        self.failpoint.get()
    }

    #[cfg(debug_assertions)]
    pub(super) fn is_to_fail(&self) -> bool {
        if self.may_fail.get() == 0 {
            return false;
        }
        let left = self.failpoint.get();
        self.failpoint.set(left.saturating_sub(1));
        left == 1
    }

    #[cfg(not(debug_assertions))]
    pub(super) fn is_to_fail(&self) -> bool {
        false
    }
}
