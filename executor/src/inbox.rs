//! A CPU's inbox word: who has something for it, and whether it must be rung.
//!
//! One atomic word per CPU holds a bit for each sender and the state of the owner: awake, in user mode or halted.
//! Only read-modify-writes touch it, which is all the ordering argument there is:
//!
//! ```text
//!   sender                                   owner
//!   write the message into its ring          word := 0, taking the bits  (swap)  <- draining
//!   word |= my bit            (fetch_or)     drain the rings those bits name
//!   old word halted, no bits? ring           word: 0 -> HALTED           (compare_exchange)
//! ```
//!
//! The operations on one word have a total order. If the sender's `fetch_or` comes before the owner's
//! `compare_exchange`, that fails and the owner drains instead of halting. If it comes after, the sender reads HALTED
//! and rings. No third case exists, so no wake is lost, and two awake CPUs exchange messages with no interrupt at all.
//!
//! A *passive* teller never rings, so the senders' bits do not say whether somebody did; RUNG does. Every other teller
//! sets it with its own bit, and the one that finds it clear rings. HALTED is only ever set in a word that has nothing
//! else in it, so of all who tell a sleeping owner passively exactly one finds no bit set: that one answers for it that
//! the owner looks in time, the others rely on it (`ipi/passive.rs`):
//!
//! ```text
//!   passive teller                           another teller                     owner, asleep
//!   word |= my bit                           word |= its bit | RUNG             drains when it is rung, or
//!   old word halted, no bits?                old word halted, no RUNG? ring     wakes up by itself
//!   later: bits, and no RUNG? ring
//! ```
//!
//! DragonFly keeps a mask, a poll-pending word and a re-test after the scan (`lwkt_ipiq`); here the mask *is* the
//! poll-pending word, so there is nothing to re-test. See docs/decisions/inbox-word.md.

use crate::sync::{AtomicU64, Fault, Ordering, fault};

/// The owner sleeps until it is rung.
const HALTED: u64 = 1 << 63;
/// The owner runs user code and looks here only after a trap.
const IN_USER: u64 = 1 << 62;
/// Something came from outside of any CPU (a host thread).
pub(crate) const OUTSIDE: u64 = 1 << 61;
/// Somebody has rung the owner, or need not because it was awake.
const RUNG: u64 = 1 << 60;
/// Senders share bits when there are more CPUs than this.
pub(crate) const SENDER_BITS: usize = 60;
const SENDERS: u64 = OUTSIDE | ((1 << SENDER_BITS) - 1);
/// The owner looks at its word only when it is rung.
const AWAY: u64 = HALTED | IN_USER;

/// What a word was before somebody told its owner: whether that one must ring.
#[inline(always)]
fn must_ring(before: u64) -> bool {
    before & AWAY != 0 && before & RUNG == 0
}

/// The bit by which CPU number `sender` announces itself.
#[cfg(not(loom))]
#[inline]
pub(crate) fn sender_bit(sender: usize) -> u64 {
    1 << (sender % SENDER_BITS)
}

/// The inbox word of one CPU.
#[derive(Debug)]
pub struct Inbox {
    word: AtomicU64,
}

impl Inbox {
    /// An awake owner with nothing to read.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// Called by a sender after its message is in the ring. True: the owner sleeps and this sender must ring it.
    ///
    /// Only the first of those who tell a sleeping owner so rings; the others know that somebody did.
    #[must_use = "when true, ring the owner's doorbell or it sleeps on"]
    #[inline]
    pub fn tell(&self, bits: u64) -> bool {
        must_ring(self.word.fetch_or(bits | RUNG, Ordering::AcqRel))
    }

    /// As [`tell`](Self::tell) without a doorbell. True: the owner sleeps, nobody has told it anything yet, and this
    /// sender must [`remind`](Self::remind) it when the time is up.
    #[must_use = "when true, remind the owner in time or it sleeps on"]
    #[inline]
    pub fn tell_passively(&self, bits: u64) -> bool {
        let bits = if fault(Fault::PassiveTakesTheBell) {
            bits | RUNG
        } else {
            bits
        };
        let before = self.word.fetch_or(bits, Ordering::AcqRel);
        before & AWAY != 0 && before & SENDERS == 0
    }

    /// Called by who told passively, when the time is up. True: the owner sleeps over it still; ring it.
    #[must_use = "when true, ring the owner's doorbell or it sleeps on"]
    pub fn remind(&self) -> bool {
        // A word that says nothing here was collected since: what is told later has another one to answer for it.
        self.is_told_passively() && must_ring(self.word.fetch_or(RUNG, Ordering::AcqRel))
    }

    /// True while the owner sleeps over something that it was told passively, and nobody has rung it.
    #[inline]
    pub fn is_told_passively(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & AWAY != 0 && word & SENDERS != 0 && word & RUNG == 0
    }

    /// The bits of those who told the owner something that it has not collected; exact when nobody is at work.
    #[cfg(not(loom))]
    pub(crate) fn told(&self) -> u64 {
        self.word.load(Ordering::Relaxed) & SENDERS
    }

    /// Called by the owner: becomes awake and takes the senders' bits.
    #[inline]
    pub fn collect(&self) -> u64 {
        self.word.swap(0, Ordering::AcqRel) & SENDERS
    }

    /// True if nothing was told since the last [`collect`](Self::collect). A hint: only the compare-and-swap of
    /// [`try_halt`](Self::try_halt) decides.
    #[inline(always)]
    pub fn is_quiet(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Called by the owner before it sleeps. False: something came in, drain instead.
    #[must_use = "when false, the owner must drain and not halt"]
    pub fn try_halt(&self) -> bool {
        if fault(Fault::HaltWithoutCheck) {
            if self.word.load(Ordering::Relaxed) != 0 {
                return false;
            }
            self.word.store(HALTED, Ordering::Release);
            return true;
        }
        self.word
            .compare_exchange(0, HALTED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Called by the owner before it returns to user mode. False: something came in, drain first.
    #[must_use = "when false, the owner must drain and not enter user mode"]
    pub fn try_enter_user(&self) -> bool {
        self.word
            .compare_exchange(0, IN_USER, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// True while the owner sleeps and nobody has told it anything, not even passively: the platform's last check before
    /// the instruction that halts. Who is awake anyway looks.
    #[inline]
    pub fn may_sleep(&self) -> bool {
        self.word.load(Ordering::Acquire) == HALTED
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_teller_of_a_halted_owner_rings() {
        let inbox = Inbox::new();
        assert!(!inbox.tell(sender_bit(1)), "an awake owner is not rung");
        assert!(!inbox.try_halt(), "and does not halt over a message");
        assert_eq!(inbox.collect(), sender_bit(1));
        assert!(inbox.try_halt());
        assert!(inbox.may_sleep());
        assert!(inbox.tell(sender_bit(2)));
        assert!(!inbox.may_sleep());
        assert!(!inbox.tell(sender_bit(3)), "the doorbell is saved");
        assert_eq!(inbox.collect(), sender_bit(2) | sender_bit(3));
        assert!(inbox.is_quiet());
    }

    #[test]
    fn a_passive_teller_neither_rings_nor_keeps_another_from_it() {
        let inbox = Inbox::new();
        assert!(!inbox.tell_passively(sender_bit(1)), "an awake owner looks");
        assert!(!inbox.try_halt(), "before it halts, too");
        assert_eq!(inbox.collect(), sender_bit(1));
        assert!(inbox.try_halt());
        assert!(!inbox.remind(), "there is nothing to be reminded of");
        assert!(inbox.tell_passively(sender_bit(1)), "the first one answers");
        assert!(!inbox.tell_passively(sender_bit(2)), "for all");
        assert!(inbox.is_told_passively());
        assert!(inbox.tell(sender_bit(3)), "nobody has rung yet");
        assert!(!inbox.is_told_passively());
        assert!(!inbox.remind(), "the bell is on its way");
        assert_eq!(inbox.collect(), 7 << 1);
        assert!(inbox.try_halt());
        assert!(inbox.tell_passively(sender_bit(1)));
        assert!(inbox.remind());
        assert!(!inbox.remind(), "once");
        assert!(!inbox.tell(sender_bit(2)));
    }

    #[test]
    fn senders_beyond_the_bits_share() {
        assert_eq!(sender_bit(0), sender_bit(60));
        assert_eq!(sender_bit(63), sender_bit(3));
        assert_eq!(SENDERS & (AWAY | RUNG), 0);
    }
}
