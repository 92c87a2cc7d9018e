//! Whose a thread is: the word that names its owner CPU, the flags that are the owner's alone, and how both change hands.
//!
//! A wake asks the word: the thread is mine, so I queue it, or it is somebody else's, who gets a message. Whoever gets
//! one and is not the owner any more sends it on. The thread may move meanwhile:
//!
//! ```text
//!   waker on another CPU                    old owner                            new owner
//!   make the condition true                 take it off the list
//!   mark := set            (swap)           flags: IN TRANSIT
//!   read owner          (acquire)           owner := new      (release)
//!   send it the message                     send the arrival
//!                                           message: I am not owner? send it on  message: clear the mark, queue
//!                                                                                arrival: put on the list, queue
//! ```
//!
//! The owner is named before the thread leaves, and by its present owner alone, so a message that follows the name
//! arrives at last (trap 20). The new owner may find its own name before the arrival, by a waker of its own or a message
//! that overtakes it: the flags say that the thread is in transit, which the release of the name makes visible, and
//! nothing is queued. The arrival does that, and its first poll sees the condition.
//!
//! Beside other CPUs there are the owner's own interrupt handlers, which wake threads too, between any two instructions
//! that are in no critical section. So the look at the flags is inside of the section that queues.

use crate::{
    mark::WakeMark,
    sync::{AtomicPtr, Cell, Fault, Ordering, fault},
};

/// What a thread is doing, as its owner sees it. Bits, so that one look decides the common case.
pub mod flag {
    /// On the run queue.
    pub const QUEUED: u8 = 1;
    /// Its future has ended or was dropped: it is not polled again.
    pub const FINISHED: u8 = 2;
    /// On its way to its owner, as a message.
    pub const IN_TRANSIT: u8 = 4;
    /// Made on another CPU, and never polled yet.
    pub const NEW: u8 = 8;
    /// Leaves for `migrate_to` when it comes up.
    pub const MOVING: u8 = 16;
    /// Has called `exit`: ends with the poll in progress.
    pub const EXITING: u8 = 32;
    /// Was woken by its own poll, or while that ran: is queued when the poll is over.
    pub const AGAIN: u8 = 64;
}

/// The owner's name: a `C` that lasts as long as anybody asks.
#[derive(Debug)]
pub struct Owner<C>(AtomicPtr<C>);

impl<C> Owner<C> {
    /// `owner`, to begin with.
    pub fn new(owner: *const C) -> Self {
        Self(AtomicPtr::new(owner.cast_mut()))
    }

    /// The owner, or who was it a moment ago.
    #[inline]
    pub fn get(&self) -> *const C {
        self.0.load(Ordering::Acquire)
    }

    /// True if `here`, where the caller runs, is the owner. It stays so until the caller lets the thread go; false may
    /// be over at once.
    #[inline]
    pub fn is(&self, here: *const C) -> bool {
        core::ptr::eq(self.get(), here)
    }

    /// Gives the thread to `target`, and runs `send`, which sends it there. Called by the owner, which has taken it out of
    /// its lists and touches nothing of it from here on.
    pub fn hand_over(&self, flags: &Flags, target: *const C, send: impl FnOnce()) {
        if !fault(Fault::MoveUnmarked) {
            flags.set(flag::IN_TRANSIT);
        }
        let order = if fault(Fault::RelaxedOwner) {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        if fault(Fault::ArrivalBeforeOwner) {
            send();
            self.0.store(target.cast_mut(), order);
            return;
        }
        // From this store on the thread is the target's: a wake from anywhere goes there.
        self.0.store(target.cast_mut(), order);
        send();
    }

    /// A wake message has come to the CPU `here`: clears the mark and runs `queue`, if the thread is still its own.
    ///
    /// # Errors
    /// The owner, to whom the message must be sent on. The mark stays set: there is still one message.
    pub fn woken(
        &self,
        here: *const C,
        mark: &WakeMark,
        queue: impl FnOnce(),
    ) -> Result<(), *const C> {
        let owner = self.get();
        if !core::ptr::eq(owner, here) && !fault(Fault::WakeLeftBehind) {
            return Err(owner);
        }
        // Before it is queued, never after (see mark.rs).
        mark.clear(queue);
        Ok(())
    }
}

/// Some of [`flag`]. The owner's alone: not Sync, like a cell.
#[derive(Debug)]
pub struct Flags(Cell<u8>);

impl Flags {
    /// These, to begin with.
    pub fn new(bits: u8) -> Self {
        Self(Cell::new(bits))
    }

    /// All of them.
    #[inline(always)]
    pub fn get(&self) -> u8 {
        self.0.get()
    }

    /// True if all of these are set.
    #[inline(always)]
    pub fn are(&self, bits: u8) -> bool {
        self.0.get() & bits == bits
    }

    /// Sets these.
    #[inline(always)]
    pub fn set(&self, bits: u8) {
        self.0.set(self.0.get() | bits);
    }

    /// Clears these.
    #[inline(always)]
    pub fn clear(&self, bits: u8) {
        self.0.set(self.0.get() & !bits);
    }

    /// Enters a critical section by `enter`, and marks the thread as queued there. True: the caller must push it, before it
    /// leaves the section; false: it is queued or will be after its poll, has ended, or its arrival
    /// will do it.
    #[must_use = "when true, the thread must be pushed or it is never polled again"]
    #[inline(always)]
    pub fn enter_and_queue(&self, enter: impl FnOnce()) -> bool {
        const BUSY: u8 = flag::QUEUED | flag::FINISHED | flag::IN_TRANSIT | flag::AGAIN;
        let too_early = fault(Fault::LookBeforeSection).then(|| self.0.get());
        enter();
        let free = too_early.unwrap_or_else(|| self.0.get()) & BUSY == 0;
        if free {
            self.set(flag::QUEUED);
        }
        free
    }
}
