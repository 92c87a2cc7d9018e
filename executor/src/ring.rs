//! A single-producer single-consumer ring: the IPI queue of one (sender, target) pair.
//!
//! Indices run free and are masked. The producer writes the slot, then publishes the tail (release); the consumer
//! reads the tail (acquire), takes the slot, then publishes the head (release). The producer keeps a private copy of
//! the head and reads the shared one only when that copy says full.
//!
//! A full ring never makes the sender wait. It asks for room (`want_room`) and keeps its messages in order on its own
//! side; the consumer sees the wish after it has drained a good part of the ring and tells the sender:
//!
//! ```text
//!   sender (full ring)                      consumer
//!   want_room.swap(true)                    head := new       (release)
//!   is there room now?  -> push             want_room.swap(false) was true? -> tell the sender
//!   no -> may sleep
//! ```
//!
//! Both swap one word: if the consumer's swap comes first, the sender's reads from it and sees the new head; if it
//! comes second, it sees the wish. The consumer swaps only after a batch of at least half a ring: a ring that was full
//! always has such a batch ahead of it.
//!
//! Who waits for a message to have run compares its number with `done`, which follows each message as the head precedes
//! it. Source: DragonFly `lwkt_ipiq` (256 slots, flow control at one half, `ip_windex`, `ip_rindex`,
//! `ip_xindex`).

use crate::sync::{AtomicBool, AtomicUsize, CachePadded, Fault, Ordering, UnsafeCell, fault};
use alloc::boxed::Box;
use core::mem::MaybeUninit;

/// Slots in a ring; shrunk in models so that they can fill it.
#[cfg(not(any(loom, shuttle)))]
pub const CAPACITY: usize = 256;
/// Slots in a ring; shrunk in models so that they can fill it.
#[cfg(any(loom, shuttle))]
pub const CAPACITY: usize = 2;

const HALF: usize = CAPACITY / 2;

/// The ring. `push` is for the one producer, `take_batch` for the one consumer.
#[derive(Debug)]
pub struct Ring<T> {
    head: CachePadded<Head>,
    tail: CachePadded<AtomicUsize>,
    /// The producer's copy of `head`; producer only.
    seen_head: UnsafeCell<usize>,
    want_room: AtomicBool,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

/// What the consumer writes.
#[derive(Debug)]
struct Head {
    /// How many messages were taken.
    taken: AtomicUsize,
    /// How many were run to their end.
    done: AtomicUsize,
}

// SAFETY: a slot between head and tail belongs to the consumer, every other to the producer; the release and acquire
// of tail and head hand a slot over. `seen_head` is touched by the producer alone. T crosses threads, hence Send.
unsafe impl<T: Send> Sync for Ring<T> {}

impl<T> Ring<T> {
    /// An empty ring.
    #[expect(
        clippy::new_without_default,
        reason = "loom's atomics have no const constructor"
    )]
    pub fn new() -> Self {
        Self {
            head: CachePadded(Head {
                taken: AtomicUsize::new(0),
                done: AtomicUsize::new(0),
            }),
            tail: CachePadded(AtomicUsize::new(0)),
            seen_head: UnsafeCell::new(0),
            want_room: AtomicBool::new(false),
            slots: (0..CAPACITY)
                .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
                .collect(),
        }
    }

    /// Appends `value`, or gives it back if the ring is full. Returns its sequence number.
    ///
    /// # Safety
    /// Only the ring's one producer calls this, never from two threads at once.
    #[inline]
    pub unsafe fn push(&self, value: T) -> Result<usize, T> {
        let tail = self.tail.load(Ordering::Relaxed);
        // SAFETY: the caller is the producer.
        if unsafe { self.fill_above(CAPACITY - 1) } {
            return Err(value);
        }
        if fault(Fault::PublishBeforeWrite) {
            self.tail.store(tail.wrapping_add(1), Ordering::Release);
        }
        // SAFETY: tail - head < CAPACITY, so this slot is the producer's until the tail is published.
        self.slots[tail % CAPACITY].with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail.store(tail.wrapping_add(1), Ordering::Release);
        Ok(tail)
    }

    /// True if more than `limit` messages wait, less than the capacity: the consumer's progress is looked up only when it
    /// decides.
    ///
    /// # Safety
    /// As [`push`](Self::push).
    #[inline]
    pub(crate) unsafe fn fill_above(&self, limit: usize) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        self.seen_head.with_mut(|seen| {
            // SAFETY: `seen_head` is the producer's own.
            let seen = unsafe { &mut *seen };
            if tail.wrapping_sub(*seen) > limit {
                *seen = self.head.taken.load(Ordering::Acquire);
            }
            tail.wrapping_sub(*seen) > limit
        })
    }

    /// How many messages were ever pushed. Exact for the producer.
    pub fn pushed(&self) -> usize {
        self.tail.load(Ordering::Relaxed)
    }

    /// True if the first `count` messages ever pushed were run to their end. What they did is seen by who reads true.
    pub fn has_done(&self, count: usize) -> bool {
        // Counts wrap; no two that are compared are half a number space apart.
        self.head
            .done
            .load(Ordering::Acquire)
            .wrapping_sub(count)
            .cast_signed()
            >= 0
    }

    /// Called by the producer that found the ring full: asks to be told when there is room.
    pub fn ask_for_room(&self) {
        if !fault(Fault::SleepWithoutAsking) {
            self.want_room.swap(true, Ordering::AcqRel);
        }
    }

    /// True while the producer waits to be told of room; exact when neither side is at work.
    #[cfg(not(loom))]
    pub(crate) fn room_is_wanted(&self) -> bool {
        self.want_room.load(Ordering::Relaxed)
    }

    /// Runs `each` over what was in the ring when the call began, in order. True: the sender asked for room, tell it.
    ///
    /// The head moves before each message runs, as DragonFly's does, so that a handler may send to this very pair.
    ///
    /// # Safety
    /// Only the ring's one consumer calls this.
    #[must_use = "when true, the waiting sender must be told"]
    pub unsafe fn take_batch(&self, mut each: impl FnMut(usize, T)) -> bool {
        let mut head = self.head.taken.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Acquire);
        let count = tail.wrapping_sub(head);
        if fault(Fault::DoneBeforeRun) {
            self.head.done.store(tail, Ordering::Release);
        }
        while head != tail {
            // SAFETY: head < tail: the producer has written this slot and published it, and will not touch it
            // before the head has passed it.
            let value =
                self.slots[head % CAPACITY].with_mut(|slot| unsafe { (*slot).assume_init_read() });
            head = head.wrapping_add(1);
            self.head.taken.store(head, Ordering::Release);
            each(head.wrapping_sub(1), value);
            self.head.done.store(head, Ordering::Release);
        }
        count >= HALF && self.want_room.swap(false, Ordering::AcqRel)
    }

    /// True if a message waits; exact for the consumer, a hint for everybody else.
    #[inline]
    pub fn has_messages(&self) -> bool {
        self.tail.load(Ordering::Acquire) != self.head.taken.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no producer or consumer is left, and this thread is both.
        let _ = unsafe { self.take_batch(|_, value| drop(value)) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use alloc::{sync::Arc, vec::Vec};

    #[test]
    fn a_full_ring_gives_the_value_back_and_remembers_the_wish() {
        let ring = Ring::new();
        // SAFETY: this thread is the only producer and consumer, here and below.
        unsafe {
            for i in 0..CAPACITY {
                assert_eq!(ring.push(i), Ok(i));
            }
            assert_eq!(ring.push(999), Err(999));
            ring.ask_for_room();
            let mut seen = Vec::new();
            assert!(
                ring.take_batch(|_, v| seen.push(v)),
                "the wish is reported once"
            );
            assert_eq!(seen, (0..CAPACITY).collect::<Vec<_>>());
            assert!(!ring.take_batch(|_, _| ()));
            assert_eq!(ring.push(1), Ok(CAPACITY));
        }
    }

    #[test]
    fn what_is_left_is_dropped_once() {
        let item = Arc::new(());
        let ring = Ring::new();
        // SAFETY: one thread.
        unsafe {
            for _ in 0..5 {
                ring.push(item.clone()).ok();
            }
            let _ = ring.take_batch(|seq, v| assert!(seq < 5 && Arc::strong_count(&v) > 1));
            ring.push(item.clone()).ok();
        }
        drop(ring);
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
